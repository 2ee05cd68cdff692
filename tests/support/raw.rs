//! Raw bytes: a client that sends what a test wrote and shows what came back, and workers that answer by script.
//!
//! Everything here blocks, with one limit for all reads. There is no HTTP library in it, so that nothing is corrected
//! on the way.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::process::PATIENCE;

mod worker;

pub(crate) use worker::{Leg, RawWorker, ok};

/// A byte stream under a [`Raw`] connection.
pub(crate) trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

/// A complete request or answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Message {
    /// The request line or the status line.
    pub(crate) start: String,
    /// Fields in the order in which they came, with names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// The body without its chunk framing.
    pub(crate) body: Vec<u8>,
    /// The trailers of a chunked body.
    pub(crate) trailers: Vec<(String, String)>,
}

impl Message {
    /// The status of an answer.
    pub(crate) fn status(&self) -> u16 {
        self.start.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// The one value of a field; a field given twice fails the test.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.all(name);
        let first = values.next();
        assert_eq!(values.next(), None, "{name} twice: {self:?}");
        first
    }

    /// Every value of a field.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The target of a request.
    pub(crate) fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap()
    }

    /// `name=value` of the cookies it sets, by name.
    pub(crate) fn cookie(&self, name: &str) -> Option<String> {
        let pairs = self.all("set-cookie").map(|value| value.split(';').next().unwrap());
        pairs.filter(|pair| pair.split('=').next() == Some(name)).map(str::to_owned).next()
    }
}

/// One end of a connection, with the bytes that were read but not yet used.
pub(crate) struct Raw {
    wire: Box<dyn Wire>,
    buffer: Vec<u8>,
    /// Every byte that has come so far.
    seen: Arc<Mutex<Vec<u8>>>,
    /// The Host of [`Raw::get`].
    host: &'static str,
}

impl Raw {
    /// A connection on this stream, whose reads must time out after [`PATIENCE`].
    pub(crate) fn on(wire: impl Wire + 'static) -> Self {
        Self { wire: Box::new(wire), buffer: Vec::new(), seen: Arc::default(), host: "a.example" }
    }

    /// A TCP connection to `address`.
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::on(patient(TcpStream::connect(address).unwrap()))
    }

    /// A TCP connection to `address` from this address of the machine, of which 127.0.0.0/8 has many.
    pub(crate) fn connect_from(source: IpAddr, address: SocketAddr) -> Self {
        let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(source, 0).into()).unwrap();
        socket.connect(&address.into()).unwrap();
        Self::on(patient(socket.into()))
    }

    /// A connection to a unix socket, which is that of the admin listener.
    pub(crate) fn connect_unix(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { host: "localhost", ..Self::on(stream) }
    }

    /// Sends all of these bytes.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.try_send(bytes).unwrap();
        self
    }

    /// Sends bytes to a peer that may already have closed.
    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.wire.write_all(bytes.as_ref())?;
        self.wire.flush()
    }

    /// Sends a GET and reads its answer.
    pub(crate) fn get(&mut self, target: &str) -> Message {
        self.ask(&format!("GET {target} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host))
    }

    /// Sends a request and reads its answer.
    pub(crate) fn ask(&mut self, request: &str) -> Message {
        let head = request.starts_with("HEAD ");
        self.send(request).answer_to(head)
    }

    /// Reads a complete answer.
    pub(crate) fn answer(&mut self) -> Message {
        self.answer_to(false)
    }

    /// Reads a complete answer, to HEAD or not; 1xx answers count, too.
    pub(crate) fn answer_to(&mut self, head: bool) -> Message {
        let mut message = self.head().unwrap_or_else(|| panic!("closed before an answer"));
        let status = message.status();
        if !(head || status < 200 || status == 204 || status == 304) {
            let read = self.body(&mut message, true);
            assert!(read, "the body broke off: {message:?}");
        }
        message
    }

    /// The head of the next message; `None` at the end of the connection.
    pub(crate) fn head(&mut self) -> Option<Message> {
        let end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            if !self.fill() {
                return None;
            }
        };
        // What is not UTF-8 shows only in the bytes.
        let head = String::from_utf8_lossy(&self.buffer.drain(..end).collect::<Vec<_>>()).into_owned();
        let (start, fields) = head.split_once("\r\n").unwrap();
        Some(Message { start: start.to_owned(), headers: fields_of(fields), ..Message::default() })
    }

    /// Reads the body of `message` by its framing; `false` if it breaks off (what came is kept).
    pub(crate) fn body(&mut self, message: &mut Message, until_close: bool) -> bool {
        if message.header("transfer-encoding").is_some() {
            assert_eq!(message.header("content-length"), None, "two lengths: {message:?}");
            return self.chunks(message);
        }
        let Some(length) = message.header("content-length") else {
            if until_close {
                while self.fill() {}
                message.body = std::mem::take(&mut self.buffer);
            }
            return true;
        };
        let length: usize = length.parse().unwrap();
        while self.buffer.len() < length && self.fill() {}
        let whole = self.buffer.len() >= length;
        message.body = self.buffer.drain(..length.min(self.buffer.len())).collect();
        whole
    }

    fn chunks(&mut self, message: &mut Message) -> bool {
        loop {
            let Some(size) = self.line() else { return false };
            let size = usize::from_str_radix(size.split(';').next().unwrap(), 16).unwrap();
            if size == 0 {
                loop {
                    match self.line() {
                        None => return false,
                        Some(line) if line.is_empty() => return true,
                        Some(line) => message.trailers.extend(fields_of(&line)),
                    }
                }
            }
            while self.buffer.len() < size + 2 && self.fill() {}
            let whole = self.buffer.len() >= size + 2;
            message.body.extend(self.buffer.drain(..size.min(self.buffer.len())));
            if !whole {
                return false;
            }
            self.buffer.drain(..2);
        }
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                let line = self.buffer.drain(..at + 2).take(at).collect();
                return Some(String::from_utf8(line).unwrap());
            }
            if !self.fill() {
                return None;
            }
        }
    }

    /// A complete request, at a worker; `None` if the connection ends before one.
    pub(crate) fn request(&mut self) -> Option<Message> {
        let mut message = self.head()?;
        self.body(&mut message, false).then_some(message)
    }

    /// Reads exactly this many bytes.
    pub(crate) fn exactly(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            assert!(self.fill(), "closed after {} of {count} bytes", self.buffer.len());
        }
        self.buffer.drain(..count).collect()
    }

    /// Everything up to the end of the connection, by close or reset.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        while self.fill() {}
        std::mem::take(&mut self.buffer)
    }

    /// Waits for the end of the connection; any byte before it fails the test.
    pub(crate) fn closed(&mut self) {
        let rest = self.rest();
        assert!(rest.is_empty(), "more before the end: {}", String::from_utf8_lossy(&rest));
    }

    /// Reads once; `false` at the end. A peer that sends nothing for [`PATIENCE`] fails the test.
    pub(crate) fn fill(&mut self) -> bool {
        let mut chunk = [0; 16 * 1024];
        match self.wire.read(&mut chunk) {
            // A child process of the test has ended. A signal ends a read with a time-out (signal(7)).
            Err(error) if error.kind() == ErrorKind::Interrupted => self.fill(),
            Ok(0) => false,
            Ok(n) => {
                self.buffer.extend_from_slice(&chunk[..n]);
                self.seen.lock().unwrap().extend_from_slice(&chunk[..n]);
                true
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("nothing for {PATIENCE:?}, after: {}", String::from_utf8_lossy(&self.buffer))
            }
            // A reset, or TLS that ends without close_notify.
            Err(_) => false,
        }
    }
}

/// Sets a stream so that its reads give up after [`PATIENCE`].
pub(crate) fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Makes this connection end with a reset instead of a close when it is dropped.
pub(crate) fn reset(stream: &TcpStream) {
    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn fields_of(lines: &str) -> Vec<(String, String)> {
    let split = |line: &str| {
        let (name, value) = line.split_once(':').unwrap();
        (name.to_ascii_lowercase(), value.trim().to_owned())
    };
    lines.split("\r\n").filter(|line| !line.is_empty()).map(split).collect()
}
