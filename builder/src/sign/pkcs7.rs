//! PKCS#7 with one signer and no time in it: the same input gives the same bytes.

use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::SignError;
use super::der::{BITS, INTEGER, NULL, OCTETS, OID, SEQUENCE, SET, context, element};

/// 1.2.840.113549.1.7.1, `data`.
const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
/// 1.2.840.113549.1.7.2, `signedData`.
const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
/// 1.2.840.113549.1.9.3, `contentType`.
const CONTENT_TYPE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x03];
/// 1.2.840.113549.1.9.4, `messageDigest`.
const MESSAGE_DIGEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x04];
/// 1.2.840.113549.1.1.1, `rsaEncryption`.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
/// 2.16.840.1.101.3.4.2.1.
const SHA256: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];
/// 1.3.6.1.4.1.311.2.1.4, `SPC_INDIRECT_DATA`.
const SPC_INDIRECT_DATA: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x01, 0x04];
/// 1.3.6.1.4.1.311.2.1.15, `SPC_PE_IMAGE_DATA`.
const SPC_PE_IMAGE_DATA: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x01, 0x0f];
/// What every signer writes where a file name once stood.
const OBSOLETE: &str = "<<<Obsolete>>>";

/// Signs bytes by RSA with SHA-256 (PKCS#1 v1.5).
pub type Signs<'a> = &'a dyn Fn(&[u8]) -> Result<Vec<u8>, SignError>;

/// The Authenticode signature of a program with this digest.
pub fn authenticode(digest: &[u8; 32], certificate: &[u8], sign: Signs<'_>) -> Result<Vec<u8>, SignError> {
    let name: Vec<u8> = OBSOLETE.encode_utf16().flat_map(u16::to_be_bytes).collect();
    let file = element(context(0), &[&element(context(2), &[&element(0x80, &[&name])])]);
    let image = element(SEQUENCE, &[&element(BITS, &[&[0]]), &file]);
    let kind = element(SEQUENCE, &[&element(OID, &[SPC_PE_IMAGE_DATA]), &image]);
    let said = element(SEQUENCE, &[&algorithm(SHA256), &element(OCTETS, &[digest])]);
    let content = [kind, said].concat();
    let indirect = element(SEQUENCE, &[&content]);

    let attributes = [
        attribute(CONTENT_TYPE, &element(OID, &[SPC_INDIRECT_DATA])),
        attribute(MESSAGE_DIGEST, &element(OCTETS, &[&Sha256::digest(&content)])),
    ]
    .concat();
    let signature = sign(&element(SET, &[&attributes]))?;
    let encapsulated = element(SEQUENCE, &[&element(OID, &[SPC_INDIRECT_DATA]), &element(context(0), &[&indirect])]);
    let data = signed_data(&encapsulated, &element(context(0), &[&attributes]), certificate, &signature)?;
    Ok(element(SEQUENCE, &[&element(OID, &[SIGNED_DATA]), &element(context(0), &[&data])]))
}

/// The signature of bytes that lie elsewhere, as firmware wants it of a variable: bare `SignedData`.
pub fn detached(bytes: &[u8], certificate: &[u8], sign: Signs<'_>) -> Result<Vec<u8>, SignError> {
    signed_data(&element(SEQUENCE, &[&element(OID, &[DATA])]), &[], certificate, &sign(bytes)?)
}

fn signed_data(
    encapsulated: &[u8],
    attributes: &[u8],
    certificate: &[u8],
    signature: &[u8],
) -> Result<Vec<u8>, SignError> {
    let bad = |problem: String| SignError::Certificate { problem };
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| bad(error.to_string()))?;
    let serial = element(INTEGER, &[parsed.tbs_certificate.raw_serial()]);
    let signer = element(
        SEQUENCE,
        &[
            &element(INTEGER, &[&[1]]),
            &element(SEQUENCE, &[parsed.tbs_certificate.issuer.as_raw(), &serial]),
            &algorithm(SHA256),
            attributes,
            &algorithm(RSA),
            &element(OCTETS, &[signature]),
        ],
    );
    let parts = [
        &element(INTEGER, &[&[1]]),
        &element(SET, &[&algorithm(SHA256)]),
        encapsulated,
        &element(context(0), &[certificate]),
        &element(SET, &[&signer]),
    ];
    Ok(element(SEQUENCE, &parts))
}

fn algorithm(oid: &[u8]) -> Vec<u8> {
    element(SEQUENCE, &[&element(OID, &[oid]), &element(NULL, &[])])
}

fn attribute(oid: &[u8], value: &[u8]) -> Vec<u8> {
    element(SEQUENCE, &[&element(OID, &[oid]), &element(SET, &[value])])
}
