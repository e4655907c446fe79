//! A machine in QEMU: the image under test on emulated hardware.

use super::{
    Chaos, Console, Lab, LabError, Lan, Process, Qmp, file, free_port, lan::Plug, process::run, reads, tpm::Tpm, vars,
};
use serde_json::json;
use std::{
    ops::Range,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// How a machine finds its kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// UEFI firmware starts the boot loader on the disk: the whole path, from power-on.
    Uefi,
    /// QEMU loads kernel and initrd that lie beside the image; quicker, the rest is the same.
    Direct,
}

/// What lies between a machine and its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filter {
    None,
    Recorded,
    /// Writes to the sector at this byte fail.
    FailingWrites(u64),
}

/// What to boot and on which hardware.
#[derive(Clone, Debug)]
pub struct Boot {
    name: String,
    image: PathBuf,
    firmware: Firmware,
    memory_mib: u32,
    disk_gib: u32,
    seed: Option<String>,
    plug: Option<Plug>,
    extra: Vec<String>,
    chaos: bool,
    filter: Filter,
    keys: Option<PathBuf>,
    typing: bool,
    traced: bool,
    tpm: Option<String>,
}

impl Boot {
    /// `image` is a raw disk image of `roost build`; it is never written: the machine writes to an overlay.
    pub fn new(image: impl Into<PathBuf>) -> Self {
        Self {
            name: "node1".to_owned(),
            image: image.into(),
            firmware: Firmware::Uefi,
            memory_mib: 3072,
            disk_gib: DISK_GIB,
            seed: None,
            plug: None,
            extra: Vec::new(),
            chaos: false,
            filter: Filter::None,
            keys: None,
            typing: false,
            traced: false,
            tpm: None,
        }
    }

    /// Name of the machine in the lab; its disk is kept under it from boot to boot.
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// How it finds its kernel; UEFI unless said otherwise.
    pub fn firmware(mut self, firmware: Firmware) -> Self {
        self.firmware = firmware;
        self
    }

    /// Memory; 3 GiB unless said otherwise.
    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// Size of its disk; [`DISK_GIB`] unless said otherwise. Only what is written takes room on this host.
    pub fn disk_gib(mut self, gib: u32) -> Self {
        self.disk_gib = gib;
        self
    }

    /// The seed it finds in fw_cfg.
    pub fn seed(mut self, seed: String) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Boots it so that it takes faults: see [`Machine::chaos`].
    pub fn chaos(mut self) -> Self {
        self.chaos = true;
        self
    }

    /// Records all that it writes to its disk: see [`Machine::recording`].
    pub fn recorded(mut self) -> Self {
        self.filter = Filter::Recorded;
        self
    }

    /// Writes down what it reads of its disk: see [`Machine::reads`].
    pub fn traced(mut self) -> Self {
        self.traced = true;
        self
    }

    /// Its disk fails, as one with a bad sector, whenever something is written to the sector at this byte.
    pub fn failing_writes(mut self, at: u64) -> Self {
        self.filter = Filter::FailingWrites(at);
        self
    }

    /// Its firmware starts only what the keys of this folder (of `roost keys`) signed: Secure Boot is on.
    pub fn secure_boot(mut self, keys: &Path) -> Self {
        self.firmware = Firmware::Uefi;
        self.keys = Some(keys.to_owned());
        self
    }

    /// Somebody may type on its serial console: see [`Machine::serial`].
    pub fn typing(mut self) -> Self {
        self.typing = true;
        self
    }

    /// Plugs in the TPM 2.0 of this name, which stays in the lab from boot to boot; without one the machine has none.
    pub fn tpm(mut self, name: &str) -> Self {
        self.tpm = Some(name.to_owned());
        self
    }

    /// Plugs it into a shared network, at the place of its name, instead of a network of its own.
    pub fn lan(mut self, lan: &Lan) -> Result<Self, LabError> {
        self.plug = Some(lan.plug(&self.name)?.clone());
        Ok(self)
    }

    /// More arguments for QEMU.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.extra.extend(args.iter().map(|a| (*a).to_owned()));
        self
    }
}

/// Size of a machine's disk unless said otherwise.
pub(super) const DISK_GIB: u32 = 8;

/// A running machine. Dropping it is pulling its plug.
#[derive(Debug)]
pub struct Machine {
    name: String,
    process: Process,
    _tpm: Option<Tpm>,
    console: Console,
    qmp: PathBuf,
    chaos: PathBuf,
    writes: PathBuf,
    reads: PathBuf,
    serial: PathBuf,
    router_port: u16,
    started: Instant,
}

/// The host's UEFI firmware, by Debian's package ovmf.
const OVMF_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const OVMF_VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
/// The same with Secure Boot: its variables are out of the system's reach, by system management mode.
const OVMF_SECURE: &str = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd";

impl Machine {
    pub(super) fn start(lab: &Lab, boot: Boot) -> Result<Self, LabError> {
        let files = Files::prepare(lab, &boot)?;
        let router_port = boot.plug.as_ref().map_or_else(free_port, |p| Ok(p.router_port))?;
        // QEMU truncates the console's file at start: an earlier boot's text must not be taken for this one's.
        file("empty", &files.console, |p| std::fs::write(p, b""))?;
        let mut command = Command::new("qemu-system-x86_64");
        let tpm = boot.tpm.as_ref().map(|name| Tpm::start(lab, name)).transpose()?;
        command.args(hardware(&boot, &files, router_port)?).args(&boot.extra);
        for (flag, value) in tpm.iter().flat_map(Tpm::args) {
            command.arg(flag).arg(value);
        }
        let started = Instant::now();
        let mut process = Process::start("qemu-system-x86_64", files.log.clone(), &mut command)?;
        let qmp = files.qmp.clone();
        process.wait_until("QEMU's control socket", Duration::from_secs(20), || qmp.exists().then_some(()))?;
        Ok(Self {
            name: boot.name,
            process,
            _tpm: tpm,
            console: Console::at(files.console),
            qmp: files.qmp,
            chaos: files.chaos,
            writes: files.writes,
            reads: files.reads,
            serial: files.serial,
            router_port,
            started,
        })
    }

    /// Its name in the lab.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its serial console.
    pub fn console(&mut self) -> &mut Console {
        &mut self.console
    }

    /// Port on 127.0.0.1 that leads to its router (8443).
    pub fn router_port(&self) -> u16 {
        self.router_port
    }

    /// When its power came on.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Its QEMU process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// A new connection to its control socket.
    pub fn qmp(&self) -> Result<Qmp, LabError> {
        Qmp::connect(&self.qmp)
    }

    /// Its port for faults; it must have been booted with [`Boot::chaos`].
    pub fn chaos(&self) -> Result<Chaos, LabError> {
        Chaos::connect(&self.chaos)
    }

    /// The log of its writes, for [`super::Recording::read`] once it is off; it must have been booted with
    /// [`Boot::recorded`].
    pub fn recording(&self) -> &Path {
        &self.writes
    }

    /// Byte ranges of its disk, in the order in which it has read them; it must have been booted with [`Boot::traced`].
    /// What lies in QEMU's own buffers comes when it ends.
    pub fn reads(&self) -> Result<Vec<Range<u64>>, LabError> {
        reads::of(&self.reads)
    }

    /// The other end of its serial line; it must have been booted with [`Boot::typing`]. Whoever closes it may take
    /// back what the machine has not read yet.
    pub fn serial(&self) -> Result<UnixStream, LabError> {
        let failed = |source| LabError::Connection { peer: self.serial.display().to_string(), source };
        UnixStream::connect(&self.serial).map_err(failed)
    }

    /// Presses the power button (ACPI).
    pub fn press_power_button(&self) -> Result<(), LabError> {
        self.qmp()?.command("system_powerdown", json!({})).map(drop)
    }

    /// Presses Ctrl-Alt-Del: an orderly reboot.
    pub fn press_ctrl_alt_del(&self) -> Result<(), LabError> {
        let keys: Vec<_> = ["ctrl", "alt", "delete"].iter().map(|k| json!({ "type": "qcode", "data": k })).collect();
        self.qmp()?.command("send-key", json!({ "keys": keys })).map(drop)
    }

    /// Waits until it has powered itself off.
    pub fn wait_off(&mut self, limit: Duration) -> Result<(), LabError> {
        if self.process.wait_end(limit) {
            return Ok(());
        }
        let log = self.console.log().to_owned();
        Err(LabError::Timeout { what: "power-off".to_owned(), limit, log })
    }

    /// Presses the power button and waits for the machine to go off; pulls the plug after `limit`.
    pub fn shut_down(mut self, limit: Duration) -> Result<(), LabError> {
        self.press_power_button()?;
        self.wait_off(limit)
    }
}

/// The files of one machine in the lab's folder.
struct Files {
    disk: PathBuf,
    vars: PathBuf,
    console: PathBuf,
    log: PathBuf,
    qmp: PathBuf,
    chaos: PathBuf,
    writes: PathBuf,
    reads: PathBuf,
    serial: PathBuf,
    seed: Option<PathBuf>,
}

impl Files {
    /// Makes what is missing. Disk and firmware variables are kept from an earlier boot of this name.
    fn prepare(lab: &Lab, boot: &Boot) -> Result<Self, LabError> {
        let path = |suffix: &str| lab.path(&format!("{}.{suffix}", boot.name));
        let files = Self {
            disk: path("qcow2"),
            vars: path("vars.fd"),
            console: path("console.log"),
            log: path("qemu.log"),
            qmp: path("qmp"),
            chaos: path("chaos"),
            writes: path("writes"),
            reads: path("reads"),
            serial: path("serial"),
            seed: boot.seed.as_ref().map(|_| path("seed.toml")),
        };
        if !files.disk.exists() {
            let image = file("find", &boot.image, std::fs::canonicalize)?;
            overlay(&image, &files.disk, boot.disk_gib)?;
        }
        if boot.firmware == Firmware::Uefi && !files.vars.exists() {
            match &boot.keys {
                Some(keys) => vars::enrol(Path::new(OVMF_VARS), keys, &files.vars)?,
                None => file("copy", Path::new(OVMF_VARS), |p| std::fs::copy(p, &files.vars)).map(drop)?,
            }
        }
        if boot.filter == Filter::Recorded {
            file("empty", &files.writes, |p| std::fs::write(p, b""))?;
        }
        if let (Some(path), Some(text)) = (&files.seed, &boot.seed) {
            file("write", path, |p| std::fs::write(p, text))?;
        }
        if files.qmp.exists() {
            file("remove", &files.qmp, std::fs::remove_file)?;
        }
        Ok(files)
    }
}

/// Makes a disk that reads as `image` and grows on `disk`.
pub(super) fn overlay(image: &Path, disk: &Path, gib: u32) -> Result<(), LabError> {
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]).arg(image).arg(disk).arg(format!("{gib}G"));
    run(&mut command).map(drop)
}

/// A card on a network that has this machine and the host alone.
fn own_network(router_port: u16) -> [(&'static str, String); 2] {
    let user = format!("user,id=net,hostfwd=tcp:127.0.0.1:{router_port}-:8443");
    [("-netdev", user), ("-device", "virtio-net-pci,netdev=net,romfile=".to_owned())]
}

/// Its disk. Flushes go no further than they must: a machine's power is cut by ending QEMU, not this host.
fn disk(boot: &Boot, files: &Files) -> Vec<(&'static str, String)> {
    let disk = files.disk.display();
    let file = |name: &str, path: &Path| {
        let path = path.display();
        format!("driver=file,node-name={name},filename={path},discard=unmap,cache.no-flush=on")
    };
    let image = "driver=qcow2,node-name=image,file=file,discard=unmap,cache.no-flush=on".to_owned();
    let beneath = [("-blockdev", file("file", &files.disk)), ("-blockdev", image)];
    let filter = match boot.filter {
        Filter::None => {
            return vec![("-drive", format!("if=none,id=disk,file={disk},format=qcow2,cache=unsafe,discard=unmap"))];
        }
        Filter::Recorded => vec![
            ("-blockdev", file("log", &files.writes)),
            ("-blockdev", "driver=blklogwrites,node-name=disk,file=image,log=log,log-sector-size=512".to_owned()),
        ],
        Filter::FailingWrites(at) => {
            let rule = format!("event=none,inject-error.0.iotype=write,inject-error.0.sector={}", at / 512);
            vec![("-blockdev", format!("driver=blkdebug,node-name=disk,image=image,inject-error.0.{rule}"))]
        }
    };
    beneath.into_iter().chain(filter).collect()
}

/// QEMU's arguments. TCG: these machines must boot where there is no hardware virtualisation at all.
fn hardware(boot: &Boot, files: &Files, router_port: u16) -> Result<Vec<String>, LabError> {
    let mut args: Vec<String> = Vec::new();
    let mut add = |flag: &str, value: String| args.extend([flag.to_owned(), value]);
    add("-name", boot.name.clone());
    add("-machine", if boot.keys.is_some() { "q35,smm=on" } else { "q35" }.to_owned());
    add("-accel", "tcg,thread=multi".to_owned());
    add("-cpu", "max".to_owned());
    add("-smp", "2".to_owned());
    add("-m", boot.memory_mib.to_string());
    add("-display", "none".to_owned());
    if boot.typing {
        let (port, log) = (files.serial.display(), files.console.display());
        add("-chardev", format!("socket,id=serial,path={port},server=on,wait=off,logfile={log}"));
        add("-serial", "chardev:serial".to_owned());
    } else {
        add("-serial", format!("file:{}", files.console.display()));
    }
    add("-qmp", format!("unix:{},server=on,wait=off", files.qmp.display()));
    for (flag, value) in disk(boot, files) {
        add(flag, value);
    }
    add("-device", "virtio-blk-pci,drive=disk".to_owned());
    for (flag, value) in boot.plug.as_ref().map_or_else(|| own_network(router_port), Plug::args) {
        add(flag, value);
    }
    if boot.traced {
        add("-trace", format!("enable=virtio_blk_handle_read,file={}", files.reads.display()));
    }
    add("-device", "virtio-rng-pci".to_owned());
    // The chipset has a watchdog, of the slower kind: it counts down twice before it bites.
    add("-action", "watchdog=reset".to_owned());
    if boot.chaos {
        add("-device", "virtio-serial-pci".to_owned());
        add("-chardev", format!("socket,id=chaos,path={},server=on,wait=off", files.chaos.display()));
        add("-device", "virtserialport,chardev=chaos,name=roost.chaos".to_owned());
    }
    let words = if boot.chaos { "console=ttyS0 roost.chaos" } else { "console=ttyS0" };
    if let Some(seed) = &files.seed {
        add("-fw_cfg", format!("name={},file={}", model::seed::FW_CFG, seed.display()));
    }
    match boot.firmware {
        Firmware::Uefi => {
            let code = if boot.keys.is_some() { OVMF_SECURE } else { OVMF_CODE };
            if boot.keys.is_some() {
                add("-global", "driver=cfi.pflash01,property=secure,value=on".to_owned());
            }
            add("-drive", format!("if=pflash,unit=0,format=raw,readonly=on,file={code}"));
            add("-drive", format!("if=pflash,unit=1,format=raw,file={}", files.vars.display()));
            // The image has no serial console (a machine without a UART would wait for it); the stub takes
            // more command line from SMBIOS as long as Secure Boot is off.
            add("-smbios", format!("type=11,value=io.systemd.stub.kernel-cmdline-extra={words}"));
        }
        Firmware::Direct => {
            let beside = |suffix: &str| boot.image.with_extension(suffix);
            let cmdline = file("read", &beside("cmdline"), std::fs::read_to_string)?;
            add("-kernel", beside("vmlinuz").display().to_string());
            add("-initrd", beside("initrd").display().to_string());
            add("-append", format!("{} {words}", cmdline.trim()));
        }
    }
    Ok(args)
}
