//! Order of versions, by the UAPI group's Version Format Specification: the one systemd-boot sorts by.
//!
//! `~` < end < `-` < `^` < `.` < letters < numbers. Anything else in a version is skipped.

use std::cmp::Ordering;

/// Which of two versions is the newer one.
#[must_use]
pub fn compare(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        (a, b) = (skip_strange(a), skip_strange(b));
        if let Some(decided) = separator(b'~', &mut a, &mut b) {
            return decided;
        }
        if a.is_empty() || b.is_empty() {
            return a.len().min(1).cmp(&b.len().min(1));
        }
        for mark in *b"-^." {
            if let Some(decided) = separator(mark, &mut a, &mut b) {
                return decided;
            }
        }
        let numeric = starts_with_digit(a) || starts_with_digit(b);
        let piece = if numeric { u8::is_ascii_digit } else { u8::is_ascii_alphabetic };
        let (left, right) = (take(&mut a, piece), take(&mut b, piece));
        let order = if numeric { numbers(left, right) } else { left.cmp(right) };
        if order != Ordering::Equal {
            return order;
        }
    }
}

fn skip_strange(text: &[u8]) -> &[u8] {
    let known = |byte: &u8| byte.is_ascii_alphanumeric() || b"-.~^".contains(byte);
    &text[text.iter().position(known).unwrap_or(text.len())..]
}

/// A mark that only one of them has makes that one the older; a mark of both is passed over.
fn separator(mark: u8, a: &mut &[u8], b: &mut &[u8]) -> Option<Ordering> {
    match (a.split_first(), b.split_first()) {
        (Some((x, rest_a)), Some((y, rest_b))) if *x == mark && *y == mark => (*a, *b) = (rest_a, rest_b),
        (Some((x, _)), _) if *x == mark => return Some(Ordering::Less),
        (_, Some((y, _))) if *y == mark => return Some(Ordering::Greater),
        _ => {}
    }
    None
}

fn starts_with_digit(text: &[u8]) -> bool {
    text.first().is_some_and(u8::is_ascii_digit)
}

fn take<'a>(text: &mut &'a [u8], piece: fn(&u8) -> bool) -> &'a [u8] {
    let (taken, rest) = text.split_at(text.iter().position(|byte| !piece(byte)).unwrap_or(text.len()));
    *text = rest;
    taken
}

/// A number is newer than none; more digits are more, leading zeros apart.
fn numbers(a: &[u8], b: &[u8]) -> Ordering {
    fn significant(digits: &[u8]) -> &[u8] {
        &digits[digits.iter().position(|digit| *digit != b'0').unwrap_or(digits.len())..]
    }
    let (left, right) = (significant(a), significant(b));
    (!a.is_empty()).cmp(&!b.is_empty()).then(left.len().cmp(&right.len())).then(left.cmp(right))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(ascending: &[&str]) {
        for (i, a) in ascending.iter().enumerate() {
            for (j, b) in ascending.iter().enumerate() {
                assert_eq!(compare(a, b), i.cmp(&j), "{a:?} and {b:?}");
            }
        }
    }

    #[test]
    fn versions_are_ordered_as_the_specification_says() {
        check(&[
            "122.1",
            "123~rc1-1",
            "123",
            "123-a",
            "123-a.1",
            "123-1",
            "123-1.1",
            "123^post1",
            "123.a-1",
            "123.1-1",
        ]);
        check(&["~", "~~", "", "-", "a", "1"]);
        check(&["1~", "1~~", "1", "1-", "1^", "1.", "1a", "2"]);
        check(&["B", "a", "ab", "b", "0", "9", "10"]);
        check(&["2026.1.5", "2026.11.21~dev.3", "2026.11.21", "2026.11.21-1", "2026.11.21.1", "2027.1"]);
        check(&["99999999999999999998", "99999999999999999999", "100000000000000000000"]);
    }

    #[test]
    fn spellings_of_one_version_are_equal() {
        for (a, b) in [("00", "0"), ("1.02", "1.2"), ("1_2", "12"), ("v1", "v1"), ("1!", "1"), ("é", "")] {
            // What is skipped still parts two numbers.
            let expect = if a == "1_2" { Ordering::Less } else { Ordering::Equal };
            assert_eq!(compare(a, b), expect, "{a:?} and {b:?}");
        }
    }

    #[test]
    fn systemd_agrees_where_it_is_installed() {
        let pieces = ["", "~", "-", "^", ".", "a", "B", "rc", "0", "01", "7", "12"];
        let mut seed = 1u32;
        let mut text = || {
            let mut piece = || {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                pieces[(seed >> 16) as usize % pieces.len()]
            };
            // systemd-analyze takes no empty version.
            format!("1{}{}{}", piece(), piece(), piece())
        };
        for _ in 0..60 {
            let (a, b) = (text(), text());
            let Ok(said) = Command::new("systemd-analyze").args(["compare-versions", &a, &b]).output() else { return };
            let sign = match compare(&a, &b) {
                Ordering::Less => "<",
                Ordering::Equal => "==",
                Ordering::Greater => ">",
            };
            assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), format!("{a} {sign} {b}"));
        }
    }

    proptest! {
        #[test]
        fn it_is_an_order(a in "[a-bB0-1~^.é_-]{0,6}", b in "[a-bB0-1~^.é_-]{0,6}", c in "[a-bB0-1~^.é_-]{0,6}") {
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            prop_assert_eq!(compare(&a, &a), Ordering::Equal);
            if compare(&a, &b).is_le() && compare(&b, &c).is_le() {
                prop_assert!(compare(&a, &c).is_le());
            }
        }
    }
}
