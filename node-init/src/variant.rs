//! Whether this is a debug image: the builder writes it into the os-release of every image that has a shell.

const OS_RELEASE: &str = "/usr/lib/os-release";

/// What an image without a shell is called here.
pub const PRODUCTION: &str = "production";
/// `VARIANT_ID` of one with a shell.
pub const DEBUG: &str = "debug";

/// The running image's variant. It lies on the verified root: one that cannot be read is no reason for a shell.
pub fn variant() -> String {
    of(&std::fs::read_to_string(OS_RELEASE).unwrap_or_default())
}

/// Whether there is a shell.
pub fn is_debug() -> bool {
    variant() == DEBUG
}

fn of(os_release: &str) -> String {
    let named = os_release.lines().find_map(|line| line.strip_prefix("VARIANT_ID="));
    named.map_or(PRODUCTION, |name| name.trim_matches('"')).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_image_that_says_so_is_one_for_debugging() {
        for (text, expect) in [
            ("NAME=\"Roost\"\nID=roost\n", PRODUCTION),
            ("", PRODUCTION),
            ("ID=roost\nVARIANT=\"Debug\"\nVARIANT_ID=debug\n", DEBUG),
            ("VARIANT_ID=\"debug\"\n", DEBUG),
        ] {
            assert_eq!(of(text), expect, "{text}");
        }
    }
}
