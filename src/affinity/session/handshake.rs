//! The open packet `0{"sid":…}` in the four wrappings workers use (protocols §1.1).
//!
//! A body arrives in pieces, so every prefix has an answer: wait, take it, or let it go. What follows the first JSON value
//! (a `2:40`, an initial packet) is not looked at, and neither is EIO3's length: it counts UTF-16 units, while the end of
//! the JSON is exact. Left out: compressed bodies; the request's `Accept-Encoding` is dropped instead (§1.2).

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::{Handshake, MAX_SID};

/// Longest piece of a body in bytes that is held back to find a handshake in it; the usual one has 120.
pub const MAX_HANDSHAKE: usize = 16 * 1024;

/// What a prefix of a body is, seen as a handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenPacket {
    /// Could still become one: ask again with more bytes.
    NeedMore,
    /// It is one.
    Open(Handshake),
    /// No longer prefix will ever be one.
    NotOne,
}

/// Looks for the open packet at the beginning of the answer to a request without a sid.
///
/// `body` is everything so far, not the newest piece. The caller stops at [`MAX_HANDSHAKE`].
pub fn open_packet(body: &[u8]) -> OpenPacket {
    const JSONP: &[u8] = b"___eio[";
    match body.first() {
        Some(b'_') => match body.strip_prefix(JSONP) {
            Some(rest) => jsonp(rest),
            None if JSONP.starts_with(body) => OpenPacket::NeedMore,
            None => OpenPacket::NotOne,
        },
        _ => packet(body),
    }
}

/// Reads the first text frame of a tunnel that began without a sid.
pub fn websocket_open(payload: &[u8]) -> Option<Handshake> {
    match json(payload.strip_prefix(b"0")?) {
        OpenPacket::Open(handshake) => Some(handshake),
        OpenPacket::NeedMore | OpenPacket::NotOne => None,
    }
}

/// Behind `___eio[`: the client's `j`, `]("`, a JavaScript string.
fn jsonp(rest: &[u8]) -> OpenPacket {
    const QUOTE: &[u8] = b"](\"";
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    let rest = rest.get(digits..).unwrap_or_default();
    let Some(literal) = rest.strip_prefix(QUOTE) else {
        return if QUOTE.starts_with(rest) { OpenPacket::NeedMore } else { OpenPacket::NotOne };
    };
    let (text, closed) = unquote(literal);
    match packet(&text) {
        OpenPacket::NeedMore if closed => OpenPacket::NotOne,
        known => known,
    }
}

/// Takes one level of quoting off a JavaScript string, up to its end or to a cut escape; says whether the end was there.
///
/// Only `\"`, `\\` and `\/` are taken off. Any other escape stays as it is, because the text below is JSON, where
/// `\u00e9` and `é` mean the same.
fn unquote(literal: &[u8]) -> (Vec<u8>, bool) {
    let mut text = Vec::with_capacity(literal.len());
    let mut bytes = literal.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return (text, true),
            b'\\' => match bytes.next() {
                Some(escaped @ (b'"' | b'\\' | b'/')) => text.push(escaped),
                Some(other) => text.extend([b'\\', other]),
                None => break,
            },
            _ => text.push(byte),
        }
    }
    (text, false)
}

/// `0{…}` of EIO4, `97:0{…}` of EIO3, `\x00\x09\x07\xff0{…}` of EIO3 in binary.
fn packet(body: &[u8]) -> OpenPacket {
    let after_length = match body.first() {
        Some(b'1'..=b'9') => skip_length(body, |b| b.is_ascii_digit(), b':'),
        Some(0 | 1) => skip_length(body.get(1..).unwrap_or_default(), |b| b <= 9, 0xff),
        _ => Some(body),
    };
    match after_length {
        Some([]) => OpenPacket::NeedMore,
        Some([b'0', rest @ ..]) => json(rest),
        Some(_) | None => OpenPacket::NotOne,
    }
}

/// What stands behind a length and its end mark: nothing if the mark is yet to come, `None` if this is no length.
fn skip_length(body: &[u8], is_digit: impl Fn(u8) -> bool, end: u8) -> Option<&[u8]> {
    // Nine digits count more than any body has; without a bound, a number would be waited for without end.
    let digits = body.iter().take(9).take_while(|&&b| is_digit(b)).count();
    match body.get(digits..)?.split_first() {
        None => Some(&[]),
        Some((&mark, rest)) => (mark == end && digits > 0).then_some(rest),
    }
}

/// The JSON object at the beginning of `text`, as far as we use it.
#[derive(Deserialize)]
struct Wire {
    sid: String,
    // Values, not numbers: a strange optional field must not cost the session its pin.
    #[serde(default, rename = "pingInterval")]
    ping_interval: Value,
    #[serde(default, rename = "pingTimeout")]
    ping_timeout: Value,
    #[serde(default, rename = "maxPayload")]
    max_payload: Value,
}

fn json(text: &[u8]) -> OpenPacket {
    match text.first() {
        None => return OpenPacket::NeedMore,
        Some(b'{') => {}
        Some(_) => return OpenPacket::NotOne,
    }
    let read = |text: &[u8]| Wire::deserialize(&mut serde_json::Deserializer::from_slice(text));
    match read(text) {
        Err(error) if is_cut(&error, text, read) => OpenPacket::NeedMore,
        Err(_) => OpenPacket::NotOne,
        Ok(wire) if wire.sid.is_empty() || wire.sid.len() > MAX_SID => OpenPacket::NotOne,
        Ok(wire) => OpenPacket::Open(Handshake {
            ping_interval: milliseconds(&wire.ping_interval, 25.0),
            ping_timeout: milliseconds(&wire.ping_timeout, 60.0),
            max_payload: wire.max_payload.as_u64(),
            sid: wire.sid,
        }),
    }
}

/// Whether JSON that `read` has this error with is only cut. A number that is passed over serde_json takes for a wrong one
/// where it is cut behind its sign, its point or its `e` (found by fuzzing): with a digit more it is a cut one.
pub fn is_cut<T>(error: &serde_json::Error, text: &[u8], read: impl Fn(&[u8]) -> serde_json::Result<T>) -> bool {
    let half_a_number = || matches!(text.last(), Some(b'-' | b'+' | b'.' | b'e' | b'E'));
    error.is_eof() || (half_a_number() && read(&[text, b"0"].concat()).is_err_and(|error| error.is_eof()))
}

/// A number of milliseconds, clamped to 100 ms..=24 h, or `default` seconds if it is none (JSON has no Infinity: null).
fn milliseconds(value: &Value, default: f64) -> Duration {
    let seconds = value.as_f64().map_or(default, |ms| ms / 1e3);
    Duration::from_secs_f64(seconds.clamp(0.1, 86_400.0))
}
