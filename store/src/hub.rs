//! Which nodes are connected to this process, and a way to tell them something.

use model::{HostId, sync::ToNode};
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{mpsc, watch};

/// Messages on their way to one node; a node that lets more pile up is cut off.
pub const QUEUE: usize = 256;
/// Most words kept for a node that is away; the oldest go first.
const MISSED: usize = 128;

/// The connected nodes.
#[derive(Default)]
pub struct Hub {
    nodes: Mutex<Nodes>,
}

#[derive(Default)]
struct Nodes {
    last: u64,
    seats: HashMap<HostId, Connection>,
    /// Nodes that were here and are away, and what each is to hear when it is back.
    away: HashMap<HostId, VecDeque<ToNode>>,
}

struct Connection {
    number: u64,
    out: mpsc::Sender<ToNode>,
    end: watch::Sender<Option<&'static str>>,
}

/// A node's place in the hub; given up when dropped.
pub struct Seat {
    hub: Arc<Hub>,
    host: HostId,
    number: u64,
    end: watch::Receiver<Option<&'static str>>,
}

impl Hub {
    /// Takes a node's place; an earlier connection of the same node is told to end.
    pub fn enter(self: &Arc<Self>, host: HostId, out: mpsc::Sender<ToNode>) -> Seat {
        let (end, ended) = watch::channel(None);
        let mut nodes = self.lock();
        nodes.last += 1;
        let number = nodes.last;
        if let Some(old) = nodes.seats.insert(host, Connection { number, out, end }) {
            old.end.send_replace(Some("the node has connected anew"));
        }
        Seat { hub: self.clone(), host, number, end: ended }
    }

    /// Whether the node is connected here.
    pub fn connected(&self, host: HostId) -> bool {
        self.lock().seats.contains_key(&host)
    }

    /// Tells a node something; whether it is connected and its queue had room.
    pub fn send(&self, host: HostId, message: ToNode) -> bool {
        let nodes = self.lock();
        let Some(node) = nodes.seats.get(&host) else { return false };
        let sent = node.out.try_send(message).is_ok();
        if !sent {
            node.end.send_replace(Some("it does not read what it is told"));
        }
        sent
    }

    /// Tells all nodes that are connected.
    pub fn tell_all(&self, message: &ToNode) {
        let hosts: Vec<HostId> = self.lock().seats.keys().copied().collect();
        for host in hosts {
            self.send(host, message.clone());
        }
    }

    /// Tells all nodes, those that are away for the time being when they are back. One that the process has never seen
    /// has nothing to hear.
    pub fn tell_all_even_late(&self, message: &ToNode) {
        self.tell_all(message);
        for missed in self.lock().away.values_mut() {
            missed.push_back(message.clone());
            if missed.len() > MISSED {
                missed.pop_front();
            }
        }
    }

    /// What a node that has its seat missed while it was away.
    pub fn missed(&self, host: HostId) -> impl Iterator<Item = ToNode> {
        self.lock().away.remove(&host).into_iter().flatten()
    }

    /// Ends a node's connection, if there is one.
    pub fn cut(&self, host: HostId, why: &'static str) {
        if let Some(node) = self.lock().seats.get(&host) {
            node.end.send_replace(Some(why));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Nodes> {
        // Every change above is one step, so a panic elsewhere leaves nothing half done.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Resolves with the reason once this connection must end.
    pub async fn ended(&mut self) -> &'static str {
        self.end.wait_for(Option::is_some).await.ok().and_then(|reason| *reason).unwrap_or("the hub is gone")
    }

    /// Whether this is still the node's connection, and no newer one.
    pub fn is_current(&self) -> bool {
        self.hub.lock().seats.get(&self.host).is_some_and(|seat| seat.number == self.number)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut nodes = self.hub.lock();
        if nodes.seats.get(&self.host).is_some_and(|seat| seat.number == self.number) {
            nodes.seats.remove(&self.host);
            nodes.away.entry(self.host).or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::UserId;

    #[test]
    fn a_newer_connection_ends_the_older_and_keeps_its_seat() {
        let hub = Arc::new(Hub::default());
        let enter = || {
            let (out, inbox) = mpsc::channel(1);
            (hub.enter(HostId(1), out), inbox)
        };
        let (first, _first_inbox) = enter();
        let (second, mut inbox) = enter();
        assert!(first.end.borrow().is_some() && second.end.borrow().is_none());
        assert!(!first.is_current() && second.is_current());
        drop(first);
        assert!(hub.send(HostId(1), ToNode::JoinPending));
        assert_eq!(inbox.try_recv().expect("arrived"), ToNode::JoinPending);
        drop(second);
        assert!(!hub.connected(HostId(1)));
    }

    #[test]
    fn a_node_that_was_away_hears_what_it_missed_and_not_more_than_there_is_room_for() {
        let hub = Arc::new(Hub::default());
        let enter = || {
            let (out, inbox) = mpsc::channel(1);
            (hub.enter(HostId(1), out), inbox)
        };
        let word = |user| ToNode::EndLogins(UserId(user));
        hub.tell_all_even_late(&word(0));
        let (seat, mut inbox) = enter();
        assert_eq!(hub.missed(HostId(1)).count(), 0, "nobody knew of it");
        hub.tell_all_even_late(&word(1));
        assert_eq!(inbox.try_recv().expect("arrived"), word(1));
        drop(seat);
        (0..MISSED as u32 + 5).for_each(|user| hub.tell_all_even_late(&word(user)));
        let (_seat, _inbox) = enter();
        assert!(hub.missed(HostId(1)).eq((5..MISSED as u32 + 5).map(word)));
        assert_eq!(hub.missed(HostId(1)).count(), 0, "told once");
    }

    #[test]
    fn a_node_that_does_not_read_is_cut_off() {
        let hub = Arc::new(Hub::default());
        let (out, _inbox) = mpsc::channel(1);
        let seat = hub.enter(HostId(1), out);
        assert!(hub.send(HostId(1), ToNode::JoinPending));
        assert!(!hub.send(HostId(1), ToNode::JoinPending));
        assert!(seat.end.borrow().is_some());
    }
}
