//! Records of the kernel's log, as `/dev/kmsg` gives them one by one: `6,339,5140900,-;text`, then lines of facts that
//! begin with a space.

use node_init::redact;

/// Kernel messages less urgent than this are chatter of drivers, told at every boot.
const NOTICE: u32 = 5;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// 0 (worst) to 7.
    level: u32,
    /// Written by the kernel itself; else by a program: by us, for our services.
    of_kernel: bool,
    /// Its number; a gap is records that were lost.
    pub number: u64,
    /// When, microseconds after the kernel's start.
    micros: u64,
    text: &'a str,
}

impl<'a> Record<'a> {
    /// Reads one.
    pub fn parse(record: &'a str) -> Option<Self> {
        let (prefix, rest) = record.split_once(';')?;
        let mut fields = prefix.split(',');
        let priority: u32 = fields.next()?.parse().ok()?;
        let (number, micros) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let text = rest.split('\n').next().unwrap_or_default();
        Some(Self { level: priority & 7, of_kernel: priority >> 3 == 0, number, micros, text })
    }

    /// Whether it is worth a place on the disk.
    pub fn matters(&self) -> bool {
        !self.of_kernel || self.level <= NOTICE
    }

    /// The line that is kept of it.
    pub fn line(&self) -> String {
        let who = if self.of_kernel { "kernel: " } else { "" };
        let (seconds, ms) = (self.micros / 1_000_000, self.micros / 1000 % 1000);
        format!("{seconds:>6}.{ms:03} {who}{}\n", redact::line(self.text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_record_becomes_a_line_when_it_matters() {
        let check = |record: &str, matters: bool, line: &str| {
            let record = Record::parse(record).expect("reads");
            assert_eq!((record.matters(), record.line().as_str()), (matters, line));
        };
        check("6,1,5140900,-;NET: x\n SUBSYSTEM=net\n", false, "     5.140 kernel: NET: x\n");
        check("4,2,61000000,-,caller=T1;BUG: y\n", true, "    61.000 kernel: BUG: y\n");
        check("14,3,999,-;noded: token=abc\n", true, "     0.000 noded: token=(left out)\n");
        check("30,3,0,c;a;b", true, "     0.000 a;b\n");
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_fault(text in "[0-9,;-]{0,20}.{0,20}") {
            if let Some(record) = Record::parse(&text) {
                record.line();
            }
        }
    }
}
