//! Which blocks of a new root are made out of which of an old one. Pure.

use std::collections::{BTreeMap, HashMap};

use image::patch::{Extent, REFERENCE_MAX, RUN_MAX};

use super::layout::{Content, Layout};

/// So far around its place the old blocks of a long file are taken: what is put in or taken out of a program moves the
/// rest by less.
const AROUND: u64 = 2 << 20;

/// A run to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Its blocks in the new root, in order; none for one of zeros.
    pub blocks: Vec<Option<Extent>>,
    /// How many bytes they have unpacked.
    pub bytes: u32,
    /// Blocks of the old root that have bytes like them.
    pub from: Vec<Extent>,
}

/// What is to be made, by its place in the new root. `kernels` are the releases, old and new, that paths of modules
/// have in them.
pub fn plan(old: &Layout, new: &Layout, kernels: (&str, &str)) -> Vec<Unit> {
    let names = Names::of(old, kernels.0);
    let mut units = BTreeMap::new();
    let mut fragments: Vec<Vec<Extent>> = vec![Vec::new(); new.fragments.len()];
    for (path, content) in &new.files {
        let Some(counterpart) = names.find(path, kernels.1) else { continue };
        for unit in runs(content, counterpart, new.block_size) {
            // Equal files have the same blocks: the first will do.
            if let Some(first) = unit.blocks.iter().flatten().next() {
                units.entry(first.at).or_insert(unit);
            }
        }
        if let Some(from) = content.fragment.and_then(|index| fragments.get_mut(index)) {
            let fragment = counterpart.fragment.and_then(|index| old.fragments.get(index));
            for extent in fragment.into_iter().chain(counterpart.blocks.iter().flatten()) {
                if !from.contains(extent) {
                    from.push(*extent);
                }
            }
        }
    }
    for (extent, mut from) in new.fragments.iter().zip(fragments) {
        from.truncate(REFERENCE_MAX / new.block_size.max(1) as usize);
        let unit = Unit { blocks: vec![Some(*extent)], bytes: new.block_size, from };
        units.insert(extent.at, unit);
    }
    units.into_values().filter(|unit| !unit.from.is_empty()).collect()
}

/// A file's blocks in runs, each with what of the old one belongs to it.
fn runs(new: &Content, old: &Content, block_size: u32) -> Vec<Unit> {
    let block = u64::from(block_size.max(1));
    let run = u64::from(RUN_MAX) / block;
    let mut units = Vec::new();
    for (number, blocks) in (0..).zip(new.blocks.chunks(usize::try_from(run.max(1)).unwrap_or(usize::MAX))) {
        let at = number * run * block;
        let bytes = u32::try_from((new.bytes - at.min(new.bytes)).min(blocks.len() as u64 * block)).unwrap_or(RUN_MAX);
        // The same share of both files lies before it.
        let there = u128::from(at) * u128::from(old.bytes) / u128::from(new.bytes.max(1));
        let there = u64::try_from(there).unwrap_or(u64::MAX);
        let wanted = there.saturating_sub(AROUND)..there.saturating_add(u64::from(bytes) + AROUND);
        let near = |index: u64| index * block < wanted.end && (index + 1) * block > wanted.start;
        let limit = REFERENCE_MAX / block as usize;
        let from: Vec<Extent> =
            (0..).zip(&old.blocks).filter(|(index, _)| near(*index)).filter_map(|(_, b)| *b).take(limit).collect();
        units.push(Unit { blocks: blocks.to_vec(), bytes, from });
    }
    units
}

/// The old files, by what may be left of their names in another version.
struct Names<'a> {
    exact: HashMap<String, &'a Content>,
    /// Without the numbers: a library's path ends in its version.
    unnumbered: HashMap<String, &'a Content>,
}

impl<'a> Names<'a> {
    fn of(old: &'a Layout, kernel: &str) -> Self {
        let (mut exact, mut rest) = (HashMap::new(), HashMap::new());
        for (path, content) in &old.files {
            let path = anonymous(path, kernel);
            rest.insert(unnumbered(&path), content);
            exact.insert(path, content);
        }
        Self { exact, unnumbered: rest }
    }

    fn find(&self, path: &str, kernel: &str) -> Option<&'a Content> {
        let path = anonymous(path, kernel);
        self.exact.get(&path).or_else(|| self.unnumbered.get(&unnumbered(&path))).copied()
    }
}

/// A path without the kernel's release.
fn anonymous(path: &str, kernel: &str) -> String {
    if kernel.is_empty() { path.to_owned() } else { path.replace(kernel, "*") }
}

fn unnumbered(path: &str) -> String {
    let mut short = String::with_capacity(path.len());
    for character in path.chars() {
        match character {
            '0'..='9' | '.' if short.ends_with('#') => {}
            '0'..='9' => short.push('#'),
            other => short.push(other),
        }
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u32 = 128 << 10;

    fn extents(at: u64, count: u64) -> Vec<Option<Extent>> {
        (0..count).map(|n| Some(Extent { at: at + n * 100, len: 100, stored: false })).collect()
    }

    fn blocks(at: u64, count: u64) -> Content {
        Content { blocks: extents(at, count), bytes: count * u64::from(BLOCK), fragment: None }
    }

    fn layout(files: &[(&str, Content)], fragments: u64) -> Layout {
        let files = files.iter().map(|(path, content)| ((*path).to_owned(), content.clone())).collect();
        Layout { block_size: BLOCK, files, fragments: extents(1_000_000, fragments).into_iter().flatten().collect() }
    }

    #[test]
    fn a_file_is_made_from_the_one_of_its_name_or_of_its_name_without_numbers() {
        let old = layout(
            &[
                ("lib/modules/6.1-a/x.ko", blocks(0, 1)),
                ("usr/lib/libz.so.1.5.7", blocks(1000, 2)),
                ("usr/lib/sha1.ko", blocks(2000, 1)),
                ("usr/lib/sha256.ko", blocks(3000, 1)),
            ],
            0,
        );
        let at = |path: &str| {
            let units = plan(&old, &layout(&[(path, blocks(5000, 1))], 0), ("6.1-a", "6.2-b"));
            units.first().and_then(|unit| unit.from.first()).map(|extent| extent.at)
        };
        assert_eq!(at("lib/modules/6.2-b/x.ko"), Some(0));
        assert_eq!(at("usr/lib/libz.so.1.10"), Some(1000));
        assert_eq!(at("usr/lib/sha1.ko"), Some(2000));
        assert_eq!(at("usr/lib/sha256.ko"), Some(3000));
        assert_eq!(at("usr/lib/other"), None);
    }

    #[test]
    fn a_long_file_is_made_in_runs_from_what_is_near() {
        let (old, new) = (layout(&[("a", blocks(0, 400))], 0), layout(&[("a", blocks(0, 410))], 0));
        let units = plan(&old, &new, ("", ""));
        assert_eq!(units.iter().map(|unit| unit.blocks.len()).sum::<usize>(), 410);
        assert_eq!(units.iter().map(|unit| u64::from(unit.bytes)).sum::<u64>(), 410 * u64::from(BLOCK));
        for unit in &units {
            assert!(unit.bytes <= RUN_MAX && unit.from.len() * BLOCK as usize <= REFERENCE_MAX, "{}", unit.from.len());
            let (here, first) = (unit.blocks[0].expect("stored").at, unit.from[0].at);
            let last = unit.from.last().expect("some").at;
            let end = unit.blocks.last().copied().flatten().expect("stored").at;
            assert!(first <= here && last + 1000 >= end, "{here}..{end} from {first}..{last}");
        }
    }

    #[test]
    fn a_fragment_is_made_from_all_that_its_files_were_in() {
        let small = |fragment| Content { fragment: Some(fragment), ..Content::default() };
        let old = layout(&[("a", small(0)), ("b", small(1)), ("c", small(1)), ("d", blocks(0, 1))], 2);
        let new = layout(&[("a", small(0)), ("b", small(0)), ("c", small(0)), ("d", small(0)), ("e", small(1))], 2);
        let units = plan(&old, &new, ("", ""));
        assert_eq!(units.len(), 1, "nothing is like e");
        let from: Vec<u64> = units[0].from.iter().map(|extent| extent.at).collect();
        assert_eq!(from, [1_000_000, 1_000_100, 0]);
        assert_eq!(units[0].blocks, [Some(new.fragments[0])]);
    }

    #[test]
    fn files_that_share_blocks_and_blocks_of_zeros_are_no_trouble() {
        let old = layout(&[("a", blocks(0, 3)), ("b", blocks(0, 3))], 0);
        let mut holes = blocks(0, 3);
        holes.blocks[0] = None;
        let nothing = Content { blocks: vec![None; 2], bytes: 200_000, fragment: None };
        let new = layout(&[("a", holes.clone()), ("b", holes), ("c", nothing)], 0);
        let units = plan(&old, &new, ("", ""));
        assert_eq!((units.len(), units[0].bytes, units[0].blocks.len()), (1, 3 * BLOCK, 3));
    }
}
