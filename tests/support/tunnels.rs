//! Tunnels by hand: a client socket and a worker socket of this process, and WebSocket frames as bytes.

use std::net::SocketAddr;

use futures_util::StreamExt as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::proxy::Proxy;
use super::wait::within;

/// An upgrade as in RFC 6455 §1.3.
pub(crate) const ASK: &str = "GET /chat HTTP/1.1\r\nHost: app\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// The only correct answer to [`ASK`].
pub(crate) const GRANT: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A client's Close frame with 1001, masked with zeros.
pub(crate) const ECHO_1001: &[u8] = &[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9];

/// A server's Close frame with 1001, without a reason.
pub(crate) const CLOSE_1001: &[u8] = &[0x88, 2, 0x03, 0xe9];
pub(crate) const CLOSE_1012: &[u8] = &[0x88, 2, 0x03, 0xf4];

pub(crate) type Client = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A byte stream, plain or TLS.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A worker of this process whose tunnels the test reads and writes itself.
pub(crate) struct TunnelWorker {
    listener: TcpListener,
    pub(crate) address: SocketAddr,
}

impl TunnelWorker {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { address: listener.local_addr().unwrap(), listener }
    }

    /// The next connection that brings bytes, and the head of its request. Health checks bring none.
    pub(crate) async fn accept(&self) -> (TcpStream, String) {
        loop {
            let (mut stream, _) = within(self.listener.accept()).await.unwrap();
            if let Some(head) = head_of(&mut stream).await {
                return (stream, head);
            }
        }
    }
}

/// The bytes up to the empty line, and not one more; `None` if the stream ends before it.
pub(crate) async fn head_of(io: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match within(io.read_u8()).await {
            Ok(byte) => head.push(byte),
            Err(_) => return None,
        }
    }
    Some(String::from_utf8(head).unwrap())
}

/// Opens a tunnel: the client's end and the worker's.
pub(crate) async fn tunnel(proxy: &Proxy, worker: &TunnelWorker) -> (TcpStream, TcpStream) {
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    let far = join(&mut client, worker).await;
    (client, far)
}

/// Opens a tunnel over an existing connection; the worker's end.
pub(crate) async fn join(client: &mut impl Io, worker: &TunnelWorker) -> TcpStream {
    client.write_all(ASK.as_bytes()).await.unwrap();
    client.flush().await.unwrap();
    let (mut far, _) = worker.accept().await;
    far.write_all(GRANT.as_bytes()).await.unwrap();
    let head = head_of(client).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    far
}

/// The connection of a client, with TLS if that is given.
pub(crate) async fn dial(proxy: &Proxy, tls: Option<&Tls>) -> Box<dyn Io> {
    match tls {
        Some(tls) => Box::new(tls.connect().await),
        None => Box::new(TcpStream::connect(proxy.address).await.unwrap()),
    }
}

/// A WebSocket client through the proxy.
pub(crate) async fn connect(proxy_address: SocketAddr, path: &str) -> Client {
    within(tokio_tungstenite::connect_async(format!("ws://{proxy_address}{path}"))).await.unwrap().0
}

/// Reads to the end: code and reason of the Close, if one came.
pub(crate) async fn closed(client: &mut Client) -> Option<(u16, String)> {
    let mut close = None;
    while let Some(Ok(message)) = within(client.next()).await {
        if let Message::Close(Some(frame)) = message {
            close = Some((frame.code.into(), frame.reason.to_string()));
        }
    }
    close
}

/// Everything up to the end, which must not be a reset.
pub(crate) async fn read_all(io: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    within(io.read_to_end(&mut bytes)).await.expect("ends in order");
    bytes
}

/// Reads exactly `count` bytes.
pub(crate) async fn read(io: &mut (impl AsyncRead + Unpin), count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    within(io.read_exact(&mut bytes)).await.unwrap();
    bytes
}

/// A frame as servers send it, without a mask.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..=125 => bytes.push(u8::try_from(short).unwrap()),
        middle @ 126..=0xffff => {
            bytes.push(126);
            bytes.extend(u16::try_from(middle).unwrap().to_be_bytes());
        }
        long => {
            bytes.push(127);
            bytes.extend((long as u64).to_be_bytes());
        }
    }
    bytes.extend(payload);
    bytes
}

/// A frame as clients send it, masked with zeros.
pub(crate) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() < 126);
    [&[first, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0], payload].concat()
}

/// Parses a server's frames strictly: (first byte, payload) of each complete one, and the bytes of an incomplete one.
pub(crate) fn frames(mut bytes: &[u8]) -> (Vec<(u8, &[u8])>, &[u8]) {
    let mut frames = Vec::new();
    loop {
        let (length, head) = match bytes {
            [_, 127, rest @ ..] if rest.len() >= 8 => (u64::from_be_bytes(*rest.first_chunk().unwrap()), 10),
            [_, 126, high, low, ..] => (u64::from(u16::from_be_bytes([*high, *low])), 4),
            [_, short @ 0..=125, ..] => (u64::from(*short), 2),
            [_, 128..=255, ..] => panic!("a server does not mask"),
            _ => return (frames, bytes),
        };
        let end = head + usize::try_from(length).unwrap();
        if bytes.len() < end {
            return (frames, bytes);
        }
        frames.push((bytes[0], &bytes[head..end]));
        bytes = &bytes[end..];
    }
}

/// A deterministic source of pseudo-random bytes, the same in every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next().to_le_bytes()[3]).collect()
    }
}

/// A proxy with TLS and its own certificate, and a client that trusts it.
pub(crate) struct Tls {
    pub(crate) proxy: Proxy,
    connector: tokio_rustls::TlsConnector,
    directory: std::path::PathBuf,
}

impl Tls {
    pub(crate) fn before(workers: &[SocketAddr], name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("stickyd-tunnels-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        std::fs::write(directory.join("cert.pem"), made.cert.pem()).unwrap();
        std::fs::write(directory.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        let workers: Vec<_> = workers.iter().map(ToString::to_string).collect();
        let toml = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = {{ certificate = \"cert.pem\", key = \"key.pem\" }}\n\
             [upstream.app]\nworkers = {workers:?}"
        );
        let proxy = Proxy::with_files(&toml, &directory);
        let mut roots = rustls::RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
        Self { proxy, connector: std::sync::Arc::new(config).into(), directory }
    }

    pub(crate) async fn connect(&self) -> tokio_rustls::client::TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.proxy.address).await.unwrap();
        within(self.connector.connect("localhost".try_into().unwrap(), stream)).await.unwrap()
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
