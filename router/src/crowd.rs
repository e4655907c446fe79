//! How many connections each address has: none may fill the room for all others.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Connections by address.
#[derive(Debug)]
pub struct Crowd {
    most: usize,
    here: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A connection's place; given up when dropped.
#[derive(Debug)]
pub struct Place {
    address: IpAddr,
    here: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Crowd {
    /// Of `room` connections one address may have three quarters: a whole company may come from one, and
    /// somebody else still gets in.
    pub fn new(room: usize) -> Self {
        Self { most: room.saturating_sub(room / 4).max(1), here: Arc::default() }
    }

    /// A place for one more connection; none when the address has its share.
    pub fn enter(&self, address: IpAddr) -> Option<Place> {
        let address = prefix(address);
        let mut here = lock(&self.here);
        let count = here.entry(address).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Place { address, here: self.here.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut here = lock(&self.here);
        match here.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(here.remove(&self.address)),
        }
    }
}

/// A panic elsewhere leaves the map whole: every change is one step.
fn lock(here: &Mutex<HashMap<IpAddr, usize>>) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
    here.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An IPv6 customer has a whole /64.
pub fn prefix(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_gets_its_share_and_no_more_and_leaves_nothing_behind() {
        let crowd = Crowd::new(8);
        let [one, two]: [IpAddr; 2] = ["2001:db8::1", "2001:db8:0:1::1"].map(|a| a.parse().expect("an address"));
        let neighbour = "2001:db8::2".parse().expect("an address");
        let mut places: Vec<_> = (0..6).map(|_| crowd.enter(one).expect("room")).collect();
        assert!(crowd.enter(one).is_none() && crowd.enter(neighbour).is_none(), "the same /64");
        assert!(crowd.enter(two).is_some());
        places.pop();
        assert!(crowd.enter(neighbour).is_some());
        drop(places);
        assert!(lock(&crowd.here).is_empty());
        assert!(Crowd::new(1).enter(one).is_some());
    }
}
