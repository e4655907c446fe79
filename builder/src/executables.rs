//! Programs in an image: how many there are, and which of them run whatever text they are given.

use image::manifest::Manifest;

/// Shells and interpreters by the name of their file, up to its first digit.
const INTERPRETERS: &[&str] = &[
    "ash",
    "awk",
    "bash",
    "busybox",
    "csh",
    "dash",
    "expect",
    "fish",
    "gawk",
    "gdb",
    "guile",
    "ksh",
    "lua",
    "luajit",
    "mawk",
    "mksh",
    "node",
    "nodejs",
    "original-awk",
    "perl",
    "php",
    "pwsh",
    "pypy",
    "python",
    "qjs",
    "rbash",
    "ruby",
    "sash",
    "sh",
    "static-sh",
    "tclsh",
    "tcsh",
    "toybox",
    "wish",
    "yash",
    "zsh",
];

/// Whether a file, or a link, is a shell or another interpreter, going by its name.
pub fn is_interpreter(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    let stem = name.split(|c: char| c.is_ascii_digit()).next().unwrap_or_default();
    INTERPRETERS.contains(&stem)
}

/// Files of an image's root that may be executed, by path. Shared libraries, which Debian's packages do not mark as
/// executable, are not among them; the loader is.
pub fn of(manifest: &Manifest) -> Vec<String> {
    let executable = |mode: &str| u32::from_str_radix(mode, 8).is_ok_and(|mode| mode & 0o111 != 0);
    let files = manifest.files.iter().filter(|(_, file)| file.kind == "file" && executable(&file.mode));
    files.map(|(path, _)| format!("/{path}")).collect()
}

#[cfg(test)]
mod tests {
    use super::is_interpreter;

    #[test]
    fn versions_and_folders_do_not_hide_an_interpreter() {
        for path in
            ["/usr/bin/sh", "usr/bin/python3.13", "/opt/x/perl5.40-x86_64-linux-gnu", "/usr/bin/lua5.4", "busybox"]
        {
            assert!(is_interpreter(path), "{path}");
        }
        for path in ["/usr/lib/roost/node-init", "/usr/lib/roost/noded", "/usr/sbin/nft", "/usr/bin/bashful", "/usr/x/"]
        {
            assert!(!is_interpreter(path), "{path}");
        }
    }
}
