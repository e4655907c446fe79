//! Numbered bytes that go to a peer and come back: none may be lost, doubled or changed on the way.

use anyhow::{Context, Result, bail};
use std::{
    io::{BufReader, Read, Write},
    net::{Shutdown, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Numbers on the way at most: enough to have some in every buffer, few enough to come back soon.
const WINDOW: u64 = 1024;
const BATCH: u64 = 256;
/// How long an emulated desktop may be silent.
const SILENCE: Duration = Duration::from_secs(60);

/// Numbers that run until they are stopped.
#[derive(Debug)]
pub struct Numbers {
    stop: Arc<AtomicBool>,
    back: Arc<AtomicU64>,
    thread: JoinHandle<Result<u64>>,
}

impl Numbers {
    /// Sends them over `stream`, whose peer echoes every byte.
    pub fn over(stream: TcpStream) -> Self {
        let (stop, back) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stop2, back2) = (Arc::clone(&stop), Arc::clone(&back));
        Self { stop, back, thread: std::thread::spawn(move || count(stream, &stop2, &back2)) }
    }

    /// How many came back.
    pub fn back(&self) -> u64 {
        self.back.load(Ordering::Relaxed)
    }

    /// Waits until some came back that were sent after this call.
    pub fn wait_progress(&self) -> Result<()> {
        let (wanted, end) = (self.back() + WINDOW + 1, Instant::now() + SILENCE);
        while self.back() < wanted {
            if self.thread.is_finished() || Instant::now() > end {
                bail!("the numbers stand still at {}", self.back());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Stops, waits for those on the way, and says how many came back, each once and in order.
    pub fn finish(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|_| bail!("the counting thread failed"))
    }
}

fn count(mut stream: TcpStream, stop: &AtomicBool, back: &AtomicU64) -> Result<u64> {
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut sent, mut expected) = (0_u64, 0_u64);
    loop {
        while sent - expected <= WINDOW - BATCH && !stop.load(Ordering::Relaxed) {
            let batch: Vec<u8> = (sent..sent + BATCH).flat_map(u64::to_be_bytes).collect();
            stream.write_all(&batch).with_context(|| format!("cannot send {sent}"))?;
            sent += BATCH;
        }
        if sent == expected {
            break;
        }
        let mut number = [0; 8];
        reader.read_exact(&mut number).with_context(|| format!("{sent} were sent, {expected} came back"))?;
        let number = u64::from_be_bytes(number);
        if number != expected {
            bail!("{number} came back: expected {expected} of {sent} sent");
        }
        expected += 1;
        back.store(expected, Ordering::Relaxed);
    }
    // Whatever comes now came twice.
    stream.shutdown(Shutdown::Write)?;
    let mut more = Vec::new();
    match reader.read_to_end(&mut more) {
        _ if !more.is_empty() => bail!("{} bytes came after the last", more.len()),
        // A channel that closes hard has nothing more to say either.
        _ => Ok(expected),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Numbers over an echo that hands each chunk through `change`.
    fn through(change: fn(u64, Vec<u8>) -> Vec<u8>) -> Result<u64> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let stream = TcpStream::connect(listener.local_addr()?)?;
        let (mut peer, _) = listener.accept()?;
        std::thread::spawn(move || {
            let mut bytes = vec![0; 2048];
            let mut nth = 0;
            while let Ok(n @ 1..) = peer.read(&mut bytes) {
                let echoed = peer.write_all(&change(nth, bytes[..n].to_vec()));
                nth += 1;
                if echoed.is_err() {
                    return;
                }
            }
        });
        let numbers = Numbers::over(stream);
        numbers.wait_progress()?;
        numbers.wait_progress()?;
        numbers.finish()
    }

    #[test]
    fn an_honest_echo_loses_nothing() {
        assert!(through(|_, bytes| bytes).expect("whole") > 2 * WINDOW);
    }

    #[test]
    fn a_lost_a_doubled_and_a_changed_byte_are_seen() {
        let lost = |nth, bytes: Vec<u8>| if nth == 2 { bytes[1..].to_vec() } else { bytes };
        let doubled = |nth, bytes: Vec<u8>| if nth == 2 { [&bytes[..], &bytes[..]].concat() } else { bytes };
        let changed = |nth, mut bytes: Vec<u8>| {
            bytes[0] ^= u8::from(nth == 2);
            bytes
        };
        for damage in [lost, doubled, changed] as [fn(u64, Vec<u8>) -> Vec<u8>; 3] {
            through(damage).expect_err("seen");
        }
    }
}
