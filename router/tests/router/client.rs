//! A client that sees what the genuine C client sees: one TLS record is one read.

use crate::world::World;
use rustls::{ClientConfig, ClientConnection};
use rustls_pki_types::ServerName;
use std::{
    io::{self, Cursor, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

/// A TLS connection, record by record.
pub struct Client {
    tcp: TcpStream,
    tls: ClientConnection,
}

/// An answer and the records in which it came.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
    pub records: Vec<String>,
    /// Texts of the 102s before it.
    pub progress: Vec<String>,
}

impl Client {
    pub fn connect(address: SocketAddr, config: &Arc<ClientConfig>) -> Self {
        Self::over(TcpStream::connect(address).expect("the router listens"), address, config)
    }

    /// One that comes from another address of this machine.
    pub fn from_address(from: [u8; 4], world: &World) -> Self {
        use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        bind(&socket, &SocketAddr::from((from, 0))).expect("bound");
        connect(&socket, &world.address).expect("connected");
        Self::over(socket.into(), world.address, &world.tls)
    }

    fn over(tcp: TcpStream, address: SocketAddr, config: &Arc<ClientConfig>) -> Self {
        tcp.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        tcp.set_nodelay(true).expect("set");
        let name = ServerName::from(address.ip());
        let mut tls = ClientConnection::new(config.clone(), name).expect("client");
        let mut socket = tcp.try_clone().expect("cloned");
        while tls.is_handshaking() {
            tls.complete_io(&mut socket).expect("handshake");
        }
        while tls.wants_write() {
            tls.write_tls(&mut socket).expect("written");
        }
        Self { tcp, tls }
    }

    pub fn alpn(&self) -> Option<&[u8]> {
        self.tls.alpn_protocol()
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes.as_ref()).expect("sent");
    }

    pub fn try_send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let taken = self.tls.writer().write(bytes)?;
            bytes = &bytes[taken..];
            while self.tls.wants_write() {
                self.tls.write_tls(&mut self.tcp)?;
            }
        }
        Ok(())
    }

    /// TLS's goodbye; reading goes on.
    pub fn end_sending(&mut self) {
        self.tls.send_close_notify();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.tcp).expect("written");
        }
    }

    /// The bytes of the next record: empty for one that carries none of ours, such as a session
    /// ticket. None at the end.
    pub fn record(&mut self) -> Option<Vec<u8>> {
        let mut head = [0; 5];
        match self.tcp.read_exact(&mut head) {
            Ok(()) => {}
            Err(e) if matches!(e.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => return None,
            Err(e) => panic!("nothing came in time: {e}"),
        }
        let mut record = vec![0; 5 + usize::from(u16::from_be_bytes([head[3], head[4]]))];
        record[..5].copy_from_slice(&head);
        self.tcp.read_exact(&mut record[5..]).expect("a whole record");
        let mut rest = Cursor::new(record);
        // Reading at the end of the cursor would count as the end of the connection.
        while rest.position() < rest.get_ref().len() as u64 {
            self.tls.read_tls(&mut rest).expect("read");
            self.tls.process_new_packets().expect("legal TLS");
        }
        let mut bytes = Vec::new();
        match self.tls.reader().read_to_end(&mut bytes) {
            Ok(_) => None,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Some(bytes),
            Err(e) => panic!("{e}"),
        }
    }

    /// Records until `len` bytes are there.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < len {
            bytes.extend(self.record().expect("more bytes"));
        }
        bytes
    }

    /// The next final answer, or 101.
    pub fn answer(&mut self) -> Answer {
        let mut records: Vec<String> = Vec::new();
        loop {
            let record = self.record().unwrap_or_else(|| panic!("the end instead of an answer, after {records:?}"));
            records.push(String::from_utf8(record).expect("text"));
            if let Some(answer) = parse(&records) {
                return answer;
            }
        }
    }

    pub fn ask(&mut self, request: impl AsRef<[u8]>) -> Answer {
        self.send(request);
        self.answer()
    }
}

fn parse(records: &[String]) -> Option<Answer> {
    let all = records.concat();
    let mut rest = all.as_str();
    let mut progress = Vec::new();
    loop {
        let (head, after) = rest.split_once("\r\n\r\n")?;
        let status: u16 = head.split(' ').nth(1)?.parse().expect("a status");
        let field = |name: &str| head.lines().find_map(|l| l.strip_prefix(name).map(str::to_owned));
        if status == 102 {
            progress.push(field("X-QVD-VM-Info: ").expect("a message"));
            rest = after;
            continue;
        }
        let length: usize = field("Content-Length: ").map_or(0, |l| l.parse().expect("a length"));
        if after.len() < length {
            return None;
        }
        assert_eq!(after.len(), length, "nothing behind an answer");
        let (head, body) = (head.to_owned(), after.to_owned());
        return Some(Answer { status, head, body, records: records.to_vec(), progress });
    }
}

/// `GET` as the Perl client sends it.
pub fn get(path: &str, login: &str) -> String {
    let login = match login {
        "" => String::new(),
        login => format!("Authorization: Basic {}\r\n", base64(login)),
    };
    format!("GET {path} HTTP/1.1\r\n{login}\r\n")
}

/// `connect_to_vm` as the C client sends it: bare LF, no Host.
pub fn connect(vm: u32, login: &str) -> String {
    let login = base64(login);
    format!(
        "GET /qvd/connect_to_vm?id={vm}&qvd.client.os=linux&qvd.client.keyboard=pc%2F105 HTTP/1.1\nAuthorization: Basic {login}\nConnection: Upgrade\nUpgrade: QVD/1.0\n\n"
    )
}

fn base64(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}
