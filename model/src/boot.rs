//! Boots of a node: how each ended, and its last words.

use serde::{Deserialize, Serialize};

/// Bytes of a kernel's last words that are kept and sent.
pub const PANIC_MAX: usize = 32 << 10;
/// Bytes of a boot's log that are sent when it did not end in order.
pub const LOG_MAX: usize = 64 << 10;
/// Bytes of it when it did.
pub const CALM_LOG_MAX: usize = 8 << 10;
/// Bytes of any other text of a report.
pub const WORD_MAX: usize = 512;

/// One boot, as its node tells it: each once, when it has ended, and the one that runs after each Hello.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootReport {
    /// The kernel's boot id; for a boot that left only its panic, a word that no other boot has.
    pub boot: String,
    /// Version of the image; empty: not known.
    pub version: String,
    /// When the kernel started, Unix milliseconds by the clock of the node; 0: not known.
    pub began_ms: u64,
    /// Seconds from there to its last sign of life.
    pub lasted_s: u64,
    /// How it ended.
    pub end: BootEnd,
    /// The kernel's last words, if it panicked.
    pub panic: String,
    /// Its log: the beginning and the end.
    pub log: String,
}

/// How a boot ended. Append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BootEnd {
    /// Not yet.
    Running,
    /// Rebooted in order, on this word.
    Reboot(String),
    /// Powered off in order, on this word.
    PowerOff(String),
    /// PID 1 gave up, and said so: its last complaint.
    GaveUp(String),
    /// The kernel panicked, for this reason.
    Panic(String),
    /// PID 1 turned no more, and the watchdog reset the machine: what was known.
    Hang(String),
    /// Without a word: the power was cut, or something outside reset the machine.
    Cut,
}

impl BootEnd {
    /// One word for it, as lists show it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Reboot(_) => "reboot",
            Self::PowerOff(_) => "power-off",
            Self::GaveUp(_) => "gave-up",
            Self::Panic(_) => "panic",
            Self::Hang(_) => "hang",
            Self::Cut => "cut",
        }
    }

    /// What more is known of it.
    pub fn why(&self) -> &str {
        match self {
            Self::Running | Self::Cut => "",
            Self::Reboot(why) | Self::PowerOff(why) | Self::GaveUp(why) | Self::Panic(why) | Self::Hang(why) => why,
        }
    }

    /// It ended, and not in order.
    pub fn is_crash(&self) -> bool {
        matches!(self, Self::GaveUp(_) | Self::Panic(_) | Self::Hang(_) | Self::Cut)
    }
}

/// The last `max` bytes of a text at most, from the beginning of a line where there is one.
pub fn tail(text: &str, max: usize) -> &str {
    let from = (text.len().saturating_sub(max)..=text.len()).find(|&at| text.is_char_boundary(at));
    let rest = text.get(from.unwrap_or(text.len())..).unwrap_or_default();
    if rest.len() == text.len() {
        return text;
    }
    rest.split_once('\n').map_or(rest, |(_, whole)| if whole.is_empty() { rest } else { whole })
}

/// The first `max` bytes of a text at most, up to the end of a line where there is one.
pub fn head(text: &str, max: usize) -> &str {
    let to = (0..=max.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    let rest = text.get(..to).unwrap_or_default();
    if rest.len() == text.len() {
        return text;
    }
    rest.rfind('\n').and_then(|end| rest.get(..=end)).unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        frame,
        sync::{ToNode, ToStore},
    };
    use proptest::prelude::*;

    #[test]
    fn the_bytes_of_every_message_stay() {
        let report = |end| BootReport {
            boot: "b".into(),
            version: "1".into(),
            began_ms: 300,
            lasted_s: 2,
            end,
            panic: "p".into(),
            log: "l".into(),
        };
        let why = || "w".to_owned();
        for (end, bytes) in [
            (BootEnd::Running, &[0][..]),
            (BootEnd::Reboot(why()), &[1, 1, b'w']),
            (BootEnd::PowerOff(why()), &[2, 1, b'w']),
            (BootEnd::GaveUp(why()), &[3, 1, b'w']),
            (BootEnd::Panic(why()), &[4, 1, b'w']),
            (BootEnd::Hang(why()), &[5, 1, b'w']),
            (BootEnd::Cut, &[6]),
        ] {
            let word = ToStore::Boot(report(end));
            let expect = [&[10, 1, b'b', 1, b'1', 0xac, 2, 2][..], bytes, &[1, b'p', 1, b'l']].concat();
            assert_eq!(frame::encode(&word).expect("encodes"), expect);
            assert_eq!(frame::decode::<ToStore>(&expect).expect("decodes"), word);
        }
        let kept = ToNode::BootKept("b".into());
        assert_eq!(frame::encode(&kept).expect("encodes"), [8, 1, b'b']);
        assert_eq!(frame::decode::<ToNode>(&[8, 1, b'b']).expect("decodes"), kept);
    }

    #[test]
    fn ends_of_texts_are_whole_lines_where_there_are_any() {
        assert_eq!((tail("one\ntwo\n", 6), head("one\ntwo\n", 6)), ("two\n", "one\n"));
        assert_eq!((tail("one\n", 9), head("one\n", 9)), ("one\n", "one\n"));
        assert_eq!((tail("ääää", 3), head("ääää", 3)), ("ä", "ä"));
        assert_eq!(tail("abc\n", 2), "c\n", "nothing but the end of a long line");
    }

    proptest! {
        #[test]
        fn no_end_is_longer_than_asked(text in "[aä\n]{0,60}", max in 0..70usize) {
            prop_assert!(tail(&text, max).len() <= max && text.ends_with(tail(&text, max)));
            prop_assert!(head(&text, max).len() <= max && text.starts_with(head(&text, max)));
        }
    }
}
