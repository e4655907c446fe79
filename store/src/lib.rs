//! The central store: cluster model in SQL, node sync, admin API, image repository.

pub mod db;
pub mod error;
pub mod files;
pub mod pki;
pub mod placement;
pub mod secret;
pub mod throttle;
