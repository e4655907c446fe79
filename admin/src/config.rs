//! Where the store is: `QA_URL`, `QA_TOKEN` and `QA_CA`, `--config FILE`, or the first file found of
//! `~/.config/roost/qa.toml` and `/etc/roost/qa.toml`. The environment wins over the file, key by key; with all
//! three variables set no file is needed.
//!
//! ```toml
//! url = "https://store.example:3000"
//! token = "..."
//! ca = "/path/of/ca.pem"      # or the PEM text itself
//! ```

use anyhow::{Context, bail};
use model::api::{QA_FILE, QaConfig};
use std::path::{Path, PathBuf};

/// Finds the configuration. `named` is the file of `--config`.
pub fn find(named: Option<&Path>) -> anyhow::Result<QaConfig> {
    let env = |key: &str| std::env::var(key).ok().filter(|v| !v.is_empty());
    let (url, token, ca) = (env("QA_URL"), env("QA_TOKEN"), env("QA_CA"));
    let mut config = match (&url, &token, &ca, named.map(Path::to_owned).or_else(default_file)) {
        (Some(url), Some(token), Some(ca), None) => QaConfig { url: url.clone(), token: token.clone(), ca: ca.clone() },
        (_, _, _, Some(file)) => read(&file)?,
        _ => bail!(
            "no store is named: copy the store's {QA_FILE} to ~/.config/roost/, name it with --config FILE, or set QA_URL, QA_TOKEN and QA_CA"
        ),
    };
    config.url = url.unwrap_or(config.url);
    config.token = token.unwrap_or(config.token);
    config.ca = pem(&ca.unwrap_or(config.ca))?;
    Ok(config)
}

fn default_file() -> Option<PathBuf> {
    let own = std::env::var_os("HOME").map(|home| Path::new(&home).join(".config/roost").join(QA_FILE));
    own.into_iter().chain([Path::new("/etc/roost").join(QA_FILE)]).find(|p| p.exists())
}

fn read(path: &Path) -> anyhow::Result<QaConfig> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("{} is no configuration of qa", path.display()))
}

/// PEM text, from itself or from the file it names.
fn pem(value: &str) -> anyhow::Result<String> {
    if value.contains("-----BEGIN CERTIFICATE-----") {
        return Ok(value.to_owned());
    }
    let text = std::fs::read_to_string(value).with_context(|| format!("cannot read the CA certificate {value}"))?;
    if !text.contains("-----BEGIN CERTIFICATE-----") {
        bail!("{value} holds no certificate: expected PEM");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEM: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

    #[test]
    fn a_file_is_read_and_its_ca_may_be_a_path() {
        let dir = tempfile::tempdir().expect("scratch");
        std::fs::write(dir.path().join("ca.pem"), PEM).expect("writes");
        let file = dir.path().join("qa.toml");
        let ca = dir.path().join("ca.pem");
        std::fs::write(&file, format!("url = 'https://h:1'\ntoken = 't'\nca = '{}'\n", ca.display())).expect("writes");
        let got = find(Some(&file)).expect("finds");
        assert_eq!(got, QaConfig { url: "https://h:1".into(), token: "t".into(), ca: PEM.into() });
        assert_eq!(format!("{got:?}"), "QaConfig { url: \"https://h:1\", .. }");
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let dir = tempfile::tempdir().expect("scratch");
        let file = dir.path().join("qa.toml");
        let saying = |text: &str| {
            std::fs::write(&file, text).expect("writes");
            format!("{:#}", find(Some(&file)).expect_err("refused"))
        };
        assert!(saying("url = 'u'\ntoken = 't'\n").contains("missing field `ca`"));
        assert!(saying("urll = 'u'\n").contains("unknown field `urll`"));
        std::fs::write(dir.path().join("x"), "none").expect("writes");
        let ca = dir.path().join("x").display().to_string();
        assert!(saying(&format!("url = 'u'\ntoken = 't'\nca = '{ca}'\n")).contains("holds no certificate"));
    }
}
