//! A device in memory that remembers every write and flush, so that it can be shown as any power cut would leave it.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::Device;

const SECTOR: usize = 512;
const PAGE: usize = 4096;

/// Sparse bytes; cheap to copy.
#[derive(Clone, Debug)]
pub struct Memory {
    len: u64,
    pages: BTreeMap<u64, Arc<[u8; PAGE]>>,
}

/// What happened, in sectors: what a disk writes whole or not at all.
#[derive(Clone, Debug)]
pub enum Event {
    Write(u64, Box<[u8; SECTOR]>),
    Flush,
}

/// A device whose history is kept.
#[derive(Clone, Debug)]
pub struct Recorder {
    pub now: Memory,
    before: Memory,
    events: Vec<Event>,
    /// Writes that still succeed; `None` for any number.
    pub fails_after: Option<usize>,
}

impl Memory {
    pub fn new(len: u64) -> Self {
        Self { len, pages: BTreeMap::new() }
    }

    pub fn of(bytes: &[u8]) -> Self {
        let mut memory = Self::new(bytes.len() as u64);
        for (index, page) in bytes.chunks(PAGE).enumerate().filter(|(_, page)| page.iter().any(|byte| *byte != 0)) {
            memory.put((index * PAGE) as u64, page);
        }
        memory
    }

    pub fn put(&mut self, mut at: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let offset = (at % PAGE as u64) as usize;
            let (head, tail) = bytes.split_at(bytes.len().min(PAGE - offset));
            let page = self.pages.entry(at / PAGE as u64).or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(page)[offset..offset + head.len()].copy_from_slice(head);
            at += head.len() as u64;
            bytes = tail;
        }
    }

    fn get(&self, mut at: u64, into: &mut [u8]) {
        let mut rest = into;
        while !rest.is_empty() {
            let offset = (at % PAGE as u64) as usize;
            let (head, tail) = rest.split_at_mut(rest.len().min(PAGE - offset));
            match self.pages.get(&(at / PAGE as u64)) {
                Some(page) => head.copy_from_slice(&page[offset..offset + head.len()]),
                None => head.fill(0),
            }
            at += head.len() as u64;
            rest = tail;
        }
    }

    /// Writes it to a sparse file, for programs of the host to look at.
    pub fn save(&self, path: &std::path::Path) {
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::create(path).unwrap();
        file.set_len(self.len).unwrap();
        for (number, page) in &self.pages {
            let at = number * PAGE as u64;
            let len = usize::try_from(self.len - at).unwrap().min(PAGE);
            file.write_all_at(&page[..len], at).unwrap();
        }
    }
}

impl Device for Memory {
    fn length(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        if at.checked_add(into.len() as u64).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.get(at, into);
        Ok(())
    }

    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        if at.checked_add(bytes.len() as u64).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.put(at, bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Recorder {
    pub fn new(now: Memory) -> Self {
        Self { before: now.clone(), now, events: Vec::new(), fails_after: None }
    }

    /// Number of sectors written.
    pub fn writes(&self) -> usize {
        self.events.iter().filter(|event| matches!(event, Event::Write(..))).count()
    }

    /// Number of flushes.
    pub fn flushes(&self) -> usize {
        self.events.len() - self.writes()
    }

    /// The medium when power went away after `cut` sectors: of those since the last flush before, only
    /// the ones arrived for which `arrived` says so, given their number from the cut backwards.
    pub fn cut(&self, cut: usize, arrived: impl Fn(usize) -> bool) -> Memory {
        let (mut memory, mut open, mut seen) = (self.before.clone(), Vec::new(), 0);
        let apply = |memory: &mut Memory, open: &mut Vec<(u64, &[u8; SECTOR])>| {
            open.drain(..).for_each(|(at, bytes)| memory.put(at, bytes));
        };
        for event in &self.events {
            // Also in front of a flush: what it was to bring is still on its way.
            if seen == cut {
                break;
            }
            match event {
                Event::Flush => apply(&mut memory, &mut open),
                Event::Write(at, bytes) => {
                    open.push((*at, bytes));
                    seen += 1;
                }
            }
        }
        let count = open.len();
        let mut index = 0;
        open.retain(|_| {
            index += 1;
            arrived(count - index)
        });
        apply(&mut memory, &mut open);
        memory
    }

    /// The medium when power went away just before each flush, and of what that flush was to bring all but one
    /// sector arrived, or that one alone.
    pub fn torn(&self) -> impl Iterator<Item = Memory> + '_ {
        let (mut seen, mut epochs) = (0, Vec::new());
        for epoch in self.events.split(|event| matches!(event, Event::Flush)) {
            seen += epoch.len();
            epochs.push((seen, epoch.len()));
        }
        let one = |(end, len): (usize, usize)| (0..len).map(move |back| (end, back));
        epochs
            .into_iter()
            .flat_map(one)
            .flat_map(|(end, odd)| [self.cut(end, |back| back != odd), self.cut(end, |back| back == odd)])
    }

    /// The medium after every single sector, when all before it arrived.
    pub fn cuts(&self) -> impl Iterator<Item = Memory> + '_ {
        (0..=self.writes()).map(|cut| self.cut(cut, |_| true))
    }
}

impl Device for Recorder {
    fn length(&self) -> io::Result<u64> {
        self.now.length()
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.now.read_at(at, into)
    }

    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        if let Some(left) = &mut self.fails_after {
            *left = left.checked_sub(1).ok_or(io::ErrorKind::QuotaExceeded)?;
        }
        self.now.write_at(at, bytes)?;
        // What is no whole sector (a table's header, say) is what the kernel makes of it: the sector around it.
        let (mut from, end) = (at / SECTOR as u64 * SECTOR as u64, at + bytes.len() as u64);
        while from < end {
            let mut sector = [0; SECTOR];
            self.now.get(from, &mut sector);
            self.events.push(Event::Write(from, Box::new(sector)));
            from += SECTOR as u64;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.events.push(Event::Flush);
        Ok(())
    }
}
