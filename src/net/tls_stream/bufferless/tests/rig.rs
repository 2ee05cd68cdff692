//! Test rig: the two ends of a connection, and the wire between them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::rc::Rc;
use std::sync::OnceLock;
use std::task::Waker;

use proptest::prelude::*;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};

use crate::net::tls_stream::bufferless::*;
use crate::net::tls_stream::records::STEP;

/// Number of turns after which a test counts as stuck.
const STUCK: usize = 1_000_000;

/// Number of flushes that is enough to write everything, if the wire makes any progress: it takes at most seven calls
/// per byte.
const FLUSHES: usize = 8 * (STEP + 1000);

/// The wire, which is also the server's socket.
#[derive(Default)]
pub(crate) struct Wire {
    pub(crate) to_server: VecDeque<u8>,
    pub(crate) to_client: Vec<u8>,
    /// Whether the client has sent its FIN.
    pub(crate) ended: bool,
    /// Maximum number of bytes for each call, in turn; with 0 the call has to wait.
    pub(crate) cuts: Vec<usize>,
    turn: usize,
    /// Number of bytes of the client that have passed so far.
    passed: usize,
    damage: Option<Damage>,
}

#[derive(Debug, Clone)]
pub(crate) struct Damage {
    at: usize,
    how: How,
}

#[derive(Debug, Clone)]
enum How {
    Flip(u8),
    Insert(Vec<u8>),
    End,
}

impl Damage {
    pub(crate) fn any() -> impl Strategy<Value = Self> {
        let how = prop_oneof![
            (1..=255_u8).prop_map(How::Flip),
            proptest::collection::vec(any::<u8>(), 1..40).prop_map(How::Insert),
            Just(How::End),
        ];
        // A hello has several hundred to two thousand bytes, a Finished about a hundred.
        (prop_oneof![0..3000_usize, 0..100_000_usize], how).prop_map(|(at, how)| Self { at, how })
    }
}

pub(crate) fn cuts() -> impl Strategy<Value = Vec<usize>> {
    let cut = prop_oneof![Just(0), 1..40_usize, 100..3000_usize, 10_000..100_000_usize];
    let progress = prop_oneof![Just(1), 500..100_000_usize];
    (proptest::collection::vec(cut, 0..6), progress).prop_map(|(mut cuts, progress)| {
        // Without this, nothing might ever pass.
        cuts.push(progress);
        cuts
    })
}

pub(crate) fn versions() -> impl Strategy<Value = &'static SupportedProtocolVersion> {
    prop_oneof![Just(&rustls::version::TLS13), Just(&rustls::version::TLS12)]
}

/// The next action of one side.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// The client sends this many bytes.
    Client(usize),
    /// The client requests new keys, if its TLS version allows that.
    NewKeys,
    /// The server makes one write of parts with these lengths.
    Server(Vec<usize>),
    /// The server makes one read with this much room.
    Read(usize),
}

pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let size = || prop_oneof![3 => 0..2000_usize, 1 => 0..40_000_usize];
    let step = prop_oneof![
        2 => size().prop_map(Step::Client),
        1 => Just(Step::NewKeys),
        2 => proptest::collection::vec(size(), 1..5).prop_map(Step::Server),
        3 => prop_oneof![1..100_usize, 1..70_000_usize].prop_map(Step::Read),
    ];
    proptest::collection::vec(step, 0..14)
}

impl Wire {
    fn cut(&mut self) -> usize {
        self.turn += 1;
        self.cuts[self.turn % self.cuts.len()]
    }

    /// Carries bytes of the client to the server, with the damage.
    fn carry(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let here = self.damage.as_ref().filter(|damage| damage.at == self.passed).map(|damage| damage.how.clone());
            self.passed += 1;
            match here {
                None if self.ended => {}
                None => self.to_server.push_back(*byte),
                Some(How::Flip(bits)) => self.to_server.push_back(byte ^ bits),
                Some(How::Insert(more)) => self.to_server.extend(more.iter().chain([byte])),
                Some(How::End) => self.ended = true,
            }
        }
    }
}

/// The server's end of a wire.
pub(crate) struct Pipe(Rc<RefCell<Wire>>);

impl AsyncRead for Pipe {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut wire = self.0.borrow_mut();
        let count = wire.cut().min(buf.remaining()).min(wire.to_server.len());
        if count == 0 {
            return if wire.to_server.is_empty() && wire.ended { Poll::Ready(Ok(())) } else { Poll::Pending };
        }
        let bytes: Vec<u8> = wire.to_server.drain(..count).collect();
        buf.put_slice(&bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        assert!(!bytes.is_empty(), "an empty write wastes a system call");
        let mut wire = self.0.borrow_mut();
        let count = wire.cut().min(bytes.len());
        if count == 0 {
            return Poll::Pending;
        }
        wire.to_client.extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Both ends, and the bytes that each has sent and received.
pub(crate) struct Rig {
    pub(crate) client: ClientConnection,
    pub(crate) wire: Rc<RefCell<Wire>>,
    server: Option<Box<Bufferless<Pipe>>>,
    pub(crate) said: Vec<u8>,
    pub(crate) heard: Vec<u8>,
    pub(crate) answers: Vec<u8>,
    pub(crate) answers_heard: Vec<u8>,
    pub(crate) client_saw_close: bool,
}

struct Setup {
    server: Arc<ServerConfig>,
    root: CertificateDer<'static>,
}

fn setup() -> &'static Setup {
    static SETUP: OnceLock<Setup> = OnceLock::new();
    SETUP.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let mut server = builder.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
        server.ticketer = aws_lc_rs::Ticketer::new().unwrap();
        server.send_tls13_tickets = 1;
        Setup { server: Arc::new(server), root: made.cert.der().clone() }
    })
}

fn client(version: &'static SupportedProtocolVersion) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    roots.add(setup().root.clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_protocol_versions(&[version]).unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.enable_secret_extraction = true;
    let mut client = ClientConnection::new(Arc::new(config), ServerName::try_from("a.example").unwrap()).unwrap();
    client.set_buffer_limit(None);
    client
}

fn context() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

impl Rig {
    pub(crate) fn new(version: &'static SupportedProtocolVersion, cuts: Vec<usize>, damage: Option<Damage>) -> Self {
        Self {
            client: client(version),
            wire: Rc::new(RefCell::new(Wire { cuts, damage, ..Wire::default() })),
            server: None,
            said: Vec::new(),
            heard: Vec::new(),
            answers: Vec::new(),
            answers_heard: Vec::new(),
            client_saw_close: false,
        }
    }

    /// Takes the client out, for uses of its keys; a new client, which sends nothing, takes its place.
    pub(crate) fn without_client(mut self) -> (ClientConnection, Self) {
        (std::mem::replace(&mut self.client, client(&rustls::version::TLS13)), self)
    }

    pub(crate) fn server(&self) -> &Bufferless<Pipe> {
        self.server.as_ref().unwrap()
    }

    /// Returns whether the handshake has succeeded.
    pub(crate) fn is_open(&self) -> bool {
        self.server.is_some()
    }

    /// Carries all that the client has to send to the server's socket, and all that the server has sent to the client.
    pub(crate) fn carry(&mut self) {
        let mut bytes = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut bytes).unwrap();
        }
        let mut wire = self.wire.borrow_mut();
        wire.carry(&bytes);
        let back = std::mem::take(&mut wire.to_client);
        let mut back = back.as_slice();
        while !back.is_empty() && self.client.read_tls(&mut back).is_ok_and(|read| read > 0) {
            if self.client.process_new_packets().is_err() {
                // The client disconnects, whether or not it got an alert.
                wire.ended = true;
                return;
            }
            let mut room = [0; 4096];
            loop {
                match self.client.reader().read(&mut room) {
                    Ok(0) => {
                        self.client_saw_close = true;
                        break;
                    }
                    Ok(count) => self.answers_heard.extend_from_slice(&room[..count]),
                    Err(_) => break,
                }
            }
        }
    }

    /// Extends a stream by bytes that show where each belongs; returns their range.
    fn more(stream: &mut Vec<u8>, count: usize) -> std::ops::Range<usize> {
        let from = stream.len();
        stream.extend((from..from + count).map(|i| (i * 7 + i / 251).to_le_bytes()[0]));
        from..from + count
    }

    pub(crate) fn client_says(&mut self, count: usize) {
        let range = Self::more(&mut self.said, count);
        // A client that has given up sends nothing more; the error does not matter.
        let _ = self.client.writer().write_all(&self.said[range]);
    }

    pub(crate) fn handshake(&mut self) -> io::Result<()> {
        let accept = Bufferless::accept(Pipe(self.wire.clone()), setup().server.clone(), Vec::new());
        let mut accept = std::pin::pin!(accept);
        for _ in 0..STUCK {
            self.carry();
            if let Poll::Ready(made) = accept.as_mut().poll(&mut context()) {
                self.server = Some(made?);
                self.carry();
                return Ok(());
            }
        }
        // If the damage has increased a length, the server waits for more bytes; outside this test the handshake
        // time-out ends that.
        assert!(self.wire.borrow().damage.is_some(), "the handshake is stuck");
        Err(io::ErrorKind::UnexpectedEof.into())
    }

    /// Makes one read with this much room. `None` means that it has to wait.
    pub(crate) fn read(&mut self, room: usize) -> io::Result<Option<usize>> {
        let mut room = vec![0; room];
        let mut buf = ReadBuf::new(&mut room);
        match Pin::new(self.server.as_mut().unwrap()).poll_read(&mut context(), &mut buf) {
            Poll::Pending => Ok(None),
            Poll::Ready(done) => {
                done?;
                self.heard.extend_from_slice(buf.filled());
                Ok(Some(buf.filled().len()))
            }
        }
    }

    /// Makes one write of the next bytes, in parts; returns how many were taken. `None` means that it has to wait.
    pub(crate) fn write(&mut self, parts: &[usize]) -> io::Result<Option<usize>> {
        let mut stream = self.answers.clone();
        let range = Self::more(&mut stream, parts.iter().sum());
        let mut rest = &stream[range];
        let slices: Vec<_> = parts
            .iter()
            .map(|part| {
                let (now, later) = rest.split_at(*part);
                rest = later;
                IoSlice::new(now)
            })
            .collect();
        match Pin::new(self.server.as_mut().unwrap()).poll_write_vectored(&mut context(), &slices) {
            Poll::Pending => Ok(None),
            Poll::Ready(taken) => {
                let taken = taken?;
                Self::more(&mut self.answers, taken);
                Ok(Some(taken))
            }
        }
    }

    /// Returns whether a flush completes in the end.
    pub(crate) fn flushes(&mut self) -> bool {
        let server = self.server.as_mut().unwrap();
        (0..FLUSHES).any(|_| matches!(Pin::new(&mut *server).poll_flush(&mut context()), Poll::Ready(Ok(()))))
    }

    pub(crate) fn step(&mut self, step: &Step) -> io::Result<()> {
        match step {
            Step::Client(count) => self.client_says(*count),
            Step::NewKeys => {
                // TLS 1.2 has no key update.
                let _ = self.client.refresh_traffic_keys();
            }
            Step::Server(parts) => {
                let mut written = self.write(parts)?;
                if written.is_none() {
                    assert!(self.flushes());
                    written = self.write(parts)?;
                }
                let all: usize = parts.iter().sum();
                assert!(
                    written.is_some_and(|written| (all.min(STEP)..=all).contains(&written)),
                    "{written:?} of {all}"
                );
            }
            Step::Read(room) => drop(self.read(*room)?),
        }
        self.carry();
        Ok(())
    }

    /// Reads to the end; the client's FIN comes after all that it has sent.
    pub(crate) fn hear_all(&mut self) -> io::Result<()> {
        self.carry();
        self.wire.borrow_mut().ended = true;
        for _ in 0..STUCK {
            self.carry();
            if self.read(5000)? == Some(0) {
                return Ok(());
            }
        }
        panic!("the end of the stream was not seen");
    }

    /// Shuts down the server's side.
    pub(crate) fn shut(&mut self) {
        for _ in 0..STUCK {
            let shut = Pin::new(self.server.as_mut().unwrap()).poll_shutdown(&mut context());
            if shut.is_ready() {
                return;
            }
        }
        panic!("the shutdown is stuck");
    }
}

impl<S> Bufferless<S> {
    /// Number of bytes that the connection owns, not counting the struct itself and what rustls keeps.
    pub(crate) fn owned(&self) -> usize {
        self.input.capacity() + self.plain.capacity() + self.output.capacity()
    }
}
