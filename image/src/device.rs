//! Bytes at offsets: a disk, a partition, an image file. What changes a disk in place does so through this, and so
//! can be cut off after any write by a test.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

/// A disk, or something like one. Sectors of 512 bytes are written whole or not at all; the order of writes
/// between two [`Device::flush`]es is nobody's promise.
pub trait Device {
    /// How many bytes it has.
    ///
    /// # Errors
    /// When it does not say.
    fn length(&self) -> io::Result<u64>;

    /// Reads exactly so many bytes.
    ///
    /// # Errors
    /// When they are not all there.
    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<()>;

    /// Writes all of these bytes.
    ///
    /// # Errors
    /// When they do not all fit, or the device fails.
    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()>;

    /// Returns once everything written is on the medium.
    ///
    /// # Errors
    /// When some of it is not: then nothing is known about any of it.
    fn flush(&mut self) -> io::Result<()>;

    /// Lets the next reads come from the medium, where a cache would show what was written in its stead.
    ///
    /// # Errors
    /// When the cache cannot be emptied.
    fn forget(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Device for File {
    fn length(&self) -> io::Result<u64> {
        // A block device's length is not in its metadata.
        let mut file = self;
        file.seek(SeekFrom::End(0))
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(into, at)
    }

    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, at)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

impl<D: Device + ?Sized> Device for &mut D {
    fn length(&self) -> io::Result<u64> {
        (**self).length()
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        (**self).read_at(at, into)
    }

    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        (**self).write_at(at, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        (**self).flush()
    }

    fn forget(&mut self) -> io::Result<()> {
        (**self).forget()
    }
}

/// A range of a device: a partition.
#[derive(Debug)]
pub struct Part<D> {
    device: D,
    start: u64,
    len: u64,
}

impl<D: Device> Part<D> {
    /// So many bytes from there on. What reaches beyond the device fails when it is read or written.
    pub fn new(device: D, start: u64, len: u64) -> Self {
        Self { device, start, len }
    }

    /// The offset on the whole device.
    fn place(&self, at: u64, len: usize) -> io::Result<u64> {
        let end = at.checked_add(len as u64).filter(|end| *end <= self.len);
        let place = end.and_then(|_| self.start.checked_add(at));
        place.ok_or_else(|| {
            let text = format!("{len} bytes at {at} reach beyond a partition of {}", self.len);
            io::Error::new(io::ErrorKind::UnexpectedEof, text)
        })
    }
}

impl<D: Device> Device for Part<D> {
    fn length(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.device.read_at(self.place(at, into.len())?, into)
    }

    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.device.write_at(self.place(at, bytes.len())?, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.device.flush()
    }

    fn forget(&mut self) -> io::Result<()> {
        self.device.forget()
    }
}

/// A device read and written from front to back.
#[derive(Debug)]
pub struct Stream<D> {
    device: D,
    at: u64,
}

impl<D: Device> Stream<D> {
    /// At the device's first byte.
    pub fn new(device: D) -> Self {
        Self { device, at: 0 }
    }

    /// The device itself.
    pub fn device(&mut self) -> &mut D {
        &mut self.device
    }
}

impl<D: Device> Read for Stream<D> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.device.length()?.saturating_sub(self.at);
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(into.len());
        self.device.read_at(self.at, &mut into[..len])?;
        self.at += len as u64;
        Ok(len)
    }
}

impl<D: Device> Write for Stream<D> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.device.write_at(self.at, bytes)?;
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    /// Does nothing: what is flushed and when is for [`Device::flush`]'s caller to say.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<D: Device> Seek for Stream<D> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.device.length()?.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the place is before the start"))?;
        Ok(self.at)
    }
}

#[cfg(test)]
pub(crate) mod recorder;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_ends_where_it_ends() {
        let mut file = tempfile::tempfile().unwrap();
        file.set_len(10_000).unwrap();
        let mut part = Part::new(&mut file, 1000, 2000);
        part.write_at(1990, &[7; 10]).unwrap();
        assert!(part.write_at(1991, &[7; 10]).is_err());
        assert!(part.read_at(u64::MAX, &mut [0; 2]).is_err());
        let mut stream = Stream::new(part);
        assert_eq!(stream.seek(SeekFrom::End(-12)).unwrap(), 1988);
        let mut tail = Vec::new();
        stream.read_to_end(&mut tail).unwrap();
        assert_eq!(tail, [0, 0, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7]);
        assert!(stream.seek(SeekFrom::Current(-3000)).is_err());
        assert_eq!(file.length().unwrap(), 10_000);
    }
}
