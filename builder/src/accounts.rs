//! `/etc/passwd`, `/etc/group` and their shadows, from a recipe.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::recipe::Recipe;

/// Ids by name. `root` is 0 in every image.
#[derive(Debug)]
pub struct Accounts {
    users: BTreeMap<String, u32>,
    groups: BTreeMap<String, u32>,
}

impl Accounts {
    /// The accounts of a recipe.
    pub fn of(recipe: &Recipe) -> Self {
        let root = || [("root".to_owned(), 0)];
        let own = || recipe.users.iter().map(|u| (u.name.clone(), u.uid));
        let users = root().into_iter().chain(own()).collect();
        let groups =
            root().into_iter().chain(own()).chain(recipe.groups.iter().map(|g| (g.name.clone(), g.gid))).collect();
        Self { users, groups }
    }

    /// The ids of an owner and a group; a recipe that was parsed names only known ones.
    pub fn ids(&self, owner: &str, group: &str) -> (u32, u32) {
        (self.users.get(owner).copied().unwrap_or(0), self.groups.get(group).copied().unwrap_or(0))
    }
}

/// The four files with their permissions; none has a password that anybody could give.
pub fn files(recipe: &Recipe) -> [(&'static str, u16, String); 4] {
    let (mut passwd, mut group, mut shadow, mut gshadow) = (String::new(), String::new(), String::new(), String::new());
    if !recipe.users.iter().any(|u| u.name == "root") {
        passwd.push_str("root:x:0:0:root:/root:/usr/sbin/nologin\n");
        shadow.push_str("root:*:1::::::\n");
        group.push_str("root:x:0:\n");
        gshadow.push_str("root:*::\n");
    }
    let mut users: Vec<_> = recipe.users.iter().collect();
    users.sort_by_key(|u| u.uid);
    for u in users {
        let _ = writeln!(passwd, "{}:x:{}:{}:{}:{}:{}", u.name, u.uid, u.uid, u.comment, u.home, u.shell);
        let _ = writeln!(shadow, "{}:*:1::::::", u.name);
        let _ = writeln!(group, "{}:x:{}:", u.name, u.uid);
        let _ = writeln!(gshadow, "{}:*::", u.name);
    }
    let mut groups: Vec<_> = recipe.groups.iter().collect();
    groups.sort_by_key(|g| g.gid);
    for g in groups {
        let members = g.members.join(",");
        let _ = writeln!(group, "{}:x:{}:{members}", g.name, g.gid);
        let _ = writeln!(gshadow, "{}:*::{members}", g.name);
    }
    [
        ("etc/passwd", 0o644, passwd),
        ("etc/group", 0o644, group),
        ("etc/shadow", 0o600, shadow),
        ("etc/gshadow", 0o600, gshadow),
    ]
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn accounts_are_written_by_number_and_locked() {
        let text = "name = \"x\"\nkind = \"guest\"\n[packages]\ninstall = [\"aa\"]\n[[user]]\nname = \"b\"\nuid = 9\n\
                    [[user]]\nname = \"a\"\nuid = 5\nhome = \"/home/a\"\nshell = \"/bin/sh\"\n[[group]]\nname = \"g\"\ngid = 7\nmembers = [\"a\", \"b\"]\n";
        let recipe = Recipe::parse(text, Path::new("x.toml")).expect("a recipe");
        let [passwd, group, shadow, gshadow] = files(&recipe).map(|(_, _, text)| text);
        assert_eq!(
            passwd,
            "root:x:0:0:root:/root:/usr/sbin/nologin\na:x:5:5::/home/a:/bin/sh\nb:x:9:9::/nonexistent:/usr/sbin/nologin\n"
        );
        assert_eq!(group, "root:x:0:\na:x:5:\nb:x:9:\ng:x:7:a,b\n");
        assert_eq!(shadow, "root:*:1::::::\na:*:1::::::\nb:*:1::::::\n");
        assert_eq!(gshadow, "root:*::\na:*::\nb:*::\ng:*::a,b\n");
        assert_eq!(Accounts::of(&recipe).ids("a", "g"), (5, 7));
    }
}
