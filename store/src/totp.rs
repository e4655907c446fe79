//! One-time codes by time (RFC 6238): SHA-1, 6 digits, steps of 30 s, as every authenticator has them.
//!
//! Pure: the time is an argument. A code is good for its own step and the one before and after it, and
//! only for a step later than the last one that was used.

use model::UserId;
use ring::hmac;

/// Random bytes of a secret: what RFC 4226 recommends.
pub const SECRET: usize = 20;
/// Digits of a code.
pub const DIGITS: usize = 6;
/// Seconds of a step.
const STEP_S: u64 = 30;
/// Steps that a clock may be off, either way.
const WINDOW: u64 = 1;

/// The step whose code this is, if it may be used: it lies in the window and after the step used `last`.
pub fn step(secret: &[u8], code: &str, now_ms: u64, last: u64) -> Option<u64> {
    let now = now_ms / 1000 / STEP_S;
    let window = now.saturating_sub(WINDOW)..=now + WINDOW;
    window.filter(|step| *step > last).find(|step| same(&at(secret, *step), code.trim()))
}

/// The code of a step.
pub fn at(secret: &[u8], step: u64) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret);
    let tag = hmac::sign(&key, &step.to_be_bytes());
    let tag = tag.as_ref();
    let offset = usize::from(tag.last().copied().unwrap_or(0) & 15);
    let number = tag.iter().skip(offset).take(4).fold(0u32, |n, byte| n << 8 | u32::from(*byte));
    format!("{:0DIGITS$}", (number & 0x7fff_ffff) % 10u32.pow(DIGITS as u32))
}

/// In a time that says nothing of where they differ.
fn same(right: &str, given: &str) -> bool {
    right.len() == given.len() && right.bytes().zip(given.bytes()).fold(0, |d, (a, b)| d | (a ^ b)) == 0
}

/// Password and code of a text that holds both, one behind the other, as QVD's clients send them.
pub fn split(text: &str) -> Option<(&str, &str)> {
    let at = text.len().checked_sub(DIGITS)?;
    let (password, code) = text.split_at_checked(at)?;
    code.bytes().all(|b| b.is_ascii_digit()).then_some((password, code))
}

/// What an authenticator reads from a QR code.
pub fn uri(login: &str, secret: &[u8]) -> String {
    let escaped: String = login.bytes().map(escape).collect();
    format!("otpauth://totp/Roost:{escaped}?secret={}&issuer=Roost", base32(secret))
}

fn escape(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
        char::from(byte).to_string()
    } else {
        format!("%{byte:02X}")
    }
}

/// RFC 4648 without padding.
fn base32(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let bit = |n: usize| bytes.get(n / 8).map_or(0, |byte| usize::from(byte >> (7 - n % 8) & 1));
    let letter = |at: usize| (0..5).fold(0, |n, b| n << 1 | bit(at * 5 + b));
    (0..(bytes.len() * 8).div_ceil(5)).map(|at| char::from(LETTERS[letter(at)])).collect()
}

/// What a sealed secret is, and whose.
pub fn context(user: UserId) -> String {
    format!("one-time codes of user {user}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key of RFC 6238's table.
    const KEY: &[u8] = b"12345678901234567890";

    #[test]
    fn codes_are_those_of_the_rfc() {
        // Appendix B has eight digits; six are the end of them.
        for (seconds, code) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ] {
            assert_eq!(at(KEY, seconds / 30), code, "{seconds}");
            assert_eq!(step(KEY, code, seconds * 1000, 0), Some(seconds / 30));
        }
    }

    /// A second before the end of its step.
    const TIME: u64 = 1_111_111_109;

    #[track_caller]
    fn check(late_s: i64, last: u64, expect: bool) {
        let now = TIME.saturating_add_signed(late_s) * 1000;
        assert_eq!(step(KEY, "081804", now, last).is_some(), expect, "{late_s} s late, step {last} was used");
    }

    #[test]
    fn a_code_is_good_a_step_early_and_late_and_once() {
        check(0, 0, true);
        check(30, 0, true);
        check(31, 0, false);
        check(-59, 0, true);
        check(-60, 0, false);
        check(0, TIME / 30 - 1, true);
        check(0, TIME / 30, false);
        check(0, TIME / 30 + 1, false);
        for wrong in ["", "28708", "2870820", "287083", "abcdef"] {
            assert_eq!(step(KEY, wrong, 59_000, 0), None, "{wrong}");
        }
    }

    #[test]
    fn a_code_stands_behind_the_password_or_not_at_all() {
        assert_eq!(split("secret123456"), Some(("secret", "123456")));
        assert_eq!(split("123456"), Some(("", "123456")));
        for none in ["", "secret", "secret12345x", "ñandú1"] {
            assert_eq!(split(none), None, "{none}");
        }
        assert_eq!(split("é12345"), None, "in the middle of a letter");
    }

    #[test]
    fn authenticators_read_what_is_printed() {
        assert_eq!(base32(b"foobar"), "MZXW6YTBOI");
        assert_eq!(base32(b""), "");
        assert_eq!(
            uri("añn", KEY),
            "otpauth://totp/Roost:a%C3%B1n?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=Roost"
        );
    }
}
