//! Updates of this node: fetch in the background, install in its turn, bless or be taken back.
//!
//! ```text
//! store wants V --> fetching --> staged --(its turn)--> draining --> writing --> armed --> reboot
//!                     |  refused: not signed, too old, tried before                          |
//!                     +-- failed: tried again                     on trial --> blessed | taken back, V refused
//! ```
//!
//! Owns: the staged set and the record on STATE, the slots and the ESP, the board's `versions`.
//! In: desired state, sessions, verdict. Out: Blessed and RebootForUpdate to `node-init`.

mod bless;
mod disk;
mod error;
mod patch;
mod record;
pub mod rehearsal;
mod source;
mod stage;
mod tally;
mod words;

pub use error::UpdateError;
pub use source::Store;

use crate::{backoff::Backoff, board::Board, clock, files, init::Init, paths::Paths, report::chain};
use disk::Running;
use image::set::{Keys, TRUST_PATH};
use image::slot::{self, New, Refusal, Slots, Sources, State};
use image::verity::hex;
use model::{
    Digest,
    init::ToInit,
    key::TRIAL_LIMIT,
    state::{SlotState, UpdateStep},
    update::{Other, Progress, Update, Versions},
};
use node_init::state_format;
use record::{Attempt, Book};
use source::Source;
use stage::{Half, Missing, Staged, Terms};
use std::{fs::File, sync::Arc, time::Duration};
use tally::Tally;
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, sleep_until},
};

/// Nothing to do until something changes.
const IDLE: Duration = Duration::from_secs(3600);

/// The update task.
struct Updater {
    board: Arc<Board>,
    init: Init,
    store: Store,
    paths: Paths,
    running: Arc<Running>,
    book: Book,
    /// What is here whole.
    staged: Option<(Digest, Staged)>,
    /// Format of STATE, which PID 1 has looked at.
    state_format: u32,
    /// A set that is none for this node, and why.
    unfit: Option<(Digest, String)>,
    /// When the node's turn began.
    turn: Option<Instant>,
    armed: bool,
    /// Held while the slots or the ESP are written.
    writing: Arc<Mutex<()>>,
    /// Held during a rehearsal, which goes on when nobody waits for it any more.
    rehearsing: Arc<Mutex<()>>,
    backoff: Backoff,
}

/// Starts the tasks; none on a machine that was not booted from an image on its own disk.
pub fn start(board: Arc<Board>, init: Init, store: Store, paths: Paths) {
    let Some(running) = Running::find(&paths) else {
        board.trial.send_replace(Some(false));
        return;
    };
    tokio::spawn(async move {
        match Updater::open(board.clone(), init, store, paths, running).await {
            Ok(updater) => updater.run().await,
            Err(error) => {
                tracing::error!(error = %chain(&error), "Updates are not possible");
                // Nobody would bless it either.
                board.trial.send_replace(Some(false));
            }
        }
    });
}

impl Updater {
    async fn open(
        board: Arc<Board>,
        init: Init,
        store: Store,
        paths: Paths,
        running: Running,
    ) -> Result<Self, UpdateError> {
        let book = Book::open(&paths).map_err(UpdateError::disk(&paths.at(model::paths::UPDATE)))?;
        let state_format = state_format::check(&paths.at(model::paths::STATE_FORMAT))?;
        let mut updater = Self {
            state_format,
            board,
            init,
            store,
            paths,
            running: Arc::new(running),
            book,
            staged: None,
            unfit: None,
            turn: None,
            armed: false,
            writing: Arc::default(),
            rehearsing: Arc::default(),
            backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(120)),
        };
        updater.take_stock().await?;
        Ok(updater)
    }

    async fn run(mut self) {
        let (tell_blessed, mut blessed) = watch::channel(());
        tokio::spawn(self.blesser().run(tell_blessed));
        let mut desired = self.board.desired.subscribe();
        let mut sessions = self.board.sessions.subscribe();
        loop {
            let wanted = desired.borrow_and_update().as_ref().and_then(|d| d.update.clone());
            sessions.mark_unchanged();
            self.keep_limit();
            let wake = Instant::now() + self.step(wanted.as_ref()).await;
            // Cancel-safe: all of them only wait.
            tokio::select! {
                Ok(()) = desired.changed() => {}
                Ok(()) = sessions.changed() => {}
                Ok(()) = blessed.changed() => {
                    if let Err(error) = self.take_stock().await {
                        tracing::warn!(error = %chain(&error), "Cannot read the slots");
                    }
                }
                () = sleep_until(wake) => {}
            }
        }
    }

    fn blesser(&self) -> bless::Blesser {
        let store_needed = self.book.record.attempt.as_ref().is_none_or(|attempt| attempt.store_reached);
        bless::Blesser {
            board: self.board.clone(),
            init: self.init.clone(),
            running: self.running.clone(),
            writing: self.writing.clone(),
            store_needed,
        }
    }

    /// Reads the slots, and what they say of the last update.
    async fn take_stock(&mut self) -> Result<(), UpdateError> {
        let running = self.running.clone();
        let slots = blocking(move || running.look()).await?;
        if self.book.settle(&slots) {
            self.book.keep().map_err(UpdateError::disk(&self.paths.at(model::paths::UPDATE)))?;
            if let Some(refused) = self.book.record.refused.last() {
                let (version, reason) = (&refused.version, &refused.reason);
                self.init.console(&format!("Version {version} was tried and did not hold: {reason}"));
            }
        }
        let (running, refused) = (self.running.version.clone(), self.book.record.refused.clone());
        let found = of(&slots);
        self.board.trial.send_replace(Some(found.trial));
        self.tell(|now| *now = Versions { running, refused, update: now.update.take(), ..found });
        Ok(())
    }

    fn tell(&self, change: impl FnOnce(&mut Versions)) {
        self.board.versions.send_if_modified(|versions| {
            let mut now = versions.clone().unwrap_or_default();
            change(&mut now);
            let new = versions.as_ref() != Some(&now);
            *versions = Some(now);
            new
        });
    }

    fn at(&self, update: &Update, step: UpdateStep, detail: impl Into<String>) {
        let progress = Progress { version: update.version.clone(), step, detail: detail.into() };
        self.tell(|now| now.update = Some(progress));
    }

    /// For `node-init` at the next boot, which reads no configuration.
    fn keep_limit(&self) {
        let (path, limit) = (self.paths.at(model::paths::TRIAL_LIMIT), self.board.config().get(&TRIAL_LIMIT));
        let text = format!("{}\n", limit.as_secs());
        if std::fs::read_to_string(&path).is_ok_and(|had| had == text) {
            return;
        }
        if let Err(error) = files::replace(&path, text.as_bytes(), 0o600) {
            tracing::warn!(%error, path = %path.display(), "Cannot write down how long a trial lasts");
        }
    }

    /// Does what is next; how long to wait when nothing changes meanwhile.
    async fn step(&mut self, wanted: Option<&Update>) -> Duration {
        let Some(update) = wanted.filter(|update| update.version != self.running.version) else {
            self.tell(|now| now.update = None);
            (self.staged, self.turn) = (None, None);
            stage::tidy(&self.paths.at(model::paths::UPDATE), None);
            return IDLE;
        };
        if self.armed {
            return IDLE;
        }
        match self.proceed(update).await {
            Ok(wait) => {
                self.backoff.reset();
                wait
            }
            Err(error) => self.failed(update, &error),
        }
    }

    fn failed(&mut self, update: &Update, error: &UpdateError) -> Duration {
        let text = chain(error).to_string();
        if error.is_about_bytes()
            && let Some((_, staged)) = self.staged.take()
        {
            staged.discard();
        }
        if error.is_final() {
            tracing::error!(version = update.version, error = text, "The update is refused");
            self.at(update, UpdateStep::Refused, text.clone());
            self.unfit = Some((update.digest, text));
            return IDLE;
        }
        tracing::warn!(version = update.version, error = text, "The update failed and is tried again");
        self.at(update, UpdateStep::Failed, text);
        self.backoff.next()
    }

    async fn proceed(&mut self, update: &Update) -> Result<Duration, UpdateError> {
        if let Some(why) = self.refusal(update) {
            self.at(update, UpdateStep::Refused, why);
            return Ok(IDLE);
        }
        if self.staged.as_ref().is_none_or(|(digest, _)| *digest != update.digest) {
            stage::tidy(&self.paths.at(model::paths::UPDATE), Some(&update.digest));
            let mut desired = self.board.desired.subscribe();
            // Cancel-safe: what was fetched is on STATE, and gone on with.
            let staged = tokio::select! {
                staged = self.fetch(update) => staged?,
                _ = desired.wait_for(|d| d.as_ref().and_then(|d| d.update.as_ref()).map(|u| u.digest) != Some(update.digest)) => {
                    return Ok(Duration::ZERO);
                }
            };
            self.staged = Some((update.digest, staged));
        }
        if !update.go {
            self.turn = None;
            self.at(update, UpdateStep::Staged, "");
            return Ok(IDLE);
        }
        let since = *self.turn.get_or_insert_with(Instant::now);
        if let Some(wait) = self.users_have(update, since) {
            return Ok(wait);
        }
        self.install(update).await?;
        Ok(IDLE)
    }

    fn refusal(&self, update: &Update) -> Option<String> {
        let unfit = self.unfit.as_ref().filter(|(digest, _)| *digest == update.digest).map(|(_, why)| why.clone());
        unfit.or_else(|| self.book.record.refusal(&update.version).map(|refused| refused.reason.clone()))
    }

    /// How long users may yet stay; none: nobody is there, or their time is over.
    fn users_have(&self, update: &Update, since: Instant) -> Option<Duration> {
        // The store knows those who come through another node's router, this node those of the last moment.
        let users = self.board.sessions.borrow().live.len().max(update.users as usize);
        let left = update.drain_s.map(|s| (since + Duration::from_secs(s.into())).duration_since(Instant::now()));
        if users == 0 || left.is_some_and(|left| left.is_zero()) {
            return None;
        }
        let until = left.map_or(String::new(), |left| format!(", at most {} s", left.as_secs()));
        self.at(update, UpdateStep::Draining, format!("waits for {users} users{until}"));
        Some(left.unwrap_or(IDLE))
    }

    async fn fetch(&self, update: &Update) -> Result<Staged, UpdateError> {
        self.at(update, UpdateStep::Fetching, "");
        let keys = std::fs::read(TRUST_PATH).map_err(UpdateError::NoKeys)?;
        let keys = Keys::from_json(&keys).map_err(UpdateError::Keys)?;
        let cluster = self.board.member.borrow().as_ref().map(|member| member.cluster());
        let terms = Terms {
            keys: &keys,
            running: &self.running,
            cluster,
            state_format: self.state_format,
            now: clock::now_ms() / 1000,
        };
        let mut source = Source::open(&self.store, &update.digest).await?;
        let root = self.paths.at(model::paths::UPDATE);
        let staged = Staged::begin(&root, update, &terms, &mut source).await?;
        self.admit(&staged).await?;
        let table = staged.table(&mut source).await?;
        let patch = patch::fetch(&staged, &self.running, &mut source, |far| {
            self.at(update, UpdateStep::Fetching, format!("a patch, {far}"));
        });
        let patch = patch.await?;
        let (filling, running) = (staged.clone(), self.running.clone());
        let (made, halves) = blocking(move || {
            let made = patch.map_or(Ok(0), |patch| patch::apply(&filling, &running, &patch))?;
            Ok((made, filling.fill(&running, &table)?))
        })
        .await?;
        let all = halves.iter().map(Missing::bytes).sum();
        let mut tally = Tally::new(all, |far| self.at(update, UpdateStep::Fetching, far));
        for missing in &halves {
            staged.fetch(missing, &mut source, &mut tally).await?;
        }
        let checked = staged.clone();
        if let Err(error) = blocking(move || checked.check()).await {
            if error.is_about_bytes() {
                staged.discard();
            }
            return Err(error);
        }
        self.rehearse(&staged).await?;
        let (fetched, whole) = (source.fetched, update.bytes);
        tracing::info!(version = update.version, fetched, whole, "The update is staged");
        let patched = if made > 0 { format!(", and a patch made {:.2} MB", made as f64 / 1e6) } else { String::new() };
        self.init.console(&format!(
            "Version {} is here: {:.1} MB came over the network, of {:.1} MB{patched}",
            update.version,
            fetched as f64 / 1e6,
            whole as f64 / 1e6
        ));
        Ok(staged)
    }

    /// Whether it could be installed now, before the rest of it is fetched.
    async fn admit(&self, staged: &Staged) -> Result<(), UpdateError> {
        let (running, offered) = (self.running.clone(), new(staged)?);
        let turn = self.writing.clone().lock_owned().await; // a blessing renames entries
        let plan = blocking(move || {
            let slots = running.look();
            drop(turn);
            Ok(slot::install(&offered, &slots?, Some(&running.version)))
        });
        match plan.await? {
            // The first passes by itself; the second is what a daemon that was cut off has done already.
            Ok(_) | Err(Refusal::OnTrial { .. } | Refusal::Installed { state: State::Trial(_), .. }) => Ok(()),
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// The new version, held against what was signed just before, reads STATE: when it is here, and again when its turn
    /// has come, for much may change in between.
    async fn rehearse(&self, staged: &Staged) -> Result<(), UpdateError> {
        let (root, version) = (staged.path(Half::Root), staged.set.manifest.version.clone());
        let paths = self.paths.clone();
        let alone = self.rehearsing.clone().lock_owned().await;
        blocking(move || {
            let done = rehearsal::rehearse(&version, &root, &paths);
            drop(alone);
            done
        })
        .await
    }

    async fn install(&mut self, update: &Update) -> Result<(), UpdateError> {
        let Some((_, staged)) = self.staged.clone() else { return Err(UpdateError::Aborted) };
        let checked = staged.clone();
        blocking(move || checked.check()).await?;
        self.rehearse(&staged).await?;
        self.at(update, UpdateStep::Writing, "");
        self.init.console(&format!("Installing version {}", update.version));
        let turn = self.writing.clone().lock_owned().await;
        let running = self.running.clone();
        let manifest = &staged.set.manifest;
        let attempt = Attempt {
            version: update.version.clone(),
            root: manifest.verity().map(|verity| hex(&verity.root)).unwrap_or_default(),
            store_reached: *self.board.online.borrow(),
        };
        let write = blocking(move || {
            let done = write(&running, &staged);
            drop(turn);
            done
        });
        match write.await {
            // By a daemon that was cut off before it wrote that down.
            Err(UpdateError::Refused(Refusal::Installed { state: State::Trial(_), .. })) => {}
            written => written?,
        }
        // Only now: a record of what was never armed would be taken for a version that did not hold.
        self.book.begin(attempt).map_err(UpdateError::disk(&self.paths.at(model::paths::UPDATE)))?;
        self.armed = true;
        self.take_stock().await?;
        self.at(update, UpdateStep::Armed, "");
        self.init.say(ToInit::RebootForUpdate(update.version.clone()));
        Ok(())
    }
}

/// What the slots say of versions.
fn of(slots: &Slots) -> Versions {
    let Some((running, other)) = slots.running_and_idle() else { return Versions::default() };
    let state = match other.state() {
        State::Empty => None,
        State::Good | State::Armed(_) => Some(SlotState::Good),
        State::Trial(_) => Some(SlotState::Trial),
        State::Failed => Some(SlotState::Failed),
    };
    let other = state.zip(other.version()).map(|(state, version)| Other { version: version.to_owned(), state });
    Versions { trial: bless::is_trial(running), other, ..Versions::default() }
}

/// Writes a staged set into the idle slot. Plans afresh, so that one that broke off is begun again.
fn write(running: &Running, staged: &Staged) -> Result<(), UpdateError> {
    let mut disk = running.open()?;
    let slots = running.slots(&mut disk)?;
    let plan = slot::install(&new(staged)?, &slots, Some(&running.version))?;
    let open = |half| {
        let path = staged.path(half);
        File::open(&path).map_err(UpdateError::disk(&path))
    };
    let (mut root, mut uki) = (open(Half::Root)?, open(Half::Uki)?);
    let sources = Sources { root: &mut root, uki: &mut uki };
    let mut step = 0;
    slot::apply(&plan, &mut disk, sources, &mut |progress| {
        if std::mem::replace(&mut step, progress.number) != progress.number {
            tracing::info!(step = %progress.step, number = progress.number, of = progress.of, "Update");
        }
    })
    .map_err(UpdateError::Slots)
}

fn new(staged: &Staged) -> Result<New, UpdateError> {
    let manifest = &staged.set.manifest;
    let digest: Digest = manifest.uki.sha256.parse().map_err(|_| UpdateError::Chunk)?;
    Ok(New {
        name: manifest.name.clone(),
        version: manifest.version.clone(),
        architecture: manifest.arch.clone(),
        verity: manifest.verity().map_err(UpdateError::Set)?,
        cluster: manifest.cluster.clone(),
        root_bytes: manifest.root.bytes,
        uki_bytes: manifest.uki.bytes,
        uki_sha256: digest.0,
    })
}

/// Where waiting for a disk holds up nobody.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, UpdateError> + Send + 'static,
) -> Result<T, UpdateError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(UpdateError::Aborted))
}
