//! The commands that are needed (TPM 2.0 Library, part 3), and what is read from their answers. Pure: bytes in, bytes
//! out.

use super::TpmError;
use super::wire::{Reader, Writer, answer, authorised, plain};

const CREATE_PRIMARY: u32 = 0x131;
const CREATE: u32 = 0x153;
const LOAD: u32 = 0x157;
const UNSEAL: u32 = 0x15e;
const FLUSH_CONTEXT: u32 = 0x165;
const START_AUTH_SESSION: u32 = 0x176;
const PCR_READ: u32 = 0x17e;
const POLICY_PCR: u32 = 0x17f;
const POLICY_GET_DIGEST: u32 = 0x189;

const OWNER: u32 = 0x4000_0001;
const NULL_HANDLE: u32 = 0x4000_0007;
/// The session that stands for an authorisation by password; all passwords here are empty.
const PASSWORD: u32 = 0x4000_0009;

const KEYED_HASH: u16 = 0x0008;
const ECC: u16 = 0x0023;
const SHA256: u16 = 0x000b;
const AES: u16 = 0x0006;
const CFB: u16 = 0x0043;
const NULL: u16 = 0x0010;
const NIST_P256: u16 = 0x0003;

/// fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, decrypt.
const STORAGE_KEY: u32 = 0x0003_0472;
/// fixedTPM, fixedParent, adminWithPolicy, noDA: only the policy opens it.
const SEALED: u32 = 0x0000_0492;

/// Bytes of SHA-256.
pub const DIGEST: usize = 32;

/// What a policy session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// To authorise.
    Policy = 1,
    /// To learn a policy's digest: it authorises nothing.
    Trial = 3,
}

/// A secret that only its TPM opens: two structures of the TPM's, kept anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Encrypted by the TPM.
    pub private: Vec<u8>,
    /// Its policy.
    pub public: Vec<u8>,
}

/// Makes the owner's storage key. It is derived from the TPM's seed, the same each time: nothing needs to be kept, and
/// the TPM's own few places stay free. The template is the standard one for ECC.
pub fn create_primary() -> Vec<u8> {
    let symmetric = Writer::new().u16(AES).u16(128).u16(CFB);
    let public = Writer::new().u16(ECC).u16(SHA256).u32(STORAGE_KEY).sized(&[]).bytes();
    let curve = Writer::new().u16(NULL).u16(NIST_P256).u16(NULL).sized(&[]).sized(&[]).bytes();
    let public = [public, symmetric.bytes(), curve].concat();
    authorised(CREATE_PRIMARY, OWNER, PASSWORD, creation(&[], &public))
}

/// Seals a secret under a storage key for those who fulfil the policy of this digest.
pub fn create(parent: u32, policy: &[u8], secret: &[u8]) -> Vec<u8> {
    let public = Writer::new().u16(KEYED_HASH).u16(SHA256).u32(SEALED).sized(policy).u16(NULL).sized(&[]).bytes();
    authorised(CREATE, parent, PASSWORD, creation(secret, &public))
}

/// What both commands that create take: the secret (without password), what is public, no data, no PCRs to remember.
fn creation(secret: &[u8], public: &[u8]) -> Writer {
    let sensitive = Writer::new().sized(&[]).sized(secret).bytes();
    Writer::new().sized(&sensitive).sized(public).sized(&[]).u32(0)
}

/// Brings a sealed secret into the TPM.
pub fn load(parent: u32, sealed: &Sealed) -> Vec<u8> {
    authorised(LOAD, parent, PASSWORD, Writer::new().sized(&sealed.private).sized(&sealed.public))
}

/// Opens a loaded secret by a policy session.
pub fn unseal(item: u32, session: u32) -> Vec<u8> {
    authorised(UNSEAL, item, session, Writer::new())
}

/// Begins a session. It is neither salted nor bound: nothing is kept secret or authentic by its nonce.
pub fn start_auth_session(kind: Session) -> Vec<u8> {
    let body = Writer::new().u32(NULL_HANDLE).u32(NULL_HANDLE).sized(&[0; 16]).sized(&[]);
    plain(START_AUTH_SESSION, body.u8(kind as u8).u16(NULL).u16(SHA256))
}

/// The policy: this PCR has the value that it has at this moment.
pub fn policy_pcr(session: u32, pcr: u8) -> Vec<u8> {
    plain(POLICY_PCR, selecting(Writer::new().u32(session).sized(&[]), pcr))
}

/// Asks for a policy's digest.
pub fn policy_get_digest(session: u32) -> Vec<u8> {
    plain(POLICY_GET_DIGEST, Writer::new().u32(session))
}

/// Asks for a PCR's value.
pub fn pcr_read(pcr: u8) -> Vec<u8> {
    plain(PCR_READ, selecting(Writer::new(), pcr))
}

/// Removes a key, a secret or a session from the TPM.
pub fn flush_context(handle: u32) -> Vec<u8> {
    plain(FLUSH_CONTEXT, Writer::new().u32(handle))
}

/// Adds one PCR of the bank of SHA-256 (`TPML_PCR_SELECTION`).
fn selecting(writer: Writer, pcr: u8) -> Writer {
    let [low, middle, high, _] = (1u32 << (pcr % 24)).to_le_bytes();
    writer.u32(1).u16(SHA256).u8(3).u8(low).u8(middle).u8(high)
}

/// The handle of what was made, loaded or begun.
pub fn handle(bytes: &[u8]) -> Result<u32, TpmError> {
    answer(bytes, true)?.handle.ok_or(TpmError::Garbled("an answer without the handle"))
}

/// An answer of which only success is of interest.
pub fn done(bytes: &[u8]) -> Result<(), TpmError> {
    answer(bytes, false).map(drop)
}

/// What [`create`] made.
pub fn sealed(bytes: &[u8]) -> Result<Sealed, TpmError> {
    let mut body = answer(bytes, false)?.body;
    Ok(Sealed { private: body.sized()?.to_vec(), public: body.sized()?.to_vec() })
}

/// The bytes that [`unseal`] or [`policy_get_digest`] answer.
pub fn buffer(bytes: &[u8]) -> Result<Vec<u8>, TpmError> {
    Ok(answer(bytes, false)?.body.sized()?.to_vec())
}

/// A PCR's value. A TPM whose firmware keeps no bank of SHA-256 answers with fewer PCRs than were asked for, and takes
/// such a policy all the same: it would bind to nothing.
pub fn pcr_value(bytes: &[u8], pcr: u8) -> Result<[u8; DIGEST], TpmError> {
    let mut body = answer(bytes, false)?.body;
    let _update_counter = body.u32()?;
    if !selects(&mut body, pcr)? || body.u32()? != 1 {
        return Err(TpmError::NoBank);
    }
    body.sized()?.try_into().map_err(|_| TpmError::Garbled("a PCR that is no SHA-256"))
}

fn selects(body: &mut Reader<'_>, pcr: u8) -> Result<bool, TpmError> {
    let mut found = false;
    for _ in 0..body.u32()? {
        let bank = body.u16()?;
        let length = body.u8()?;
        let bits = body.take(length.into())?;
        found |= bank == SHA256 && bits.get(usize::from(pcr / 8)).is_some_and(|byte| byte >> (pcr % 8) & 1 == 1);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::verity::hex;
    use proptest::prelude::*;

    #[track_caller]
    fn check(command: &[u8], expect: &str) {
        assert_eq!(hex(command), expect.replace([' ', '\n'], ""));
        assert_eq!(command[2..6], (command.len() as u32).to_be_bytes(), "its length");
    }

    /// The authorisation by an empty password.
    const BY_PASSWORD: &str = "00000009 40000009 0000 00 0000";

    #[test]
    fn commands_are_the_bytes_of_the_specification() {
        check(&pcr_read(7), "8001 00000014 0000017e 00000001 000b 03 800000");
        check(&pcr_read(11), "8001 00000014 0000017e 00000001 000b 03 000800");
        check(&flush_context(0x8000_0001), "8001 0000000e 00000165 80000001");
        check(&policy_get_digest(0x0300_0000), "8001 0000000e 00000189 03000000");
        check(&policy_pcr(0x0300_0000, 7), "8001 0000001a 0000017f 03000000 0000 00000001 000b 03 800000");
        let zeros = "00".repeat(16);
        let start = |kind: &str| format!("8001 0000002b 00000176 40000007 40000007 0010 {zeros} 0000 {kind} 0010 000b");
        check(&start_auth_session(Session::Policy), &start("01"));
        check(&start_auth_session(Session::Trial), &start("03"));
        check(&unseal(0x8000_0001, 0x0300_0000), "8002 0000001b 0000015e 80000001 00000009 03000000 0000 00 0000");
        let primary = format!(
            "8002 00000043 00000131 40000001 {BY_PASSWORD} 0004 0000 0000
             001a 0023 000b 00030472 0000 0006 0080 0043 0010 0003 0010 0000 0000
             0000 00000000"
        );
        check(&create_primary(), &primary);
        let create_text = format!(
            "8002 0000003c 00000153 80000000 {BY_PASSWORD} 0007 0000 0003 010203
             0010 0008 000b 00000492 0002 aabb 0010 0000
             0000 00000000"
        );
        check(&create(0x8000_0000, &[0xaa, 0xbb], &[1, 2, 3]), &create_text);
        let sealed = Sealed { private: vec![1, 2], public: vec![3] };
        check(&load(0x8000_0000, &sealed), &format!("8002 00000022 00000157 80000000 {BY_PASSWORD} 0002 0102 0001 03"));
    }

    fn bytes(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|c| u8::from_str_radix(std::str::from_utf8(c).expect("hex"), 16).expect("hex")).collect()
    }

    #[test]
    fn answers_are_read() {
        let session = bytes("8001 00000014 00000000 03000000 0004 aabbccdd");
        assert_eq!(handle(&session).expect("reads"), 0x0300_0000);
        let primary = bytes("8002 00000017 00000000 80000000 00000000 0000 01 0000");
        assert_eq!(handle(&primary).expect("reads"), 0x8000_0000);
        let made = bytes("8002 0000001a 00000000 00000007 0002 0102 0001 03 0000 01 0000");
        assert_eq!(sealed(&made).expect("reads"), Sealed { private: vec![1, 2], public: vec![3] });
        let opened = bytes("8002 00000018 00000000 00000005 0003 070809 0000 01 0000");
        assert_eq!(buffer(&opened).expect("reads"), [7, 8, 9]);
        let value =
            format!("8001 0000003e 00000000 00000020 00000001 000b 03 800000 00000001 0020 {}", "5a".repeat(32));
        assert_eq!(pcr_value(&bytes(&value), 7).expect("reads"), [0x5a; 32]);
        assert!(matches!(pcr_value(&bytes(&value), 11), Err(TpmError::NoBank)));
    }

    #[test]
    fn a_bank_that_is_not_kept_is_no_policy() {
        let none = bytes("8001 0000001c 00000000 00000020 00000001 000b 03 000000 00000000");
        assert!(matches!(pcr_value(&none, 7), Err(TpmError::NoBank)));
    }

    #[test]
    fn a_refusal_is_told_with_its_code() {
        assert!(matches!(done(&bytes("8001 0000000a 0000099d")), Err(TpmError::Refused(0x99d))));
        assert!(matches!(done(&bytes("8001 0000000b 00000000")), Err(TpmError::Garbled(_))));
    }

    proptest! {
        #[test]
        fn no_answer_is_a_fault(code in any::<bool>(), tag in 0x8001u16..0x8003, body in proptest::collection::vec(any::<u8>(), 0..80)) {
            let size = (10 + body.len() as u32).to_be_bytes();
            let whole = [&tag.to_be_bytes()[..], &size, &[0, 0, 0, code.into()], &body].concat();
            for bytes in [&whole, &body] {
                let _ = handle(bytes);
                let _ = sealed(bytes);
                let _ = buffer(bytes);
                let _ = pcr_value(bytes, 7);
            }
        }
    }
}
