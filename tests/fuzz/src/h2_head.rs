//! A request's head over HTTP/2, and the HTTP/1.1 bytes we would send to a worker for it.
//!
//! The h2 crate reads the frames as on a real connection; stickyd translates, judges and rewrites; hyper's client
//! writes. The result must satisfy what `head` requires of every forwarded request, and must mean what was sent, if
//! that is valid HTTP/2.
//!
//! Input: a byte of switches; lines `name: value` (those of pseudo fields begin with a colon), each a field as it is,
//! whatever its bytes; an empty line; a body; perhaps an empty line and lines of trailers.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use ::bytes::Bytes;
use hyper::Response;
use stickyd::testing::listener::Conn;
use stickyd::testing::listener::{Filtered, builder, translated};
use stickyd::testing::proxy::forwardable;
use tokio::io::{AsyncWriteExt, DuplexStream};

use super::head::{self, ROOM, Sent};
use super::strict::{self, Message, Read};
use super::{proxied, still};

/// A field's name and value.
type Field<'a> = (&'a [u8], &'a [u8]);

/// Checks what is forwarded to the worker.
pub fn check(data: &[u8]) {
    let input = Input::of(data);
    let Some(bytes) = input.sent() else { return };
    let got = match strict::read(&bytes) {
        Read::Whole(got) => got,
        // The stream broke before the worker had the whole request.
        Read::Partial => return,
        Read::Wrong(why) => panic!("{why}: {:?}", String::from_utf8_lossy(&bytes)),
    };
    assert_eq!(got.length, bytes.len(), "more than one request: {:?}", String::from_utf8_lossy(&bytes));
    head::judge(&got, input.trusted, input.peer());
    if let Some(mut asked) = input.meaning() {
        asked.target = encoded(&asked.target);
        head::compare(&asked, &got);
    }
}

/// The target as it is inside of stickyd, where some bytes are encoded. They are written as they came only on the
/// connection of a worker, which is not part of this (tests: `http2`).
fn encoded(target: &[u8]) -> Vec<u8> {
    let encode = |byte: &u8| match byte {
        b'"' => b"%22".to_vec(),
        b'<' => b"%3C".to_vec(),
        b'>' => b"%3E".to_vec(),
        b'`' => b"%60".to_vec(),
        other => vec![*other],
    };
    target.iter().flat_map(encode).collect()
}

/// The bytes that a worker received; `None` if there were none.
pub fn sent(data: &[u8]) -> Option<Vec<u8>> {
    Input::of(data).sent()
}

struct Input<'a> {
    trusted: bool,
    fields: Vec<Field<'a>>,
    body: &'a [u8],
    trailers: Vec<Field<'a>>,
}

/// The bytes before an empty line, and those after it.
fn parted(bytes: &[u8]) -> (&[u8], &[u8]) {
    let at = bytes.windows(2).position(|two| two == b"\n\n");
    at.map_or((bytes, &[]), |at| (&bytes[..at], &bytes[at + 2..]))
}

fn fields(bytes: &[u8]) -> Vec<Field<'_>> {
    let field = |line| {
        let (line, no): (&[u8], &[u8]) = (line, &[]);
        line.windows(2).position(|two| two == b": ").map_or((line, no), |at| (&line[..at], &line[at + 2..]))
    };
    bytes.split(|&b| b == b'\n').filter(|line| !line.is_empty()).map(field).collect()
}

impl<'a> Input<'a> {
    fn of(data: &'a [u8]) -> Self {
        let (switches, text) = data.split_first().unwrap_or((&0, &[]));
        // One window holds all of it.
        let text = &text[..text.len().min(16_000)];
        let (top, rest) = parted(text);
        let (body, trailers) = parted(rest);
        Self { trusted: switches & 1 != 0, fields: fields(top), body, trailers: fields(trailers) }
    }

    fn peer(&self) -> &'static str {
        if self.trusted { proxied::TRUSTED } else { proxied::STRANGER }
    }

    /// All bytes that the client sends.
    fn bytes(&self) -> Vec<u8> {
        let mut all = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        frame(&mut all, 4, 0, 0, &[]);
        let (has_body, has_trailers) = (!self.body.is_empty(), !self.trailers.is_empty());
        block(&mut all, &self.fields, !has_body && !has_trailers);
        if has_body {
            frame(&mut all, 0, u8::from(!has_trailers), 1, self.body);
        }
        if has_trailers {
            block(&mut all, &self.trailers, true);
        }
        all
    }

    fn sent(&self) -> Option<Vec<u8>> {
        let conn = proxied::conn(self.peer().parse().expect("an address"), true, true);
        let sent = Sent::default();
        let (mut client, io) = tokio::io::duplex(ROOM);
        let bytes = self.bytes();
        still::run(pin!(client.write_all(&bytes)))?.ok()?;
        still::run(pin!(serve(&conn, io, sent.clone())));
        sent.take().into_iter().next().flatten()
    }

    /// The same request over HTTP/1.1, if it is valid and contains no field that stickyd rewrites.
    fn meaning(&self) -> Option<Message> {
        let one = |name: &[u8]| {
            let mut all = self.fields.iter().filter(|(one, _)| *one == name).map(|(_, value)| *value);
            all.next().filter(|_| all.next().is_none())
        };
        let (method, target, host) = (one(b":method")?, one(b":path")?, one(b":authority")?);
        let plain: Vec<_> = self.fields.iter().filter(|(name, _)| !name.starts_with(b":")).collect();
        let odd = ["host", "content-length", "expect", "cookie", "transfer-encoding", "connection"];
        let is_odd = |name: &[u8]| odd.iter().any(|odd| odd.as_bytes() == name);
        let is_plain = |(name, _): &&&Field<'_>| {
            let lower =
                !name.is_empty() && name.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
            lower && !is_odd(name)
        };
        // A fragment does not belong to the target and is not forwarded.
        if method == b"CONNECT"
            || !target.starts_with(b"/")
            || target.contains(&b'#')
            || !plain.iter().all(|field| is_plain(&field))
        {
            return None;
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut fields = vec![("host".to_owned(), host.to_vec())];
        fields.extend(plain.iter().map(|(name, value)| (text(name), value.to_vec())));
        Some(Message {
            method: text(method),
            target: target.to_vec(),
            version: "1.1",
            fields,
            body: self.body.to_vec(),
            trailers: Vec::new(),
            length: 0,
        })
    }
}

/// A frame (RFC 9113 §4.1).
fn frame(all: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("a small one").to_be_bytes();
    all.extend_from_slice(&length[1..]);
    all.extend_from_slice(&[kind, flags]);
    all.extend_from_slice(&stream.to_be_bytes());
    all.extend_from_slice(payload);
}

/// HEADERS whose fields are all literal, never indexed (RFC 7541 §6.2.3), and the CONTINUATIONs they need.
fn block(all: &mut Vec<u8>, fields: &[Field<'_>], ends: bool) {
    const MOST: usize = 16_384;
    let mut packed = Vec::new();
    for (name, value) in fields {
        packed.push(0x10);
        for text in [name, value] {
            string(&mut packed, text);
        }
    }
    let mut pieces: Vec<_> = packed.chunks(MOST).collect();
    if pieces.is_empty() {
        pieces.push(&[]);
    }
    let last = pieces.len() - 1;
    for (at, piece) in pieces.into_iter().enumerate() {
        let (kind, ends) = if at == 0 { (1, u8::from(ends)) } else { (9, 0) };
        frame(all, kind, ends | if at == last { 4 } else { 0 }, 1, piece);
    }
}

/// A string without Huffman coding (RFC 7541 §5.1, §5.2).
fn string(packed: &mut Vec<u8>, text: &[u8]) {
    match text.len() {
        short @ 0..127 => packed.push(short as u8),
        long => {
            packed.push(127);
            let mut rest = long - 127;
            while rest >= 128 {
                packed.push((rest % 128) as u8 | 128);
                rest /= 128;
            }
            packed.push(rest as u8);
        }
    }
    packed.extend_from_slice(text);
}

/// Serves a stream as stickyd does, then as the worker.
async fn serve(conn: &Rc<Conn>, io: DuplexStream, sent: Sent) {
    let Ok(mut h2) = builder(conn).handshake::<_, Bytes>(Filtered::new(io)).await else { return };
    while let Some(Ok((request, mut respond))) = h2.accept().await {
        let request = translated(conn, request).and_then(|request| forwardable(conn, request));
        let mut worker = pin!(head::to_worker(request, sent.clone()));
        poll_fn(|cx| {
            // A streamed body that is not complete ends here.
            let over = h2.poll_closed(cx).is_ready();
            if worker.as_mut().poll(cx).is_ready() || over { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        let _ = respond.send_response(Response::new(()), true);
    }
}
