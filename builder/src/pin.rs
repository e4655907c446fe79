//! The one cluster that an image is for: the fingerprint of its CA, from the certificate that an operator has.

use std::path::Path;

use model::Digest;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::error::{Error, Result, at};

/// Fingerprint of the CA certificate in a PEM file, as the nodes' seeds name it.
pub fn of_ca(path: &Path) -> Result<Digest> {
    let text = std::fs::read(path).map_err(at("read", path))?;
    fingerprint(&text).map_err(|problem| Error::Ca { path: path.to_owned(), problem })
}

/// A certificate that is no CA's would make an image that joins nothing, and that is found out on the nodes.
fn fingerprint(pem: &[u8]) -> std::result::Result<Digest, String> {
    let certificates: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = certificates.map_err(|error| format!("it cannot be read as PEM ({error})"))?;
    let [certificate] = certificates.as_slice() else {
        return Err(format!("it has {} certificates, expected one", certificates.len()));
    };
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| format!("no certificate: {error}"))?;
    if !parsed.is_ca() {
        return Err(format!("'{}' is the certificate of no CA", parsed.subject()));
    }
    Ok(Digest(Sha256::digest(certificate).into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    fn certificate(ca: bool) -> rcgen::Certificate {
        let mut params = CertificateParams::new(["x.example".to_owned()]).expect("names");
        params.is_ca = if ca { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::ExplicitNoCa };
        params.self_signed(&KeyPair::generate().expect("a key")).expect("signed")
    }

    #[test]
    fn the_fingerprint_is_that_of_the_certificate_and_not_of_its_text() {
        let ca = certificate(true);
        let expect = Digest(Sha256::digest(ca.der()).into());
        assert_eq!(fingerprint(ca.pem().as_bytes()), Ok(expect));
        assert_eq!(fingerprint(format!("The CA of our cluster\n{}\n", ca.pem()).as_bytes()), Ok(expect));
    }

    #[test]
    fn what_is_not_one_ca_is_refused_with_what_was_found() {
        let refused = |text: &str| fingerprint(text.as_bytes()).expect_err("refused");
        assert_eq!(refused("nothing"), "it has 0 certificates, expected one");
        assert_eq!(refused(&certificate(true).pem().repeat(2)), "it has 2 certificates, expected one");
        assert!(refused(&certificate(false).pem()).ends_with("is the certificate of no CA"));
    }
}
