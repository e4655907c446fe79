//! A node as the store sees one: it joins, says Hello, hears what is wanted.

use super::{World, http};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use model::{
    frame,
    state::HostState,
    sync::{
        ALPN, Call, Desired, GuestReport, Heartbeat, Hello, Inventory, JoinRequest, Joined, PROTO, Reply, STORE_NAME,
        ToNode, ToStore, Welcome,
    },
};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::{ClientConfig, crypto::ring};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::{net::Ipv4Addr, sync::Arc, time::Duration};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

/// Longer than anything the store takes its time for.
const LIMIT: Duration = Duration::from_secs(40);

/// A machine with a key.
pub struct Machine {
    pub name: String,
    pub key: KeyPair,
    pub joined: Option<Joined>,
}

/// A connection that speaks node sync.
pub struct Link {
    wire: Framed<TlsStream<TcpStream>, LengthDelimitedCodec>,
    calls: u64,
    /// Heard while waiting for something else.
    pub heard: Vec<ToNode>,
}

impl Machine {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        Self { name: name.to_owned(), key, joined: None }
    }

    fn tls(&self, world: &World, alpn: &[u8]) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("versions")
            .with_root_certificates(http::roots(world.store().pki.ca()));
        let mut config = match &self.joined {
            None => builder.with_no_client_auth(),
            Some(joined) => {
                let chain = vec![CertificateDer::from(joined.certificate.clone())];
                let key = PrivateKeyDer::try_from(self.key.serialize_der()).expect("a key");
                builder.with_client_auth_cert(chain, key).expect("a certificate")
            }
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        config
    }

    pub async fn dial(&self, world: &World, alpn: &[u8]) -> TlsStream<TcpStream> {
        let tcp = TcpStream::connect(world.serving().node_listen).await.expect("connects");
        let name = ServerName::try_from(STORE_NAME).expect("a name");
        TlsConnector::from(Arc::new(self.tls(world, alpn))).connect(name, tcp).await.expect("TLS")
    }

    pub async fn link(&self, world: &World) -> Link {
        let codec = LengthDelimitedCodec::builder().max_frame_length(frame::MAX).new_codec();
        Link { wire: Framed::new(self.dial(world, ALPN).await, codec), calls: 0, heard: Vec::new() }
    }

    pub fn request(&self, token: Option<&str>) -> JoinRequest {
        let csr = CertificateParams::default().serialize_request(&self.key).expect("a request");
        JoinRequest {
            proto: PROTO,
            csr: csr.der().to_vec(),
            token: token.map(str::to_owned),
            name: self.name.clone(),
            address: Ipv4Addr::LOCALHOST,
            inventory: Inventory::default(),
        }
    }

    /// Asks to join; the store's answer.
    pub async fn ask(&mut self, world: &World, token: Option<&str>) -> ToNode {
        let mut link = Machine::new("stranger").link(world).await;
        link.say(ToStore::Join(self.request(token))).await;
        let answer = link.hear().await.expect("an answer");
        if let ToNode::Joined(joined) = &answer {
            self.joined = Some(joined.clone());
        }
        answer
    }

    pub fn hello(&self) -> Hello {
        Hello {
            proto: PROTO,
            version: "test".into(),
            boot_id: "boot".into(),
            revision: 0,
            address: Ipv4Addr::LOCALHOST,
            inventory: Inventory { memory_mib: 2000, bogomips: 1000.0, ..Inventory::default() },
            clock_ms: 0,
        }
    }

    /// Connects as a joined node and becomes running.
    pub async fn run(&self, world: &World) -> (Link, Welcome, Desired) {
        let mut link = self.link(world).await;
        link.say(ToStore::Hello(self.hello())).await;
        let Some(ToNode::Welcome(welcome)) = link.hear().await else { panic!("not welcome") };
        let desired = link.desired(|_| true).await;
        link.say(ToStore::ReportsComplete).await;
        link.beat(HostState::Running).await;
        (link, welcome, desired)
    }
}

/// A node that has joined with the first start's token.
pub async fn joined(world: &World, name: &str) -> Machine {
    let mut machine = Machine::new(name);
    let token = world.join_token();
    assert!(matches!(machine.ask(world, Some(&token)).await, ToNode::Joined(_)));
    machine
}

impl Link {
    pub async fn say(&mut self, message: ToStore) {
        self.wire.send(Bytes::from(frame::encode(&message).expect("encodes"))).await.expect("sent");
    }

    pub async fn say_bytes(&mut self, bytes: Vec<u8>) {
        self.wire.send(Bytes::from(bytes)).await.expect("sent");
    }

    /// The next message; none when the store has closed.
    pub async fn hear(&mut self) -> Option<ToNode> {
        let bytes = tokio::time::timeout(LIMIT, self.wire.next()).await.expect("in time")?.ok()?;
        Some(frame::decode(&bytes).expect("a message"))
    }

    pub async fn beat(&mut self, state: HostState) {
        let beat = Heartbeat {
            state,
            reason: String::new(),
            available_mib: 1500,
            cpu_percent: 3.0,
            rss_kib: vec![("noded".into(), 20_000)],
            uptime_s: 5,
        };
        self.say(ToStore::Heartbeat(beat)).await;
        // The store handles a node's words in order, so an answer proves that it has heard the beat.
        self.call(Call::List { user: model::UserId(0) }).await;
    }

    /// Asks and waits for the answer; what else is heard is kept.
    pub async fn call(&mut self, call: Call) -> Reply {
        let number = self.ask(call).await;
        self.answer(number).await
    }

    pub async fn ask(&mut self, call: Call) -> u64 {
        self.calls += 1;
        self.say(ToStore::Call(self.calls, call)).await;
        self.calls
    }

    pub async fn answer(&mut self, number: u64) -> Reply {
        loop {
            match self.hear().await.expect("a message") {
                ToNode::Reply(n, reply) if n == number => return reply,
                other => self.heard.push(other),
            }
        }
    }

    /// The first desired state that is as asked, heard earlier or from now on.
    pub async fn desired(&mut self, wanted: impl Fn(&Desired) -> bool) -> Desired {
        loop {
            if let ToNode::Desired(desired) = self.next().await
                && wanted(&desired)
            {
                return *desired;
            }
        }
    }

    /// Waits until the store cuts a session: of which VM, and which.
    pub async fn abort(&mut self) -> (model::VmId, Option<u64>) {
        loop {
            if let ToNode::AbortSession { vm, session, .. } = self.next().await {
                return (vm, session);
            }
        }
    }

    /// How many words to cut a session came meanwhile.
    pub fn more_aborts(&self) -> usize {
        self.heard.iter().filter(|message| matches!(message, ToNode::AbortSession { .. })).count()
    }

    /// Waits until the store ends a user's logins.
    pub async fn end_logins(&mut self) -> model::UserId {
        loop {
            if let ToNode::EndLogins(user) = self.next().await {
                return user;
            }
        }
    }

    /// What was heard earlier, or is next.
    async fn next(&mut self) -> ToNode {
        if !self.heard.is_empty() {
            return self.heard.remove(0);
        }
        self.hear().await.expect("a message")
    }

    pub async fn report(&mut self, report: GuestReport) {
        self.say(ToStore::Guest(report)).await;
    }
}
