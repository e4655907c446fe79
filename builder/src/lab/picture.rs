//! What a virtual screen shows: the memory of Xvfb, which is a file in the format of `xwd`.

use super::LabError;
use std::{collections::HashSet, path::Path};

/// Words of the header, by X11's `XWDFile.h`: each 4 bytes, big end first.
const HEADER_SIZE: usize = 0;
const WIDTH: usize = 4;
const HEIGHT: usize = 5;
const BITS_PER_PIXEL: usize = 11;
const BYTES_PER_LINE: usize = 12;
const COLORS: usize = 19;
/// Bytes of one entry of the table of colours between header and pixels.
const COLOR_SIZE: usize = 12;

/// The pixels of a screen at one moment. A screen that is being drawn may be between two pictures.
#[derive(Debug)]
pub(super) struct Picture {
    width: usize,
    pixels: Vec<u32>,
}

impl Picture {
    /// Reads the memory of an Xvfb that was started with `-fbdir`.
    pub(super) fn read(path: &Path) -> Result<Self, LabError> {
        let bytes = super::file("read", path, std::fs::read)?;
        Self::parse(&bytes).ok_or_else(|| LabError::Answer {
            peer: path.display().to_string(),
            found: format!("{} bytes", bytes.len()),
            expected: "a screen of 32 bits a pixel in the format of xwd".to_owned(),
        })
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let word = |nth: usize| {
            let bytes = bytes.get(nth * 4..nth * 4 + 4)?;
            usize::try_from(u32::from_be_bytes(bytes.try_into().ok()?)).ok()
        };
        let (width, height, line) = (word(WIDTH)?, word(HEIGHT)?, word(BYTES_PER_LINE)?);
        let start = word(HEADER_SIZE)?.checked_add(word(COLORS)?.checked_mul(COLOR_SIZE)?)?;
        let bytes = bytes.get(start..)?.get(..line.checked_mul(height)?)?;
        if word(BITS_PER_PIXEL)? != 32 || width == 0 || width.checked_mul(4)? > line {
            return None;
        }
        let pixel = |p: &[u8]| p.iter().fold(0, |all, byte| all << 8 | u32::from(*byte));
        let pixels = bytes.chunks(line).flat_map(|row| row[..width * 4].chunks(4).map(pixel)).collect();
        Some(Self { width, pixels })
    }

    /// How many different colours it has.
    pub(super) fn colours(&self) -> usize {
        self.pixels.iter().collect::<HashSet<_>>().len()
    }

    /// The pixels of a rectangle, as far as it is on the screen.
    pub(super) fn part(&self, (x, y): (usize, usize), (width, height): (usize, usize)) -> Vec<u32> {
        let rows = self.pixels.chunks(self.width).skip(y).take(height);
        rows.flat_map(|row| row.iter().skip(x).take(width)).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A screen of 3x2 with one entry of colours and a line that is longer than its pixels.
    fn screen(bits: u32) -> Vec<u8> {
        let mut words = [0_u32; 25];
        (words[HEADER_SIZE], words[WIDTH], words[HEIGHT]) = (100, 3, 2);
        (words[BITS_PER_PIXEL], words[BYTES_PER_LINE], words[COLORS]) = (bits, 16, 1);
        let head = words.iter().flat_map(|w| w.to_be_bytes());
        let pixels = [1, 2, 3, 99, 2, 2, 4, 99].into_iter().flat_map(u32::to_be_bytes);
        head.chain([0; COLOR_SIZE]).chain(pixels).collect()
    }

    #[test]
    fn pixels_are_read_without_what_pads_a_line() {
        let picture = Picture::parse(&screen(32)).expect("a picture");
        assert_eq!(picture.pixels, [1, 2, 3, 2, 2, 4]);
        assert_eq!(picture.colours(), 4);
        assert_eq!(picture.part((1, 0), (2, 2)), [2, 3, 2, 4]);
        assert_eq!(picture.part((2, 1), (9, 9)), [4]);
    }

    #[test]
    fn what_is_no_screen_is_refused() {
        let whole = screen(32);
        assert!(Picture::parse(&screen(8)).is_none());
        for len in 0..whole.len() {
            assert!(Picture::parse(&whole[..len]).is_none(), "{len}");
        }
    }
}
