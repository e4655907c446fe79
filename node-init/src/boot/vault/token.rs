//! The sealed key as it lies in the LUKS2 header: a token, so that header and key are one thing that is copied, moved
//! and lost together.

use crate::tpm::{DIGEST, Sealed};
use base64::{Engine, prelude::BASE64_STANDARD};
use image::verity::hex;
use serde::{Deserialize, Serialize};

/// Marks our tokens; cryptsetup leaves those of kinds that it does not know alone.
pub const KIND: &str = "roost-tpm2";

/// A token. What is in it is no secret: only its TPM makes something of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    #[serde(rename = "type")]
    kind: String,
    /// The slot of the key; cryptsetup asks for this name and for a list.
    keyslots: Vec<String>,
    /// Value of the policy's PCR when it was sealed, to tell a person what changed.
    pcr: String,
    private: String,
    public: String,
}

impl Token {
    /// A token for the key in this slot.
    pub fn new(slot: &str, pcr: [u8; DIGEST], sealed: &Sealed) -> Self {
        Self {
            kind: KIND.to_owned(),
            keyslots: vec![slot.to_owned()],
            pcr: hex(&pcr),
            private: BASE64_STANDARD.encode(&sealed.private),
            public: BASE64_STANDARD.encode(&sealed.public),
        }
    }

    /// What the TPM is given. A token that somebody bent is one that the TPM refuses.
    pub fn sealed(&self) -> Sealed {
        let bytes = |text: &str| BASE64_STANDARD.decode(text).unwrap_or_default();
        Sealed { private: bytes(&self.private), public: bytes(&self.public) }
    }

    /// The PCR's value at the sealing, in hexadecimal.
    pub fn pcr(&self) -> &str {
        &self.pcr
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_the_documented_text_and_is_read_back() {
        let sealed = Sealed { private: vec![1, 2], public: vec![3] };
        let token = Token::new("1", [0xab; DIGEST], &sealed);
        let text = serde_json::to_string(&token).expect("writes");
        let pcr = "ab".repeat(32);
        let expect =
            format!(r#"{{"type":"roost-tpm2","keyslots":["1"],"pcr":"{pcr}","private":"AQI=","public":"Aw=="}}"#);
        assert_eq!(text, expect);
        let read: Token = serde_json::from_str(&text).expect("reads");
        assert_eq!((read.sealed(), read.pcr()), (sealed, pcr.as_str()));
    }
}
