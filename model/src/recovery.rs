//! Recovery keys: what opens a node's encrypted STATE when its TPM does not.
//!
//! ```text
//! 4K9TM-ZQ2WX-...          seven groups of four random letters and one that checks them
//! ```
//!
//! A person copies it from one screen to another, so it has no letter that looks like another one (31 are left: I, L, O,
//! 0 and 1 are not among them), and each group tells by itself that it was mistyped. 28 random letters are 138 bits: no
//! slow key derivation is needed to protect them.

use serde::{Deserialize, Serialize};

const LETTERS: &[u8; 31] = b"23456789ABCDEFGHJKMNPQRSTUVWXYZ";
const GROUPS: usize = 7;
/// Random letters of a group.
const RANDOM: usize = 4;
/// Weights of a group's letters, the checking one last: all differ and none is zero modulo 31, which is prime. So every
/// mistyped letter is found, and every two that changed places.
const WEIGHTS: [u32; RANDOM + 1] = [2, 3, 4, 5, 30];
/// Random bytes that [`RecoveryKey::draw`] takes: each yields a letter with odds of 31 in 32.
pub const ENTROPY: usize = 64;

/// A recovery key. Its `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RecoveryKey(String);

/// Why a text is no recovery key. Never says what the text was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryKeyError {
    /// Too short or too long.
    #[error("The recovery key has {0} letters: expected 35, in seven groups of five")]
    Length(usize),
    /// A letter that no key has.
    #[error("Group {0} of the recovery key has a letter that none has: expected 2 to 9, and A to Z without I, L and O")]
    Letter(usize),
    /// The group does not fit together.
    #[error("Group {0} of the recovery key is mistyped, or stands at another place")]
    Group(usize),
}

impl RecoveryKey {
    /// Makes a key of random bytes. None when too few of them were of use, which random ones never are.
    pub fn draw(random: &[u8; ENTROPY]) -> Option<Self> {
        // Those beyond would make the first letters likelier.
        let fair = |byte: &&u8| usize::from(**byte) < 256 / LETTERS.len() * LETTERS.len();
        let digits: Vec<u32> =
            random.iter().filter(fair).map(|byte| u32::from(*byte) % 31).take(GROUPS * RANDOM).collect();
        let groups: Vec<String> =
            digits.chunks_exact(RANDOM).enumerate().map(|(place, group)| checked(place, group)).collect();
        (groups.len() == GROUPS).then(|| Self(groups.join("-")))
    }

    /// The key as it is shown, which is also what opens the volume.
    pub fn text(&self) -> &str {
        &self.0
    }
}

/// A group's text with the letter that makes its sum zero.
fn checked(place: usize, group: &[u32]) -> String {
    let check = sum(place, group);
    group.iter().chain([&check]).map(|digit| char::from(LETTERS[*digit as usize])).collect()
}

/// Zero for a whole group that fits; the place is in it, so that groups which changed places are found.
fn sum(place: usize, digits: &[u32]) -> u32 {
    (digits.iter().zip(WEIGHTS).map(|(digit, weight)| digit * weight).sum::<u32>() + place as u32 + 1) % 31
}

impl std::str::FromStr for RecoveryKey {
    type Err = RecoveryKeyError;

    /// In any case, with any spaces and dashes.
    fn from_str(text: &str) -> Result<Self, RecoveryKeyError> {
        let letters: Vec<char> = text.chars().filter(|c| !c.is_whitespace() && *c != '-').collect();
        let size = RANDOM + 1;
        if letters.len() != GROUPS * size {
            return Err(RecoveryKeyError::Length(letters.len()));
        }
        let mut groups = Vec::with_capacity(GROUPS);
        for (place, group) in letters.chunks_exact(size).enumerate() {
            let group: String = group.iter().map(char::to_ascii_uppercase).collect();
            let digit = |c: char| LETTERS.iter().position(|letter| char::from(*letter) == c).map(|d| d as u32);
            let digits: Option<Vec<u32>> = group.chars().map(digit).collect();
            let digits = digits.ok_or(RecoveryKeyError::Letter(place + 1))?;
            if sum(place, &digits) != 0 {
                return Err(RecoveryKeyError::Group(place + 1));
            }
            groups.push(group);
        }
        Ok(Self(groups.join("-")))
    }
}

impl TryFrom<String> for RecoveryKey {
    type Error = RecoveryKeyError;
    fn try_from(text: String) -> Result<Self, RecoveryKeyError> {
        text.parse()
    }
}

impl From<RecoveryKey> for String {
    fn from(key: RecoveryKey) -> String {
        key.0
    }
}

impl std::fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RecoveryKey")
    }
}

/// A recovery key on its way to the store, and as the node keeps it until the store has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Escrow {
    /// UUID of the volume that it opens: a node that made STATE anew has another one.
    pub volume: String,
    /// The key.
    pub key: RecoveryKey,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        frame,
        sync::{ToNode, ToStore},
    };
    use proptest::prelude::*;

    fn key(seed: u8) -> RecoveryKey {
        RecoveryKey::draw(&std::array::from_fn(|n| seed.wrapping_add(n as u8).wrapping_mul(37))).expect("drawn")
    }

    #[test]
    fn what_is_shown_is_read_back_however_it_is_typed() {
        let key = key(1);
        assert_eq!(key.text().len(), 41);
        let spaced = key.text().to_lowercase().replace('-', "  ");
        assert_eq!(spaced.parse(), Ok(key.clone()));
        assert_eq!(format!("{key:?}"), "RecoveryKey");
    }

    #[test]
    fn random_bytes_that_are_not_are_refused() {
        assert_eq!(RecoveryKey::draw(&[0xff; ENTROPY]), None);
    }

    #[test]
    fn a_wrong_key_says_which_group_is_wrong() {
        let good = key(1);
        let wrong = |text: String| text.parse::<RecoveryKey>().expect_err("refused");
        assert_eq!(wrong(String::new()), RecoveryKeyError::Length(0));
        assert_eq!(wrong(good.text().replace('-', "") + "2"), RecoveryKeyError::Length(36));
        assert_eq!(wrong(format!("{}{}", &good.text()[..36], "O2222")), RecoveryKeyError::Letter(7));
        let groups: Vec<&str> = good.text().split('-').collect();
        let swapped = [groups[1], groups[0], groups[2], groups[3], groups[4], groups[5], groups[6]].join("-");
        assert_eq!(wrong(swapped), RecoveryKeyError::Group(1));
    }

    #[test]
    fn the_messages_are_the_documented_bytes() {
        let key = RecoveryKey::draw(&[7; ENTROPY]).expect("drawn");
        let text = key.text().to_owned();
        assert_eq!(text, "99998-99999-9999A-9999B-9999C-9999D-9999E");
        let said = ToStore::Escrow(Escrow { volume: "v".to_owned(), key });
        assert_eq!(frame::encode(&said).expect("encodes"), [&[11, 1, b'v', 41], text.as_bytes()].concat());
        assert_eq!(frame::encode(&ToNode::Escrowed("v".to_owned())).expect("encodes"), [9, 1, b'v']);
        assert!(!format!("{said:?}").contains("9999"));
    }

    proptest! {
        #[test]
        fn any_one_mistyped_letter_is_found(seed: u8, at in 0usize..35, other in 0usize..31) {
            let good = key(seed);
            let mut letters: Vec<u8> = good.text().bytes().filter(|b| *b != b'-').collect();
            prop_assume!(letters[at] != LETTERS[other]);
            letters[at] = LETTERS[other];
            let text = String::from_utf8(letters).expect("letters");
            prop_assert_eq!(text.parse::<RecoveryKey>(), Err(RecoveryKeyError::Group(at / 5 + 1)));
        }

        #[test]
        fn any_two_letters_of_a_group_that_changed_places_are_found(seed: u8, group in 0usize..7, a in 0usize..5, b in 0usize..5) {
            let good = key(seed);
            let mut letters: Vec<u8> = good.text().bytes().filter(|b| *b != b'-').collect();
            prop_assume!(letters[group * 5 + a] != letters[group * 5 + b]);
            letters.swap(group * 5 + a, group * 5 + b);
            let text = String::from_utf8(letters).expect("letters");
            prop_assert_eq!(text.parse::<RecoveryKey>(), Err(RecoveryKeyError::Group(group + 1)));
        }

        #[test]
        fn no_text_is_a_fault(text in "\\PC{0,60}") {
            let _ = text.parse::<RecoveryKey>();
        }
    }
}
