//! The agent as a node sees it: over its socket, with real programs behind.

mod node;

use node::{Agent, Client, Node, open};
use vma_proto::{FromVma, Kind, PROTO, Session, ToVma};

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
    let dir = tempfile::tempdir().expect("dir");
    let _agent = Agent::start(dir.path(), "/nonexistent/nxagent");
    let mut node = Node::listen(dir.path());
    node.hello();
    node.send(&open([1; 16], Kind::Vnc, &[]));
    assert_refused(node.next(), "NX clients only");
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
    let programs = ["/usr/bin/nxagent", "/usr/bin/nxproxy", "/usr/bin/Xvfb"];
    if let Some(missing) = programs.iter().find(|path| !std::path::Path::new(path).exists()) {
        eprintln!("skipped: needs {missing} (Debian packages nxagent, nxproxy, xvfb)");
        return;
    }
    let dir = tempfile::tempdir().expect("dir");
    let agent = Agent::start(dir.path(), programs[0]);
    let mut node = Node::listen(dir.path());
    node.hello();

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
