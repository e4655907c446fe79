//! A file of a volume, read from anywhere.

use std::io::{self, Read, Seek, SeekFrom};

use super::{Device, Editor, usize_of};

/// A file of an [`Editor`]'s volume.
pub struct File<'a, D> {
    pub(super) editor: &'a Editor<D>,
    pub(super) chain: Vec<u32>,
    pub(super) len: u64,
    pub(super) at: u64,
}

impl<D: Device> Read for File<'_, D> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let size = self.editor.layout.cluster_bytes;
        let left = self.len.saturating_sub(self.at).min(size - self.at % size);
        let len = usize_of(left).min(into.len());
        let Some(cluster) = self.chain.get(usize_of(self.at / size)).filter(|_| len > 0) else { return Ok(0) };
        let at = self.editor.layout.cluster_at(*cluster) + self.at % size;
        self.editor.device.read_at(at, &mut into[..len])?;
        self.at += len as u64;
        Ok(len)
    }
}

impl<D: Device> Seek for File<'_, D> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the place is before the start"))?;
        Ok(self.at)
    }
}
