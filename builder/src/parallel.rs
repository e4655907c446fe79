//! One piece of work for many things, on all processors.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Runs `work` on every item with one thread per processor and returns the first failure.
pub(crate) fn each_in_parallel<T: Send, E: Send>(
    items: Vec<T>,
    work: impl Fn(T) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(items.len().max(1));
    let queue = Mutex::new(VecDeque::from(items));
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some(item) = next else { return };
                    if let Err(e) = work(item) {
                        queue.lock().unwrap_or_else(PoisonError::into_inner).clear();
                        failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                    }
                }
            });
        }
    });
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}
