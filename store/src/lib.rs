//! The central store: cluster model in SQL, node sync, admin API, image repository.

pub mod api;
pub mod db;
pub mod error;
pub mod files;
pub mod hub;
pub mod import;
pub mod listen;
pub mod pki;
pub mod placement;
pub mod recovery;
pub mod repository;
pub mod rollout;
pub mod secret;
pub mod serve;
pub mod sets;
pub mod site;
pub mod store;
pub mod sync;
pub mod throttle;
pub mod totp;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod tests;
