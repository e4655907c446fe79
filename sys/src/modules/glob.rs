//! Shell patterns as `modules.alias` uses them: `*`, `?`, `[a-f]`, `[!x]`.

/// Whether the whole text matches the pattern.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (p, t) = (pattern.as_bytes(), text.as_bytes());
    let (mut i, mut j) = (0, 0);
    // Where to go on when the text does not fit: just behind the last star, one byte of text later.
    let mut retry: Option<(usize, usize)> = None;
    while j < t.len() {
        if p.get(i) == Some(&b'*') {
            i += 1;
            retry = Some((i, j));
        } else if let Some(next) = step(p, i, t[j]) {
            i = next;
            j += 1;
        } else if let Some((star, from)) = retry {
            i = star;
            j = from + 1;
            retry = Some((star, j));
        } else {
            return false;
        }
    }
    p[i..].iter().all(|&b| b == b'*')
}

/// Position behind the pattern's element at `i` if that matches one byte.
fn step(p: &[u8], i: usize, byte: u8) -> Option<usize> {
    match *p.get(i)? {
        b'?' => Some(i + 1),
        b'[' => match set(&p[i + 1..], byte) {
            Some((true, length)) => Some(i + 1 + length),
            Some((false, _)) => None,
            // An open bracket that is never closed is itself.
            None => (byte == b'[').then_some(i + 1),
        },
        b'\\' => (p.get(i + 1) == Some(&byte)).then_some(i + 2),
        literal => (literal == byte).then_some(i + 1),
    }
}

/// Whether a set matches, and its length behind the bracket.
fn set(p: &[u8], byte: u8) -> Option<(bool, usize)> {
    let negated = matches!(p.first(), Some(b'!' | b'^'));
    let start = usize::from(negated);
    // A bracket that comes first is a member.
    let end = start + 1 + p.get(start + 1..)?.iter().position(|&b| b == b']')?;
    let mut found = false;
    let mut rest = &p[start..end];
    while let Some((&low, tail)) = rest.split_first() {
        let high = match tail {
            [b'-', high, ..] => {
                rest = &tail[2..];
                *high
            }
            _ => {
                rest = tail;
                low
            }
        };
        found |= (low..=high).contains(&byte);
    }
    Some((found != negated, end + 1))
}

#[cfg(test)]
mod tests {
    use super::matches;
    use proptest::prelude::*;

    #[track_caller]
    fn check(pattern: &str, text: &str, expect: bool) {
        assert_eq!(matches(pattern, text), expect, "{pattern} on {text}");
    }

    #[test]
    fn patterns_match_as_in_a_shell() {
        check("virtio:d00000002v*", "virtio:d00000002v00001AF4", true);
        check("virtio:d00000002v*", "virtio:d00000003v00001AF4", false);
        check("pci:v*d*sv*sd*bc01sc08i02*", "pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02", true);
        check("cpu:type:x86,ven*fam*mod*:feature:*0085*", "cpu:type:x86,ven0fam6mod6:feature:,0000,0085,0090", true);
        check("input:b*v*p*e*-e*1,*", "input:b0019v0000p0001e0000-e0,1,k74,ramlsfw", true);
        check("usb:v1D6Bp000[1-3]d*", "usb:v1D6Bp0002d0600", true);
        check("a[!b]c", "abc", false);
        check("a[!b]c", "axc", true);
        check("a[]x]c", "a]c", true);
        check("a[b", "a[b", true);
        check("*a*b", "aab", true);
        check("*a*b", "aabc", false);
        check("", "", true);
        check("*", "", true);
        check("?", "", false);
        check(r"a\*b", "a*b", true);
        check(r"a\", "a", false);
    }

    /// The textbook definition, slow but plain.
    fn slow(p: &[u8], t: &[u8]) -> bool {
        match (p.first(), t.first()) {
            (None, None) => true,
            (Some(b'*'), _) => slow(&p[1..], t) || (!t.is_empty() && slow(p, &t[1..])),
            (Some(b'?'), Some(_)) => slow(&p[1..], &t[1..]),
            (Some(a), Some(b)) => a == b && slow(&p[1..], &t[1..]),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn any_pattern_of_stars_agrees_with_the_definition(p in "[ab*?]{0,10}", t in "[ab]{0,12}") {
            prop_assert_eq!(matches(&p, &t), slow(p.as_bytes(), t.as_bytes()));
        }

        #[test]
        fn no_pattern_is_a_fault(p in ".{0,20}", t in ".{0,20}") {
            let _ = matches(&p, &t);
        }
    }
}
