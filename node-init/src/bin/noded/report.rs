//! Errors as one line: the error and all its causes.

use std::{error::Error, fmt};

/// Shows an error with its causes, separated by `: `.
pub struct Chain<'a>(&'a dyn Error);

/// `error = %chain(&e)`: the whole story once, in the place that handles the error.
pub fn chain(error: &dyn Error) -> Chain<'_> {
    Chain(error)
}

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = self.0.to_string();
        f.write_str(&last)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            let text = cause.to_string();
            // Some libraries repeat their cause in their own text.
            if !last.ends_with(&text) {
                write!(f, ": {text}")?;
            }
            last = text;
            next = cause.source();
        }
        Ok(())
    }
}
