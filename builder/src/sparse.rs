//! Files with holes, read without asking the disk for zeros: nine tenths of a disk image are one.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// Reads a file from its first byte on.
#[derive(Debug)]
pub struct Sparse<'a> {
    file: &'a File,
    at: u64,
    len: u64,
    /// What lies at `at` goes on until here.
    until: u64,
    /// Whether that is a hole.
    hole: bool,
}

impl<'a> Sparse<'a> {
    /// Its length is taken now; its position is moved.
    pub fn new(file: &'a File) -> io::Result<Self> {
        Ok(Self { file, at: 0, len: file.metadata()?.len(), until: 0, hole: false })
    }

    /// Finds out what lies at `at`, and how far it goes.
    fn look(&mut self) -> io::Result<()> {
        let data = match rustix::fs::seek(self.file, SeekFrom::Data(self.at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => self.len,
            // Not every file system knows of holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                (self.until, self.hole) = (self.len, false);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        self.hole = data > self.at;
        self.until = if self.hole { data } else { rustix::fs::seek(self.file, SeekFrom::Hole(self.at))? };
        self.until = self.until.min(self.len);
        Ok(())
    }
}

impl Read for Sparse<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.len {
            return Ok(0);
        }
        if self.at >= self.until {
            self.look()?;
        }
        let count = into.len().min(usize::try_from(self.until - self.at).unwrap_or(usize::MAX));
        let into = &mut into[..count];
        let count = if self.hole {
            into.fill(0);
            into.len()
        } else {
            self.file.read_at(into, self.at)?
        };
        self.at += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_as_it_is_with_and_without_holes() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(10 << 20).expect("longer");
        for (at, bytes) in [(1 << 20, 5000), (3 << 20, 1), (3 << 20 | 70_000, 200_000), ((10 << 20) - 1, 1)] {
            file.write_all_at(&vec![7; bytes], at).expect("written");
        }
        for len in [10 << 20, (10 << 20) + 5, 9 << 20, 4096, 0] {
            file.set_len(len).expect("cut");
            let mut plain = vec![0; len as usize];
            file.read_exact_at(&mut plain, 0).expect("read");
            let mut found = Vec::new();
            Sparse::new(&file).expect("a reader").read_to_end(&mut found).expect("read");
            assert!(found == plain, "{len}");
        }
    }
}
