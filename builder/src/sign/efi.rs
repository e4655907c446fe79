//! Firmware variables that hold Secure Boot keys: signature lists, and the signed form in which firmware takes them.

use super::SignError;
use super::pkcs7::{self, Signs};

/// Owner that our entries name: it only tells them from others' in a listing.
const OWNER: [u8; 16] = guid("726f6f73-7400-4b65-8079-736967000001");
/// `EFI_CERT_X509_GUID`.
const X509: [u8; 16] = guid("a5c059a1-94e4-4aa7-87b5-ab155c2bf072");
/// `EFI_CERT_TYPE_PKCS7_GUID`.
const PKCS7: [u8; 16] = guid("4aafd29d-68df-49ee-8aa9-347d375665a7");
/// `EFI_GLOBAL_VARIABLE`, where PK and KEK are.
const GLOBAL: [u8; 16] = guid("8be4df61-93ca-11d2-aa0d-00e098032b8c");
/// `EFI_IMAGE_SECURITY_DATABASE_GUID`, where db is.
const SECURITY: [u8; 16] = guid("d719b2cb-3d3a-4596-a3bc-dad00e67656f");
/// Kept over power-off, seen by boot and by the running system, written with a time stamp.
pub const ATTRIBUTES: u32 = 0x27;

/// A variable of firmware that holds keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variable {
    /// The platform key: who owns the machine. Signs itself and KEK.
    Pk,
    /// Key exchange keys: who may change db.
    Kek,
    /// Who may sign what is booted.
    Db,
}

/// All, in the order in which they are made; enrolled in the opposite order, for PK ends setup mode.
pub const VARIABLES: [Variable; 3] = [Variable::Pk, Variable::Kek, Variable::Db];

impl Variable {
    /// Its name, which is also that of our files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pk => "PK",
            Self::Kek => "KEK",
            Self::Db => "db",
        }
    }

    /// Its vendor GUID.
    pub fn vendor(self) -> [u8; 16] {
        match self {
            Self::Pk | Self::Kek => GLOBAL,
            Self::Db => SECURITY,
        }
    }

    /// Name of the certificate in it.
    pub fn common_name(self) -> &'static str {
        match self {
            Self::Pk => "Roost platform key",
            Self::Kek => "Roost key exchange key",
            Self::Db => "Roost boot image key",
        }
    }

    /// Whose key signs a change of it.
    pub fn signer(self) -> Self {
        match self {
            Self::Pk | Self::Kek => Self::Pk,
            Self::Db => Self::Kek,
        }
    }
}

/// A GUID as firmware stores it: the first three numbers little-endian.
const fn guid(text: &str) -> [u8; 16] {
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let (bytes, mut out, mut at, mut digits) = (text.as_bytes(), [0; 16], 0, 0);
    while at < bytes.len() {
        let value = match bytes[at] {
            digit @ b'0'..=b'9' => digit - b'0',
            letter @ b'a'..=b'f' => letter - b'a' + 10,
            _ => {
                at += 1;
                continue;
            }
        };
        out[order[digits / 2]] = out[order[digits / 2]] << 4 | value;
        digits += 1;
        at += 1;
    }
    out
}

/// `EFI_SIGNATURE_LIST` of one certificate: what the variable's value is.
pub fn list(certificate: &[u8]) -> Vec<u8> {
    let entry = 16 + certificate.len() as u32;
    let head = [28 + entry, 0, entry].map(u32::to_le_bytes).concat();
    [&X509[..], &head, &OWNER, certificate].concat()
}

/// `EFI_VARIABLE_AUTHENTICATION_2` and the value: what firmware takes from anybody who has it.
/// `time` is year, month, day, hour, minute, second; a later change must have a later one.
pub fn signed(
    variable: Variable,
    value: &[u8],
    time: [u16; 6],
    certificate: &[u8],
    sign: Signs<'_>,
) -> Result<Vec<u8>, SignError> {
    let time = efi_time(time);
    let name: Vec<u8> = variable.name().encode_utf16().flat_map(u16::to_le_bytes).collect();
    let bytes = [&name, &variable.vendor()[..], &ATTRIBUTES.to_le_bytes(), &time, value].concat();
    let pkcs7 = pkcs7::detached(&bytes, certificate, sign)?;
    let len = 24 + pkcs7.len() as u32;
    // WIN_CERTIFICATE_UEFI_GUID: length, revision 2.0, type 0x0ef1.
    let head = [&len.to_le_bytes()[..], &[0x00, 0x02, 0xf1, 0x0e], &PKCS7].concat();
    Ok([&time[..], &head, &pkcs7, value].concat())
}

/// `EFI_TIME` in UTC, without the fields that must be 0 here.
pub fn efi_time([year, month, day, hour, minute, second]: [u16; 6]) -> [u8; 16] {
    let mut time = [0; 16];
    time[..2].copy_from_slice(&year.to_le_bytes());
    for (at, value) in [month, day, hour, minute, second].into_iter().enumerate() {
        time[2 + at] = value as u8;
    }
    time
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guid_is_stored_as_firmware_stores_it() {
        assert_eq!(GLOBAL[..8], [0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11]);
        assert_eq!(GLOBAL[8..], [0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c]);
    }

    #[test]
    fn a_list_says_its_lengths() {
        let list = list(&[7; 100]);
        assert_eq!(list.len(), 144);
        assert_eq!(list[16..28], [144, 0, 0, 0, 0, 0, 0, 0, 116, 0, 0, 0]);
    }

    #[test]
    fn a_time_is_that_of_efi() {
        assert_eq!(efi_time([2026, 11, 21, 9, 8, 7])[..8], [0xea, 0x07, 11, 21, 9, 8, 7, 0]);
    }
}
