//! Keys as `roost keys` makes them, held against OpenSSL and the signing tools where these are installed.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use super::*;

/// One folder for all tests: making RSA keys takes a while.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let made = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        keys::make(&folder.path().join("keys"), [2026, 11, 21, 12, 0, 0]).expect("keys");
        folder
    });
    Box::leak(made.path().join("keys").into_boxed_path())
}

fn with(signer: Option<String>) -> SignWith {
    SignWith { keys: folder().to_owned(), signer, threshold: 1, public: false }
}

/// Whether a program that is there says yes; `None` where it is not installed.
fn agrees(program: &str, args: &[&str]) -> Option<(bool, String)> {
    let output = Command::new(program).args(args).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

#[test]
fn secret_keys_are_for_their_owner_alone_and_never_written_over() {
    for entry in std::fs::read_dir(folder()).expect("a folder") {
        let path = entry.expect("an entry").path();
        let secret = path.extension().is_some_and(|e| e == "key");
        let mode = std::fs::metadata(&path).expect("a file").permissions().mode() & 0o777;
        assert_eq!(mode & 0o077 == 0, secret, "{} {mode:o}", path.display());
    }
    assert_eq!(std::fs::read_dir(folder()).expect("a folder").count(), 17);
    let again = keys::make(folder(), [2027, 1, 1, 0, 0, 0]).expect_err("refused");
    assert!(matches!(again, SignError::Exists { .. }), "{again}");
}

#[test]
fn openssl_reads_keys_and_certificates() {
    for variable in efi::VARIABLES {
        let path = |suffix| folder().join(keys::file(variable, suffix)).display().to_string();
        let Some((good, text)) = agrees("openssl", &["x509", "-in", &path("pem"), "-noout", "-text"]) else { return };
        assert!(good && text.contains(variable.common_name()) && text.contains("2048 bit"), "{text}");
        let (good, text) = agrees("openssl", &["rsa", "-in", &path("key"), "-check", "-noout"]).expect("openssl");
        assert!(good, "{text}");
        let (good, text) = agrees("openssl", &["verify", "-CAfile", &path("pem"), &path("pem")]).expect("openssl");
        assert!(good, "{text}");
    }
}

#[test]
fn openssl_takes_the_signature_of_a_variable() {
    let (der, pem) = (folder().join("KEK.der"), folder().join("KEK.pem"));
    let key =
        keyring::RsaKey::parse(&std::fs::read_to_string(folder().join("KEK.key")).expect("a key")).expect("a key");
    let certificate = std::fs::read(der).expect("a certificate");
    let data = pkcs7::detached(b"a variable", &certificate, &|bytes| key.sign(bytes)).expect("signed");
    let oid = der::element(der::OID, &[&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02]]);
    let whole = der::element(der::SEQUENCE, &[&oid, &der::element(der::context(0), &[&data])]);
    let scratch = tempfile::tempdir().expect("a folder");
    let (signature, content) = (scratch.path().join("p7"), scratch.path().join("content"));
    std::fs::write(&signature, whole).expect("written");
    for (bytes, expect) in [("a variable", true), ("another", false)] {
        std::fs::write(&content, bytes).expect("written");
        let (signature, content) = (signature.display().to_string(), content.display().to_string());
        let pem = pem.display().to_string();
        let args = ["cms", "-verify", "-inform", "DER", "-in", &signature, "-content", &content, "-binary"];
        let args = [&args[..], &["-certfile", &pem, "-CAfile", &pem, "-purpose", "any", "-no_check_time"]].concat();
        let Some((good, text)) = agrees("openssl", &args) else { return };
        assert_eq!(good, expect, "{text}");
    }
}

#[test]
fn a_set_is_signed_as_nodes_check_it_and_always_alike() {
    let ring = Keyring::open(&with(None)).expect("keys");
    let sign = || ring.sign_set(b"a manifest", "node.set", 1_790_000_000).expect("signed").expect("a signature");
    let signature = sign();
    assert_eq!(sign(), signature);
    let by = ring.trusted().check(b"a manifest", std::slice::from_ref(&signature)).expect("trusted");
    assert_eq!(by.len(), 1);
    let error = ring.trusted().check(b"another", &[signature]).expect_err("altered");
    assert!(matches!(error, SetError::Altered { .. }), "{error}");
}

/// A signer that keeps its keys to itself: OpenSSL with those of the folder.
fn openssl_signer(scratch: &Path, update: &str) -> String {
    let script = scratch.join("signer");
    let text = format!(
        "#!/bin/sh\nset -e\ncd {}\ncat > {1}/in\ncase $1 in\n\
         db) exec openssl dgst -sha256 -sign db.key {1}/in;;\nupdate) {update};;\nesac\n",
        folder().display(),
        scratch.display()
    );
    std::fs::write(&script, text).expect("written");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("executable");
    script.display().to_string()
}

#[test]
fn a_signer_elsewhere_gives_the_same_bytes_and_a_wrong_one_is_told() {
    if agrees("openssl", &["version"]).is_none() {
        return;
    }
    let scratch = tempfile::tempdir().expect("a folder");
    let asked = Keyring::open(&with(Some(openssl_signer(scratch.path(), "echo nothing")))).expect("keys");
    let program = program();
    let ours = Keyring::open(&with(None)).expect("keys").sign_program("a test", &program).expect("signed");
    assert_eq!(asked.sign_program("a test", &program).expect("signed"), ours);
    let error = asked.sign_set(b"a manifest", "node.set", 1).expect_err("no signature");
    assert!(error.to_string().contains("'update' does not fit"), "{error}");
    for (command, expect) in [("false", "ended with exit status: 1"), ("/nowhere/at/all", "cannot be started")] {
        let ring = Keyring::open(&with(Some(command.into()))).expect("keys");
        let error = ring.sign_program("a test", &program).expect_err("failed").to_string();
        assert!(error.contains(expect), "{error}");
    }
}

/// A real EFI program: the stub of another test will not do for sbverify.
fn program() -> Vec<u8> {
    crate::assemble::tests::stub()
}

#[test]
fn sbverify_takes_what_we_sign_and_nothing_else() {
    let ring = Keyring::open(&with(None)).expect("keys");
    let signed = ring.sign_program("a test", &program()).expect("signed");
    assert_eq!(image::authenticode::strip(&signed).expect("a program"), program());
    let scratch = tempfile::tempdir().expect("a folder");
    let path = scratch.path().join("program.efi");
    let mut altered = signed.clone();
    altered[0x610] ^= 1;
    for (bytes, certificate, expect) in
        [(&signed, "db.pem", true), (&altered, "db.pem", false), (&signed, "KEK.pem", false)]
    {
        std::fs::write(&path, bytes).expect("written");
        let (certificate, path) = (folder().join(certificate).display().to_string(), path.display().to_string());
        let Some((good, text)) = agrees("sbverify", &["--cert", &certificate, &path]) else { return };
        assert_eq!(good, expect, "{text}");
    }
}

#[test]
fn a_folder_without_keys_says_what_is_missing() {
    let empty = tempfile::tempdir().expect("a folder");
    let ask = SignWith { keys: empty.path().to_owned(), signer: None, threshold: 1, public: false };
    let error = Keyring::open(&ask).expect_err("no keys").to_string();
    assert!(error.contains("update.pub"), "{error}");
    let error = Keyring::open(&SignWith { threshold: 2, ..with(None) }).expect_err("too many");
    assert!(matches!(error, SignError::Trust { .. }), "{error}");
}
