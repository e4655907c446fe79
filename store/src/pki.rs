//! The cluster's keys: the CA, the store's own certificate, and the key that signs grants.
//!
//! They lie in one directory beside the database, each private key readable by its owner alone. All
//! certificates begin at a fixed past day, since a node whose clock is behind must be able to join:
//! its first good time may come from this very store.

use crate::{
    error::{Error, Result},
    files,
};
use model::{
    Digest, HostId,
    grant::{Grant, SignedGrant},
    sync::{NODE_SUFFIX, RouterTls, STORE_NAME},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SanType, SerialNumber,
};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf,
    rand::{SecureRandom, SystemRandom},
    signature::{Ed25519KeyPair, KeyPair as _},
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, pem::PemObject};
use sha2::Digest as _;
use std::{net::IpAddr, path::Path};
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

/// Names under which the store is reached besides [`STORE_NAME`], `localhost` and the loopback addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// DNS names.
    pub dns: Vec<String>,
    /// Addresses.
    pub ips: Vec<IpAddr>,
}

/// The cluster's keys. Its `Debug` shows none.
pub struct Pki {
    issuer: Issuer<'static, KeyPair>,
    ca: CertificateDer<'static>,
    ca_pem: String,
    grant: Ed25519KeyPair,
    seal: LessSafeKey,
    server: RouterTls,
}

impl std::fmt::Debug for Pki {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pki").field("ca", &self.ca_sha256()).finish_non_exhaustive()
    }
}

/// A certificate just issued.
#[derive(Clone, Debug)]
pub struct Issued {
    /// DER.
    pub certificate: Vec<u8>,
}

/// Writes a new CA and a new grant key into a directory, which must exist.
pub fn create(dir: &Path) -> Result<()> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(Error::pki("make the CA's key"))?;
    let mut params = params("Roost cluster CA", 2056)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca = params.self_signed(&key).map_err(Error::pki("make the CA's certificate"))?;
    let grant = KeyPair::generate_for(&PKCS_ED25519).map_err(Error::pki("make the grant key"))?;
    files::write_secret(&dir.join("ca.key"), key.serialize_pem().as_bytes())?;
    files::write_secret(&dir.join("grant.key"), grant.serialize_pem().as_bytes())?;
    files::write(&dir.join("ca.pem"), ca.pem().as_bytes())
}

impl Pki {
    /// Reads the keys and makes the store's own certificate for `names`, afresh at each start: it is
    /// trusted through the CA, and never pinned.
    pub fn load(dir: &Path, names: &Names) -> Result<Self> {
        let ca_pem = files::read_text(&dir.join("ca.pem"))?;
        let ca = CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(Error::pki("read ca.pem"))?;
        let key = KeyPair::from_pem(&files::read_text(&dir.join("ca.key"))?).map_err(Error::pki("read ca.key"))?;
        let issuer = Issuer::from_ca_cert_der(&ca, key).map_err(Error::pki("use the CA"))?;
        let grant = files::read_text(&dir.join("grant.key"))?;
        let grant = PrivateKeyDer::from_pem_slice(grant.as_bytes()).map_err(Error::pki("read grant.key"))?;
        let seal = sealing_key(grant.secret_der())?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(grant.secret_der())
            .map_err(|e| Error::Pki { action: "use grant.key", source: e.to_string().into() })?;
        let mut pki = Self { issuer, ca, ca_pem, grant: pair, seal, server: RouterTls::default() };
        pki.server = pki.server_certificate(names)?;
        Ok(pki)
    }

    /// Seals a secret for the database: who has only that cannot read it. `context` says what it is and
    /// whose; only the same one opens it.
    pub fn seal(&self, context: &str, secret: &[u8]) -> Result<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(unspecified("get random numbers"))?;
        let mut bytes = secret.to_vec();
        let place = (Nonce::assume_unique_for_key(nonce), Aad::from(context));
        self.seal.seal_in_place_append_tag(place.0, place.1, &mut bytes).map_err(unspecified("seal a secret"))?;
        Ok([&nonce[..], &bytes].concat())
    }

    /// Opens what [`Self::seal`] made.
    pub fn open(&self, context: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let fail = || unspecified("open a secret: the cluster's keys are not those that sealed it");
        let (nonce, bytes) = sealed.split_at_checked(NONCE_LEN).ok_or(ring::error::Unspecified).map_err(fail())?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(fail())?;
        let mut bytes = Zeroizing::new(bytes.to_vec());
        let length = self.seal.open_in_place(nonce, Aad::from(context), &mut bytes).map_err(fail())?.len();
        bytes.truncate(length);
        Ok(bytes)
    }

    /// The cluster CA, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The cluster CA, DER.
    pub fn ca(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    /// What seeds carry.
    pub fn ca_sha256(&self) -> Digest {
        sha256(&self.ca)
    }

    /// The store's own chain and key.
    pub fn server(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        pair(&self.server)
    }

    fn server_certificate(&self, names: &Names) -> Result<RouterTls> {
        let mut params = params("Roost store", 2046)?;
        let dns = [STORE_NAME, "localhost"].into_iter().map(str::to_owned).chain(names.dns.iter().cloned());
        for name in dns {
            params.subject_alt_names.push(dns_name(&name)?);
        }
        let loopback = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])];
        params.subject_alt_names.extend(loopback.into_iter().chain(names.ips.iter().copied()).map(SanType::IpAddress));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.fresh(params)
    }

    /// A new key and certificate for a node's router, as clients see it.
    pub fn router_certificate(&self, id: HostId, name: &str, address: IpAddr) -> Result<RouterTls> {
        let mut params = params(name, 2046)?;
        params.subject_alt_names =
            vec![dns_name(name)?, dns_name(&format!("{id}{NODE_SUFFIX}"))?, SanType::IpAddress(address)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.fresh(params)
    }

    fn fresh(&self, params: CertificateParams) -> Result<RouterTls> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(Error::pki("make a key"))?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(Error::pki("sign a certificate"))?;
        Ok(RouterTls { chain: certificate.pem() + &self.ca_pem, key: key.serialize_pem() })
    }

    /// Signs a node's request. Of the request only the public key counts: the store decides all else.
    pub fn node_certificate(&self, id: HostId, name: &str, csr: &[u8]) -> Result<Issued> {
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr))
            .map_err(Error::pki("read a certificate request"))?;
        let mut params = params(name, 2046)?;
        params.subject_alt_names = vec![dns_name(&format!("{id}{NODE_SUFFIX}"))?];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let certificate =
            params.signed_by(&request.public_key, &self.issuer).map_err(Error::pki("sign a node's certificate"))?;
        Ok(Issued { certificate: certificate.der().to_vec() })
    }

    /// Signs a grant.
    pub fn sign(&self, grant: &Grant) -> Result<SignedGrant> {
        let body = postcard::to_allocvec(grant).map_err(Error::pki("encode a grant"))?;
        let signature = self.grant.sign(&SignedGrant::signed_bytes(&body)).as_ref().to_vec();
        Ok(SignedGrant { body, signature })
    }

    /// The public key that checks grants.
    pub fn grant_key(&self) -> Vec<u8> {
        self.grant.public_key().as_ref().to_vec()
    }
}

fn params(name: &str, last_year: i32) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = rcgen::date_time_ymd(2025, 1, 1);
    params.not_after = rcgen::date_time_ymd(last_year, 1, 1);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Never negative and never the same, also for one key certified twice.
    let mut serial = [0; 16];
    SystemRandom::new()
        .fill(&mut serial)
        .map_err(|_| Error::Pki { action: "make a serial number", source: "no random numbers".into() })?;
    serial[0] = (serial[0] & 0x3f) | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn dns_name(name: &str) -> Result<SanType> {
    Ok(SanType::DnsName(name.try_into().map_err(Error::pki("use a DNS name"))?))
}

/// Chain and key of PEM texts.
pub fn pair(tls: &RouterTls) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(tls.chain.as_bytes()).collect();
    let chain = chain.map_err(Error::pki("read a certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(tls.key.as_bytes()).map_err(Error::pki("read a private key"))?;
    Ok((chain, key))
}

/// Whether the texts are a certificate chain and its key, such as a router can show.
pub fn check_pair(tls: &RouterTls) -> Result<()> {
    let invalid = |text: String| Error::Invalid(text);
    let (chain, key) =
        pair(tls).map_err(|e| invalid(format!("No PEM certificate and key: {}", crate::error::chain(&e))))?;
    if chain.is_empty() {
        return Err(invalid("There is no CERTIFICATE block in cert: expected PEM".to_owned()));
    }
    let provider = rustls::crypto::ring::default_provider();
    rustls::sign::CertifiedKey::from_der(chain, key, &provider)
        .map(drop)
        .map_err(|e| invalid(format!("The certificate and the key do not fit together: {e}")))
}

fn unspecified(action: &'static str) -> impl FnOnce(ring::error::Unspecified) -> Error {
    // ring's error says nothing, on purpose.
    move |error| Error::Pki { action, source: error.to_string().into() }
}

/// A key of its own, made of the grant key: a backup of the keys has all that opens the database's secrets.
fn sealing_key(grant: &[u8]) -> Result<LessSafeKey> {
    let fail = || unspecified("derive the sealing key");
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, b"roost store").extract(grant);
    let okm = prk.expand(&[b"secrets of the database"], &AES_256_GCM).map_err(fail())?;
    Ok(LessSafeKey::new(UnboundKey::from(okm)))
}

/// Digest of the first certificate in a PEM text.
pub fn leaf_sha256(chain: &str) -> Option<Digest> {
    CertificateDer::from_pem_slice(chain.as_bytes()).ok().map(|der| sha256(&der))
}

/// Digest of the public key in a certificate request whose signature is right.
pub fn request_key_sha256(csr: &[u8]) -> Result<Digest> {
    let (rest, request) = x509_parser::certification_request::X509CertificationRequest::from_der(csr)
        .map_err(|e| Error::Invalid(format!("The certificate request is none: {e}")))?;
    if !rest.is_empty() {
        return Err(Error::Invalid(format!("The certificate request has {} bytes too many", rest.len())));
    }
    CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr))
        .map_err(|e| Error::Invalid(format!("The certificate request cannot be used: {e}")))?;
    Ok(sha256(request.certification_request_info.subject_pki.raw))
}

/// Digest of the public key in a certificate.
pub fn certificate_key_sha256(certificate: &[u8]) -> Option<Digest> {
    let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(certificate).ok()?;
    Some(sha256(certificate.tbs_certificate.subject_pki.raw))
}

/// SHA-256 of bytes.
pub fn sha256(bytes: &[u8]) -> Digest {
    Digest(sha2::Sha256::digest(bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::{ED25519, UnparsedPublicKey};

    fn pki() -> (tempfile::TempDir, Pki) {
        let dir = tempfile::tempdir().expect("a folder");
        create(dir.path()).expect("keys");
        let pki = Pki::load(dir.path(), &Names::default()).expect("loads");
        (dir, pki)
    }

    #[test]
    fn keys_are_readable_by_their_owner_alone_and_survive() {
        use std::os::unix::fs::PermissionsExt;
        let (dir, first) = pki();
        for key in ["ca.key", "grant.key"] {
            let mode = std::fs::metadata(dir.path().join(key)).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{key}");
        }
        let again = Pki::load(dir.path(), &Names::default()).expect("loads again");
        assert_eq!((again.ca_sha256(), again.grant_key()), (first.ca_sha256(), first.grant_key()));
        assert_eq!(leaf_sha256(first.ca_pem()), Some(first.ca_sha256()));
    }

    #[test]
    fn a_grant_is_signed_over_its_context() {
        let (_dir, pki) = pki();
        let grant = Grant {
            user: model::UserId(1),
            vm: model::VmId(2),
            host: HostId(3),
            expires: 4,
            login: "ann".into(),
            params: Vec::new(),
        };
        let signed = pki.sign(&grant).expect("signs");
        let key = UnparsedPublicKey::new(&ED25519, pki.grant_key());
        key.verify(&SignedGrant::signed_bytes(&signed.body), &signed.signature).expect("the signature is right");
        key.verify(&signed.body, &signed.signature).expect_err("and covers the context");
    }

    #[test]
    fn a_request_decides_nothing_but_the_key() {
        let (_dir, pki) = pki();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let mut wish = CertificateParams::new(vec![STORE_NAME.to_owned()]).expect("params");
        wish.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let csr = wish.serialize_request(&key).expect("a request");
        let issued = pki.node_certificate(HostId(7), "node7", csr.der()).expect("signed");
        let (_, certificate) =
            x509_parser::certificate::X509Certificate::from_der(&issued.certificate).expect("parses");
        assert!(!certificate.is_ca());
        let names = certificate.subject_alternative_name().expect("parses").expect("there").value;
        assert_eq!(format!("{names:?}").matches("DNSName").count(), 1);
        assert!(format!("{names:?}").contains("7.node.roost.internal"));
        assert_eq!(certificate_key_sha256(&issued.certificate), request_key_sha256(csr.der()).ok());
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let (_dir, pki) = pki();
        let make = || pki.router_certificate(HostId(1), "n", IpAddr::from([10, 0, 0, 1])).expect("made");
        let (one, two) = (make(), make());
        check_pair(&one).expect("fits");
        let mixed = RouterTls { chain: one.chain, key: two.key };
        assert!(check_pair(&mixed).expect_err("refused").to_string().contains("do not fit together"));
        let text = RouterTls { chain: "hello".into(), key: "world".into() };
        assert!(check_pair(&text).is_err());
    }

    #[test]
    fn a_request_that_is_cut_or_forged_is_refused() {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let csr = CertificateParams::default().serialize_request(&key).expect("a request").der().to_vec();
        assert!(request_key_sha256(&csr[..csr.len() - 1]).is_err());
        assert!(request_key_sha256(&[&csr[..], &[0]].concat()).is_err());
        let mut forged = csr.clone();
        let last = forged.len() - 1;
        forged[last] ^= 1;
        assert!(request_key_sha256(&forged).is_err());
        request_key_sha256(&csr).expect("the whole one is good");
    }
}
