//! What must not leave a node in a log.
//!
//! No program of ours logs a secret. This is the second lock, for what others say: the kernel, LXC, a program that is
//! not ours and complains about its configuration.

/// Names whose values are left out, whatever they stand in.
const SECRETS: &[&str] = &["password", "passwd", "passphrase", "token", "secret", "authorization", "recovery-key"];
/// In place of a value.
const LEFT_OUT: &str = "(left out)";

/// The line without values of `password=...` and the like, and without any private key.
pub fn line(text: &str) -> String {
    if text.contains("PRIVATE KEY") {
        return LEFT_OUT.to_owned();
    }
    let lower = text.to_ascii_lowercase();
    let mut clean = String::with_capacity(text.len());
    let mut at = 0;
    while let Some((value, end)) = next(&lower, at) {
        clean.push_str(text.get(at..value).unwrap_or_default());
        clean.push_str(LEFT_OUT);
        at = end;
    }
    clean.push_str(text.get(at..).unwrap_or_default());
    clean
}

/// Where the next secret value begins and ends.
fn next(lower: &str, from: usize) -> Option<(usize, usize)> {
    let rest = lower.get(from..)?;
    let value_of = |name: &&str| {
        rest.match_indices(*name).find_map(|(at, _)| {
            let behind = rest.get(at + name.len()..)?;
            // Also `"token": "..."`, as in JSON.
            let sign = behind.trim_start_matches(['"', ' ']);
            let value = sign.strip_prefix(['=', ':'])?.trim_start_matches([' ', '"', '\'']);
            (!value.is_empty()).then_some(lower.len() - value.len())
        })
    };
    let value = SECRETS.iter().filter_map(value_of).min()?;
    let text = lower.get(value..)?;
    // `Authorization: Bearer ...`: the word in front is none.
    let scheme = ["bearer ", "basic "].into_iter().find(|scheme| text.starts_with(scheme)).map_or(0, str::len);
    let length = text.get(scheme..)?.find(['"', '\'', ' ', ',']).map_or(text.len(), |length| scheme + length);
    Some((value, value + length.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_of_secrets_are_left_out_and_nothing_else() {
        for (text, expect) in [
            ("noded: joined token=abc store=x", "noded: joined token=(left out) store=x"),
            (r#"bad line: {"password": "hunter2", "a": 1}"#, r#"bad line: {"password": "(left out)", "a": 1}"#),
            ("Authorization: Bearer abc x", "Authorization: (left out) x"),
            ("token: a token: b", "token: (left out) token: (left out)"),
            ("the token was used on 2026-11-20", "the token was used on 2026-11-20"),
            ("token=", "token="),
            ("-----BEGIN PRIVATE KEY-----", "(left out)"),
            ("key=9f2c", "key=9f2c"),
        ] {
            assert_eq!(line(text), expect);
        }
    }

    proptest! {
        #[test]
        fn no_text_is_a_fault(text in "(token|secret|[=: \"a-zäÄİ]){0,40}") {
            line(&text);
        }

        #[test]
        fn a_secret_never_gets_through(before in "[a-z= ]{0,20}", value in "[A-Z0-9]{8,20}", after in "[a-z= ]{0,20}") {
            let text = format!("{before} password={value} {after}");
            prop_assert!(!line(&text).contains(&value));
        }
    }
}
