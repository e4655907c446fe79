//! Frames of the node, router and init protocols: one postcard value each.
//!
//! The transport delimits them (a 4-byte big-endian length on streams, one datagram on sequenced
//! packets); here is only what is inside. Enums are append-only: a variant never moves and never goes.

use serde::{Serialize, de::DeserializeOwned};

/// The largest frame either side sends or accepts, in bytes.
pub const MAX: usize = 4 << 20;

/// Why bytes are not a frame of the expected kind.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Longer than [`MAX`].
    #[error("Frame of {0} bytes is longer than the {MAX} allowed")]
    TooLong(usize),
    /// Not a value of this type: a peer of another version, or garbage.
    #[error("Cannot decode a frame of {len} bytes")]
    Malformed {
        /// Length of the frame.
        len: usize,
        /// What postcard said.
        source: postcard::Error,
    },
    /// A valid value with bytes behind it.
    #[error("Frame of {len} bytes has {extra} bytes too many")]
    Trailing {
        /// Length of the frame.
        len: usize,
        /// Bytes not consumed.
        extra: usize,
    },
    /// A value that cannot be written, or is too large to send.
    #[error("Cannot encode a frame")]
    Encode(#[source] postcard::Error),
}

/// The bytes of one frame.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, FrameError> {
    let bytes = postcard::to_allocvec(value).map_err(FrameError::Encode)?;
    if bytes.len() > MAX { Err(FrameError::TooLong(bytes.len())) } else { Ok(bytes) }
}

/// Reads one frame; all of `bytes` must belong to it.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FrameError> {
    let len = bytes.len();
    if len > MAX {
        return Err(FrameError::TooLong(len));
    }
    let (value, rest) = postcard::take_from_bytes(bytes).map_err(|source| FrameError::Malformed { len, source })?;
    if rest.is_empty() { Ok(value) } else { Err(FrameError::Trailing { len, extra: rest.len() }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{local, sync};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_frame_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            let _: Result<sync::ToStore, _> = decode(&bytes);
            let _: Result<sync::ToNode, _> = decode(&bytes);
            let _: Result<local::ToNoded, _> = decode(&bytes);
            let _: Result<local::ToRouter, _> = decode(&bytes);
        }
    }

    #[test]
    fn bytes_behind_a_value_are_refused() {
        let mut bytes = encode(&7u32).expect("encodes");
        assert_eq!(decode::<u32>(&bytes).expect("reads back"), 7);
        bytes.push(0);
        assert!(matches!(decode::<u32>(&bytes), Err(FrameError::Trailing { extra: 1, .. })));
    }
}
