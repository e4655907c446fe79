//! A TPM 2.0 for a machine, in software (swtpm). What makes one TPM differ from another is in its folder.

use super::{Lab, LabError, Process, file};
use std::{path::PathBuf, process::Command, time::Duration};

/// A running TPM.
#[derive(Debug)]
pub(super) struct Tpm {
    socket: PathBuf,
    _process: Process,
}

impl Tpm {
    /// Starts the TPM of this name, as its last run has left it. It ends with the machine that it is plugged into.
    pub(super) fn start(lab: &Lab, name: &str) -> Result<Self, LabError> {
        let (folder, socket) = (lab.path(&format!("{name}.tpm")), lab.path(&format!("{name}.tpm.sock")));
        file("make", &folder, std::fs::create_dir_all)?;
        if socket.exists() {
            file("remove", &socket, std::fs::remove_file)?;
        }
        let mut command = Command::new("swtpm");
        command.args(["socket", "--tpm2", "--terminate"]);
        command.arg("--tpmstate").arg(format!("dir={}", folder.display()));
        command.arg("--ctrl").arg(format!("type=unixio,path={}", socket.display()));
        let mut process = Process::start("swtpm", lab.path(&format!("{name}.tpm.log")), &mut command)?;
        process.wait_until("its socket", Duration::from_secs(20), || socket.exists().then_some(()))?;
        Ok(Self { socket, _process: process })
    }

    /// QEMU's arguments.
    pub(super) fn args(&self) -> [(&'static str, String); 3] {
        [
            ("-chardev", format!("socket,id=tpm,path={}", self.socket.display())),
            ("-tpmdev", "emulator,id=tpm,chardev=tpm".to_owned()),
            ("-device", "tpm-crb,tpmdev=tpm".to_owned()),
        ]
    }
}
