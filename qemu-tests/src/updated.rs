//! A node that is moved from version to version.

use anyhow::Result;
use builder::lab::{Boot, Firmware, Lab, Machine, Store};
use serde_json::Value;
use std::{path::Path, time::Duration};

/// A cluster of one node, whose versions a [`crate::Forge`] makes.
#[derive(Debug)]
pub struct Updated {
    /// Its store.
    pub store: Store,
    /// The node.
    pub machine: Machine,
}

impl Updated {
    /// From an order to what comes of it, three boots of a bad version included.
    pub const LIMIT: Duration = Duration::from_secs(400);

    /// A node that is Ready on the version of this image.
    pub fn boot(lab: &Lab, image: &Path) -> Result<Self> {
        Self::boot_on(lab, Boot::new(image).firmware(Firmware::Uefi))
    }

    /// The same on hardware of its own.
    pub fn boot_on(lab: &Lab, hardware: Boot) -> Result<Self> {
        Self::boot_by(lab, hardware, |store| Ok(store.seed("node1")?))
    }

    /// The same at the end of a line that carries so many bytes a second.
    pub fn boot_far_away(lab: &Lab, image: &Path, bytes_per_second: u64) -> Result<Self> {
        let hardware = Boot::new(image).firmware(Firmware::Uefi);
        Self::boot_by(lab, hardware, |store| Ok(store.seed_through(store.line(bytes_per_second)?, "node1")?))
    }

    fn boot_by(lab: &Lab, hardware: Boot, seed: impl Fn(&Store) -> Result<String>) -> Result<Self> {
        let store = lab.store()?;
        store.qa(&["config", "set", "node.bless.after=5"])?;
        let mut machine = lab.boot(hardware.seed(seed(&store)?))?;
        store.wait_ready(&mut machine)?;
        Ok(Self { store, machine })
    }

    /// Adds a version to the store.
    pub fn offer(&self, set: &Path) -> Result<()> {
        self.store.qa(&["image", "add", &format!("path={}", set.display())])?;
        Ok(())
    }

    /// Sends the node to it.
    pub fn order(&mut self, version: &str) -> Result<()> {
        self.machine.console().mark()?;
        self.store.qa(&["host", "update", "-f", "name=node1", &format!("image={version}")])?;
        Ok(())
    }

    /// Waits until the node runs and says this of its versions; its row.
    pub fn wait(&self, what: &str, says: impl Fn(&Value) -> bool) -> Result<Value> {
        let probe = |host: &Value| host["state"] == "running" && says(&host["versions"]);
        Ok(self.store.wait_for(what, "host", "name=node1", Self::LIMIT, probe)?)
    }

    /// Waits until the node is back on a version from one that it was sent to; the reason that it remembers.
    pub fn wait_back(&self, on: &str, from: &str) -> Result<String> {
        let refused = |versions: &Value| {
            let all = versions["refused"].as_array().into_iter().flatten();
            all.filter(|r| r["version"] == from).find_map(|r| r["reason"].as_str().map(str::to_owned))
        };
        let back = self.wait(&format!("{from} refused"), |v| v["running"] == on && refused(v).is_some())?;
        Ok(refused(&back["versions"]).unwrap_or_default())
    }
}
