//! Scenarios that boot the real image.
