//! Rules against a machine made of files.

use super::*;
use std::collections::HashSet;

const MOUNTS: &str = "\
21 1 254:0 / / ro,nosuid,nodev,relatime shared:1 - squashfs /dev/dm-0 ro,errors=continue
22 21 0:5 / /run rw,nosuid,nodev - tmpfs tmpfs rw
23 21 0:6 / /run rw,noexec,nosuid,nodev - tmpfs tmpfs rw
24 21 0:7 / /tmp rw,nosuid - tmpfs tmpfs rw
";

fn here(files: &[(&str, &str)]) -> (tempfile::TempDir, Here) {
    let dir = tempfile::tempdir().expect("dir");
    for (path, text) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, text).expect("written");
    }
    let here = Here {
        root: dir.path().to_owned(),
        cmdline: "quiet oops=panic slab_nomerge_not\n".to_owned(),
        mounts: MOUNTS.to_owned(),
        lockdown: Some("none [integrity] confidentiality\n".to_owned()),
        variant: "debug".to_owned(),
    };
    (dir, here)
}

#[track_caller]
fn check(place: Place, wanted: &'static str, expect: Option<&str>) {
    let files = [
        ("proc/sys/kernel/kptr_restrict", "2\n"),
        ("proc/sys/kernel/sysrq", "438\n"),
        ("sys/module/module/parameters/sig_enforce", "N\n"),
    ];
    let (_dir, here) = here(&files);
    let found = here.missing(&Rule { place, wanted, why: "so" });
    assert_eq!(found.as_deref(), expect);
}

#[test]
fn each_place_says_what_it_has_instead() {
    check(Place::Sysctl("kernel/kptr_restrict"), "2", None);
    check(Place::Sysctl("kernel/sysrq"), "0", Some("kernel.sysrq is 438, wanted 0: so"));
    check(Place::Sysctl("kernel/none"), "0", Some("kernel.none is missing, wanted 0: so"));
    check(Place::Module("module/parameters/sig_enforce"), "Y", Some("module.sig_enforce is N, wanted Y: so"));
    check(Place::Word, "oops=panic", None);
    check(Place::Word, "slab_nomerge", Some("command line is missing, wanted slab_nomerge: so"));
    check(Place::Mount("/"), "ro,nosuid,nodev", None);
    check(Place::Mount("/run"), "nosuid,nodev,noexec", None);
    check(Place::Mount("/tmp"), "nosuid,noexec", Some("/tmp is rw,nosuid, wanted nosuid,noexec: so"));
    check(Place::Mount("/state"), "nosuid", Some("/state is missing, wanted nosuid: so"));
    check(Place::Lockdown, "integrity", None);
    check(Place::Variant, "debug", None);
    check(Place::Variant, "production", Some("image is debug, wanted production: so"));
}

#[test]
fn a_kernel_that_is_locked_down_further_is_as_good_and_one_that_is_not_is_told() {
    for (text, holds) in [
        (Some("none integrity [confidentiality]"), true),
        (Some("[none] integrity confidentiality"), false),
        (Some(""), false),
        (None, false),
    ] {
        let (_dir, mut here) = here(&[]);
        here.lockdown = text.map(str::to_owned);
        let rule = Rule { place: Place::Lockdown, wanted: "integrity", why: "so" };
        assert_eq!(here.missing(&rule).is_none(), holds, "{text:?}");
    }
}

#[test]
fn what_holds_is_counted() {
    let (_dir, here) = here(&[("proc/sys/a", "1")]);
    let rule = |place, wanted| Rule { place, wanted, why: "so" };
    let rules = [rule(Place::Sysctl("a"), "1"), rule(Place::Sysctl("b"), "1"), rule(Place::Word, "quiet")];
    let found = here.judge(&rules);
    assert_eq!((found.held, found.wanted(), found.missing.len()), (2, 3, 1));
}

#[test]
fn no_rule_is_given_twice_and_each_has_its_reason() {
    let mut seen = HashSet::new();
    for rule in RULES {
        let name = format!("{:?} {}", rule.place, if rule.place == Place::Word { rule.wanted } else { "" });
        assert!(seen.insert(name.clone()), "{name}");
        assert!(!rule.why.is_empty() && !rule.wanted.is_empty(), "{name}");
    }
}

#[test]
fn the_recipe_gives_every_word_that_is_wanted() {
    let recipes = [
        include_str!("../../../../image/recipes/node.toml"),
        include_str!("../../../../image/recipes/node-debug.toml"),
    ];
    recipes.into_iter().for_each(gives_every_word);
}

#[track_caller]
fn gives_every_word(recipe: &str) {
    let cmdline = recipe.lines().find_map(|line| line.strip_prefix("cmdline = \"")).expect("a command line");
    for rule in RULES.iter().filter(|rule| rule.place == Place::Word) {
        assert!(cmdline.trim_end_matches('"').split(' ').any(|word| word == rule.wanted), "{}", rule.wanted);
    }
    // Those are read back where the kernel keeps them.
    for word in ["lockdown=integrity", "module.sig_enforce=1", "page_alloc.shuffle=1"] {
        assert!(cmdline.contains(word), "{word}");
    }
}
