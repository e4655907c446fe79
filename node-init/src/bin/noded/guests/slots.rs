//! Start slots: how many guests start at the same time.

use std::sync::Arc;
use tokio::sync::watch;

/// The slots of a node.
#[derive(Clone, Debug)]
pub struct Slots(Arc<watch::Sender<Count>>);

#[derive(Clone, Copy, Debug)]
struct Count {
    used: u32,
    most: u32,
}

/// One slot; given back when dropped.
#[derive(Debug)]
pub struct Slot(Slots);

impl Slots {
    /// So many slots.
    pub fn new(most: u32) -> Self {
        Self(Arc::new(watch::Sender::new(Count { used: 0, most })))
    }

    /// From now on so many; those taken stay so. At least one, or nothing would ever start.
    pub fn resize(&self, most: u32) {
        self.0.send_modify(|count| count.most = most.max(1));
    }

    /// Takes a slot, when there is one. May be dropped while it waits.
    pub async fn take(&self) -> Slot {
        let mut changes = self.0.subscribe();
        loop {
            let take = |count: &mut Count| {
                let free = count.used < count.most;
                count.used += u32::from(free);
                free
            };
            if self.0.send_if_modified(take) {
                return Slot(self.clone());
            }
            // The sender lives as long as this handle.
            changes.changed().await.ok();
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| count.used -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn no_more_are_taken_than_there_are_and_one_given_back_is_taken_again() {
        let slots = Slots::new(2);
        let (one, _two) = (slots.take().await, slots.take().await);
        assert!(slots.take().now_or_never().is_none());
        let waiting = tokio::spawn({
            let slots = slots.clone();
            async move { slots.take().await }
        });
        drop(one);
        let _three = waiting.await.expect("taken");
        assert!(slots.take().now_or_never().is_none());
        slots.resize(3);
        assert!(slots.take().now_or_never().is_some());
    }
}
