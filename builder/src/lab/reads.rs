//! What a machine read of its disk, as QEMU's trace event `virtio_blk_handle_read` tells it, a line for each request:
//!
//! ```text
//! virtio_blk_handle_read vdev 0x5624c5a8f8a0 req 0x7f2a0c003d40 sector 2048 nsectors 8
//! ```

use super::{LabError, file};
use std::{ops::Range, path::Path};

/// Bytes of a sector, as virtio counts.
const SECTOR: u64 = 512;

/// Byte ranges of the disk, in the order in which they were read. Legal for a machine that was booted with
/// [`super::Boot::traced`].
pub(super) fn of(trace: &Path) -> Result<Vec<Range<u64>>, LabError> {
    let text = file("read", trace, std::fs::read_to_string)?;
    Ok(text.lines().filter_map(range).collect())
}

fn range(line: &str) -> Option<Range<u64>> {
    let mut words = line.split_whitespace().skip_while(|word| !word.ends_with("virtio_blk_handle_read"));
    let mut after = |name: &str| words.find(|word| *word == name).and_then(|_| words.next()?.parse::<u64>().ok());
    let (first, sectors) = (after("sector")?, after("nsectors")?);
    Some(first * SECTOR..(first + sectors) * SECTOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_a_range_and_other_lines_are_none() {
        let read = "virtio_blk_handle_read vdev 0x1 req 0x2 sector 2048 nsectors 8";
        assert_eq!(range(read), Some(1 << 20..(1 << 20) + 4096));
        assert_eq!(range(&format!("4711@1700000000.123456:{read}")), Some(1 << 20..(1 << 20) + 4096));
        assert_eq!(range("virtio_blk_handle_write vdev 0x1 req 0x2 sector 2048 nsectors 8"), None);
        assert_eq!(range("qemu-system-x86_64: warning: sector"), None);
    }
}
