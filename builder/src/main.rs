//! The roost program: from a recipe to a bootable image, and the lab that boots it.

fn main() {}
