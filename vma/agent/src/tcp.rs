//! Who listens: read in the kernel's table, never tried by connecting.
//!
//! nxagent's listener is one-shot: a probe that connects and closes consumes it, and at the first
//! start even ends the session.

use std::{fs, io};

/// Whether something listens on this port of 127.0.0.1 or of all addresses (IPv4).
pub fn listens(port: u16) -> io::Result<bool> {
    Ok(table_listens(&fs::read_to_string("/proc/net/tcp")?, port))
}

/// The same, in the text of `/proc/net/tcp`. Addresses there are in the machine's byte order.
fn table_listens(table: &str, port: u16) -> bool {
    const LISTEN: &str = "0A";
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (local, state) = (fields.next(), fields.nth(1));
        state == Some(LISTEN) && local.and_then(on_loopback) == Some(port)
    })
}

fn on_loopback(local: &str) -> Option<u16> {
    let (address, port) = local.split_once(':')?;
    matches!(address, "0100007F" | "00000000").then(|| u16::from_str_radix(port, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
   0: 0100007F:1004 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 12345 1\n\
   1: 0B004D0A:1005 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 12346 1\n\
   2: 0100007F:1006 0100007F:9999 01 00000000:00000000 00:00000000 00000000  1000        0 12347 1\n\
   3: 00000000:1007 00000000:0000 0A\n   4: broken\n   5: 0100007F:zz 0 0A\n";

    #[track_caller]
    fn check(port: u16, expect: bool) {
        assert_eq!(table_listens(TABLE, port), expect, "{port:#x}");
    }

    #[test]
    fn a_listener_on_loopback_is_found_and_nothing_else() {
        check(0x1004, true);
        check(0x1005, false);
        check(0x1006, false);
        check(0x1007, true);
        check(0x9999, false);
    }

    #[test]
    fn a_real_listener_is_seen_without_touching_it() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("address").port();
        assert!(listens(port).expect("table"));
        drop(listener);
        assert!(!listens(port).expect("table"));
    }
}
