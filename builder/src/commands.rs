//! The subcommands of `roost`, one file each: arguments, and what is shown. What they do is in the library.

pub mod build;
mod common;
pub mod demo;
pub mod diff;
pub mod inspect;
pub mod keys;
pub mod lock;
pub mod sign;
pub mod test;
pub mod tools;
pub mod verify;
