//! OEM strings of the firmware's SMBIOS table.

/// Type of the structure that holds them.
const OEM_STRINGS: u8 = 11;
const END: u8 = 127;

/// All OEM strings of a table, in order. A table that makes no sense yields those before that place.
///
/// Each structure is a formatted part (type, length, handle, ...), then strings ended by zero, then one more zero.
pub fn oem_strings(table: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = table;
    while let [kind, length, _, _, ..] = *rest {
        let Some(body) = rest.get(usize::from(length).max(4)..) else { break };
        let Some(end) = body.windows(2).position(|w| w == [0, 0]) else { break };
        if kind == OEM_STRINGS {
            let strings = body[..end].split(|&b| b == 0).filter(|s| !s.is_empty());
            found.extend(strings.map(|s| String::from_utf8_lossy(s).into_owned()));
        }
        if kind == END {
            break;
        }
        rest = &body[end + 2..];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn structure(kind: u8, formatted: &[u8], strings: &[&str]) -> Vec<u8> {
        let mut s = vec![kind, 4 + formatted.len() as u8, 0, 0];
        s.extend(formatted);
        for string in strings {
            s.extend(string.as_bytes());
            s.push(0);
        }
        s.extend(if strings.is_empty() { &[0, 0][..] } else { &[0][..] });
        s
    }

    #[test]
    fn oem_strings_are_found_among_other_structures() {
        let table = [
            structure(1, &[1, 2], &["QEMU", "a"]),
            structure(17, &[0, 0, 9], &[]),
            structure(11, &[2], &["roost-seed=aGk=", "second"]),
            structure(127, &[], &[]),
            structure(11, &[1], &["behind the end"]),
        ]
        .concat();
        assert_eq!(oem_strings(&table), ["roost-seed=aGk=", "second"]);
    }

    proptest! {
        #[test]
        fn no_table_is_a_fault(table in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = oem_strings(&table);
        }

        #[test]
        fn a_cut_table_yields_a_beginning(cut in 0usize..60) {
            let table = [structure(11, &[2], &["one", "two"]), structure(11, &[1], &["three"])].concat();
            let found = oem_strings(&table[..cut.min(table.len())]);
            prop_assert!(["one", "two", "three"].starts_with(&found.iter().map(String::as_str).collect::<Vec<_>>()));
        }
    }
}
