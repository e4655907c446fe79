//! The session's user: found, or made with home and runtime directory.

use crate::{
    error::{Error, Result},
    params::Params,
};
use nix::unistd::{self, Gid, Uid, User};
use std::{
    ffi::CString,
    fs,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

/// Who the session runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Main group.
    pub gid: u32,
    /// All groups.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: PathBuf,
    /// Login shell.
    pub shell: PathBuf,
    /// Octal.
    pub umask: String,
    /// `XDG_RUNTIME_DIR`, mode 0700.
    pub runtime: PathBuf,
    /// The agent's own user: nothing to switch to (tests, or an agent without root).
    pub is_self: bool,
}

/// What the parameters ask for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    name: String,
    uid: Option<u32>,
    gid: Option<u32>,
    group: Option<String>,
    groups: Vec<String>,
    home: PathBuf,
    shell: PathBuf,
    umask: String,
}

static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// Finds or makes the user that the parameters name, with home and runtime directory.
pub fn provision(params: &Params) -> Result<Account> {
    // A session and a transfer may both find that there is none yet.
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let wanted = Wanted::of(params)?;
    let user = match find(&wanted.name)? {
        Some(user) => user,
        None => add(&wanted)?,
    };
    let home = if user.dir.as_os_str().is_empty() { wanted.home.clone() } else { user.dir.clone() };
    make_home(&home, user.uid, user.gid)?;
    let runtime = Path::new("/run/user").join(user.uid.to_string());
    make_dir(&runtime, 0o700, user.uid, user.gid)?;
    Ok(Account {
        groups: groups_of(&user)?,
        name: user.name,
        uid: user.uid.as_raw(),
        gid: user.gid.as_raw(),
        home,
        shell: if user.shell.as_os_str().is_empty() { wanted.shell } else { user.shell },
        umask: wanted.umask,
        runtime,
        is_self: false,
    })
}

/// The agent's own user, with its runtime directory below `run`, and perhaps another home.
pub fn myself(run: &Path, home: Option<PathBuf>) -> Result<Account> {
    let uid = unistd::getuid();
    let user = User::from_uid(uid).map_err(Error::call("look up", format!("user {uid}")))?;
    let home = home.or_else(|| user.as_ref().map(|user| user.dir.clone())).unwrap_or_else(|| run.to_owned());
    let runtime = run.join("runtime");
    make_dir(&runtime, 0o700, uid, unistd::getgid())?;
    Ok(Account {
        name: user.as_ref().map_or_else(|| uid.to_string(), |user| user.name.clone()),
        uid: uid.as_raw(),
        gid: unistd::getgid().as_raw(),
        groups: vec![],
        home,
        shell: user.map_or_else(|| "/bin/sh".into(), |user| user.shell),
        umask: "0022".into(),
        runtime,
        is_self: true,
    })
}

impl Wanted {
    fn of(params: &Params) -> Result<Self> {
        let name = params.get("qvd.vm.user.name").or_else(|| params.get("vma.user.default.name")).unwrap_or("qvd");
        let name = word("qvd.vm.user.name", name)?;
        let base = params.get("vma.user.home.path").unwrap_or("/home");
        let home = params.get("qvd.vm.user.home").map_or_else(|| Path::new(base).join(&name), PathBuf::from);
        if !home.is_absolute() || home.components().any(|part| part.as_os_str() == "..") {
            let value = home.display().to_string();
            return Err(Error::Param { name: "qvd.vm.user.home", value, expected: "an absolute path" });
        }
        let listed = params.get("qvd.vm.user.groups").or_else(|| params.get("vma.user.default.groups"));
        let groups: Result<Vec<_>> = listed
            .unwrap_or_default()
            .split([',', ' '])
            .filter(|group| !group.is_empty())
            .map(|group| word("qvd.vm.user.groups", group))
            .collect();
        Ok(Self {
            name,
            uid: number(params, "qvd.vm.user.uid")?,
            gid: number(params, "qvd.vm.user.gid")?,
            group: params.get("qvd.vm.user.group").map(|group| word("qvd.vm.user.group", group)).transpose()?,
            groups: groups?,
            home,
            shell: params.get("vma.user.shell").unwrap_or("/bin/bash").into(),
            umask: umask(params)?,
        })
    }
}

/// A user's or group's name: what every tool takes, and never an option or a path.
fn word(name: &'static str, value: &str) -> Result<String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_.@-".contains(&byte);
    let fits = (1..=32).contains(&value.len()) && value.bytes().all(good) && !value.starts_with(['-', '.']);
    // All digits would be taken for an id.
    if fits && !value.bytes().all(|byte| byte.is_ascii_digit()) && value != "root" {
        return Ok(value.into());
    }
    let expected = "a name of at most 32 letters, digits and _ . @ -, not a number and not root";
    Err(Error::Param { name, value: value.into(), expected })
}

fn number(params: &Params, name: &'static str) -> Result<Option<u32>> {
    let Some(value) = params.get(name) else { return Ok(None) };
    match value.parse() {
        Ok(id) if (1..65_534).contains(&id) => Ok(Some(id)),
        _ => Err(Error::Param { name, value: value.into(), expected: "a number from 1 to 65533" }),
    }
}

fn umask(params: &Params) -> Result<String> {
    let value = params.get("vma.user.umask").unwrap_or("0022");
    match u32::from_str_radix(value, 8) {
        Ok(mask) if mask <= 0o777 => Ok(value.into()),
        _ => Err(Error::Param { name: "vma.user.umask", value: value.into(), expected: "octal digits, as 0022" }),
    }
}

fn find(name: &str) -> Result<Option<User>> {
    User::from_name(name).map_err(Error::call("look up", format!("user {name}")))
}

fn add(wanted: &Wanted) -> Result<User> {
    let group = wanted.group.as_deref().unwrap_or(&wanted.name);
    add_group(group, wanted.gid)?;
    for group in &wanted.groups {
        add_group(group, None)?;
    }
    let mut command = Command::new("/usr/sbin/useradd");
    command.args(["-M", "-d"]).arg(&wanted.home).args(["-g", group, "-s"]).arg(&wanted.shell);
    if !wanted.groups.is_empty() {
        command.args(["-G", &wanted.groups.join(",")]);
    }
    if let Some(uid) = wanted.uid.or_else(|| owner_of(&wanted.home)) {
        command.args(["-u", &uid.to_string()]);
    }
    run(command.arg(&wanted.name))?;
    let missing = || std::io::Error::from(std::io::ErrorKind::NotFound);
    find(&wanted.name)?.ok_or_else(|| Error::call("find", format!("the user {} just made", wanted.name))(missing()))
}

/// A persistent home outlives the user in a discarded layer: its owner's id is the user's.
fn owner_of(home: &Path) -> Option<u32> {
    let uid = fs::metadata(home).ok()?.uid();
    let free = User::from_uid(Uid::from_raw(uid)).ok()?.is_none();
    ((1000..65_534).contains(&uid) && free).then_some(uid)
}

fn add_group(name: &str, gid: Option<u32>) -> Result<()> {
    let known = unistd::Group::from_name(name).map_err(Error::call("look up", format!("group {name}")))?;
    if known.is_some() {
        return Ok(());
    }
    let mut command = Command::new("/usr/sbin/groupadd");
    if let Some(gid) = gid {
        command.args(["-g", &gid.to_string()]);
    }
    run(command.arg(name))
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_owned();
    let output = command.output().map_err(|source| Error::Run { program: program.into(), source })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(Error::Failed { program: format!("{command:?}"), status: output.status, said })
}

fn groups_of(user: &User) -> Result<Vec<u32>> {
    let name = CString::new(user.name.as_bytes()).unwrap_or_default();
    let groups = unistd::getgrouplist(&name, user.gid).map_err(Error::call("list the groups of", &user.name))?;
    Ok(groups.into_iter().map(Gid::as_raw).collect())
}

fn make_home(home: &Path, uid: Uid, gid: Gid) -> Result<()> {
    make_dir(home, 0o700, uid, gid)?;
    let mut entries = fs::read_dir(home).map_err(Error::file("read", home))?;
    let fresh = entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == "lost+found"));
    let skel = Path::new("/etc/skel");
    if fresh && skel.is_dir() {
        copy_tree(skel, home, uid, gid)?;
    }
    Ok(())
}

/// Makes the directory, or gives an existing one of root's to its user.
fn make_dir(path: &Path, mode: u32, uid: Uid, gid: Gid) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(Error::file("create", parent))?;
    }
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        made => made.map_err(Error::file("create", path))?,
    }
    let owner = fs::metadata(path).map_err(Error::file("look at", path))?.uid();
    if owner == uid.as_raw() {
        return Ok(());
    }
    if owner != 0 {
        let why = format!("it belongs to uid {owner}, and the user has uid {uid}");
        return Err(Error::file("use", path)(std::io::Error::other(why)));
    }
    unistd::chown(path, Some(uid), Some(gid)).map_err(|e| Error::file("give away", path)(e.into()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(Error::file("set the mode of", path))
}

fn copy_tree(from: &Path, to: &Path, uid: Uid, gid: Gid) -> Result<()> {
    for entry in fs::read_dir(from).map_err(Error::file("read", from))? {
        let entry = entry.map_err(Error::file("read", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().map_err(Error::file("look at", &source))?;
        if kind.is_dir() {
            make_dir(&target, 0o755, uid, gid)?;
            copy_tree(&source, &target, uid, gid)?;
        } else if kind.is_symlink() {
            let link = fs::read_link(&source).map_err(Error::file("read", &source))?;
            std::os::unix::fs::symlink(link, &target).map_err(Error::file("create", &target))?;
        } else {
            fs::copy(&source, &target).map_err(Error::file("create", &target))?;
        }
        std::os::unix::fs::lchown(&target, Some(uid.as_raw()), Some(gid.as_raw()))
            .map_err(Error::file("give away", &target))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(params: Params, part: &str) {
        let error = Wanted::of(&params).expect_err("refused").to_string();
        assert!(error.contains(part), "{error}");
    }

    #[test]
    fn the_parameters_name_the_user() {
        let params = Params::from([
            ("qvd.vm.user.name", "alice"),
            ("qvd.vm.user.uid", "1234"),
            ("qvd.vm.user.groups", "audio,video"),
            ("vma.user.home.path", "/homes"),
        ]);
        let wanted = Wanted::of(&params).expect("good");
        assert_eq!((wanted.name.as_str(), wanted.uid), ("alice", Some(1234)));
        assert_eq!((wanted.home, wanted.groups), ("/homes/alice".into(), vec!["audio".into(), "video".into()]));
        assert_eq!(Wanted::of(&Params::default()).expect("good").name, "qvd");
    }

    #[test]
    fn a_name_that_is_an_option_a_path_a_number_or_root_is_refused() {
        for name in ["-o", "../x", "a/b", "0", "root", "a b", ".", "a:b"] {
            refused(Params::from([("qvd.vm.user.name", name)]), "qvd.vm.user.name");
        }
        refused(Params::from([("qvd.vm.user.uid", "0")]), "from 1 to 65533");
        refused(Params::from([("qvd.vm.user.home", "/home/../etc")]), "an absolute path");
        refused(Params::from([("vma.user.umask", "9")]), "octal");
    }

    #[test]
    fn a_skeleton_is_copied_with_its_folders_links_and_modes() {
        let dir = tempfile::tempdir().expect("dir");
        let (from, to) = (dir.path().join("skel"), dir.path().join("home"));
        fs::create_dir_all(from.join(".config/x")).expect("dirs");
        fs::create_dir(&to).expect("dir");
        fs::write(from.join(".config/x/rc"), "1").expect("file");
        std::os::unix::fs::symlink("x/rc", from.join(".config/link")).expect("link");
        copy_tree(&from, &to, unistd::getuid(), unistd::getgid()).expect("copied");
        assert_eq!(fs::read_to_string(to.join(".config/link")).expect("read"), "1");
    }
}
