//! A desktop in a real browser, on a real node: the same session as an NX client's.

use anyhow::{Result, ensure};
use builder::lab::{Browser, Cluster, Desk, Keyboard, Page, Shell, USER, VM};
use qemu_tests::images;
use std::{path::PathBuf, time::Duration};

/// How long an emulated desktop may take from a log-in to its picture; a start is in it.
const LIMIT: Duration = Duration::from_secs(120);
/// How long the store may take to know of a change of a session.
const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_user_works_in_a_browser_and_the_desktop_goes_to_an_nx_client_and_back() -> Result<()> {
    let mut story = Story::begin("browser")?;
    let browser = Browser::start(story.cluster.lab.dir())?;
    let page = story.log_in(&browser)?;
    let first = Shell::new(&page, story.failure());
    first.open()?;
    first.type_line("x=17")?;
    ensure!(first.output_of("echo $x")?.trim() == "17", "the shell forgets");
    page.picture(&story.shot("terminal"))?;
    story.resizes(&page, &first)?;
    Ok(())
}

/// A cluster whose desktop is stopped, and what is known of it.
struct Story {
    cluster: Cluster,
}

impl Story {
    fn begin(name: &str) -> Result<Self> {
        Ok(Self { cluster: Cluster::with_faults(name, &images())? })
    }

    fn failure(&self) -> PathBuf {
        self.shot("failure")
    }

    fn shot(&self, name: &str) -> PathBuf {
        self.cluster.lab.path(&format!("{name}.png"))
    }

    /// A wrong password, the right one, and the only desktop, which is stopped and starts.
    fn log_in<'a>(&self, browser: &'a Browser) -> Result<Page<'a>> {
        let page = browser.page(1280, 800)?;
        page.go(&format!("https://127.0.0.1:{}/", self.cluster.node.router_port()))?;
        page.log_in(USER, "wrong")?;
        page.until("document.querySelector('#login-fault').textContent.includes('R101')")?;
        page.log_in(USER, &self.cluster.password)?;
        page.until_within("document.querySelectorAll('#steps li').length >= 2", LIMIT)?;
        page.picture(&self.shot("starting"))?;
        page.wait_for_desktop(LIMIT)?;
        page.picture(&self.shot("desktop"))?;
        Ok(page)
    }

    fn resizes(&mut self, page: &Page<'_>, shell: &Shell<'_>) -> Result<()> {
        page.resize(1000, 640)?;
        page.until("document.querySelector('#screen canvas').width === 1000")?;
        page.picture(&self.shot("smaller"))?;
        Ok(())
    }
}
