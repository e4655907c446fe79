//! The central store: cluster model in SQL, node sync, admin API, image repository.

fn main() {}
