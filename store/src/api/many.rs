//! Commands on all objects that a filter matches.

use crate::{
    db::{Named, Tx},
    error::{Error, Result},
    store::Store,
};
use model::{
    api::{Done, Failed},
    filter::{Filter, Object},
};

/// What became of one object.
pub(super) enum One {
    /// Done.
    Done,
    /// There was nothing to do.
    Nothing,
}

/// A command: on what, by whom, called what in the log of events.
pub(super) struct Command {
    pub object: Object,
    pub filter: Filter,
    pub actor: String,
    pub what: &'static str,
}

impl Command {
    /// Runs `work` on each object, all in one transaction. An object that refuses is undone, listed with
    /// its reason, and the others go on.
    pub async fn run<F>(self, store: &Store, work: F) -> Result<Done>
    where
        F: FnMut(&Tx, &Named) -> Result<One> + Send + 'static,
    {
        store.db.write(move |tx| self.all(tx, work)).await
    }

    fn all(self, tx: &Tx, mut work: impl FnMut(&Tx, &Named) -> Result<One>) -> Result<Done> {
        let objects = tx.matching(self.object, &self.filter)?;
        let mut done = Done { matched: u32::try_from(objects.len()).unwrap_or(u32::MAX), done: 0, failed: Vec::new() };
        for object in objects {
            match tx.nested(|| work(tx, &object)) {
                Ok(One::Done) => {
                    done.done += 1;
                    tx.event(&self.actor, self.what, &format!("{} {}", self.object.as_str(), object.id), &object.name)?;
                }
                Ok(One::Nothing) => {}
                Err(error) if is_about_the_object(&error) => {
                    done.failed.push(Failed { id: object.id, name: object.name, reason: error.to_string() });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}

fn is_about_the_object(error: &Error) -> bool {
    matches!(error, Error::Refused(_) | Error::NotFound { .. } | Error::Taken { .. } | Error::Invalid(_))
}
