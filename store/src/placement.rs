//! Which node gets a VM that has none (QVD's H.8): the highest score among those that may take it.

use model::{
    HostId,
    key::{self, Config},
};

/// A node that runs, is not blocked and was heard of lately.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Which.
    pub host: HostId,
    /// Its memory, MiB.
    pub usable_ram: f64,
    /// 0.8 of its bogomips.
    pub usable_cpu: f64,
    /// VMs placed there, running or not.
    pub vms: u32,
}

/// What counts how much.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weights {
    /// Of memory.
    pub ram: f64,
    /// Of CPU power.
    pub cpu: f64,
    /// Of chance.
    pub random: f64,
}

impl Weights {
    /// As configured.
    pub fn of(config: &Config) -> Self {
        Self {
            ram: config.get(&key::BALANCE_RAM),
            cpu: config.get(&key::BALANCE_CPU),
            random: config.get(&key::BALANCE_RANDOM),
        }
    }
}

/// The node with the highest score; the first of equals. `dice` gives numbers from 0 up to, not including, 1.
pub fn choose(candidates: &[Candidate], weights: Weights, dice: &mut dyn FnMut() -> f64) -> Option<HostId> {
    let mut best: Option<(f64, HostId)> = None;
    for candidate in candidates {
        let worth = weights.ram * candidate.usable_ram + weights.cpu * candidate.usable_cpu;
        let score = worth / (f64::from(candidate.vms) + 1.0) + dice() * weights.random;
        if best.is_none_or(|(highest, _)| score > highest) {
            best = Some((score, candidate.host));
        }
    }
    best.map(|(_, host)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVEN: Weights = Weights { ram: 1.0, cpu: 1.0, random: 0.0 };

    #[track_caller]
    fn check(nodes: &[(f64, f64, u32)], weights: Weights, expect: Option<u32>) {
        let candidates: Vec<Candidate> = (1..)
            .zip(nodes)
            .map(|(id, &(usable_ram, usable_cpu, vms))| Candidate { host: HostId(id), usable_ram, usable_cpu, vms })
            .collect();
        assert_eq!(choose(&candidates, weights, &mut || 0.5), expect.map(HostId));
    }

    #[test]
    fn the_freest_node_wins_and_the_first_of_equals() {
        check(&[], EVEN, None);
        check(&[(0.0, 0.0, 9)], EVEN, Some(1));
        check(&[(1000.0, 1000.0, 0), (2000.0, 1000.0, 0)], EVEN, Some(2));
        check(&[(1000.0, 1000.0, 0), (2000.0, 2000.0, 1)], EVEN, Some(1));
        check(&[(1000.0, 1000.0, 1), (2000.0, 2000.0, 2)], EVEN, Some(2));
    }

    #[test]
    fn weights_decide_what_counts() {
        let ram_only = Weights { cpu: 0.0, ..EVEN };
        check(&[(1000.0, 9000.0, 0), (2000.0, 0.0, 0)], ram_only, Some(2));
        check(&[(1000.0, 9000.0, 0), (2000.0, 0.0, 0)], EVEN, Some(1));
    }

    #[test]
    fn chance_breaks_what_is_nearly_equal() {
        let nodes = [1, 2].map(|id| Candidate { host: HostId(id), usable_ram: 100.0, usable_cpu: 0.0, vms: 0 });
        let mut throws = [0.1, 0.9].into_iter();
        let chosen = choose(&nodes, Weights { random: 10.0, ..EVEN }, &mut || throws.next().unwrap_or(0.0));
        assert_eq!(chosen, Some(HostId(2)));
    }
}
