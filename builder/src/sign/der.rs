//! The little of DER that signatures are made of.

/// `SEQUENCE`.
pub const SEQUENCE: u8 = 0x30;
/// `SET`.
pub const SET: u8 = 0x31;
/// `INTEGER`.
pub const INTEGER: u8 = 0x02;
/// `OCTET STRING`.
pub const OCTETS: u8 = 0x04;
/// `OBJECT IDENTIFIER`.
pub const OID: u8 = 0x06;
/// `NULL`.
pub const NULL: u8 = 0x05;
/// `BIT STRING`.
pub const BITS: u8 = 0x03;

/// `[number]`, holding other elements.
pub const fn context(number: u8) -> u8 {
    0xa0 | number
}

/// One element of these parts.
pub fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut out = vec![tag];
    match content.len() {
        len @ 0..0x80 => out.push(len as u8),
        len => {
            let bytes = len.to_be_bytes();
            let used = &bytes[bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len() - 1)..];
            out.push(0x80 | used.len() as u8);
            out.extend(used);
        }
    }
    out.extend(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_as_few_bytes_as_they_need() {
        assert_eq!(element(NULL, &[]), [5, 0]);
        assert_eq!(element(OCTETS, &[&[1], &[2, 3]]), [4, 3, 1, 2, 3]);
        assert_eq!(element(OCTETS, &[&[0; 0x7f]])[..2], [4, 0x7f]);
        assert_eq!(element(OCTETS, &[&[0; 0x80]])[..3], [4, 0x81, 0x80]);
        assert_eq!(element(OCTETS, &[&[0; 0x1234]])[..4], [4, 0x82, 0x12, 0x34]);
    }
}
