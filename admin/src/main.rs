//! qa, the admin command line.

fn main() {}
