//! nxagent's options file: one line, read at start and again at each hang-up.

use crate::params::Params;

/// How much a client may differ from the one before it for its session to be resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tolerance {
    /// By nxagent's own judgement: right between clients of one kind.
    Safe,
    /// In any way. A resume on a display with fewer depths hangs half-done otherwise: a browser's has seven,
    /// and other clients six.
    Any,
}

/// The file's text for a session on this display, or which value is not allowed.
///
/// There is no `cookie=`: genuine QVD clients send none, and with one nxagent would refuse them. What
/// protects the session is that it listens on loopback only, so that its bytes come through the agent.
pub fn text(params: &Params, display: u16, tolerance: Tolerance) -> Result<String, BadOption> {
    let mut line = String::from("nx/nx");
    let mut add = |name: &str, value: &str| {
        line.push_str(&format!(",{name}={value}"));
    };
    add("keyboard", checked(params, "keyboard")?.unwrap_or("pc105/us"));
    if let Some(os) = checked(params, "os")? {
        add("client", os);
    }
    add("link", checked(params, "link")?.unwrap_or("adsl"));
    if let Some(geometry) = checked(params, "geometry")? {
        add("geometry", geometry);
    }
    if let Some(fullscreen) = checked(params, "fullscreen")? {
        add("fullscreen", if matches!(fullscreen, "1" | "true" | "yes") { "1" } else { "0" });
    }
    if audio(params) {
        add("media", &audio_port(display).to_string());
    }
    add("type", "desktop");
    let checks = match tolerance {
        Tolerance::Safe => "safe",
        Tolerance::Any => "risky",
    };
    add("tolerancechecks", checks);
    add("loopback", "1");
    add("listen", &port(display).to_string());
    line.push_str(&format!(":{display}\n"));
    Ok(line)
}

/// The port that nxagent listens on for this display, as NX always had it.
pub fn port(display: u16) -> u16 {
    4000 + display
}

/// Whether the administrator lets sound, which goes to the client through a channel of the session.
pub fn audio(params: &Params) -> bool {
    matches!(params.get("vma.audio.enable"), Some("1" | "true" | "yes"))
}

/// The port on the guest's loopback at which nxagent takes sound, as QVD always had it.
pub fn audio_port(display: u16) -> u16 {
    7000 + display
}

fn checked<'a>(params: &'a Params, name: &'static str) -> Result<Option<&'a str>, BadOption> {
    let value = params.client(name);
    match value {
        Some(value) if !value.bytes().all(allowed) => Err(BadOption { name, value: value.into() }),
        _ => Ok(value),
    }
}

/// A comma, an equals sign or a colon would be another option.
fn allowed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_/-+".contains(&byte)
}

/// A value that could be read as another option.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("qvd.client.{name} is {value:?}, but only letters, digits and _ / - + are allowed")]
pub struct BadOption {
    name: &'static str,
    value: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(params: &Params, expect: &str) {
        assert_eq!(text(params, 100, Tolerance::Safe).as_deref(), Ok(expect));
    }

    #[test]
    fn the_options_of_a_client_stay_as_they_are() {
        let params = Params::from([
            ("qvd.client.keyboard", "pc105/es"),
            ("qvd.client.os", "linux"),
            ("qvd.client.link", "lan"),
            ("qvd.client.geometry", "1024x768"),
            ("qvd.client.fullscreen", "1"),
        ]);
        check(
            &params,
            "nx/nx,keyboard=pc105/es,client=linux,link=lan,geometry=1024x768,fullscreen=1,type=desktop,\
             tolerancechecks=safe,loopback=1,listen=4100:100\n",
        );
    }

    #[test]
    fn a_client_that_says_nothing_gets_the_defaults() {
        check(
            &Params::default(),
            "nx/nx,keyboard=pc105/us,link=adsl,type=desktop,tolerancechecks=safe,loopback=1,listen=4100:100\n",
        );
    }

    #[test]
    fn sound_has_a_channel_when_an_administrator_says_so() {
        let params = Params::from([("vma.audio.enable", "1")]);
        check(
            &params,
            "nx/nx,keyboard=pc105/us,link=adsl,media=7100,type=desktop,tolerancechecks=safe,loopback=1,listen=4100:100\n",
        );
        assert!(!audio(&Params::from([("vma.audio.enable", "0")])));
    }

    #[test]
    fn a_value_that_could_add_an_option_is_refused_by_name() {
        let params = Params::from([("qvd.client.geometry", "1x1,listen=80")]);
        let error = text(&params, 100, Tolerance::Any).expect_err("refused");
        assert!(error.to_string().starts_with("qvd.client.geometry is \"1x1,listen=80\""), "{error}");
    }

    proptest! {
        #[test]
        fn no_client_adds_or_moves_an_option(value in "\\PC{0,20}") {
            let params = Params::from([("qvd.client.keyboard", value.as_str())]);
            if let Ok(line) = text(&params, 100, Tolerance::Any) {
                prop_assert_eq!(line.matches('=').count(), 6);
                prop_assert!(line.ends_with(",loopback=1,listen=4100:100\n"));
            }
        }
    }
}
