//! The agent as a node sees it: over its socket, with real programs behind.

mod node;

use node::{Agent, Browser, Client, HiddenWindow, Node, open};
use std::{thread, time::Duration};
use tempfile::TempDir;
use vma_proto::{FromVma, Kind, PROTO, Session, ToVma};

/// An agent that would run this nxagent, and a node that it has greeted.
fn stage(nxagent: &str) -> (TempDir, Agent, Node) {
    let dir = tempfile::tempdir().expect("dir");
    let agent = Agent::start(dir.path(), nxagent);
    let mut node = Node::listen(dir.path());
    node.hello();
    (dir, agent, node)
}

#[test]
fn the_agent_says_hello_answers_pings_and_comes_back_to_a_node_that_restarted() {
    let dir = tempfile::tempdir().expect("dir");
    let agent = Agent::start(dir.path(), "/nonexistent/nxagent");
    for round in 0..3 {
        let mut node = Node::listen(dir.path());
        assert!(matches!(node.next(), FromVma::Hello { proto: PROTO, session: Session::Stopped, .. }));
        node.send(&ToVma::Welcome { proto: PROTO });
        node.send(&ToVma::Ping(round));
        assert_eq!(node.next(), FromVma::Pong(round));
    }
    let status = agent.terminate();
    assert!(status.success(), "{status}");
}

#[test]
fn what_cannot_be_opened_is_refused_with_the_reason() {
    let (_dir, _agent, mut node) = stage("/nonexistent/nxagent");
    node.send(&open([1; 16], Kind::Vnc, &[]));
    assert_refused(node.next(), "/nonexistent/Xvnc is missing");
    node.send(&open([2; 16], Kind::Nx, &[("qvd.client.link", "lan,listen=1")]));
    assert_refused(node.next(), "qvd.client.link is \"lan,listen=1\"");
    node.send(&open([3; 16], Kind::Nx, &[]));
    node.until(&FromVma::State(Session::Starting));
    node.until(&FromVma::State(Session::Stopped));
    assert_refused(node.next(), "/nonexistent/nxagent");
}

#[track_caller]
fn assert_refused(message: FromVma, part: &str) {
    let FromVma::Refused { retry: false, reason, .. } = &message else { panic!("not refused: {message:?}") };
    assert!(reason.contains(part), "{reason}");
}

#[test]
fn a_session_lives_through_clients_takeovers_and_restarts_of_the_node() {
    if lacks_programs() {
        return;
    }
    let (dir, agent, mut node) = stage("/usr/bin/nxagent");

    // A first client gets a new session, and its desktop starts.
    let pipe = node.session([1; 16], false);
    let first = Client::connect(dir.path(), pipe);
    node.until(&FromVma::State(Session::Connected));
    agent.wait_for_desktop(1);

    // The node's daemon restarts: the session does not notice, and tells the new one its state.
    drop(node);
    let mut node = Node::listen(dir.path());
    let hello = node.next();
    assert!(matches!(hello, FromVma::Hello { session: Session::Connected, .. }), "{hello:?}");

    // A second client takes over; the windows stay.
    let pipe = node.session([2; 16], true);
    let second = Client::connect(dir.path(), pipe);
    node.until(&FromVma::State(Session::Connected));
    drop(first);

    // It dies without a word, and a third one resumes.
    drop(second);
    node.until(&FromVma::State(Session::Suspended));
    let pipe = node.session([3; 16], true);
    let third = Client::connect(dir.path(), pipe);
    node.until(&FromVma::State(Session::Connected));
    agent.wait_for_desktop(1);

    // The node suspends it, and ends it.
    node.send(&ToVma::Suspend);
    node.until(&FromVma::State(Session::Suspended));
    drop(third);
    node.send(&ToVma::Stop);
    node.until(&FromVma::State(Session::Stopped));

    // A new one is a new one.
    let pipe = node.session([4; 16], false);
    let _fourth = Client::connect(dir.path(), pipe);
    node.until(&FromVma::State(Session::Connected));
    agent.wait_for_desktop(2);
    let status = agent.terminate();
    assert!(status.success(), "{status}");
    node.until(&FromVma::GoingDown);
    node.until(&FromVma::State(Session::Stopped));
}

#[test]
fn what_an_agent_that_crashed_left_ends_before_the_next_takes_orders() {
    if lacks_programs() {
        return;
    }
    let (dir, agent, mut node) = stage("/usr/bin/nxagent");
    let pipe = node.session([1; 16], false);
    let client = Client::connect(dir.path(), pipe);
    node.until(&FromVma::State(Session::Connected));
    agent.wait_for_desktop(1);
    agent.crash();
    drop((node, client));

    let agent = Agent::start(dir.path(), "/usr/bin/nxagent");
    let mut node = Node::listen(dir.path());
    node.hello();
    agent.wait_for_nxagents(0);
    let pipe = node.session([2; 16], false);
    let _client = Client::connect(dir.path(), pipe);
    node.until(&FromVma::State(Session::Connected));
    agent.wait_for_desktop(2);
    agent.wait_for_nxagents(1);
}

fn lacks_programs() -> bool {
    let programs = ["/usr/bin/nxagent", "/usr/bin/nxproxy", "/usr/bin/Xvfb", "/usr/bin/Xvnc"];
    let missing = programs.iter().find(|path| !std::path::Path::new(path).exists());
    if let Some(missing) = missing {
        eprintln!("skipped: needs {missing} (Debian packages nxagent, nxproxy, xvfb, tigervnc-standalone-server)");
    }
    missing.is_some()
}

#[test]
fn a_browser_and_an_nx_client_share_one_session_by_turns() {
    if lacks_programs() {
        return;
    }
    let (dir, agent, mut node) = stage("/usr/bin/nxagent");

    // A browser starts the session, and the desktop follows its size: down, and up beyond where it began.
    let mut browser = Browser::new(node.browse([1; 16], "1000x600", false));
    node.until(&FromVma::State(Session::Connected));
    assert_eq!(browser.size(), (1000, 600));
    agent.wait_for_desktop(1);
    agent.wait_for_bridge(true);
    for (width, height) in [(800, 500), (1400, 900)] {
        browser.resize(width, height);
        agent.wait_for_desktop_size(width, height);
    }

    // It goes; nothing of the bridge is left, and the session sleeps.
    drop(browser);
    node.until(&FromVma::State(Session::Suspended));
    agent.wait_for_bridge(false);

    // An NX client finds the same session, and a browser takes it from there.
    let client = Client::connect(dir.path(), node.session([2; 16], true));
    node.until(&FromVma::State(Session::Connected));
    agent.wait_for_bridge(false);
    let mut browser = Browser::new(node.browse([3; 16], "1600x1000", true));
    node.until(&FromVma::State(Session::Connected));
    agent.wait_for_desktop_size(1600, 1000);
    drop(client);

    // Another browser takes it over: the first one's connection ends.
    let second = Browser::new(node.browse([4; 16], "800x600", true));
    node.until(&FromVma::State(Session::Connected));
    browser.wait_for_end();
    agent.wait_for_desktop_size(800, 600);

    // A browser that never says a word is a client all the same, and an NX client takes over from it.
    drop(second);
    node.until(&FromVma::State(Session::Suspended));
    let silent = node.browse([5; 16], "", true);
    node.until(&FromVma::State(Session::Connected));
    let client = Client::connect(dir.path(), node.session([6; 16], true));
    node.until(&FromVma::State(Session::Connected));
    agent.wait_for_bridge(false);
    drop((silent, client));

    // All of this was one desktop. With it ends a browser's connection.
    agent.wait_for_desktop(1);
    node.until(&FromVma::State(Session::Suspended));
    let mut browser = Browser::new(node.browse([7; 16], "1000x600", true));
    node.until(&FromVma::State(Session::Connected));
    node.send(&ToVma::Stop);
    node.until(&FromVma::State(Session::Stopped));
    browser.wait_for_end();
    agent.wait_for_bridge(false);
}

#[test]
fn a_window_that_is_never_shown_goes_where_its_program_puts_it() {
    if lacks_programs() {
        return;
    }
    let (_dir, agent, mut node) = stage("/usr/bin/nxagent");
    let _browser = Browser::new(node.browse([1; 16], "1000x600", false));
    node.until(&FromVma::State(Session::Connected));
    // nxagent has one, by whose place it knows how far the display is; with another place a desktop stays blank.
    let mut hidden = HiddenWindow::on_bridge_of(&agent);
    for place in [-1, -2, -3, 7] {
        hidden.put(place);
        assert_eq!(hidden.place(), place);
    }
}

#[test]
fn a_display_on_which_nothing_is_drawn_is_made_to_be_drawn() {
    if lacks_programs() {
        return;
    }
    let (_dir, agent, mut node) = stage("/usr/bin/nxagent");
    // Nothing draws on the desktop of these tests. In a new session that is no reason for anything.
    let first = Browser::new(node.browse([1; 16], "1000x600", false));
    node.until(&FromVma::State(Session::Connected));
    thread::sleep(Duration::from_secs(6));
    agent.wait_for_bridge(true);
    drop(first);
    node.until(&FromVma::State(Session::Suspended));
    // When it has a display again, that one makes way for another, which the page asks for, and so do some more.
    for ticket in 2..6 {
        let _page = Browser::new(node.browse([ticket; 16], "1000x600", true));
        node.until(&FromVma::State(Session::Connected));
        node.until(&FromVma::State(Session::Suspended));
    }
    // But the desktop may be of a single colour.
    let _patient = Browser::new(node.browse([6; 16], "1000x600", true));
    node.until(&FromVma::State(Session::Connected));
    agent.wait_for_desktop_size(1000, 525);
    agent.wait_for_desktop_size(1000, 600);
}

#[test]
fn a_browser_that_is_gone_before_its_bridge_stands_leaves_a_session_that_serves_the_next() {
    if lacks_programs() {
        return;
    }
    let (_dir, agent, mut node) = stage("/usr/bin/nxagent");
    drop(node.browse([1; 16], "1000x600", false));
    node.send(&open([2; 16], Kind::Vnc, &[]));
    let (_resumed, stream) = node.opened([2; 16]);
    let browser = Browser::new(stream);
    node.until(&FromVma::State(Session::Connected));
    agent.wait_for_desktop(1);
    drop(browser);
    node.until(&FromVma::State(Session::Suspended));
    agent.wait_for_bridge(false);
}

#[test]
fn files_come_and_go_beside_any_session() {
    use std::io::{Read, Write};
    use vma_proto::files::{FromFiles, ToFiles};
    let (_dir, _agent, mut node) = stage("/nonexistent/nxagent");
    let body: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    node.send(&open([1; 16], Kind::Files, &[]));
    let (_, mut stream) = node.opened([1; 16]);
    let (name, total) = ("big.bin".try_into().expect("short"), body.len() as u64);
    node::say(&mut stream, &ToFiles::Put { id: [9; 16], folder: Default::default(), name, offset: 0, total });
    assert_eq!(node::hear::<FromFiles>(&mut stream), FromFiles::Ready { offset: 0, size: 0, modified: 0 });
    stream.write_all(&body).expect("sent");
    assert!(matches!(node::hear(&mut stream), FromFiles::Done { .. }));

    node.send(&open([2; 16], Kind::Files, &[]));
    let (_, mut stream) = node.opened([2; 16]);
    node::say(&mut stream, &ToFiles::Get { file: "big.bin".try_into().expect("short"), offset: 1_000_000 });
    assert!(matches!(node::hear(&mut stream), FromFiles::Ready { offset: 1_000_000, .. }));
    let mut back = vec![];
    stream.read_to_end(&mut back).expect("read");
    assert!(back == body[1_000_000..]);
}
