//! The SHA-256 of what is read.

use std::io::{self, Read};

use sha2::{Digest, Sha256};

/// Digest and length of all that a reader has left.
///
/// # Errors
/// When it cannot be read.
pub fn digest(mut reader: impl Read) -> io::Result<([u8; 32], u64)> {
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; 256 << 10]);
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok((hash.finalize().into(), bytes)),
            n => {
                hash.update(&buffer[..n]);
                bytes += n as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_read_counts_however_it_comes() {
        let bytes = vec![7; (256 << 10) + 3];
        let (head, tail) = bytes.split_at(5);
        let whole = (Sha256::digest(&bytes).into(), bytes.len() as u64);
        assert_eq!(digest(head.chain(tail)).unwrap(), whole);
        assert_eq!(digest(&[][..]).unwrap(), (Sha256::digest([]).into(), 0));
    }
}
