//! Names the sources that decide an image's bytes, so that another builder's results are never taken for ours.

use std::path::{Path, PathBuf};

fn main() {
    let mut files = Vec::new();
    for folder in ["src", "../image/src"] {
        collect(Path::new(folder), &mut files);
        println!("cargo::rerun-if-changed={folder}");
    }
    println!("cargo::rerun-if-changed=../Cargo.lock");
    files.push(PathBuf::from("../Cargo.lock"));
    files.sort();
    // FNV-1a: this is a name within one user's cache, not a protection.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for file in files {
        let bytes = std::fs::read(&file).unwrap_or_default();
        for byte in file.to_string_lossy().bytes().chain(bytes) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    println!("cargo::rustc-env=ROOST_BUILDER_DIGEST={hash:016x}");
}

/// All files that matter: running and testing images does not.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.file_name().and_then(|n| n.to_str()) {
            Some("lab" | "commands" | "main.rs") => {}
            _ if path.is_dir() => collect(&path, files),
            _ => files.push(path),
        }
    }
}
