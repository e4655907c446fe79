//! A store of the lab, and the administrator who works with it.

use super::{BOOT_LIMIT, Lab, LabError, Line, Machine, Process, file, free_port, process::run};
use serde_json::Value;
use std::{
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// Address of this host as a machine on QEMU's user network sees it.
pub(super) const HOST_IN_MACHINE: &str = "10.0.2.2";

fn address(port: u16) -> String {
    format!("store={HOST_IN_MACHINE}:{port}")
}

/// A running store with its database in the lab's folder.
#[derive(Debug)]
pub struct Store {
    process: Option<Process>,
    program: PathBuf,
    qa: PathBuf,
    dir: PathBuf,
    ports: Ports,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    admin: u16,
    node: u16,
}

impl Store {
    pub(super) fn start(lab: &Lab) -> Result<Self, LabError> {
        let dir = lab.path("store");
        file("make", &dir, std::fs::create_dir_all)?;
        let ports = Ports { admin: free_port()?, node: free_port()? };
        let mut store = Self { process: None, program: lab.program("store"), qa: lab.program("qa"), dir, ports };
        store.resume()?;
        Ok(store)
    }

    /// Starts it on the same database and ports, after [`Store::stop`].
    pub fn resume(&mut self) -> Result<(), LabError> {
        let Self { ports, .. } = *self;
        let mut command = Command::new(&self.program);
        command.arg("serve").arg("--db").arg(self.database());
        command.args(["--listen", &format!("127.0.0.1:{}", ports.admin)]);
        command.args(["--node-listen", &format!("127.0.0.1:{}", ports.node)]);
        command.arg("--images").arg(self.images());
        let mut process = Process::start("store", self.dir.join("store.log"), &mut command)?;
        let config = self.config();
        process.wait_until("the store's listeners", Duration::from_secs(60), || {
            let listens = |port| TcpStream::connect(("127.0.0.1", port)).is_ok();
            (config.exists() && listens(ports.admin) && listens(ports.node)).then_some(())
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Stops it; its database stays.
    pub fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            process.stop(Duration::from_secs(10));
        }
    }

    /// Kills it (SIGKILL): what it had not written is lost, and nobody hears of its end.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Its log.
    pub fn log(&self) -> PathBuf {
        self.dir.join("store.log")
    }

    /// The folder of its image repository.
    pub fn images(&self) -> PathBuf {
        self.dir.join("images")
    }

    /// Its database, as its commands take it.
    pub fn database(&self) -> String {
        format!("sqlite:{}", self.dir.join("store.db").display())
    }

    /// Certificate of its cluster's CA.
    pub fn ca(&self) -> PathBuf {
        self.dir.join("pki/ca.pem")
    }

    /// The file that tells `qa` how to reach it.
    pub fn config(&self) -> PathBuf {
        self.dir.join("qa.toml")
    }

    /// The `qa` program of this build.
    pub fn qa_program(&self) -> &Path {
        &self.qa
    }

    /// Runs `qa` and returns what it printed.
    pub fn qa(&self, args: &[&str]) -> Result<String, LabError> {
        run(Command::new(&self.qa).arg("--config").arg(self.config()).args(args))
    }

    /// Runs `qa` with a line on its standard input: a password that no process list shows.
    pub fn qa_with_input(&self, args: &[&str], input: &str) -> Result<String, LabError> {
        let path = self.dir.join("qa.input");
        file("write", &path, |p| std::fs::write(p, format!("{input}\n")))?;
        let stdin = file("read", &path, std::fs::File::open)?;
        file("remove", &path, std::fs::remove_file)?;
        run(Command::new(&self.qa).arg("--config").arg(self.config()).args(args).stdin(stdin))
    }

    /// What `qa --json` prints.
    pub fn json(&self, args: &[&str]) -> Result<Value, LabError> {
        let text = self.qa(&[&["--json"], args].concat())?;
        serde_json::from_str(&text).map_err(|_| LabError::Answer {
            peer: format!("qa {}", args.join(" ")),
            found: text,
            expected: "JSON".to_owned(),
        })
    }

    /// The first object that a list prints; null when there is none.
    pub fn one(&self, object: &str, filter: &str) -> Result<Value, LabError> {
        let rows = self.json(&[object, "list", "-f", filter])?;
        Ok(rows.get(0).cloned().unwrap_or(Value::Null))
    }

    /// A seed for a machine on QEMU's user network, with a new one-use token.
    pub fn seed(&self, name: &str) -> Result<String, LabError> {
        self.qa(&["host", "seed", &self.node_address(), &format!("name={name}")])
    }

    /// The same, and the machine reaches it through this line alone.
    pub fn seed_through(&self, line: Line, name: &str) -> Result<String, LabError> {
        self.qa(&["host", "seed", &address(line.port()), &format!("name={name}")])
    }

    /// Where a machine on QEMU's user network finds it, as `qa host seed` takes it.
    pub fn node_address(&self) -> String {
        address(self.ports.node)
    }

    /// A line to its node listener, of so many bytes a second.
    pub fn line(&self, bytes_per_second: u64) -> Result<Line, LabError> {
        Line::to(self.ports.node, bytes_per_second)
    }

    /// Waits until `probe` says yes of the first object that a list prints, and returns that object.
    pub fn wait_for(
        &self,
        what: &str,
        object: &str,
        filter: &str,
        limit: Duration,
        probe: impl Fn(&Value) -> bool,
    ) -> Result<Value, LabError> {
        let end = Instant::now() + limit;
        loop {
            let row = self.one(object, filter)?;
            if probe(&row) {
                return Ok(row);
            }
            if Instant::now() > end {
                let what = format!("{what} (last seen: {row})");
                return Err(LabError::Timeout { what, limit, log: self.log() });
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Waits until it sees a node running, whose name is the machine's; returns the node's row.
    pub fn wait_ready(&self, node: &mut Machine) -> Result<Value, LabError> {
        let filter = format!("name={}", node.name());
        let end = Instant::now() + BOOT_LIMIT;
        loop {
            let row = self.one("host", &filter)?;
            if row["state"] == "running" {
                return Ok(row);
            }
            let log = node.console().log().to_owned();
            if let Some(status) = node.process().ended() {
                let program = node.name().to_owned();
                return Err(LabError::Ended { program, status: status.to_string(), what: "Ready".to_owned(), log });
            }
            if Instant::now() > end {
                let what = format!("Ready of {} (the store sees: {row})", node.name());
                return Err(LabError::Timeout { what, limit: BOOT_LIMIT, log });
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until a VM is running; a start that failed is an error with its reason.
    pub fn wait_running(&self, vm: &str, limit: Duration) -> Result<Value, LabError> {
        let over = |row: &Value| row["state"] == "running" || !row["failed"].is_null();
        let row = self.wait_for(&format!("VM {vm} running"), "vm", &format!("name={vm}"), limit, over)?;
        if row["state"] == "running" {
            return Ok(row);
        }
        let found = row["failed"].as_str().unwrap_or_default().to_owned();
        Err(LabError::Answer { peer: format!("VM {vm}"), found, expected: "running".to_owned() })
    }
}
