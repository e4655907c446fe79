//! The root inside an image: its verity tree, then every file in it against the manifest.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Seek, SeekFrom};

use backhand::{FilesystemReader, InnerNode};
use image::manifest::{Artifact, Manifest};
use image::verity::{self, Verity};

use super::error::{differs, in_part};
use super::{Inspection, Result};

impl Inspection {
    /// Checks the root that starts at a byte of the file.
    pub(super) fn root(
        &mut self,
        file: &mut File,
        start: u64,
        part: &str,
        verity: &Verity,
        manifest: Option<&Manifest>,
    ) -> Result<()> {
        file.seek(SeekFrom::Start(start)).map_err(in_part(part))?;
        verity::verify(&mut BufReader::with_capacity(1 << 20, &mut *file), verity).map_err(in_part(part))?;
        self.verity = Some(verity.to_string());
        let blocks = verity.data_blocks;
        self.checked
            .push(format!("{part}: {blocks} data blocks against the verity tree, the tree against the root hash"));
        let Some(manifest) = manifest else {
            self.unchecked.push(format!("{part}: its files, for no manifest lies beside the image"));
            return Ok(());
        };
        if let Some(boot) = manifest.boot.as_ref().filter(|boot| boot.verity != verity.to_string()) {
            return Err(differs(part, "identity", &boot.verity, verity));
        }
        let files = compare(file, start, part, manifest)?;
        self.checked.push(format!("{part}: {files} files against the manifest"));
        Ok(())
    }
}

/// What is compared of an entry: kind, mode, owner, and digest or target.
type Seen = (String, String, String, String);

/// Reads every file of the root. Its blocks are verified by now, so any damage is the manifest's.
fn compare(file: &mut File, start: u64, part: &str, manifest: &Manifest) -> Result<usize> {
    let mut copy = file.try_clone().map_err(in_part(part))?;
    // With offset 0 the library reads on from where the file stands.
    copy.rewind().map_err(in_part(part))?;
    let reader = FilesystemReader::from_reader_with_offset(BufReader::new(copy), start).map_err(in_part(part))?;
    let mut expected: BTreeMap<&str, Seen> =
        manifest.files.iter().map(|(path, file)| (path.as_str(), listed(file))).collect();
    let mut files = 0;
    for node in reader.files() {
        let path = node.fullpath.to_string_lossy().trim_start_matches('/').to_owned();
        let found = seen(&reader, node).map_err(in_part(&format!("{path} in {part}")))?;
        files += usize::from(found.0 == "file");
        match expected.remove(path.as_str()) {
            Some(expected) if expected == found => {}
            Some(expected) => {
                return Err(differs(&format!("{path} in {part}"), "entry", words(&expected), words(&found)));
            }
            None if found.0 == "dir" => {}
            None => return Err(differs(&format!("{path} in {part}"), "entry", "none", words(&found))),
        }
    }
    match expected.first_key_value() {
        Some((path, entry)) => Err(differs(&format!("{path} in {part}"), "entry", words(entry), "missing")),
        None => Ok(files),
    }
}

fn words(seen: &Seen) -> String {
    format!("{} {} {} {}", seen.0, seen.1, seen.2, seen.3).trim_end().to_owned()
}

fn listed(file: &image::manifest::File) -> Seen {
    let owner = file.owner.clone().unwrap_or_else(|| "0:0".into());
    let data = file.sha256.clone().or_else(|| file.target.clone()).unwrap_or_default();
    (file.kind.clone(), file.mode.clone(), owner, data)
}

fn seen(
    reader: &FilesystemReader<'_>,
    node: &backhand::Node<backhand::SquashfsFileReader>,
) -> std::result::Result<Seen, io::Error> {
    let (kind, data) = match &node.inner {
        InnerNode::Dir(_) => ("dir".to_owned(), String::new()),
        InnerNode::File(file) => ("file".to_owned(), Artifact::of(reader.file(file).reader())?.sha256),
        InnerNode::Symlink(link) => ("link".to_owned(), link.link.to_string_lossy().into_owned()),
        InnerNode::CharacterDevice(device) => (format!("char {}", numbers(device.device_number)), String::new()),
        InnerNode::BlockDevice(device) => (format!("block {}", numbers(device.device_number)), String::new()),
        InnerNode::NamedPipe => ("pipe".to_owned(), String::new()),
        InnerNode::Socket => ("socket".to_owned(), String::new()),
    };
    let head = &node.header;
    Ok((kind, format!("{:04o}", head.permissions), format!("{}:{}", head.uid, head.gid), data))
}

fn numbers(device: u32) -> String {
    format!("{}:{}", device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xf_ff00)
}
