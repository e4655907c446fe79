//! Time since the kernel started, suspend included: it never jumps, whatever happens to the wall clock.

use nix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Time since the kernel started (`CLOCK_BOOTTIME`).
pub fn now() -> Duration {
    // The call cannot fail for a clock that every supported kernel has (since 2.6.39).
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

/// The same in whole milliseconds.
pub fn now_ms() -> u64 {
    u64::try_from(now().as_millis()).unwrap_or(u64::MAX)
}
