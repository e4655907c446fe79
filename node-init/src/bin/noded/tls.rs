//! TLS towards the store and other nodes: with a pinned CA before the join, mutual afterwards.

use crate::identity::{Member, NodeKey, fingerprint};
use model::Digest;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsFailure, OtherError, RootCertStore,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::{Arc, OnceLock};

/// The client side of mutual TLS 1.3 with the cluster's CA as only root.
pub fn client(member: &Member, key: &NodeKey, alpn: &[u8]) -> Result<ClientConfig, TlsFailure> {
    let mut roots = RootCertStore::empty();
    roots.add(member.ca.clone())?;
    let chain = vec![member.certificate.clone(), member.ca.clone()];
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key.private())?;
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(config)
}

/// The client side before the join: the server's chain must hold the CA of this fingerprint and lead to it.
pub fn pinned(ca: Digest, alpn: &[u8]) -> Result<(ClientConfig, Arc<Pin>), TlsFailure> {
    let pin = Arc::new(Pin { ca, provider: provider(), mismatch: OnceLock::new() });
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(pin.clone())
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok((config, pin))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The server showed no certificate of the cluster's CA.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("The cluster's CA is {expected}, but the server shows {}", shown(.found))]
pub struct WrongCa {
    /// Of the seed, or of the image.
    pub expected: Digest,
    /// Fingerprints of all that the server showed, its own first.
    pub found: Vec<Digest>,
}

fn shown(found: &[Digest]) -> String {
    // The last of a chain is its root, the one an operator compares.
    found.last().map(Digest::to_string).unwrap_or_else(|| "no certificate".to_owned())
}

/// Accepts a server whose chain leads to the pinned CA.
#[derive(Debug)]
pub struct Pin {
    ca: Digest,
    provider: Arc<CryptoProvider>,
    mismatch: OnceLock<WrongCa>,
}

impl Pin {
    /// What the server showed instead of the pinned CA, if that is why the handshake failed.
    pub fn mismatch(&self) -> Option<WrongCa> {
        self.mismatch.get().cloned()
    }
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsFailure> {
        let Some(ca) = intermediates.iter().find(|c| fingerprint(c) == self.ca) else {
            let found = std::iter::once(end_entity).chain(intermediates).map(|c| fingerprint(c)).collect();
            let wrong = self.mismatch.get_or_init(|| WrongCa { expected: self.ca, found }).clone();
            return Err(CertificateError::Other(OtherError(Arc::new(wrong))).into());
        };
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|e| TlsFailure::General(e.to_string()))?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsFailure> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsFailure> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
