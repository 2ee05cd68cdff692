//! A request's head, and the bytes we would send to a worker for it.
//!
//! hyper's server reads the input as on a real connection, and stickyd's own code judges, rewrites and writes every
//! head: everything but sockets and the choice of a worker. The result must be one request for the strictest reader,
//! with no bytes after it; it must contain only true facts about the client, keep no field of another hop, and leave
//! everything else unchanged.
//!
//! Input: a byte of switches, two that say where the bytes are cut in two, and what the client sends.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use ::bytes::Bytes;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use stickyd::testing::body::Outgoing;
use stickyd::testing::listener::{self, Conn};
use stickyd::testing::proxy::forwardable;
use stickyd::testing::upstream::{self, RequestWriter};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::bytes::Choices;
use super::strict::{self, Message, Read};
use super::{proxied, still};

/// A size that is larger than any pipe here has to hold.
pub(super) const ROOM: usize = 1 << 20;

/// The result of each request, filled as they are processed.
pub(super) type Sent = Rc<RefCell<Vec<Option<Vec<u8>>>>>;

/// Checks what is forwarded to the worker.
pub fn check(data: &[u8]) {
    let Input { bytes, trusted, peer, .. } = Input::of(data);
    let mut asked = Some(bytes);
    for forwarded in &sent(data) {
        // While the client's bytes have one meaning, the requests are compared as well.
        let request = asked.map(strict::read);
        asked = match (&request, asked) {
            (Some(Read::Whole(request)), Some(bytes)) => Some(&bytes[request.length..]),
            _ => None,
        };
        let Some(bytes) = forwarded else { continue };
        let got = match strict::read(bytes) {
            Read::Whole(got) => got,
            // The client has not sent the whole request.
            Read::Partial => continue,
            Read::Wrong(why) => panic!("{why}: {:?}", String::from_utf8_lossy(bytes)),
        };
        assert_eq!(got.length, bytes.len(), "more than one request: {:?}", String::from_utf8_lossy(bytes));
        judge(&got, trusted, peer);
        if let Some(Read::Whole(request)) = request {
            compare(&request, &got);
        }
    }
}

/// The parts of the fuzzer's input.
struct Input<'a> {
    /// The bytes that the client sends.
    bytes: &'a [u8],
    /// The position at which they are cut in two.
    cut: usize,
    trusted: bool,
    peer: &'static str,
    secure: bool,
    /// Whether the client ends the connection after them.
    ends: bool,
}

impl<'a> Input<'a> {
    fn of(data: &'a [u8]) -> Self {
        let mut choices = Choices(data);
        let switches = choices.byte();
        let cut = choices.below(1 << 16);
        let bytes = &choices.0[..choices.0.len().min(ROOM / 2)];
        let trusted = switches & 1 != 0;
        let peer = if trusted { proxied::TRUSTED } else { proxied::STRANGER };
        let cut = cut % (bytes.len() + 1);
        Self { bytes, cut, trusted, peer, secure: switches & 2 != 0, ends: switches & 4 != 0 }
    }
}

/// The result of each request that hyper read, in order: the bytes that a worker received, or `None`.
pub fn sent(data: &[u8]) -> Vec<Option<Vec<u8>>> {
    let input = Input::of(data);
    let conn = proxied::conn(input.peer.parse().expect("an address"), input.secure, false);
    let sent = Sent::default();
    exchange(&conn, &input, &sent);
    sent.take()
}

/// Names of fields that belong to one hop.
const HOP: [&str; 10] = [
    "connection",
    "keep-alive",
    "proxy",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "upgrade",
    "http2-settings",
    "expect",
];

/// Fields that only trusted proxies and stickyd may set, in addition to families of names.
const IDENTITY: [&str; 49] = [
    "x-real-ip",
    "x-real-port",
    "x-real-host",
    "x-real-proto",
    "x-real-scheme",
    "x-original-url",
    "x-original-uri",
    "x-original-path",
    "x-original-host",
    "x-original-method",
    "x-original-scheme",
    "x-original-proto",
    "x-original-prefix",
    "x-original-port",
    "x-original-for",
    "x-original-ip",
    "x-original-client-ip",
    "x-original-remote-addr",
    "x-original-forwarded-for",
    "x-ssl-cert",
    "x-ssl-issuer",
    "x-ssl-subject",
    "x-ssl-cipher",
    "x-ssl-protocol",
    "x-ssl-verify",
    "x-ssl-session-id",
    "x-request-id",
    "forwarded",
    "true-client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-originating-ip",
    "x-remote-ip",
    "x-remote-addr",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "fastly-client-ip",
    "fly-client-ip",
    "x-envoy-external-address",
    "x-host",
    "x-http-host-override",
    "x-url-scheme",
    "x-rewrite-url",
    "front-end-https",
    "client-cert",
    "client-cert-chain",
    "x-client-verify",
    "x-client-subject",
    "x-client-fingerprint",
];

fn is_identity(name: &str) -> bool {
    let name = name.replace('_', "-");
    let families = ["x-forwarded", "x-ssl-client", "ssl-client-"];
    IDENTITY.contains(&&*name) || families.iter().any(|family| name.starts_with(family))
}

/// Checks that a forwarded request is allowed at all.
pub(super) fn judge(got: &Message, trusted: bool, peer: &str) {
    assert_eq!(got.version, "1.1");
    assert!(!matches!(&*got.method, "CONNECT" | "TRACE"), "{got:?}");
    assert!(got.target.starts_with(b"/") || (got.target == b"*" && got.method == "OPTIONS"), "target: {got:?}");
    let host = got.one("host").expect("a host");
    assert!(!host.iter().any(|b| b"@/,?#\\ \"<>".contains(b)), "host: {got:?}");

    let upgrade = got.one("connection").map(|value| {
        assert_eq!(value, b"Upgrade", "{got:?}");
        assert_eq!(got.one("upgrade"), Some(&b"websocket"[..]), "{got:?}");
        assert!(got.method == "GET" && got.body.is_empty() && got.one("transfer-encoding").is_none(), "{got:?}");
        assert!(got.all("sec-websocket-key").next().is_some_and(|key| key.len() == 24), "{got:?}");
    });
    for name in HOP {
        let stays = matches!((name, upgrade), ("connection" | "upgrade", Some(())));
        let is_te = name == "te" && got.one("te") == Some(b"trailers");
        assert!(stays || is_te || got.one(name).is_none(), "{name} in {got:?}");
    }

    for name in ["x-client-verify", "x-client-subject", "x-client-fingerprint"] {
        assert!(!got.fields.iter().any(|(one, _)| one.replace('_', "-") == name), "{name} in {got:?}");
    }
    let hops = got.one("x-forwarded-for").expect("who asked");
    assert!(hops.ends_with(peer.as_bytes()), "{got:?}");
    if !trusted {
        assert_eq!(hops, peer.as_bytes(), "{got:?}");
        const OURS: [&str; 5] =
            ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-request-id"];
        for (name, _) in &got.fields {
            assert!(!is_identity(name) || OURS.contains(&&**name), "{name} in {got:?}");
        }
        assert!(matches!(got.one("x-forwarded-proto"), Some(b"http" | b"https")), "{got:?}");
        assert_eq!(got.one("x-forwarded-port"), Some(&b"8080"[..]), "{got:?}");
        assert_eq!(got.one("x-forwarded-host").unwrap_or_default(), host, "{got:?}");
        assert_eq!(got.one("x-request-id").map(<[u8]>::len), Some(16), "{got:?}");
    }
    for (name, _) in &got.trailers {
        let framing = matches!(&**name, "content-length" | "transfer-encoding" | "host" | "trailer");
        assert!(!framing && !is_identity(name), "trailer {name} in {got:?}");
    }
}

/// Checks that a request with one meaning has kept it.
pub(super) fn compare(asked: &Message, got: &Message) {
    assert_eq!(asked.method, got.method);
    assert_eq!(asked.body, got.body, "{asked:?} {got:?}");
    if asked.target.starts_with(b"/") {
        assert_eq!(asked.target, got.target);
        assert_eq!(asked.one("host").unwrap_or_default(), got.one("host").expect("judged"), "{asked:?}");
    }
    let nominated: Vec<String> = asked
        .all("connection")
        .flat_map(|value| value.split(|&b| b == b','))
        .map(|name| String::from_utf8_lossy(name.trim_ascii()).to_ascii_lowercase())
        .collect();
    let kept = ["content-length", "host", "trailer", "connection", "upgrade", "te", "transfer-encoding"];
    for name in &nominated {
        let gone = !got.fields.iter().any(|(one, _)| one == name);
        assert!(gone || kept.contains(&&**name) || is_identity(name), "{name} was nominated: {got:?}");
    }
    let changes = |name: &str| {
        kept.contains(&name)
            || HOP.contains(&name)
            || name.starts_with("proxy-")
            || is_identity(name)
            || name.contains('_')
            || name == "accept-encoding"
            || nominated.iter().any(|one| one == name)
    };
    let mut names: Vec<&str> = asked.fields.iter().chain(&got.fields).map(|(name, _)| &**name).collect();
    names.sort_unstable();
    names.dedup();
    for name in names.into_iter().filter(|name| !changes(name)) {
        assert!(asked.all(name).eq(got.all(name)), "{name} changed: {asked:?} {got:?}");
    }
}

/// Serves the client's bytes as a connection would, until nothing moves any more.
fn exchange(conn: &Rc<Conn>, input: &Input<'_>, sent: &Sent) {
    let (mut client, io) = tokio::io::duplex(ROOM);
    let service = service_fn(|request| {
        let answer = Box::pin(forward(conn.clone(), request, sent.clone()));
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut server = pin!(listener::http1().serve_connection(TokioIo::new(io), service));
    let (first, second) = input.bytes.split_at(input.cut);
    for piece in [first, second] {
        let mut write = pin!(client.write_all(piece));
        if still::run(write.as_mut()).is_none_or(|written| written.is_err()) {
            return;
        }
        // The pipe has ended and takes no more.
        if still::run(server.as_mut()).is_some() {
            return;
        }
    }
    if input.ends {
        drop(client);
        still::run(server.as_mut());
    }
}

/// Handles a request as stickyd does, then as the worker.
async fn forward(conn: Rc<Conn>, request: Request<Incoming>, sent: Sent) -> Response<Empty<Bytes>> {
    let mut response = Response::new(Empty::new());
    if !to_worker(forwardable(&conn, request), sent).await {
        *response.status_mut() = StatusCode::BAD_REQUEST;
    }
    response
}

/// A worker that answers once it has a complete request; whether there was one.
pub(super) async fn to_worker(request: Option<Request<Outgoing>>, sent: Sent) -> bool {
    let Some(request) = request else {
        sent.borrow_mut().push(None);
        return false;
    };
    let place = {
        let mut sent = sent.borrow_mut();
        sent.push(Some(Vec::new()));
        sent.len() - 1
    };
    let (mut io, worker) = tokio::io::duplex(ROOM);
    let (mut request, mut text) = (request, Vec::new());
    let declared = upstream::head(&mut request, &mut text);
    let mut sending = RequestWriter::new(request.into_body(), declared);
    let exchange = async move {
        let mut begun = false;
        let sent = poll_fn(|cx| match std::mem::replace(&mut begun, true) {
            false => sending.poll_first(cx, &mut io, &mut text),
            true => sending.poll(cx, &mut io, &mut text),
        });
        if sent.await.is_ok() {
            // Dropping it with its answer ends the connection, and so the worker.
            let _ = io.read(&mut [0; 64]).await;
        }
    };
    let mut all: [Option<Pin<Box<dyn Future<Output = ()>>>>; 2] =
        [Some(Box::pin(exchange)), Some(Box::pin(record(worker, sent, place)))];
    poll_fn(|cx| {
        for one in &mut all {
            if one.as_mut().is_some_and(|future| future.as_mut().poll(cx).is_ready()) {
                *one = None;
            }
        }
        if all.iter().all(Option::is_none) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    true
}

async fn record(mut io: DuplexStream, sent: Sent, place: usize) {
    let (mut answered, mut buffer) = (false, vec![0; 4096]);
    while let Ok(count @ 1..) = io.read(&mut buffer).await {
        let whole = {
            let mut sent = sent.borrow_mut();
            let bytes = sent[place].get_or_insert_default();
            bytes.extend_from_slice(&buffer[..count]);
            matches!(strict::read(bytes), Read::Whole(_))
        };
        if whole && !answered {
            answered = true;
            let _ = io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        }
    }
}
