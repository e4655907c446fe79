//! Bytes of TPM 2.0 commands and answers (TPM 2.0 Library, part 2): big-endian numbers, and buffers behind their length.

use super::TpmError;

/// Of an answer at most; the kernel's own limit.
pub const MAX: usize = 4096;
/// Tag, size and code.
const HEADER: usize = 10;
const NO_SESSIONS: u16 = 0x8001;
const SESSIONS: u16 = 0x8002;

/// A command while it is put together.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A byte.
    pub fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    /// Two bytes.
    pub fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// Four bytes.
    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// A buffer behind its length (`TPM2B`). Ours are all far below 64 KiB.
    pub fn sized(mut self, bytes: &[u8]) -> Self {
        self.0.extend((bytes.len() as u16).to_be_bytes());
        self.0.extend(bytes);
        self
    }

    /// The bytes.
    pub fn bytes(self) -> Vec<u8> {
        self.0
    }
}

/// A command without authorisations.
pub fn plain(code: u32, body: Writer) -> Vec<u8> {
    Writer::new()
        .u16(NO_SESSIONS)
        .u32((HEADER + body.0.len()) as u32)
        .u32(code)
        .bytes()
        .into_iter()
        .chain(body.0)
        .collect()
}

/// A command with one authorisation: a session's handle, without nonce and without HMAC.
pub fn authorised(code: u32, handle: u32, session: u32, body: Writer) -> Vec<u8> {
    let auth = Writer::new().u32(session).sized(&[]).u8(0).sized(&[]).bytes();
    let size = HEADER + 4 + 4 + auth.len() + body.0.len();
    let head = Writer::new().u16(SESSIONS).u32(size as u32).u32(code).u32(handle).u32(auth.len() as u32).bytes();
    [head, auth, body.0].concat()
}

/// An answer's body: the handle if the command has one, and the parameters.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// What was made.
    pub handle: Option<u32>,
    /// The rest, without authorisations.
    pub body: Reader<'a>,
}

/// Takes an answer apart; one that tells a failure is an error.
pub fn answer(bytes: &[u8], with_handle: bool) -> Result<Answer<'_>, TpmError> {
    let mut reader = Reader(bytes);
    let (tag, size, code) = (reader.u16()?, reader.u32()?, reader.u32()?);
    if size as usize != bytes.len() {
        return Err(TpmError::Garbled("an answer whose length is not the one it tells"));
    }
    if code != 0 {
        return Err(TpmError::Refused(code));
    }
    let handle = if with_handle { Some(reader.u32()?) } else { None };
    let body = match tag {
        NO_SESSIONS => reader,
        SESSIONS => {
            let length = reader.u32()? as usize;
            Reader(reader.take(length)?)
        }
        _ => return Err(TpmError::Garbled("an answer that is of no kind")),
    };
    Ok(Answer { handle, body })
}

/// Bytes still to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// As many bytes.
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], TpmError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(TpmError::Garbled("an answer that is cut off"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], TpmError> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    /// A byte.
    pub fn u8(&mut self) -> Result<u8, TpmError> {
        self.array().map(u8::from_be_bytes)
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Result<u16, TpmError> {
        self.array().map(u16::from_be_bytes)
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32, TpmError> {
        self.array().map(u32::from_be_bytes)
    }

    /// A buffer behind its length.
    pub fn sized(&mut self) -> Result<&'a [u8], TpmError> {
        let length = self.u16()?;
        self.take(length.into())
    }
}
