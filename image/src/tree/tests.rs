use std::path::Path;
use std::sync::Arc;

use super::*;

fn debian() -> Tree {
    let mut tree = Tree::new();
    for dir in ["usr/bin", "usr/lib", "etc"] {
        tree.mkdir_p(dir).unwrap();
    }
    tree.insert("bin", Entry::symlink("usr/bin")).unwrap();
    tree.insert("usr/lib64", Entry::symlink("/usr/lib")).unwrap();
    tree.insert("usr/bin/sh", Entry::symlink("dash")).unwrap();
    tree.insert("usr/bin/dash", Entry::file(0o755, "#!").from_origin("dash")).unwrap();
    tree
}

#[track_caller]
fn check(path: &str, expect: &str) {
    assert_eq!(debian().lookup(path).unwrap().0, expect);
}

#[test]
fn lookups_follow_links_in_every_component() {
    check("bin/sh", "usr/bin/dash");
    check("/usr/lib64", "usr/lib");
    check("usr/lib64/../bin/./dash", "usr/bin/dash");
    check("../../bin", "usr/bin");
    check("", "");
}

#[test]
fn a_second_owner_is_noticed_through_a_merged_usr_link() {
    let error = debian().insert("bin/dash", Entry::file(0o755, "x").from_origin("other")).unwrap_err();
    assert_eq!(error.to_string(), "usr/bin/dash of other exists already: file of dash");
}

#[test]
fn an_insert_lands_behind_the_link_and_needs_its_parent() {
    let mut tree = debian();
    assert_eq!(tree.insert("bin/ls", Entry::file(0o755, "")).unwrap(), "usr/bin/ls");
    let error = tree.insert("opt/x/y", Entry::dir(0o755)).unwrap_err();
    assert_eq!(error.to_string(), "opt/x/y does not exist in the tree: opt is missing");
    let error = tree.insert("usr/bin/dash/x", Entry::dir(0o755)).unwrap_err();
    assert_eq!(error.to_string(), "usr/bin/dash/x needs usr/bin/dash to be a directory, but it is a file");
    assert_eq!(tree.insert_with_parents("opt/x/y", Entry::file(0o644, "y")).unwrap(), "opt/x/y");
    assert_eq!(
        tree.mkdir_p("/bin/../x").unwrap_err().to_string(),
        "Path \"/bin/../x\" is not usable in an image: it contains '..'"
    );
}

#[test]
fn a_loop_of_links_is_an_error() {
    let mut tree = Tree::new();
    tree.insert("a", Entry::symlink("b")).unwrap();
    tree.insert("b", Entry::symlink("a")).unwrap();
    assert!(matches!(tree.lookup("a"), Err(TreeError::LinkLoop { .. })));
    assert!(matches!(tree.mkdir_p("a/x"), Err(TreeError::LinkLoop { .. })));
}

#[test]
fn children_are_only_the_directory_s_own_names() {
    let mut tree = debian();
    tree.insert("usr/bin-old", Entry::dir(0o755)).unwrap();
    let names: Vec<_> = tree.children("usr/bin").map(|(name, _)| name.to_owned()).collect();
    assert_eq!(names, ["dash", "sh"]);
    let names: Vec<_> = tree.children("").map(|(name, _)| name.to_owned()).collect();
    assert_eq!(names, ["bin", "etc", "usr"]);
}

#[test]
fn removing_a_directory_takes_all_below_it_and_nothing_else() {
    let mut tree = debian();
    tree.insert("usr/bin-old", Entry::dir(0o755)).unwrap();
    assert_eq!(tree.remove("bin").unwrap(), 1);
    assert_eq!(tree.remove("usr/bin").unwrap(), 3);
    assert_eq!(tree.remove("usr/bin").unwrap(), 0);
    assert!(tree.get("usr/bin-old").is_some());
}

#[test]
fn a_file_that_changed_its_length_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    std::fs::write(&path, b"hello").unwrap();
    let content = Content::from_path(&path).unwrap();
    assert_eq!(&*content.read().unwrap(), b"hello");
    for changed in ["hell", "hello!"] {
        std::fs::write(&path, changed).unwrap();
        assert!(matches!(content.read(), Err(TreeError::Read { .. })), "{changed}");
    }
}

#[test]
fn a_piece_of_a_file_is_read_and_one_beyond_its_end_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path: Arc<Path> = dir.path().join("f").into();
    std::fs::write(&path, b"hello world").unwrap();
    let part = |offset, len| Content::Part { path: path.clone(), offset, len };
    assert_eq!(&*part(6, 5).read().unwrap(), b"world");
    assert_eq!(&*part(3, 0).read().unwrap(), b"");
    assert!(matches!(part(6, 6).read(), Err(TreeError::Read { .. })));
}
