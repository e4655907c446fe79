//! The one cluster that an image is for, if it is for one: `roost.cluster=` on the command line, in front of the root's
//! hash and signed with it.

/// What the word begins with; the fingerprint of the cluster's CA follows, as [`crate::verity::hex`] writes it.
pub const WORD: &str = "roost.cluster=";

/// What a kernel command line says of the cluster: the value of the first such word. Firmware without Secure Boot can
/// only add to a command line, and what it adds stands behind.
#[must_use]
pub fn on_cmdline(text: &str) -> Option<&str> {
    text.split(|c: char| c.is_whitespace() || c == '\0').find_map(|word| word.strip_prefix(WORD))
}

#[cfg(test)]
mod tests {
    use super::on_cmdline;

    #[test]
    fn what_was_added_behind_does_not_count() {
        assert_eq!(on_cmdline("quiet roost.cluster=ab roost.verity=c roost.cluster=cd\n"), Some("ab"));
        assert_eq!(on_cmdline("quiet roost.clusters=ab xroost.cluster=ab\0"), None);
        assert_eq!(on_cmdline("roost.cluster=ab\0"), Some("ab"));
    }
}
