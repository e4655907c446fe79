//! Sizes as administrators write them.

/// A size in MiB as administrators write it: a plain number is MiB; `k`, `m`, `g` and `t` are multiples
/// of bytes (rounded up to whole MiB).
pub fn parse_mib(text: &str) -> Result<u32, String> {
    let bad =
        || format!("'{text}' is not a size: expected MiB as a whole number, or a number with k, m, g or t, such as 2g");
    let lower = text.trim().to_ascii_lowercase();
    let (digits, kib) = match lower.char_indices().last() {
        Some((at, 'k')) => (&lower[..at], 1),
        Some((at, 'm')) => (&lower[..at], 1 << 10),
        Some((at, 'g')) => (&lower[..at], 1 << 20),
        Some((at, 't')) => (&lower[..at], 1 << 30),
        _ => (lower.as_str(), 1 << 10),
    };
    let number: u64 = digits.parse().map_err(|_| bad())?;
    let mib = number.checked_mul(kib).ok_or_else(bad)?.div_ceil(1 << 10);
    u32::try_from(mib).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: Option<u32>) {
        assert_eq!(parse_mib(text).ok(), expect, "{text}");
    }

    #[test]
    fn sizes_are_mib_unless_they_say_otherwise() {
        check("256", Some(256));
        check("512m", Some(512));
        check("2G", Some(2048));
        check("1t", Some(1 << 20));
        check("1k", Some(1));
        check("", None);
        check("g", None);
        check("-1", None);
        check("1é", None);
        check("99999999999g", None);
    }
}
