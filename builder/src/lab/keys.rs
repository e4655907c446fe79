//! Where letters are on a US keyboard, in the words of a browser's key events.

/// A key and whether Shift is held: what a person presses for one letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stroke {
    /// The browser's name of the place on the keyboard, such as `KeyA`.
    pub code: String,
    /// Windows' virtual key code, which key events carry on every system.
    pub number: u32,
    /// Whether Shift is held.
    pub shift: bool,
}

/// Signs that are no letters: place, number, without and with Shift.
const SIGNS: [(&str, u32, char, char); 22] = [
    ("Digit1", 49, '1', '!'),
    ("Digit2", 50, '2', '@'),
    ("Digit3", 51, '3', '#'),
    ("Digit4", 52, '4', '$'),
    ("Digit5", 53, '5', '%'),
    ("Digit6", 54, '6', '^'),
    ("Digit7", 55, '7', '&'),
    ("Digit8", 56, '8', '*'),
    ("Digit9", 57, '9', '('),
    ("Digit0", 48, '0', ')'),
    ("Semicolon", 186, ';', ':'),
    ("Equal", 187, '=', '+'),
    ("Comma", 188, ',', '<'),
    ("Minus", 189, '-', '_'),
    ("Period", 190, '.', '>'),
    ("Slash", 191, '/', '?'),
    ("Backquote", 192, '`', '~'),
    ("BracketLeft", 219, '[', '{'),
    ("Backslash", 220, '\\', '|'),
    ("BracketRight", 221, ']', '}'),
    ("Quote", 222, '\'', '"'),
    ("Space", 32, ' ', ' '),
];

/// How a letter or sign is typed; `None` for what a US keyboard does not have.
pub(super) fn stroke(letter: char) -> Option<Stroke> {
    if letter.is_ascii_alphabetic() {
        let upper = letter.to_ascii_uppercase();
        return Some(Stroke { code: format!("Key{upper}"), number: upper.into(), shift: letter == upper });
    }
    let (code, number, plain, _) = SIGNS.into_iter().find(|(_, _, a, b)| [*a, *b].contains(&letter))?;
    Some(Stroke { code: code.to_owned(), number, shift: letter != plain })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_printable_letter_of_ascii_has_a_place() {
        for letter in ' '..='~' {
            assert!(stroke(letter).is_some(), "{letter}");
        }
        assert_eq!(stroke('A'), Some(Stroke { code: "KeyA".to_owned(), number: 65, shift: true }));
        assert_eq!(stroke('>'), Some(Stroke { code: "Period".to_owned(), number: 190, shift: true }));
        assert_eq!(stroke('é'), None);
    }
}
