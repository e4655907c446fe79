//! Whether an ext4 file system needs a look before it is mounted, by its superblock.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

const AT: u64 = 1024;
const MAGIC: u16 = 0xef53;
/// `s_state`: unmounted in order; the kernel found errors; orphans are being recovered.
const VALID: u16 = 1;
/// `s_feature_incompat`: the journal holds what must be replayed.
const NEEDS_RECOVERY: u32 = 4;

/// Whether it was unmounted in order and nothing was found wrong since: then `e2fsck -p` would do nothing but look at
/// this superblock too, which under emulation costs most of a second of loading it.
pub fn is_clean(device: &Path) -> bool {
    let mut superblock = [0; 1024];
    let read = File::open(device).and_then(|mut f| {
        f.seek(SeekFrom::Start(AT))?;
        f.read_exact(&mut superblock)
    });
    read.is_ok() && says_clean(&superblock)
}

fn says_clean(superblock: &[u8; 1024]) -> bool {
    let half = |at: usize| u16::from_le_bytes([superblock[at], superblock[at + 1]]);
    let word = |at: usize| u32::from(half(at)) | u32::from(half(at + 2)) << 16;
    let (mounts, most_mounts, interval) = (half(0x34), half(0x36), word(0x44));
    // Nobody sets these on a node; who does wants the check.
    let due = (most_mounts as i16 > 0 && mounts >= most_mounts) || interval != 0;
    let errors = word(0x194);
    half(0x38) == MAGIC && half(0x3a) == VALID && word(0x60) & NEEDS_RECOVERY == 0 && errors == 0 && !due
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> [u8; 1024] {
        let mut s = [0; 1024];
        s[0x38..0x3c].copy_from_slice(&[0x53, 0xef, 1, 0]);
        s[0x36..0x38].copy_from_slice(&(-1i16).to_le_bytes());
        s
    }

    #[track_caller]
    fn check(at: usize, value: u8, expect: bool) {
        let mut s = good();
        s[at] = value;
        assert_eq!(says_clean(&s), expect, "{value} at {at:#x}");
    }

    #[test]
    fn whatever_is_not_in_order_is_looked_at() {
        assert!(says_clean(&good()));
        assert!(!says_clean(&[0; 1024]));
        check(0x34, 9, true); // mounted often: no limit is set
        check(0x38, 0, false); // no ext4
        check(0x3a, 0, false); // not unmounted
        check(0x3a, 3, false); // errors
        check(0x60, 4, false); // a journal to be replayed
        check(0x60, 0x40, true); // extents
        check(0x194, 1, false); // errors that were counted
        check(0x44, 1, false); // to be checked by time
        let mut due = good();
        due[0x34..0x38].copy_from_slice(&[20, 0, 20, 0]);
        assert!(!says_clean(&due));
    }

    #[test]
    fn a_new_file_system_is_clean() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("disk");
        File::create(&path).and_then(|f| f.set_len(8 << 20)).expect("made");
        let Ok(status) = sys::spawn::run(
            sys::spawn::Command::new("/usr/sbin/mke2fs").args(["-q", "-F", "-t", "ext4"]).arg(&path),
            b"",
            std::time::Duration::from_secs(60),
        ) else {
            return; // no mke2fs here
        };
        status.ok().expect("formatted");
        assert!(is_clean(&path));
        File::options()
            .write(true)
            .open(&path)
            .and_then(|mut f| {
                use std::io::Write;
                f.seek(SeekFrom::Start(AT + 0x3a))?;
                f.write_all(&[0, 0])
            })
            .expect("written");
        assert!(!is_clean(&path));
    }
}
