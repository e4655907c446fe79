//! Against a TPM 2.0 in software (swtpm), where this host has one: it keeps each command to the letter.

use super::*;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A TPM that lasts as long as its handle; its seeds are those of its folder.
struct Software {
    process: Child,
    tpm: Tpm<UnixStream>,
}

impl Drop for Software {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// None where there is no swtpm.
#[expect(clippy::disallowed_methods, reason = "a test is no PID 1, and std waits for it")]
fn start(folder: &Path) -> Option<Software> {
    let (server, control) = (folder.join("server"), folder.join("control"));
    for socket in [&server, &control] {
        let _absent = std::fs::remove_file(socket);
    }
    let process = Command::new("swtpm")
        .args(["socket", "--tpm2", "--flags", "startup-clear,not-need-init"])
        .arg("--tpmstate")
        .arg(format!("dir={}", folder.display()))
        .arg("--server")
        .arg(format!("type=unixio,path={}", server.display()))
        .arg("--ctrl")
        .arg(format!("type=unixio,path={}", control.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        match UnixStream::connect(&server) {
            Ok(stream) => return Some(Software { process, tpm: Tpm::new(stream) }),
            Err(e) => assert!(Instant::now() < until, "swtpm does not listen: {e}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// `TPM2_PCR_Extend`, as the firmware would.
fn extend(tpm: &mut Tpm<UnixStream>) {
    let body = wire::Writer::new().u32(1).u16(0x000b).bytes().into_iter().chain([1; DIGEST]);
    let body = body.fold(wire::Writer::new(), wire::Writer::u8);
    let command = wire::authorised(0x182, PCR.into(), 0x4000_0009, body);
    command::done(&tpm.call(&command).expect("an answer")).expect("extended");
}

#[test]
fn a_secret_is_opened_by_its_tpm_and_its_pcr_alone() {
    let (mine, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let Some(mut first) = start(mine.path()) else { return };
    let before = first.tpm.pcr().expect("reads");
    let sealed = first.tpm.seal(b"the secret").expect("seals");
    // More often than a TPM has places: nothing is left behind.
    for _ in 0..5 {
        assert_eq!(first.tpm.unseal(&sealed).expect("opens"), b"the secret");
    }
    extend(&mut first.tpm);
    assert_ne!(first.tpm.pcr().expect("reads"), before);
    for _ in 0..5 {
        assert!(matches!(first.tpm.unseal(&sealed), Err(TpmError::Changed)));
    }
    let again = first.tpm.seal(b"the secret").expect("seals anew");
    assert_eq!(first.tpm.unseal(&again).expect("opens"), b"the secret");
    drop(first);

    let mut rebooted = start(mine.path()).expect("starts");
    assert_eq!(rebooted.tpm.unseal(&sealed).expect("opens"), b"the secret");
    assert!(matches!(rebooted.tpm.unseal(&again), Err(TpmError::Changed)));

    let mut stranger = start(other.path()).expect("starts");
    assert!(matches!(stranger.tpm.unseal(&sealed), Err(TpmError::Foreign)));
    let mut bent = sealed.clone();
    bent.private[20] ^= 1;
    assert!(matches!(rebooted.tpm.unseal(&bent), Err(TpmError::Foreign)));
    bent = sealed;
    bent.public.truncate(4);
    assert!(matches!(rebooted.tpm.unseal(&bent), Err(TpmError::Refused(_))));
}
