//! The names of an image while it is being written: an arena of nodes, directories pointing into it.

use std::collections::BTreeMap;

use super::pack::FileId;
use super::{Result, Special, SquashfsError, lossy, xattr};

/// Index of a node.
pub type NodeId = usize;
/// The root's.
pub const ROOT: NodeId = 0;

/// What an inode is made of.
pub struct Node {
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: u32,
    pub xattr: u32,
    /// Names that lead here (not counted for directories).
    pub links: u32,
    pub kind: NodeKind,
}

pub enum NodeKind {
    /// Names sorted by bytes, as the kernel's search expects them.
    Dir(BTreeMap<Box<[u8]>, NodeId>),
    File(FileId),
    Symlink(Box<[u8]>),
    Special(Special),
}

impl Node {
    pub fn children(&self) -> Option<&BTreeMap<Box<[u8]>, NodeId>> {
        match &self.kind {
            NodeKind::Dir(children) => Some(children),
            _ => None,
        }
    }

    fn dir() -> Self {
        let kind = NodeKind::Dir(BTreeMap::new());
        Self { mode: 0o755, uid: 0, gid: 0, mtime: 0, xattr: xattr::NONE, links: 1, kind }
    }
}

pub struct Names {
    nodes: Vec<Node>,
}

impl Names {
    pub fn new() -> Self {
        Self { nodes: vec![Node::dir()] }
    }

    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Adds or replaces; a directory put over a directory keeps its names.
    pub fn insert(&mut self, path: &[u8], mut node: Node) -> Result<()> {
        let parts = components(path)?;
        let Some((name, parents)) = parts.split_last() else {
            return self.replace_root(path, node);
        };
        let parent = self.parent(path, parents)?;
        let old = self.child(parent, name);
        if let Some(old) = old
            && let (NodeKind::Dir(children), NodeKind::Dir(kept)) = (&mut node.kind, &mut self.nodes[old].kind)
        {
            std::mem::swap(children, kept);
            self.nodes[old] = node;
            return Ok(());
        }
        if let Some(old) = old {
            if self.nodes[old].children().is_some_and(|children| !children.is_empty()) {
                let reason = "a directory with entries has that name";
                return Err(SquashfsError::BadPath { path: lossy(path), reason });
            }
            self.nodes[old].links -= 1;
        }
        self.nodes.push(node);
        self.set_child(parent, name, self.nodes.len() - 1);
        Ok(())
    }

    /// Gives the node at an exact path another kind.
    pub fn set_kind(&mut self, path: &[u8], kind: NodeKind) -> Result<()> {
        let id = self.find(path)?.ok_or_else(|| SquashfsError::NotADirectory { path: lossy(path) })?;
        self.nodes[id].kind = kind;
        Ok(())
    }

    pub fn link(&mut self, path: &[u8], target: &[u8]) -> Result<()> {
        let bad = |reason| SquashfsError::BadLink { path: lossy(path), target: lossy(target), reason };
        let id = self.find(target)?.ok_or_else(|| bad("there is no such entry before it"))?;
        if self.nodes[id].children().is_some() {
            return Err(bad("that is a directory"));
        }
        let parts = components(path)?;
        let (name, parents) = parts.split_last().ok_or_else(|| bad("the root cannot be a link"))?;
        let parent = self.parent(path, parents)?;
        self.nodes[id].links += 1;
        if let Some(old) = self.child(parent, name) {
            if self.nodes[old].children().is_some() {
                return Err(bad("a directory has that name"));
            }
            self.nodes[old].links -= 1;
        }
        self.set_child(parent, name, id);
        Ok(())
    }

    fn replace_root(&mut self, path: &[u8], mut node: Node) -> Result<()> {
        match (&mut node.kind, &mut self.nodes[ROOT].kind) {
            (NodeKind::Dir(children), NodeKind::Dir(kept)) => std::mem::swap(children, kept),
            _ => return Err(SquashfsError::BadPath { path: lossy(path), reason: "the root must be a directory" }),
        }
        self.nodes[ROOT] = node;
        Ok(())
    }

    /// The directory that `parents` leads to; what is missing is made.
    fn parent(&mut self, path: &[u8], parents: &[&[u8]]) -> Result<NodeId> {
        let mut at = ROOT;
        for name in parents {
            at = match self.child(at, name) {
                Some(id) if self.nodes[id].children().is_some() => id,
                Some(_) => return Err(SquashfsError::NotADirectory { path: lossy(path) }),
                None => {
                    self.nodes.push(Node::dir());
                    self.set_child(at, name, self.nodes.len() - 1);
                    self.nodes.len() - 1
                }
            };
        }
        Ok(at)
    }

    fn find(&self, path: &[u8]) -> Result<Option<NodeId>> {
        let mut at = ROOT;
        for name in components(path)? {
            match self.child(at, name) {
                Some(id) => at = id,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    fn child(&self, dir: NodeId, name: &[u8]) -> Option<NodeId> {
        self.nodes[dir].children()?.get(name).copied()
    }

    fn set_child(&mut self, dir: NodeId, name: &[u8], id: NodeId) {
        if let NodeKind::Dir(children) = &mut self.nodes[dir].kind {
            children.insert(name.into(), id);
        }
    }
}

fn components(path: &[u8]) -> Result<Vec<&[u8]>> {
    let bad = |reason| SquashfsError::BadPath { path: lossy(path), reason };
    let mut parts = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(bad("it contains '..'")),
            name if name.len() > 255 => return Err(bad("a name is longer than 255 bytes")),
            name if name.contains(&0) => return Err(bad("it contains a zero byte")),
            name => parts.push(name),
        }
    }
    Ok(parts)
}
