//! What is wanted of the kernel and the mounts, one line each, with the reason. The rest of the folder reads it.
//!
//! What was looked at and not taken is in decision 018.

use super::{Place, Rule};
use crate::variant::PRODUCTION;
use Place::{Lockdown, Module, Mount, Sysctl, Variant, Word};

const fn rule(place: Place, wanted: &'static str, why: &'static str) -> Rule {
    Rule { place, wanted, why }
}

/// All of it. A [`Sysctl`] is applied and then read back; the others are made by the image or by other phases.
pub const RULES: &[Rule] = &[
    // A kernel that has stumbled must not go on.
    rule(Sysctl("kernel/panic_on_oops"), "1", "a kernel that has stumbled is not to go on"),
    rule(Word, "oops=panic", "the same before the first program runs"),
    // Guests share this kernel.
    rule(Sysctl("kernel/kptr_restrict"), "2", "guests must not learn the kernel's addresses"),
    rule(Sysctl("kernel/dmesg_restrict"), "1", "guests must not read the node's log"),
    rule(Sysctl("kernel/unprivileged_bpf_disabled"), "1", "guests load no programs into the kernel"),
    rule(Sysctl("kernel/perf_event_paranoid"), "3", "guests measure neither the kernel nor each other"),
    rule(Sysctl("kernel/io_uring_disabled"), "1", "no desktop needs it, and its holes were many"),
    rule(Sysctl("kernel/yama/ptrace_scope"), "1", "a program reads only its own children's memory"),
    rule(Sysctl("kernel/randomize_va_space"), "2", "addresses of programs cannot be guessed"),
    rule(Sysctl("vm/mmap_rnd_bits"), "32", "the most that the processor can do for it"),
    rule(Sysctl("vm/mmap_rnd_compat_bits"), "16", "the same for 32-bit programs"),
    rule(Sysctl("vm/mmap_min_addr"), "65536", "a null pointer in the kernel leads nowhere"),
    rule(Sysctl("vm/unprivileged_userfaultfd"), "0", "no guest stops the kernel in the middle of a copy"),
    rule(Sysctl("net/core/bpf_jit_harden"), "2", "no guest writes machine code through a filter"),
    rule(Sysctl("dev/tty/ldisc_autoload"), "0", "no guest loads a driver through its terminal"),
    rule(Sysctl("dev/tty/legacy_tiocsti"), "0", "no program types into another's terminal"),
    rule(Sysctl("kernel/sysrq"), "0", "a key or a break on a serial line is no command"),
    // Files that two users meet in.
    rule(Sysctl("fs/protected_fifos"), "2", "no traps in folders that all may write"),
    rule(Sysctl("fs/protected_regular"), "2", "no traps in folders that all may write"),
    rule(Sysctl("fs/protected_hardlinks"), "1", "no links to files of others"),
    rule(Sysctl("fs/protected_symlinks"), "1", "no links laid out for others"),
    rule(Sysctl("fs/suid_dumpable"), "0", "what had rights leaves no memory behind"),
    // A node routes for its guests and is told its routes by nobody.
    rule(Sysctl("net/ipv4/conf/all/accept_redirects"), "0", "no neighbour bends a route"),
    rule(Sysctl("net/ipv4/conf/default/accept_redirects"), "0", "no neighbour bends a route"),
    rule(Sysctl("net/ipv4/conf/all/secure_redirects"), "0", "no neighbour bends a route"),
    rule(Sysctl("net/ipv4/conf/default/secure_redirects"), "0", "no neighbour bends a route"),
    rule(Sysctl("net/ipv4/conf/all/send_redirects"), "0", "guests are not told of each other's ways"),
    rule(Sysctl("net/ipv4/conf/default/send_redirects"), "0", "guests are not told of each other's ways"),
    rule(Sysctl("net/ipv4/conf/all/accept_source_route"), "0", "no sender chooses the way"),
    rule(Sysctl("net/ipv4/conf/default/accept_source_route"), "0", "no sender chooses the way"),
    rule(Sysctl("net/ipv6/conf/all/accept_redirects"), "0", "no neighbour bends a route"),
    rule(Sysctl("net/ipv6/conf/default/accept_redirects"), "0", "no neighbour bends a route"),
    rule(Sysctl("net/ipv4/icmp_echo_ignore_broadcasts"), "1", "the node multiplies nobody's packets"),
    rule(Sysctl("net/ipv4/icmp_ignore_bogus_error_responses"), "1", "no log is filled from outside"),
    rule(Sysctl("net/ipv4/tcp_syncookies"), "1", "half-open connections do not keep users out"),
    rule(Sysctl("net/ipv4/tcp_rfc1337"), "1", "a late packet ends no connection"),
    // The kernel's own bytes and memory.
    rule(Lockdown, "integrity", "root does not change the running kernel"),
    rule(Module("module/parameters/sig_enforce"), "Y", "only modules that Debian signed are loaded"),
    rule(Module("page_alloc/parameters/shuffle"), "Y", "what lies beside what in memory cannot be guessed"),
    rule(Word, "slab_nomerge", "an overflow in one kind of object does not reach another"),
    rule(Word, "init_on_alloc=1", "memory is empty when it is handed out"),
    rule(Word, "randomize_kstack_offset=on", "the kernel's stack lies elsewhere at each call"),
    rule(Word, "vsyscall=none", "nothing of a program lies at a known address"),
    // A debug image serves nobody's desktop unnoticed.
    rule(Variant, PRODUCTION, "whoever has the serial port of a debug image has the node"),
    // No program comes from where something can be written, and no rights from a file.
    rule(Mount("/"), "ro,nosuid,nodev", "the root is what was built"),
    rule(Mount("/proc"), "nosuid,nodev,noexec", "no programs here"),
    rule(Mount("/sys"), "nosuid,nodev,noexec", "no programs here"),
    rule(Mount("/dev"), "nosuid,noexec", "no programs here"),
    rule(Mount("/dev/pts"), "nosuid,noexec", "no programs here"),
    rule(Mount("/dev/shm"), "nosuid,nodev,noexec", "no programs here"),
    rule(Mount("/run"), "nosuid,nodev,noexec", "no programs here"),
    rule(Mount("/tmp"), "nosuid,nodev,noexec", "no programs here"),
    // Homes lie on it: their users run what they like there, in their own guests.
    rule(Mount(model::paths::STATE), "nosuid,nodev", "no rights and no devices from a file of a guest's"),
];
