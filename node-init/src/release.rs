//! Which image a machine runs, by its os-release.

/// Where it is in the root.
pub const PATH: &str = "/usr/lib/os-release";

/// Name and version of the image.
pub fn image(text: &str) -> Option<(String, String)> {
    let field = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
        Some(value.trim_matches('"').to_owned())
    };
    Some((field("IMAGE_ID")?, field("IMAGE_VERSION")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_says_what_it_is() {
        let text = "NAME=\"Roost\"\nVERSION_ID=2.1\nIMAGE_ID=node\nIMAGE_VERSION=\"2.1\"\n";
        assert_eq!(image(text), Some(("node".to_owned(), "2.1".to_owned())));
        assert_eq!(image("ID=debian\n"), None);
    }
}
