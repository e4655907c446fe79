//! What a node image says of itself: its name and version, in os-release; and whose updates it takes.
//!
//! `noded` reads there what it is, systemd-boot shows and sorts entries by the copy in the UKI.

use image::set::TRUST_PATH;
use image::{Content, Entry, Tree};

use crate::error::{Error, Result};
use crate::overlay;
use crate::rootfs::Inputs;

/// Where a node finds it.
pub const OS_RELEASE: &str = "/usr/lib/os-release";

/// Adds name and version to the recipe's os-release; and, to an image that has a shell, that it is for debugging.
pub fn name(inputs: &Inputs<'_>, root: &mut Tree) -> Result<()> {
    let recipe = &inputs.located.recipe.name;
    let missing = |problem: &str| Error::Missing { recipe: recipe.clone(), problems: vec![problem.to_owned()] };
    let entry = root.get_mut(OS_RELEASE).ok_or_else(|| missing("/usr/lib/os-release: every node needs one"))?;
    let content = entry.content().ok_or_else(|| missing("/usr/lib/os-release: it is no file"))?;
    let failed = |source| Error::Assemble { action: format!("read {OS_RELEASE}"), source: Box::new(source) };
    let mut text = String::from_utf8_lossy(&content.read().map_err(failed)?).trim().to_owned();
    text.push_str(&lines(recipe, inputs.version));
    if !inputs.located.recipe.checks.interpreters.is_empty() {
        // No recipe can forget to say so, nor say otherwise.
        text.push_str(DEBUG);
    }
    entry.kind = Entry::file(0o644, Content::from(text)).kind;
    Ok(())
}

/// Puts the update keys into the tree. An image without keys takes no update.
pub fn trust(inputs: &Inputs<'_>, root: &mut Tree) -> Result<()> {
    let Some(keys) = inputs.keys else { return Ok(()) };
    let failed = |source| Error::Assemble { action: format!("put {TRUST_PATH} into the image"), source };
    let text = keys.trusted().to_json().map_err(|error| failed(Box::new(error)))?;
    let entry = Entry::file(0o644, text).modified(inputs.epoch()).from_origin(overlay::RECIPE);
    root.insert_with_parents(TRUST_PATH, entry).map(drop).map_err(|error| failed(Box::new(error)))
}

const DEBUG: &str = "VARIANT=\"Debug\"\nVARIANT_ID=debug\n";

/// `VERSION_ID` is for people's tools; the other two are what image and version mean to us and to systemd-boot.
fn lines(name: &str, version: &str) -> String {
    format!("\nVERSION_ID={version}\nIMAGE_ID={name}\nIMAGE_VERSION={version}\n")
}
