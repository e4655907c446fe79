//! OS flavours, disk images and their tags, and uploads on their way to become images.

use super::{Tx, filter::clause, signed, unsigned};
use crate::error::{Error, Result};
use model::{
    DiId, Digest, OsfId,
    api::{DiRow, NewOsf, NewUpload, OsfRow, Upload},
    filter::{Filter, Object},
    key,
};
use rusqlite::params_from_iter;

/// An image that lies whole in the repository.
#[derive(Clone, Debug)]
pub struct NewImage {
    /// SHA-256 of the squashfs.
    pub digest: Digest,
    /// Its bytes.
    pub bytes: u64,
    /// Name of the file it was made of.
    pub name: String,
}

impl Tx<'_> {
    /// Adds an OS flavour.
    pub fn osf_add(&self, new: &NewOsf) -> Result<OsfId> {
        super::vms::check_name("OS flavour's name", &new.name)?;
        if self.osf_by_name(&new.name)?.is_some() {
            return Err(Error::Taken { what: "OS flavour", found: new.name.clone() });
        }
        let config = self.config()?;
        let memory = new.memory_mib.unwrap_or_else(|| config.get(&key::OSF_MEMORY));
        if memory < 16 {
            return Err(Error::Invalid(format!("{memory} MiB is no memory for a machine: expected at least 16")));
        }
        let overlay = new.use_overlay.unwrap_or_else(|| config.get(&key::OSF_OVERLAY));
        let sql = "INSERT INTO osfs (name, memory_mib, use_overlay, user_storage_mib) VALUES (?, ?, ?, ?)";
        self.exec("add an OS flavour", sql, (&new.name, memory, overlay, new.user_storage_mib))?;
        self.new_id().map(OsfId)
    }

    /// The OS flavour given by name or id (exactly one of them).
    pub fn osf(&self, name: Option<&str>, id: Option<OsfId>) -> Result<OsfId> {
        match (name, id) {
            (Some(name), None) => self.osf_by_name(name)?.ok_or_else(|| Error::none("OS flavour", name)),
            (None, Some(id)) => {
                let known = self.count("look for an OS flavour", "SELECT count(*) FROM osfs WHERE id = ?", [id.0])?;
                if known == 1 { Ok(id) } else { Err(Error::none("OS flavour with id", id)) }
            }
            _ => Err(Error::Invalid("Expected either osf or osf_id".to_owned())),
        }
    }

    fn osf_by_name(&self, name: &str) -> Result<Option<OsfId>> {
        self.one("look for an OS flavour", "SELECT id FROM osfs WHERE name = ?", [name], |row| row.get(0).map(OsfId))
    }

    /// OS flavours that match.
    pub fn osfs(&self, filter: &Filter) -> Result<Vec<OsfRow>> {
        let clause = clause(Object::Osf, filter);
        let sql = format!(
            "SELECT o.id, o.name, o.memory_mib, o.use_overlay, o.user_storage_mib FROM osfs o WHERE {} ORDER BY o.id",
            clause.sql
        );
        self.all("list OS flavours", &sql, params_from_iter(clause.params), |row| {
            Ok(OsfRow {
                id: OsfId(row.get(0)?),
                name: row.get(1)?,
                memory_mib: row.get(2)?,
                use_overlay: row.get(3)?,
                user_storage_mib: row.get(4)?,
            })
        })
    }

    /// Deletes an OS flavour without VMs and without images.
    pub fn osf_del(&self, id: OsfId) -> Result<()> {
        let vms = self.count("count VMs", "SELECT count(*) FROM vms WHERE osf_id = ?", [id.0])?;
        let dis = self.count("count DIs", "SELECT count(*) FROM dis WHERE osf_id = ?", [id.0])?;
        if vms + dis > 0 {
            let text = format!("{vms} virtual machines and {dis} disk images belong to it: delete them first");
            return Err(Error::Refused(text));
        }
        self.exec("delete an OS flavour", "DELETE FROM osfs WHERE id = ?", [id.0])?;
        Ok(())
    }

    /// Publishes an image as the newest of its OS flavour: it becomes `head`, and `default` when there
    /// is none. Without a version, today's date and the first free number.
    pub fn di_add(&self, osf: OsfId, version: Option<&str>, image: &NewImage) -> Result<(DiId, String)> {
        let version = match version {
            Some(version) => version.to_owned(),
            None => self.next_version(osf)?,
        };
        check_tag(&version)?;
        if self.di_by_tag(osf, &version)?.is_some() {
            return Err(Error::Taken { what: "version or tag of this OS flavour", found: version });
        }
        self.exec(
            "add a DI",
            "INSERT INTO dis (osf_id, path, version, digest, bytes) VALUES (?, ?, ?, ?, ?)",
            (osf.0, &image.name, &version, image.digest.to_string(), signed(image.bytes)),
        )?;
        let di = DiId(self.new_id()?);
        self.exec("name a DI's file", "UPDATE dis SET path = id || '-' || path WHERE id = ?", [di.0])?;
        self.move_tag(osf, "head", di)?;
        if self.di_by_tag(osf, "default")?.is_none() {
            self.move_tag(osf, "default", di)?;
        }
        Ok((di, version))
    }

    fn next_version(&self, osf: OsfId) -> Result<String> {
        let now = jiff::Timestamp::from_millisecond(signed(self.now_ms)).unwrap_or_default();
        let today = now.strftime("%Y-%m-%d").to_string();
        for n in 0..1000 {
            let version = format!("{today}-{n:03}");
            if self.di_by_tag(osf, &version)?.is_none() {
                return Ok(version);
            }
        }
        Err(Error::Refused(format!("All versions from {today}-000 to 999 are taken: give one")))
    }

    /// The image that a tag, or a version, of an OS flavour stands for.
    pub fn di_by_tag(&self, osf: OsfId, tag: &str) -> Result<Option<DiId>> {
        let sql = "SELECT di_id FROM di_tags WHERE osf_id = ?1 AND tag = ?2 UNION SELECT id FROM dis WHERE osf_id = ?1 AND version = ?2";
        self.one("look for a DI", sql, (osf.0, tag), |row| row.get(0).map(DiId))
    }

    fn move_tag(&self, osf: OsfId, tag: &str, di: DiId) -> Result<()> {
        let sql = "INSERT INTO di_tags (osf_id, tag, di_id) VALUES (?, ?, ?) ON CONFLICT (osf_id, tag) DO UPDATE SET di_id = excluded.di_id";
        self.exec("move a tag", sql, (osf.0, tag, di.0))?;
        Ok(())
    }

    fn di(&self, id: DiId) -> Result<(OsfId, String)> {
        let sql = "SELECT osf_id, version FROM dis WHERE id = ?";
        let found = self.one("read a DI", sql, [id.0], |row| Ok((OsfId(row.get(0)?), row.get(1)?)))?;
        found.ok_or_else(|| Error::none("disk image", id))
    }

    /// Moves a tag of the OS flavour to this image.
    pub fn di_tag(&self, id: DiId, tag: &str) -> Result<()> {
        check_tag(tag)?;
        let (osf, _) = self.di(id)?;
        let fixed = "SELECT count(*) FROM dis WHERE osf_id = ? AND version = ?";
        if self.count("look for a version", fixed, (osf.0, tag))? > 0 {
            return Err(Error::Refused(format!("There is a DI with the tag {tag} fixed")));
        }
        self.move_tag(osf, tag, id)
    }

    /// Takes a tag from this image.
    pub fn di_untag(&self, id: DiId, tag: &str) -> Result<()> {
        let (_, version) = self.di(id)?;
        if version == tag {
            return Err(Error::Refused(format!("DI {id} tag {tag} is fixed")));
        }
        match self.exec("delete a tag", "DELETE FROM di_tags WHERE di_id = ? AND tag = ?", (id.0, tag))? {
            0 => Err(Error::Refused(format!("DI {id} is not tagged as {tag}"))),
            _ => Ok(()),
        }
    }

    /// Images that match.
    pub fn dis(&self, filter: &Filter) -> Result<Vec<DiRow>> {
        let clause = clause(Object::Di, filter);
        let sql = format!(
            "SELECT d.id, d.osf_id, o.name, d.version, d.path, d.digest, d.bytes
             FROM dis d JOIN osfs o ON o.id = d.osf_id WHERE {} ORDER BY d.id",
            clause.sql
        );
        let mut rows = self.all("list DIs", &sql, params_from_iter(clause.params), |row| {
            Ok(DiRow {
                id: DiId(row.get(0)?),
                osf_id: OsfId(row.get(1)?),
                osf: row.get(2)?,
                version: row.get(3)?,
                path: row.get(4)?,
                tags: Vec::new(),
                digest: row.get::<_, super::Word<Digest>>(5)?.0,
                bytes: unsigned(row.get(6)?),
            })
        })?;
        for row in &mut rows {
            let sql = "SELECT tag FROM di_tags WHERE di_id = ? ORDER BY tag";
            row.tags = self.all("read tags", sql, [row.id.0], |row| row.get(0))?;
        }
        Ok(rows)
    }

    /// Deletes an image that no VM runs or is about to run; `head` and `default` move to the last one
    /// that remains. Gives the digest when no other image needs the file.
    pub fn di_del(&self, id: DiId) -> Result<Option<Digest>> {
        let (osf, _) = self.di(id)?;
        let used = "SELECT count(*) FROM vm_runtimes WHERE running_di_id = ?1 OR (di_id = ?1 AND (want = 'run' OR state <> 'stopped'))";
        let vms = self.count("count a DI's VMs", used, [id.0])?;
        if vms > 0 {
            return Err(Error::Refused(format!("{vms} virtual machines run it: stop them first")));
        }
        let digest: Option<super::Word<Digest>> =
            self.one("read a DI", "SELECT digest FROM dis WHERE id = ?", [id.0], |row| row.get(0))?;
        let lost =
            self.all("read tags", "SELECT tag FROM di_tags WHERE di_id = ?", [id.0], |row| row.get::<_, String>(0))?;
        self.exec("forget a DI", "UPDATE vm_runtimes SET di_id = NULL WHERE di_id = ?", [id.0])?;
        self.exec("delete a DI", "DELETE FROM dis WHERE id = ?", [id.0])?;
        let last = "SELECT max(id) FROM dis WHERE osf_id = ?";
        if let Some(Some(last)) = self.one("look for a DI", last, [osf.0], |row| row.get::<_, Option<u32>>(0))? {
            for tag in lost.iter().filter(|tag| matches!(tag.as_str(), "head" | "default")) {
                self.move_tag(osf, tag, DiId(last))?;
            }
        }
        let Some(super::Word(digest)) = digest else { return Ok(None) };
        let users = "SELECT count(*) FROM dis WHERE digest = ?";
        Ok((self.count("count a file's DIs", users, [digest.to_string()])? == 0).then_some(digest))
    }

    /// Registers an upload under a fresh id.
    pub fn upload_add(&self, id: &str, new: &NewUpload) -> Result<()> {
        let sql = "INSERT INTO uploads (id, name, bytes, sha256, touched_ms) VALUES (?, ?, ?, ?, ?)";
        let digest = new.sha256.map(|d| d.to_string());
        self.exec("add an upload", sql, (id, &new.name, signed(new.bytes), digest, signed(self.now_ms)))?;
        Ok(())
    }

    /// An upload (`received` is the file's business and 0 here) and the digest it should have.
    pub fn upload(&self, id: &str) -> Result<(Upload, Option<Digest>)> {
        let sql = "SELECT id, name, bytes, sha256 FROM uploads WHERE id = ?";
        let found = self.one("read an upload", sql, [id], |row| {
            let upload = Upload { id: row.get(0)?, name: row.get(1)?, bytes: unsigned(row.get(2)?), received: 0 };
            Ok((upload, row.get::<_, Option<super::Word<Digest>>>(3)?.map(|word| word.0)))
        })?;
        found.ok_or_else(|| Error::none("upload", id))
    }

    /// Bytes arrived: the upload lives a day longer.
    pub fn upload_touch(&self, id: &str) -> Result<()> {
        let sql = "UPDATE uploads SET touched_ms = ? WHERE id = ?";
        self.exec("touch an upload", sql, (signed(self.now_ms), id))?;
        Ok(())
    }

    /// Forgets an upload.
    pub fn upload_del(&self, id: &str) -> Result<()> {
        self.exec("delete an upload", "DELETE FROM uploads WHERE id = ?", [id])?;
        Ok(())
    }

    /// Every upload, and whether it is so old that it should go.
    pub fn uploads(&self, max_age_ms: u64) -> Result<Vec<(String, bool)>> {
        let limit = signed(self.now_ms.saturating_sub(max_age_ms));
        self.all("list uploads", "SELECT id, touched_ms < ? FROM uploads", [limit], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
    }
}

fn check_tag(tag: &str) -> Result<()> {
    let legal = |c: char| !c.is_control() && !c.is_whitespace() && !matches!(c, ',' | '=' | '*' | '?' | '/');
    if tag.is_empty() || tag.len() > 64 || !tag.chars().all(legal) {
        return Err(Error::Invalid(format!(
            "'{tag}' is no tag or version: expected 1 to 64 characters without spaces and none of , = * ? /"
        )));
    }
    Ok(())
}
