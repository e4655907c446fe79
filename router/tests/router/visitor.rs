//! A browser without a page, byte by byte.

use crate::{
    client::{Answer, Client},
    world::World,
};
use serde_json::Value;

/// A browser without a page: cookie and token of one login.
pub struct Visitor {
    pub cookie: String,
    pub token: String,
}

pub fn origin(world: &World) -> String {
    format!("Host: {0}\r\nOrigin: https://{0}\r\n", world.address)
}

pub fn post(world: &World, path: &str, headers: &str, body: &str) -> String {
    let (origin, length) = (origin(world), body.len());
    format!(
        "POST {path} HTTP/1.1\r\n{origin}{headers}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

pub fn login_request(world: &World, user: &str, password: &str) -> String {
    post(world, "/web/login", "", &format!("{{\"user\":\"{user}\",\"password\":\"{password}\"}}"))
}

pub fn log_in(world: &World, user: &str, password: &str) -> Visitor {
    let answer = world.client().ask(login_request(world, user, password));
    assert_eq!(answer.status, 200, "{answer:?}");
    let set = answer.head.lines().find_map(|l| l.strip_prefix("Set-Cookie: ")).expect("a cookie");
    for attribute in ["__Host-roost=", "; Path=/", "; Secure", "; HttpOnly", "; SameSite=Strict"] {
        assert!(set.contains(attribute), "{set}");
    }
    let about: Value = serde_json::from_str(&answer.body).expect("JSON");
    let cookie = set.split(';').next().expect("a value").to_owned();
    Visitor { cookie, token: about["token"].as_str().expect("a token").to_owned() }
}

impl Visitor {
    pub fn headers(&self) -> String {
        format!("Cookie: {}\r\nX-Roost-Token: {}\r\n", self.cookie, self.token)
    }

    pub fn get(&self, world: &World, path: &str) -> Answer {
        world.client().ask(format!("GET {path} HTTP/1.1\r\nHost: x\r\nCookie: {}\r\n\r\n", self.cookie))
    }

    pub fn post(&self, world: &World, path: &str) -> Answer {
        world.client().ask(post(world, path, &self.headers(), "{}"))
    }

    pub fn ticket(&self, world: &World, vm: u32) -> String {
        let answer = self.post(world, &format!("/web/desktops/{vm}/ticket"));
        assert_eq!(answer.status, 200, "{answer:?}");
        let body: Value = serde_json::from_str(&answer.body).expect("JSON");
        body["ticket"].as_str().expect("a ticket").to_owned()
    }

    pub fn upgrade(&self, world: &World, ticket: &str) -> String {
        let (origin, cookie) = (origin(world), &self.cookie);
        format!(
            "GET /web/socket?ticket={ticket}&w=800&h=600&layout=es HTTP/1.1\r\n{origin}Cookie: {cookie}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
    }

    /// A WebSocket that has just been answered.
    pub fn socket(&self, world: &World, vm: u32) -> Socket {
        let mut client = world.client();
        let answer = client.ask(self.upgrade(world, &self.ticket(world, vm)));
        assert_eq!(answer.status, 101, "{answer:?}");
        Socket::over(client)
    }

    /// One whose desktop is open, and the guest's end.
    pub fn desktop(&self, world: &World, vm: u32) -> (Socket, std::os::unix::net::UnixStream) {
        let mut socket = self.socket(world, vm);
        socket.until_open();
        (socket, world.fake.guest())
    }
}

/// A client's end of a WebSocket.
pub struct Socket {
    pub client: Client,
    bytes: Vec<u8>,
}

impl Socket {
    /// One whose upgrade was answered.
    pub fn over(client: Client) -> Self {
        Self { client, bytes: Vec::new() }
    }

    /// The next frame's opcode and payload; none at the end.
    pub fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some((used, frame)) = parse(&self.bytes) {
                self.bytes.drain(..used);
                return Some(frame);
            }
            self.bytes.extend(self.client.record()?);
        }
    }

    pub fn until_open(&mut self) -> String {
        loop {
            let (opcode, payload) = self.frame().expect("open");
            let text = String::from_utf8_lossy(&payload);
            assert_eq!(opcode, 1, "{text}");
            if text.contains("\"open\":true") {
                let open: Value = serde_json::from_str(&text).expect("JSON");
                return open["session"].as_str().expect("a session").to_owned();
            }
            assert!(text.contains("step"), "{text}");
        }
    }

    /// The code of the close frame.
    pub fn close_code(&mut self) -> u16 {
        loop {
            match self.frame().expect("a close frame") {
                (8, payload) => return u16::from_be_bytes([payload[0], payload[1]]),
                _ => continue,
            }
        }
    }

    pub fn send(&mut self, opcode: u8, payload: &[u8]) {
        self.client.send(masked(0x80 | opcode, payload));
    }
}

pub fn parse(bytes: &[u8]) -> Option<(usize, (u8, Vec<u8>))> {
    let [first, second, rest @ ..] = bytes else { return None };
    let (length, at) = match second {
        126 => (usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?])), 4),
        short => (usize::from(*short), 2),
    };
    Some((at + length, (first & 15, bytes.get(at..at + length)?.to_vec())))
}

pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    let length = (payload.len() as u16).to_be_bytes();
    let mut frame = match payload.len() {
        0..126 => vec![first, 0x80 | payload.len() as u8],
        _ => vec![first, 0xfe, length[0], length[1]],
    };
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
    frame
}
