//! Engine.IO as a proxy sees it in a single request or response: which session a query names, what a worker's handshake
//! contains, which responses mean "I do not know this session", and which bodies end a session.
//!
//! The facts and their captures are in docs/reference/protocols.md §1. All functions are pure and total: any bytes a
//! peer can send have a result, and none cause a panic. Not in this module: Socket.IO itself (except the ids of its
//! sockets, where they are followed), WebTransport, and packets that neither make nor end a session. Of a tunnel, only
//! the first text frames are read.

use std::borrow::Cow;
use std::time::Duration;

mod connect;
mod handshake;
mod payload;
mod query;
pub(crate) mod socket_ids;
#[cfg(test)]
mod tests;
mod told;

pub use connect::{ConnectPacket, PacketKind, packet_kind, packets};
pub(crate) use connect::{connected_namespace, disconnected_namespace};
pub(crate) use handshake::{MAX_HANDSHAKE, is_cut};
pub use handshake::{OpenPacket, open_packet, websocket_open};
pub(crate) use payload::{MAX_PROOF, is_payload, is_post_taken};
pub(crate) use query::{EngineQuery, PollFormat};
pub(crate) use socket_ids::{may_name_sockets, socket_id, socket_ids};
pub(crate) use told::posted_packets;
pub(crate) use told::{open_text, refusal_packets};

/// Maximum length of a sid in bytes, decoded. Engine.IO's own sids have 20; `generateId` may return anything
/// (docs/reference/protocols.md §1.6).
pub const MAX_SID: usize = 256;

/// Maximum length in bytes of a decoded id of another protocol, which may be a token (JWT). Pins hold a hash of it.
pub(crate) const MAX_ID: usize = 2_048;

/// Maximum length in bytes of a body that can be a refusal; the longest known one is Python's with the sid in it
/// (docs/reference/protocols.md §1.4).
pub const MAX_REFUSAL: usize = 512;

/// Transport that a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestTransport {
    /// Transport `polling`, including JSONP.
    Polling,
    /// Transport `websocket`, by an upgrade.
    WebSocket,
    /// Any other transport; the worker decides what to do with it.
    Other,
}

/// Session id in the query of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sid<'a> {
    /// There is no `sid`, or an empty one: the request is a handshake.
    None,
    /// A sid of 1..=[`MAX_SID`] bytes, percent-decoded; borrowed if there was nothing to decode.
    Given(Cow<'a, [u8]>),
    /// A sid longer than [`MAX_SID`] bytes, which stickyd never learns. The caller refuses it.
    TooLong,
}

/// An Engine.IO request, recognised by its query.
#[cfg(any(test, feature = "testing"))]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineIo<'a> {
    /// Session that the request names.
    pub sid: Sid<'a>,
    /// Transport that the request asks for.
    pub transport: RequestTransport,
}

/// A worker's handshake, which opens a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    /// Session id as later queries carry it, decoded; 1..=[`MAX_SID`] bytes.
    pub sid: String,
    /// Interval between pings, clamped to 100 ms..=24 h; 25 s if the worker gave none (the default of every version,
    /// docs/reference/protocols.md §1.7).
    pub ping_interval: Duration,
    /// Time-out of a ping, clamped to 100 ms..=24 h; 60 s if the worker gave none (the longest default,
    /// docs/reference/protocols.md §1.7).
    pub ping_timeout: Duration,
    /// Maximum length in bytes of a body the worker accepts; `None` before socket.io 4.5.
    pub max_payload: Option<u64>,
}

/// Reads a query as [`EngineQuery::read`] does, and decodes its sid at once.
#[cfg(any(test, feature = "testing"))]
pub fn recognise(query: Option<&str>) -> Option<EngineIo<'_>> {
    let found = EngineQuery::read(query)?;
    Some(EngineIo { sid: found.sid(query), transport: found.transport })
}

/// Whether a worker might treat a query as Engine.IO's: servers that allow EIO3 need no `EIO`, keys may be in any
/// order, and some parsers take `;` for `&`. Wider than [`EngineQuery::read`], for use by guards.
pub(crate) fn may_be_engine_io(query: Option<&str>) -> bool {
    query.unwrap_or_default().as_bytes().split(|&b| matches!(b, b'&' | b';')).any(|pair| {
        let (key, _) = split_at_byte(pair, b'=');
        decoded_is(key, b"transport") || decoded_is(key, b"EIO") || decoded_is(key, b"sid")
    })
}

/// Returns the `EIO` and `sid` of a query as the client spelled them, for a probe about the same session
/// (docs/reference/protocols.md §1.5).
pub fn raw_eio_and_sid(query: &str) -> Option<(&str, &str)> {
    let (mut eio, mut sid) = (None, None);
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if decoded_is(key.as_bytes(), b"sid") {
            sid = Some(value);
        } else if decoded_is(key.as_bytes(), b"EIO") {
            eio = Some(value);
        }
    }
    Some((eio?, sid?))
}

/// Returns the raw value of a query parameter; if it is repeated, the last one.
pub(crate) fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q [u8]> {
    let pairs = query.as_bytes().split(|&b| b == b'&').map(|pair| split_at_byte(pair, b'='));
    let named = |key: &[u8]| key == name.as_bytes() || (key.contains(&b'%') && decoded_is(key, name.as_bytes()));
    pairs.rev().find(|(key, _)| named(key)).map(|(_, value)| value)
}

/// Decodes a percent-encoded id, with `+` decoded to `plus`; `None` unless the result has 1..=[`MAX_ID`] bytes.
pub(crate) fn decode(raw: &[u8], plus: u8) -> Option<Cow<'_, [u8]>> {
    let decoded = if raw.iter().any(|b| matches!(b, b'%' | b'+')) {
        Cow::Owned(Decoded { rest: raw, plus }.take(MAX_ID + 1).collect())
    } else {
        Cow::Borrowed(raw)
    };
    (1..=MAX_ID).contains(&decoded.len()).then_some(decoded)
}

fn decode_transport(value: &[u8]) -> RequestTransport {
    if decoded_is(value, b"polling") {
        RequestTransport::Polling
    } else if decoded_is(value, b"websocket") {
        RequestTransport::WebSocket
    } else {
        RequestTransport::Other
    }
}

fn decode_sid(raw: &[u8]) -> Sid<'_> {
    if raw.is_empty() {
        return Sid::None;
    }
    if !raw.iter().any(|b| matches!(b, b'%' | b'+')) {
        return if raw.len() <= MAX_SID { Sid::Given(Cow::Borrowed(raw)) } else { Sid::TooLong };
    }
    // Decoding stops one byte past the limit, so that a query of megabytes is not decoded to its end.
    let decoded: Vec<u8> = Decoded { rest: raw, plus: b' ' }.take(MAX_SID + 1).collect();
    if decoded.len() <= MAX_SID { Sid::Given(Cow::Owned(decoded)) } else { Sid::TooLong }
}

/// Percent-decodes byte by byte. A `%` without two hex digits stands for itself, as in Node.
struct Decoded<'a> {
    rest: &'a [u8],
    /// Meaning of `+`: a space in a query, itself in a cookie.
    plus: u8,
}

impl Iterator for Decoded<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let (&byte, mut rest) = self.rest.split_first()?;
        let decoded = match (byte, rest) {
            (b'+', _) => self.plus,
            (b'%', &[high, low, ref after @ ..]) => match (hex(high), hex(low)) {
                (Some(high), Some(low)) => {
                    rest = after;
                    high << 4 | low
                }
                _ => byte,
            },
            _ => byte,
        };
        self.rest = rest;
        Some(decoded)
    }
}

/// Returns the value of a query key, percent-decoded with `+` as a space and cut to `most` bytes; if the key is
/// repeated, the last one.
pub(crate) fn query_value(query: &str, name: &[u8], most: usize) -> Option<Vec<u8>> {
    let mut pairs = query.as_bytes().rsplit(|&b| b == b'&').map(|pair| split_at_byte(pair, b'='));
    let (_, value) = pairs.find(|(key, _)| decoded_is(key, name))?;
    Some(Decoded { rest: value, plus: b' ' }.take(most).collect())
}

/// Whether a query has a key, however it is spelled and separated.
pub(crate) fn has_key(query: &str, name: &[u8]) -> bool {
    query.as_bytes().split(|&b| matches!(b, b'&' | b';')).any(|pair| decoded_is(split_at_byte(pair, b'=').0, name))
}

/// Whether every value of a key in a query is this one. Servers differ in which of several values they take.
pub(crate) fn has_only(query: &str, name: &[u8], wanted: &[u8]) -> bool {
    let pairs = query.as_bytes().split(|&b| matches!(b, b'&' | b';')).map(|pair| split_at_byte(pair, b'='));
    let mut values = pairs.filter(|(key, _)| decoded_is(key, name)).map(|(_, value)| value);
    values.all(|value| value == wanted)
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

fn decoded_is(raw: &[u8], text: &[u8]) -> bool {
    Decoded { rest: raw, plus: b' ' }.eq(text.iter().copied())
}

/// Returns what precedes and what follows the first `byte`; without one, everything and nothing.
fn split_at_byte(bytes: &[u8], byte: u8) -> (&[u8], &[u8]) {
    let mut halves = bytes.splitn(2, |&b| b == byte);
    (halves.next().unwrap_or_default(), halves.next().unwrap_or_default())
}

/// Whether the response to a request with a sid is the worker's "I do not know this session": one of the list in
/// docs/reference/protocols.md §1.4, not a single literal. `body` is the whole body; anything longer than
/// [`MAX_REFUSAL`] is not a refusal.
///
/// JSON is judged by its message alone: the code is `1` in Node, `"1"` in socketioxide, `400` in some ports.
pub fn is_refusal(status: u16, body: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct EngineIoRefusal<'a> {
        #[serde(borrow)]
        message: Cow<'a, str>,
    }
    if status != 400 || body.len() > MAX_REFUSAL {
        return false;
    }
    let body = body.trim_ascii();
    match body.first() {
        Some(b'{') => serde_json::from_slice(body).is_ok_and(|refusal: EngineIoRefusal<'_>| refusal.message == UNKNOWN),
        Some(b'"') => body.starts_with(b"\"Invalid session "), // python-engineio, all transports
        _ => body == UNKNOWN.as_bytes(),                       // Node's answer to an upgrade
    }
}

const UNKNOWN: &str = "Session ID unknown";

/// Whether a POST body ends its session: one of its packets is Engine.IO's close, which is `1` and nothing else.
///
/// EIO4 joins packets with `\x1e` (`41\x1e1`). EIO3 prefixes each packet with its length, as text (`2:411:1`) or, from
/// 1.x clients, as bytes (`\x00\x01\xff1`). A body that is well-formed EIO3 text is read as such. A wrong "yes" costs a
/// discovery, not a session.
pub fn says_goodbye(post_body: &[u8]) -> bool {
    match post_body.first() {
        None => false,
        Some(0 | 1) => has_close(post_body, take_binary_packet),
        Some(_) => post_body.split(|&b| b == 0x1e).any(|p| p == b"1") || has_close(post_body, take_text_packet),
    }
}

/// Whether a length-prefixed payload contains a close packet; false unless it is well-formed to its end.
fn has_close<'a>(mut body: &'a [u8], take: impl Fn(&'a [u8]) -> Option<(&'a [u8], &'a [u8])>) -> bool {
    let mut close = false;
    while !body.is_empty() {
        let Some((packet, rest)) = take(body) else { return false };
        close |= packet == b"1";
        body = rest;
    }
    close
}

/// Takes a packet of the form `<length>:<packet>`, with the length in UTF-16 units (docs/reference/protocols.md §1.1).
fn take_text_packet(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let digits = body.iter().take(9).take_while(|b| b.is_ascii_digit()).count();
    let (length, rest) = body.split_at_checked(digits)?;
    let mut units: u32 = std::str::from_utf8(length).ok()?.parse().ok()?;
    let rest = rest.strip_prefix(b":")?;
    let mut end = 0;
    while units > 0 {
        // The first byte of a UTF-8 character gives its length; only characters of four bytes are two UTF-16 units.
        let (bytes, wide) = match rest.get(end)? {
            0x00..=0x7f => (1, 1),
            0x80..=0xdf => (2, 1),
            0xe0..=0xef => (3, 1),
            0xf0..=0xff => (4, 2),
        };
        end += bytes;
        units = units.checked_sub(wide)?;
    }
    rest.split_at_checked(end)
}

/// Takes a packet of the form `\x00` or `\x01`, its length in bytes with one digit per byte, `\xff`, the packet
/// (docs/reference/protocols.md §1.1).
fn take_binary_packet(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let body = body.get(1..)?;
    let digits = body.iter().take(10).take_while(|&&b| b <= 9).count();
    let (length, rest) = body.split_at_checked(digits)?;
    let length = length.iter().fold(0, |sum, &digit| sum * 10 + usize::from(digit));
    rest.strip_prefix(b"\xff")?.split_at_checked(length)
}
