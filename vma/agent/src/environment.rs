//! The environment of nxagent and of the desktop.

use crate::{options, params::Params, user::Account};
use std::{collections::BTreeMap, fs, path::Path};

/// Where the window-close helper of nxagent is: a link to this program.
const DIALOG: &str = "/usr/lib/roost/nxdialog";

/// For both. `nx_root` must exist, or nxagent ends at its start.
pub fn of_session(account: &Account, params: &Params, display: u16, nx_root: &Path) -> BTreeMap<String, String> {
    let mut env = system();
    let mut set = |name: &str, value: String| env.insert(name.into(), value);
    if let Some(lang) = params.get("vma.default.lang") {
        set("LANG", lang.into());
    }
    if let Some(zone) = params.client("timezone") {
        set("TZ", zone.into());
    }
    for name in ["USER", "LOGNAME"] {
        set(name, account.name.clone());
    }
    set("HOME", account.home.display().to_string());
    set("SHELL", account.shell.display().to_string());
    set("XDG_RUNTIME_DIR", account.runtime.display().to_string());
    set("XDG_SESSION_TYPE", "x11".into());
    set("DISPLAY", format!(":{display}"));
    set("NX_ROOT", nx_root.display().to_string());
    set("NX_CLIENT", DIALOG.into());
    if options::audio(params) {
        set("PULSE_SERVER", format!("tcp:localhost:{}", options::audio_port(display)));
    }
    env
}

/// What the image's administrator set, on top of what every program needs.
fn system() -> BTreeMap<String, String> {
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games".to_owned()),
        ("LANG".to_owned(), "en_US.UTF-8".to_owned()),
    ]);
    for file in ["/etc/locale.conf", "/etc/default/locale", "/etc/environment"] {
        // Each is optional.
        env.extend(assignments(&fs::read_to_string(file).unwrap_or_default()));
    }
    env
}

/// `NAME=value` lines as `pam_env` reads them: quotes go, nothing is expanded.
fn assignments(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let (name, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
            let good = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            good.then(|| (name.to_owned(), value.trim_matches(['"', '\'']).to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_are_read_and_the_rest_is_passed_over() {
        let text = "# LANG=x\nLANG=\"de_DE.UTF-8\"\n\nexport A='b c'\nno\n=x\na b=c\n";
        assert_eq!(assignments(text), [("LANG".into(), "de_DE.UTF-8".into()), ("A".into(), "b c".into())]);
    }
}
