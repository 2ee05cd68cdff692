//! Malformed requests over HTTP/2 (RFC 9113 §8.1.1, §8.2, §8.3; RFC 8441) and other errors of one stream: the stream
//! ends, and the connection's other streams live.

mod forms;

use std::sync::{Mutex, mpsc};

use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use self::forms::all_forms;
use crate::support::h2::{Frames, Secured, frame};
use crate::support::raw::{Leg, RawWorker, ok};
use crate::support::tunnels::{frame as from_server, masked};
use crate::support::wait::wait_for;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// Both END_STREAM and END_HEADERS.
const WHOLE: u8 = 5;

const PROTOCOL_ERROR: Fate = Fate::Reset(1);
const STREAM_CLOSED: Fate = Fate::Reset(5);
const BAD_REQUEST: Fate = Fate::Answer(0x8c);
const OK: Fate = Fate::Answer(0x88);

/// How a stream ended: the code of its reset, or the first byte of its answer's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Reset(u32),
    Answer(u8),
}

/// How a literal field is encoded (RFC 7541 §6.2).
#[derive(Debug, Clone, Copy)]
enum Coding {
    Indexed = 0x40,
    Plain = 0,
}

fn string(text: &[u8]) -> Vec<u8> {
    match u8::try_from(text.len()) {
        Ok(short @ 0..127) => [&[short][..], text].concat(),
        _ => {
            let rest = text.len() - 127;
            let seven = |shift: u32| u8::try_from(rest >> shift & 127).unwrap();
            [&[127, seven(0) | 128, seven(7) | 128, seven(14)], text].concat()
        }
    }
}

fn literal(coding: Coding, name: &[u8], value: &[u8]) -> Vec<u8> {
    [vec![coding as u8], string(name), string(value)].concat()
}

fn block(coding: Coding, fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| literal(coding, name.as_bytes(), value.as_bytes())).collect()
}

const GET: &[(&str, &str)] = &[(":method", "GET"), (":scheme", "https"), (":path", "/"), (":authority", "localhost")];
const POST: &[(&str, &str)] = &[(":method", "POST"), (":scheme", "https"), (":path", "/"), (":authority", "localhost")];
const CONNECT: &[(&str, &str)] = &[
    (":method", "CONNECT"),
    (":protocol", "websocket"),
    (":scheme", "https"),
    (":path", "/chat"),
    (":authority", "localhost"),
];

/// A worker that echoes in tunnels, and answers `/long` when it is told to.
fn worker() -> (RawWorker, mpsc::Sender<()>) {
    let (go, gate) = mpsc::channel();
    let gate = Mutex::new(gate);
    let worker = RawWorker::scripted(move |leg| {
        while let Some(request) = leg.request() {
            if let Some(key) = request.header("sec-websocket-key") {
                return echo(leg, key);
            }
            if request.target() == "/long" {
                let _ = gate.lock().unwrap().recv();
                leg.send(ok("long"));
            } else {
                leg.send(ok(&request.all("x-latin").collect::<Vec<_>>().join(",")));
            }
        }
    });
    (worker, go)
}

fn echo(leg: &mut Leg, key: &str) {
    let accept = derive_accept_key(key.as_bytes());
    leg.send(format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    ));
    while leg.raw.fill() {
        leg.raw.exactly(masked(0x82, b"hello").len());
        leg.send(from_server(0x82, b"hello"));
    }
}

/// A connection with a long request on stream 1 and a tunnel on stream 3.
struct Shared {
    frames: Frames,
    next: u32,
}

impl Shared {
    async fn open(stickyd: &Secured) -> Self {
        let mut frames = stickyd.frames().await;
        let long: Vec<_> =
            GET.iter().map(|&(name, value)| (name, if name == ":path" { "/long" } else { value })).collect();
        frames.send(&frame(1, WHOLE, 1, &block(Coding::Indexed, &long))).await;
        frames.send(&frame(1, END_HEADERS, 3, &block(Coding::Indexed, CONNECT))).await;
        let mut shared = Self { frames, next: 5 };
        assert_eq!(shared.fate(3, "the tunnel").await, OK);
        shared.tunnel_lives("at first").await;
        shared
    }

    fn stream(&mut self) -> u32 {
        self.next += 2;
        self.next - 2
    }

    /// How a stream ends. No other stream may end before.
    async fn fate(&mut self, stream: u32, what: &str) -> Fate {
        loop {
            let Some((kind, _, on, payload)) = self.frames.next().await else { panic!("{what}: the connection ended") };
            match kind {
                1 if on == stream => return Fate::Answer(payload[0]),
                3 if on == stream => return Fate::Reset(u32::from_be_bytes(*payload.first_chunk().unwrap())),
                1 | 3 => panic!("{what}: stream {on} ended: {kind} {payload:?}"),
                7 => panic!("{what}: GOAWAY {payload:?}"),
                _ => {}
            }
        }
    }

    /// Whether the tunnel still carries bytes.
    async fn tunnel_lives(&mut self, what: &str) {
        self.frames.send(&frame(0, 0, 3, &masked(0x82, b"hello"))).await;
        let mut got = Vec::new();
        while got != from_server(0x82, b"hello") {
            match self.frames.next().await {
                Some((0, _, 3, data)) => got.extend(data),
                Some((7, ..)) | None => panic!("{what}: the connection ended"),
                Some((3, _, 3, code)) => panic!("{what}: the tunnel was reset: {code:?}"),
                Some(_) => {}
            }
        }
    }

    /// Whether a request is answered.
    async fn answers(&mut self, head: &[u8], what: &str) {
        let stream = self.stream();
        self.frames.send(&frame(1, WHOLE, stream, head)).await;
        assert_eq!(self.fate(stream, what).await, OK, "{what}");
    }

    /// Whether the long request is answered.
    async fn ends_well(&mut self, go: &mpsc::Sender<()>) {
        go.send(()).unwrap();
        assert_eq!(self.fate(1, "the long request").await, OK);
    }
}

/// Each form on a connection of its own, so that it is the first mistake there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_malformed_form_ends_only_its_stream() {
    let (worker, go) = worker();
    let stickyd = Secured::before(&[worker.address], "");
    for (what, course, fate) in all_forms().into_iter().step_by(2) {
        let mut shared = Shared::open(&stickyd).await;
        let stream = shared.stream();
        shared.frames.send(&course(stream)).await;
        assert_eq!(shared.fate(stream, &what).await, fate, "{what}");
        shared.answers(&block(Coding::Indexed, GET), &what).await;
        shared.tunnel_lives(&what).await;
        shared.ends_well(&go).await;
    }
}

/// All forms on one connection, whose long request and tunnel survive all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_streams_survive_all_malformed_forms() {
    let (worker, go) = worker();
    let stickyd = Secured::before(&[worker.address], "");
    let mut shared = Shared::open(&stickyd).await;
    let forms = all_forms();
    assert!(forms.len() >= 200, "{}", forms.len());
    let mut malformed = 0;
    // Mistakes in the course of a request may have reached a worker, so fewer of them are allowed.
    for (what, course, fate) in forms {
        let stream = shared.stream();
        shared.frames.send(&course(stream)).await;
        assert_eq!(shared.fate(stream, &what).await, fate, "{what}");
        malformed += 1;
        if malformed % 20 == 0 {
            shared.answers(&block(Coding::Indexed, GET), &what).await;
            shared.tunnel_lives(&what).await;
        }
    }
    assert!(stickyd.proxy().metric("stickyd_http2_malformed_total") >= 100.0);
    shared.tunnel_lives("in the end").await;
    shared.ends_well(&go).await;
}

/// RFC 7541 §2.2: the table is one for all blocks of the connection, also for those of refused requests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_of_a_malformed_request_stay_in_the_table() {
    let (worker, go) = worker();
    let stickyd = Secured::before(&[worker.address], "");
    let mut shared = Shared::open(&stickyd).await;
    let bad = [block(Coding::Indexed, GET), literal(Coding::Indexed, b"x-latin", b"one\x01"), b"\x7e\x03two".to_vec()];
    let stream = shared.stream();
    shared.frames.send(&frame(1, WHOLE, stream, &bad.concat())).await;
    assert_eq!(shared.fate(stream, "bad").await, PROTOCOL_ERROR);
    // `x-latin: two` and the name of `x-latin: one\x01` are in the table; the latter's value is still malformed.
    let get = block(Coding::Plain, GET);
    shared.answers(&[&get[..], b"\xbe"].concat(), "an entry of a refused request").await;
    shared.answers(&[&get[..], b"\x7f\x00\x05three"].concat(), "the name of a malformed entry").await;
    let stream = shared.stream();
    shared.frames.send(&frame(1, WHOLE, stream, &[&get[..], b"\xc0"].concat())).await;
    assert_eq!(shared.fate(stream, "the malformed entry").await, PROTOCOL_ERROR);
    // A new size empties the table (RFC 7541 §4.3).
    shared.answers(&[b"\x20", &get[..]].concat(), "an empty table").await;
    shared.answers(&[b"\x3f\xe1\x1f", &block(Coding::Indexed, GET)[..]].concat(), "a table again").await;
    shared.answers(b"\xc1\xc0\xbf\xbe", "the table").await;
    shared.ends_well(&go).await;
    let bytes = worker.bytes();
    let seen = String::from_utf8_lossy(&bytes);
    for sent in ["x-latin: two\r\n", "x-latin: three\r\n"] {
        assert!(seen.contains(sent), "{sent} in {seen}");
    }
}

/// RFC 9110 §5.5: bytes from 0x80 on are allowed in values, and reach the worker as they were sent, on connections
/// whose blocks pass as they are and on others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_above_ascii_reach_the_worker_as_written() {
    let (worker, go) = worker();
    let stickyd = Secured::before(&[worker.address], "");
    let mut shared = Shared::open(&stickyd).await;
    let path = [(":method", "GET"), (":scheme", "https"), (":path", "/caf\u{e9}"), (":authority", "localhost")];
    let head = [block(Coding::Indexed, &path), literal(Coding::Indexed, b"x-value", b"caf\xe9 \x80\xff")].concat();
    shared.answers(&head, "at first").await;
    let stream = shared.stream();
    shared.frames.send(&frame(1, WHOLE, stream, &block(Coding::Plain, &[GET, &[("Upper", "1")]].concat()))).await;
    assert_eq!(shared.fate(stream, "a mistake").await, PROTOCOL_ERROR);
    shared.answers(&head, "after a mistake").await;
    shared.ends_well(&go).await;
    let seen = worker.bytes();
    for part in [&b"GET /caf\xc3\xa9 HTTP/1.1\r\n"[..], b"x-value: caf\xe9 \x80\xff\r\n"] {
        assert_eq!(seen.windows(part.len()).filter(|window| *window == part).count(), 2, "{}", part.escape_ascii());
    }
}

/// HTTP/1 clients may send these characters, and nginx and HAProxy pass them on over both versions. The worker gets the
/// target as it was written, on connections whose blocks pass as they are and on others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_that_no_uri_has_reach_the_worker_as_written() {
    let (worker, go) = worker();
    let stickyd = Secured::before(&[worker.address], "");
    let mut shared = Shared::open(&stickyd).await;
    let targets = ["/?filter={\"a\":1}", "/?q=<x>", "/<a>`\"?<>`\"", "/?caf\u{e9}=\"&`=|^"];
    for target in [targets, targets].as_flattened() {
        let head = [(":method", "GET"), (":scheme", "https"), (":path", target), (":authority", "localhost")];
        shared.answers(&block(Coding::Indexed, &head), target).await;
    }
    shared.answers(&block(Coding::Indexed, GET), "a plain path").await;
    shared.ends_well(&go).await;
    let bytes = worker.bytes();
    let seen = String::from_utf8_lossy(&bytes);
    for target in targets {
        assert_eq!(seen.matches(&format!("GET {target} HTTP/1.1\r\n")).count(), 2, "{target} in {seen}");
    }
}

/// RFC 9113 §5.1: a stream that the client has ended gets a stream error, and one that stickyd has reset gets nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_after_the_end_of_a_stream_end_only_that_stream() {
    let (worker, go) = worker();
    let stickyd = Secured::before(&[worker.address], "");
    let mut shared = Shared::open(&stickyd).await;
    let long: Vec<_> = GET.iter().map(|&(name, value)| (name, if name == ":path" { "/long" } else { value })).collect();
    for late in [
        |stream| frame(0, 0, stream, b"late"),
        |stream| frame(0, END_STREAM, stream, b"late"),
        |stream| frame(1, WHOLE, stream, &block(Coding::Indexed, &[("x-late", "1")])),
        |stream| frame(1, WHOLE, stream, &block(Coding::Plain, &[("Upper", "1")])),
    ] {
        let stream = shared.stream();
        shared.frames.send(&frame(1, WHOLE, stream, &block(Coding::Indexed, &long))).await;
        shared.frames.send(&late(stream)).await;
        assert_eq!(shared.fate(stream, "late").await, STREAM_CLOSED);
        // More of it is ignored.
        shared.frames.send(&late(stream).repeat(5)).await;
        shared.answers(&block(Coding::Indexed, GET), "after it").await;
    }
    let stream = shared.stream();
    shared.frames.send(&frame(1, END_HEADERS, stream, &block(Coding::Plain, &[GET, &[("Upper", "1")]].concat()))).await;
    assert_eq!(shared.fate(stream, "a body of a malformed request").await, PROTOCOL_ERROR);
    shared.frames.send(&frame(0, 0, stream, &[b'x'; 1_000]).repeat(10)).await;
    shared.frames.send(&frame(0, 0, stream, b"").repeat(200)).await;
    shared.frames.send(&frame(1, WHOLE, stream, &block(Coding::Indexed, &[("x-trailer", "1")]))).await;
    shared.answers(&block(Coding::Indexed, GET), "after it").await;
    shared.tunnel_lives("in the end").await;
    drop(go);
}

/// A header list above the limit is refused by itself, before the client has acknowledged any settings, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_list_that_is_too_large_ends_only_its_stream() {
    let (worker, go) = worker();
    let stickyd = Secured::before(&[worker.address], "");
    let mut shared = Shared::open(&stickyd).await;
    let entry = literal(Coding::Indexed, b"x", &[b'y'; 4_000]);
    let bomb = [block(Coding::Plain, GET), entry, vec![0xbe; 10_000]].concat();
    let long = [block(Coding::Plain, GET), literal(Coding::Plain, b"x", &[b'y'; 40_000])].concat();
    let path = [&GET[..2], &GET[3..]].concat();
    let path = [block(Coding::Plain, &path), literal(Coding::Plain, b":path", &[b'/'; 40_000])].concat();
    for (what, head) in [("a bomb", bomb), ("a long field", long), ("a long path", path)] {
        let stream = shared.stream();
        let (first, rest) = head.split_at(head.len().min(16_384));
        shared.frames.send(&frame(1, END_STREAM | if rest.is_empty() { 4 } else { 0 }, stream, first)).await;
        let count = rest.chunks(16_384).count();
        for (number, piece) in rest.chunks(16_384).enumerate() {
            shared.frames.send(&frame(9, if number + 1 == count { 4 } else { 0 }, stream, piece)).await;
        }
        // 431 is not in the static table: a literal, or later an entry of the dynamic one.
        let fate = shared.fate(stream, what).await;
        assert!(matches!(fate, Fate::Answer(0x48 | 0xbe..)), "{what}: {fate:?}");
    }
    shared.answers(&block(Coding::Indexed, GET), "after them").await;
    shared.ends_well(&go).await;
}

/// RFC 9113 §4.3, §5.1.1, §6.10: what leaves the whole connection undefined ends it, with the code of the RFC.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_of_the_connection_end_it() {
    let worker = RawWorker::named("w");
    let stickyd = Secured::before(&[worker.address], "");
    let (head, open) = (block(Coding::Plain, GET), block(Coding::Plain, POST));
    for (what, bytes, code) in [
        ("an index out of the table", frame(1, WHOLE, 1, b"\x82\xff\x0f"), 9),
        ("a block that ends early", frame(1, WHOLE, 1, b"\x82\x00\x05a"), 9),
        ("a wrong size of the table", frame(1, WHOLE, 1, b"\x3f\xff\x7f"), 9),
        ("a frame within a block", [frame(1, 1, 1, &head), frame(6, 0, 0, &[0; 8])].concat(), 1),
        ("another stream's CONTINUATION", [frame(1, 1, 1, &head), frame(9, 4, 3, b"")].concat(), 1),
        ("a CONTINUATION without a block", frame(9, 4, 1, &head), 1),
        ("an even stream", frame(1, WHOLE, 2, &head), 1),
        ("a lower stream", [frame(1, WHOLE, 5, &head), frame(1, WHOLE, 3, &head)].concat(), 1),
        ("DATA on an idle stream", frame(0, 0, 7, b"x"), 1),
        ("too much padding", frame(1, WHOLE | 8, 1, &[&[200][..], &head].concat()), 1),
        ("padding of DATA", [frame(1, 4, 1, &open), frame(0, 8, 1, b"\x05abc")].concat(), 1),
        ("a block without an end", [frame(1, 1, 1, &head), frame(9, 0, 1, b"\x00\x01a\x01b").repeat(20)].concat(), 11),
    ] {
        let mut frames = stickyd.frames().await;
        frames.send(&bytes).await;
        assert_eq!(frames.goaway().await, Some(code), "{what}");
    }
}

/// A flood of malformed heads is cut, and counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_heads_without_end_are_cut() {
    let worker = RawWorker::named("w");
    let stickyd = Secured::before(&[worker.address], "");
    let mut frames = stickyd.frames().await;
    let bad = block(Coding::Plain, &[GET, &[("Upper", "1")]].concat());
    let flood: Vec<u8> = (1..10_000).step_by(2).flat_map(|stream| frame(1, WHOLE, stream, &bad)).collect();
    frames.send(&flood).await;
    // The rest of the flood may reset the connection before the GOAWAY is read.
    assert!(matches!(frames.goaway().await, Some(11) | None));
    wait_for("the flood is counted", || {
        stickyd.proxy().metric("stickyd_http2_floods_total{frames=\"mistakes\"}") == 1.0
    });
    assert_eq!(worker.connections(), 0);
    assert_eq!(stickyd.client().await.get("/").await.text(), "w", "others are served");
}

/// DATA and trailers on a stream that the client has reset itself: they are ignored, and the window is given back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_after_the_clients_own_reset_are_ignored() {
    let (worker, go) = worker();
    let stickyd = Secured::before(&[worker.address], "");
    let mut shared = Shared::open(&stickyd).await;
    for _ in 0..30 {
        let stream = shared.stream();
        let frames = [
            frame(1, END_HEADERS, stream, &block(Coding::Indexed, POST)),
            frame(0, 0, stream, b"x"),
            frame(3, 0, stream, &[0, 0, 0, 8]),
            frame(0, 0, stream, &[b'x'; 16_000]),
            frame(0, 0, stream, &[b'x'; 16_000]),
            frame(1, WHOLE, stream, &block(Coding::Indexed, &[("x-late", "1")])),
        ];
        shared.frames.send(&frames.concat()).await;
        // Nothing is sent on the stream after the client's reset.
        shared.answers(&block(Coding::Indexed, GET), "after it").await;
    }
    shared.tunnel_lives("in the end").await;
    shared.ends_well(&go).await;
}
