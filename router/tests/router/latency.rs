//! From a key press to its pixel: what the router and the page add to a plain VNC client, in one run.
//!
//! A server of the remote framebuffer protocol paints a square at each key. It is asked over loopback TCP,
//! through the router by a client that is no browser, and by the page in Chromium; a pixel counts from when
//! it lies in the picture, since what follows is the same for every client. A figure, not a test:
//!
//! ```text
//! cargo test -p router --test router -- --ignored --nocapture key_press
//! ```

use crate::{
    cdp::{Browser, Page},
    visitor::{Socket, log_in},
    world::{Ca, Setup, World, vm},
};
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

const WIDTH: u16 = 640;
const HEIGHT: u16 = 480;
/// Side of the square that a key paints.
const SIDE: u16 = 32;
/// Presses that are counted, after those that warm everything up.
const PRESSES: usize = 400;
const WARM: usize = 50;

/// Answers one client until it leaves. Every byte of a square is the number of its key.
fn serve(mut stream: impl Read + Write) -> std::io::Result<()> {
    stream.write_all(b"RFB 003.008\n")?;
    take::<12>(&mut stream)?;
    stream.write_all(&[1, 1])?;
    take::<1>(&mut stream)?;
    stream.write_all(&[0; 4])?;
    take::<1>(&mut stream)?;
    let pixels = [32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0];
    let name = b"latency";
    stream.write_all(&[&size(WIDTH, HEIGHT)[..], &pixels, &(name.len() as u32).to_be_bytes(), name].concat())?;
    let (mut wanted, mut owed, mut key) = (false, false, 0);
    loop {
        match take::<1>(&mut stream)?[0] {
            0 => drop(take::<19>(&mut stream)?),
            2 => {
                let count = take::<3>(&mut stream)?;
                (0..u16::from_be_bytes([count[1], count[2]])).try_for_each(|_| take::<4>(&mut stream).map(drop))?;
            }
            3 => match take::<9>(&mut stream)?[0] {
                0 => stream.write_all(&square(WIDTH, HEIGHT, 0))?,
                _ => wanted = true,
            },
            4 => {
                let down = take::<7>(&mut stream)?[0] == 1;
                owed |= down;
                key += u8::from(down && key < 200);
                key = if key == 200 { 1 } else { key };
            }
            5 => drop(take::<5>(&mut stream)?),
            6 => {
                let head = take::<7>(&mut stream)?;
                let length = i32::from_be_bytes([head[3], head[4], head[5], head[6]]).unsigned_abs();
                (0..length).try_for_each(|_| take::<1>(&mut stream).map(drop))?;
            }
            other => return Err(std::io::Error::other(format!("message {other}"))),
        }
        if wanted && owed {
            stream.write_all(&square(SIDE, SIDE, key))?;
            (wanted, owed) = (false, false);
        }
    }
}

fn take<const N: usize>(stream: &mut impl Read) -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn size(width: u16, height: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (width.to_be_bytes(), height.to_be_bytes());
    [a, b, c, d]
}

/// An update of one rectangle, raw.
fn square(width: u16, height: u16, value: u8) -> Vec<u8> {
    let head = [&[0, 0, 0, 1, 0, 0, 0, 0][..], &size(width, height), &[0; 4]].concat();
    [head, vec![value; usize::from(width) * usize::from(height) * 4]].concat()
}

/// How a client that is no browser reaches the server.
trait Way {
    fn send(&mut self, bytes: &[u8]);
    fn take(&mut self, length: usize) -> Vec<u8>;
}

impl Way for TcpStream {
    fn send(&mut self, bytes: &[u8]) {
        self.write_all(bytes).expect("sent");
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.read_exact(&mut bytes).expect("heard");
        bytes
    }
}

/// A WebSocket, and what came on it that was not taken yet.
struct Routed(Socket, Vec<u8>);

impl Way for Routed {
    fn send(&mut self, bytes: &[u8]) {
        self.0.send(2, bytes);
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        while self.1.len() < length {
            if let (2, bytes) = self.0.frame().expect("it goes on") {
                self.1.extend(bytes);
            }
        }
        self.1.drain(..length).collect()
    }
}

/// Milliseconds of each press as a plain client sees it.
fn plain(mut way: impl Way) -> Vec<f64> {
    way.take(12);
    way.send(b"RFB 003.008\n");
    way.take(2);
    way.send(&[1]);
    way.take(4);
    way.send(&[1]);
    way.take(24 + 7);
    way.send(&[2, 0, 0, 1, 0, 0, 0, 0]);
    way.send(&[&[3, 0, 0, 0, 0, 0][..], &size(WIDTH, HEIGHT)].concat());
    way.take(square(WIDTH, HEIGHT, 0).len());
    let update = square(SIDE, SIDE, 0).len();
    let mut press = |number: usize| {
        way.send(&[&[3, 1, 0, 0, 0, 0][..], &size(WIDTH, HEIGHT)].concat());
        std::thread::sleep(pause(number));
        let began = Instant::now();
        way.send(&[4, 1, 0, 0, 0, 0, 0, b'a']);
        way.take(update);
        let time = began.elapsed();
        way.send(&[4, 0, 0, 0, 0, 0, 0, b'a']);
        time.as_secs_f64() * 1000.0
    };
    (0..WARM + PRESSES).map(&mut press).skip(WARM).collect()
}

/// Between two presses: not all at the same beat.
fn pause(number: usize) -> Duration {
    Duration::from_millis(5 + number as u64 % 13)
}

/// The same as a page sees it: from the keyboard's event to the drawing on the visible picture.
fn in_page(page: &Page<'_>) -> Vec<f64> {
    let script = format!(
        "(async () => {{
            const canvas = document.querySelector('#screen canvas'), drawing = CanvasRenderingContext2D.prototype;
            const draw = drawing.drawImage, times = [];
            let seen;
            drawing.drawImage = function (...what) {{
                draw.apply(this, what);
                if (this.canvas === canvas) seen?.(performance.now());
            }};
            const key = (type) => canvas.dispatchEvent(new KeyboardEvent(type, {{ key: 'a', code: 'KeyA', bubbles: true, cancelable: true }}));
            for (let n = 0; n < {}; n++) {{
                await new Promise((done) => setTimeout(done, 5 + n % 13));
                const began = performance.now();
                const at = await new Promise((done) => {{ seen = done; key('keydown'); }});
                seen = undefined;
                key('keyup');
                times.push(at - began);
            }}
            const [value] = canvas.getContext('2d').getImageData(1, 1, 1, 1).data;
            return value > 0 ? times : 'nothing was painted';
        }})()",
        WARM + PRESSES
    );
    let times = page.eval(&script);
    let times = times.as_array().unwrap_or_else(|| panic!("{times}"));
    times.iter().skip(WARM).map(|t| t.as_f64().expect("a time")).collect()
}

/// Median and 95th percentile.
fn tell(name: &str, mut times: Vec<f64>) -> [f64; 2] {
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[(times.len() as f64 * share) as usize];
    println!("{name:<32} {:>6.2} ms  p95 {:>6.2} ms", at(0.5), at(0.95));
    [at(0.5), at(0.95)]
}

#[test]
#[ignore = "a figure: it needs a machine that does nothing else"]
fn key_press_to_pixel() {
    let mut world = World::with(&Ca::new(), Setup { program: true, ..Setup::default() });
    let guests = world.fake.take_guests();
    std::thread::spawn(move || {
        for (_, guest) in guests {
            std::thread::spawn(move || serve(guest));
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            stream.set_nodelay(true).expect("set");
            std::thread::spawn(move || serve(stream));
        }
    });
    let tcp = TcpStream::connect(address).expect("connected");
    tcp.set_nodelay(true).expect("set");
    let alone = tell("plain VNC client, loopback", plain(tcp));
    let bob = log_in(&world, "bob", "hunter2");
    let mut socket = bob.socket(&world, vm::BOBS);
    socket.until_open();
    let routed = tell("the same through the router", plain(Routed(socket, Vec::new())));
    let browser = Browser::start();
    let page = browser.page(800, 600);
    page.go(&format!("https://{}/", world.address));
    page.log_in("ann", "secret");
    page.until("document.querySelectorAll('.card').length > 3");
    page.go(&format!("https://{}/web/desktop?id={}", world.address, vm::RUNNING));
    page.until("document.body.dataset.open === '1'");
    let paged = tell("router and page (Chromium)", in_page(&page));
    println!("added by the router              {:>6.2} ms  p95 {:>6.2} ms", routed[0] - alone[0], routed[1] - alone[1]);
    println!("added by router and page         {:>6.2} ms  p95 {:>6.2} ms", paged[0] - alone[0], paged[1] - alone[1]);
}
