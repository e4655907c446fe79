//! Kernel calls: mount, cgroup, device mapper, modules, spawn and reap, watchdog, power. The only unsafe code.
