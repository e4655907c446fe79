//! The last words of a boot: what the boots before left, and the record of this one, on STATE.
//!
//! A thread of PID 1 reads the kernel's log, where everything of a boot is in one order, and writes what matters to
//! STATE every few seconds. PID 1 itself neither waits for that disk nor passes anything on to it: while the disk stands
//! still the kernel's own ring holds the lines, and how many it had to drop is told.

mod attribute;
mod pstore;
mod recorder;
mod records;

use crate::boot::State;
use crate::fail::chain;
use model::paths;
use node_init::boots::{About, Boots, End, How};
use node_init::release;
use recorder::{Pulse, Recorder};
use std::io::{PipeWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;
use sys::power;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// What an orderly end waits for the disk.
const END: Duration = Duration::from_secs(3);

/// Names this boot in the kernel's log: the words of a panic are its last lines, and must say whose they are.
pub fn introduce(root: &str) {
    let (boot, key_of_boot, key_of_root) = (boot_id(), pstore::BOOT, pstore::ROOT);
    tracing::info!("Boot {key_of_boot}{boot} {key_of_root}{root}");
}

fn boot_id() -> String {
    std::fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned()
}

/// PID 1's hold of the thread. When it is dropped the thread takes it that PID 1 has given up.
#[derive(Debug)]
pub struct Words {
    pulse: Arc<Pulse>,
    tell: Sender<End>,
    wake: Option<PipeWriter>,
    collected: Receiver<()>,
    /// Closed when the thread has ended.
    done: Receiver<()>,
}

impl Words {
    /// Starts the thread: it gathers what earlier boots left, then records this one, which has this root.
    pub fn record(_: &State, root: &str, version_of: impl Fn(&str) -> Option<String> + Send + 'static) -> Self {
        let version = std::fs::read_to_string(release::PATH).ok().and_then(|text| release::image(&text));
        let about = About {
            boot: boot_id(),
            root: root.to_owned(),
            version: version.map(|(_, version)| version).unwrap_or_default(),
            began_ms: recorder::began_ms(),
        };
        let pulse = Arc::new(Pulse::default());
        let (tell, told) = mpsc::channel();
        let (say_collected, collected) = mpsc::channel();
        let (say_done, done) = mpsc::channel::<()>();
        let of_thread = pulse.clone();
        let (asleep, wake) = match std::io::pipe() {
            Ok((asleep, wake)) => (Some(asleep), Some(wake)),
            Err(_) => (None, None),
        };
        let work = move || {
            let _done = say_done;
            let boots = Boots::at(paths::BOOTS);
            collect(&boots, version_of);
            let _ = say_collected.send(());
            match Recorder::begin(&boots, about, of_thread) {
                Ok(recorder) => recorder.run(&told, asleep),
                Err(e) => tracing::warn!(error = %e, "This boot is not recorded"),
            }
        };
        if let Err(e) = std::thread::Builder::new().stack_size(256 * 1024).spawn(work) {
            tracing::warn!(error = %e, "This boot is not recorded");
        }
        Self { pulse, tell, wake, collected, done }
    }

    /// Waits until what earlier boots left is on STATE: `noded` asks for it as soon as it runs.
    pub fn collected(&self, within: Duration) {
        if let Err(mpsc::RecvTimeoutError::Timeout) = self.collected.recv_timeout(within) {
            tracing::warn!("The last words of the boot before are still being read");
        }
    }

    /// PID 1 turns.
    pub fn turns(&self) {
        self.pulse.beat();
    }

    /// Notes an orderly end, and lets go of STATE. Waits for the disk, but not for ever.
    pub fn end(&mut self, how: power::End, why: &str) {
        let how = if how == power::End::Reboot { How::Reboot } else { How::PowerOff };
        let end = End { how, why: why.to_owned(), at_ms: sys::boottime::now_ms() };
        // Both fail only when the thread has ended.
        let _ = self.tell.send(end);
        let _ = self.wake.as_mut().map(|wake| wake.write_all(b"e"));
        if let Err(mpsc::RecvTimeoutError::Timeout) = self.done.recv_timeout(END) {
            tracing::warn!("STATE does not take the record of this boot's end");
        }
    }
}

/// Reads the kernel's last words, keeps them on STATE, and only then erases them.
fn collect(boots: &Boots, version_of: impl Fn(&str) -> Option<String>) {
    if let Err(e) = crate::boot::mount_pstore() {
        tracing::warn!(error = %chain(&e), "Words of an earlier panic cannot be read");
        return;
    }
    let folder = Path::new(pstore::FOLDER);
    let found = pstore::look(folder);
    if found.is_empty() {
        return;
    }
    let names: Vec<String> = found.iter().map(|record| record.name.clone()).collect();
    let crashes = pstore::crashes(found);
    tracing::warn!(records = names.len(), panics = crashes.len(), "An earlier boot has panicked");
    match attribute::keep(boots, crashes, version_of) {
        Ok(()) => pstore::erase(folder, &names),
        // They stay where they are, for the next boot.
        Err(error) => tracing::error!(%error, "Words of a panic not kept"),
    }
}
