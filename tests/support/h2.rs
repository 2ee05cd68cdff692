//! A proxy with TLS and HTTP/2, and clients for it: h2's own client for valid requests, raw frames for everything else.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use hyper::http::response::Parts;
use hyper::{HeaderMap, Request, StatusCode};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use stickyd::testing::net::StreamIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;

use super::answer::Answer;
use super::proxy::Proxy;
use super::wait::within;

/// A stickyd with its own certificate.
pub(crate) struct Secured {
    /// The proxy, which stops when it is dropped.
    pub(crate) proxy: Option<Proxy>,
    certificate: CertificateDer<'static>,
    /// The directory with `cert.pem` and `key.pem`.
    pub(crate) directory: PathBuf,
}

impl Drop for Secured {
    fn drop(&mut self) {
        self.proxy = None;
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

impl Secured {
    /// A proxy of these workers, with these lines in its listener.
    pub(crate) fn before(workers: &[std::net::SocketAddr], listener: &str) -> Self {
        let workers: Vec<_> = workers.iter().map(ToString::to_string).collect();
        Self::with(listener, &format!("[upstream.app]\nworkers = {workers:?}"))
    }

    /// A proxy with these lines in its listener, followed by these tables.
    pub(crate) fn with(listener: &str, tables: &str) -> Self {
        let mut made = Self::unstarted();
        let toml = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n{listener}\n\
             tls = {{ certificate = \"cert.pem\", key = \"key.pem\" }}\n{tables}"
        );
        made.proxy = Some(Proxy::with_files(&toml, &made.directory));
        made
    }

    /// Certificate and key in a directory, and no stickyd yet.
    pub(crate) fn unstarted() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("stickyd-h2-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(directory.join("cert.pem"), made.cert.pem()).unwrap();
        std::fs::write(directory.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        Self { proxy: None, certificate: made.cert.der().clone(), directory }
    }

    /// The proxy, which has to be running.
    pub(crate) fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().unwrap()
    }

    /// A TLS connection whose client offers these protocols.
    pub(crate) async fn offering(&self, alpn: &[&[u8]]) -> TlsStream<TcpStream> {
        self.offering_on(TcpStream::connect(self.proxy().address).await.unwrap(), alpn).await
    }

    async fn offering_on(&self, stream: TcpStream, alpn: &[&[u8]]) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        within(connector.connect(ServerName::try_from("localhost").unwrap(), stream)).await.unwrap()
    }

    /// An HTTP/2 client with default settings.
    pub(crate) async fn client(&self) -> Client {
        self.client_with(&h2::client::Builder::new()).await
    }

    /// An HTTP/2 client with its own settings.
    pub(crate) async fn client_with(&self, builder: &h2::client::Builder) -> Client {
        let stream = TcpStream::connect(self.proxy().address).await.unwrap();
        self.client_on(stream, builder).await
    }

    /// An HTTP/2 client with its own settings on this connection.
    pub(crate) async fn client_on(&self, stream: TcpStream, builder: &h2::client::Builder) -> Client {
        let io = self.offering_on(stream, &[b"h2"]).await;
        let (send, connection) = within(builder.handshake(io)).await.unwrap();
        let send = within(send.ready()).await.unwrap();
        #[expect(clippy::disallowed_methods, reason = "a test's connection: ends with its client")]
        let connection = tokio::spawn(connection);
        Client { send, connection }
    }

    /// A connection for raw frames; the preface and empty SETTINGS have been sent.
    pub(crate) async fn frames(&self) -> Frames {
        let mut frames = Frames(self.offering(&[b"h2"]).await);
        frames.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        frames.send(&frame(4, 0, 0, b"")).await;
        frames
    }
}

/// The connection of an HTTP/2 client.
pub(crate) struct Client {
    /// Opens streams on the connection.
    pub(crate) send: SendRequest<Bytes>,
    /// The connection's task, which ends with it.
    pub(crate) connection: JoinHandle<Result<(), h2::Error>>,
}

/// A request for `path` at `https://localhost`.
pub(crate) fn ask(method: &str, path: &str) -> Request<()> {
    Request::builder().method(method).uri(format!("https://localhost{path}")).body(()).unwrap()
}

/// An extended CONNECT (RFC 8441).
pub(crate) fn connect(protocol: &'static str, path: &str) -> Request<()> {
    let mut request = ask("CONNECT", path);
    request.extensions_mut().insert(h2::ext::Protocol::from_static(protocol));
    request
}

impl Client {
    /// Sends a head and leaves the stream open.
    pub(crate) async fn begin(&self, request: Request<()>) -> (ResponseFuture, SendStream<Bytes>) {
        let mut ready = within(self.send.clone().ready()).await.unwrap();
        ready.send_request(request, false).unwrap()
    }

    /// Sends a request without a body and reads the answer.
    pub(crate) async fn exchange(&self, request: Request<()>) -> Result<Answer, h2::Error> {
        let mut ready = within(self.send.clone().ready()).await?;
        let (answer, _) = ready.send_request(request, true)?;
        whole(answer).await
    }

    /// Sends a GET and reads the answer.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.exchange(ask("GET", path)).await.unwrap()
    }

    /// Opens a tunnel: its byte stream, or the answer that refuses it.
    pub(crate) async fn tunnel(&self, request: Request<()>) -> Result<(StreamIo<()>, HeaderMap), Answer> {
        let began = Instant::now();
        let (answer, send) = self.begin(request).await;
        let (parts, body) = within(answer).await.unwrap().into_parts();
        if parts.status == StatusCode::OK {
            return Ok((StreamIo::new(send, body, ()), parts.headers));
        }
        let (body, trailers) = rest(body).await.unwrap();
        Err(answer_of(parts, body, trailers, began))
    }
}

/// Waits for an answer and reads it to its end.
pub(crate) async fn whole(answer: ResponseFuture) -> Result<Answer, h2::Error> {
    let began = Instant::now();
    let (parts, body) = within(answer).await?.into_parts();
    let (body, trailers) = rest(body).await?;
    Ok(answer_of(parts, body, trailers, began))
}

fn answer_of(parts: Parts, body: Vec<u8>, trailers: Option<HeaderMap>, began: Instant) -> Answer {
    let body = String::from_utf8(body).unwrap();
    Answer { status: parts.status.as_u16(), headers: parts.headers, body, trailers, took: began.elapsed() }
}

async fn rest(mut body: RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut all = Vec::new();
    while let Some(data) = within(body.data()).await {
        let data = data?;
        body.flow_control().release_capacity(data.len()).unwrap();
        all.extend_from_slice(&data);
    }
    Ok((all, within(body.trailers()).await?))
}

/// The bytes of a frame (RFC 9113 §4.1).
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field block for GET / at the host `localhost`, from HPACK's static table.
pub(crate) const GET: &[u8] = b"\x82\x87\x84\x41\x09localhost";

/// A connection whose frames the test writes itself.
pub(crate) struct Frames(pub(crate) TlsStream<TcpStream>);

impl Frames {
    /// Sends bytes; a failure means that the connection has ended, which the test sees when it reads.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let _ = within(async { (self.0.write_all(bytes).await, self.0.flush().await) }).await;
    }

    /// The next frame: kind, flags, stream and payload; `None` at any end of the connection.
    pub(crate) async fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        within(self.0.read_exact(&mut head)).await.ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        within(self.0.read_exact(&mut payload)).await.ok()?;
        Some((head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
    }

    /// The code of the next GOAWAY, after any other frames.
    pub(crate) async fn goaway(&mut self) -> Option<u32> {
        while let Some((kind, _, _, payload)) = self.next().await {
            if kind == 7 {
                return Some(u32::from_be_bytes(*payload[4..].first_chunk().unwrap()));
            }
        }
        None
    }
}
