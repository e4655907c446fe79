//! What can go wrong in the router, apart from what a client is told.

use std::{io, path::PathBuf};

/// A failure of the router.
#[derive(Debug, thiserror::Error)]
pub enum RouterError {
    /// The kernel's random source fails.
    #[error("Cannot get random bytes")]
    Random,
    /// A certificate or key in the configuration cannot be used.
    #[error("Cannot read the {what}")]
    Pem {
        /// Such as `router's certificate`.
        what: &'static str,
        /// Why.
        source: rustls_pki_types::pem::Error,
    },
    /// There is no certificate in a chain.
    #[error("The {what} is empty: expected at least one PEM certificate")]
    NoCertificate {
        /// Such as `router's certificate`.
        what: &'static str,
    },
    /// rustls refuses the certificate or key.
    #[error("Cannot use the {what}")]
    Tls {
        /// Such as `router's certificate`.
        what: &'static str,
        /// Why.
        source: rustls::Error,
    },
    /// The cluster CA cannot be used to check peers.
    #[error("Cannot check peers with the cluster CA")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
    /// An address in the configuration is none.
    #[error("'{0}' is no address to listen on: expected '*' or an IP address")]
    Address(String),
    /// Cannot listen.
    #[error("Cannot listen on {address}")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A unix socket of `noded` cannot be used.
    #[error("Cannot talk to the node daemon at {path}")]
    Noded {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another node's router cannot be reached.
    #[error("Cannot reach the router of node {host} at {address}")]
    Peer {
        /// The node.
        host: model::HostId,
        /// Its address.
        address: std::net::SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A frame is not what was expected.
    #[error("Cannot understand the other side")]
    Frame(#[from] model::frame::FrameError),
    /// A benchmark cannot run.
    #[error("Cannot run the benchmark")]
    Bench(#[source] io::Error),
}

/// An error with all its causes, for the log.
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |e| e.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
