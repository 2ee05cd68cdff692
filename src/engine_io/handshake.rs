//! The open packet `0{"sid":…}` in the four encodings that workers use (docs/reference/protocols.md §1.1).
//!
//! A body arrives in pieces, so every prefix has a result: wait for more, take it as a handshake, or let it pass. What
//! follows the first JSON value (a `2:40`, an initial packet) is ignored, and so is EIO3's length: it counts UTF-16
//! units, while the end of the JSON is exact. Not handled: compressed bodies; the request's `Accept-Encoding` is
//! dropped instead (docs/reference/protocols.md §1.2).

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::{Handshake, MAX_SID};

/// Maximum number of bytes of a body that are held back to find a handshake in them; a usual handshake has 120.
pub(crate) const MAX_HANDSHAKE: usize = 16 * 1024;

/// What the beginning of a body is, read as a handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenPacket {
    /// The body may still become a handshake: more bytes are needed.
    NeedMore,
    /// The body is a handshake.
    Open(Handshake),
    /// The body is not a handshake, whatever follows.
    NotOne,
}

/// Looks for the open packet at the beginning of the response to a request without a sid.
///
/// `body` is everything received so far, not only the newest piece. The caller stops at [`MAX_HANDSHAKE`].
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

/// Reads the handshake in the first text frame of a tunnel that began without a sid.
pub fn websocket_open(payload: &[u8]) -> Option<Handshake> {
    match json(payload.strip_prefix(b"0")?) {
        OpenPacket::Open(handshake) => Some(handshake),
        OpenPacket::NeedMore | OpenPacket::NotOne => None,
    }
}

/// Reads what follows `___eio[` in a JSONP body: the client's `j`, `]("`, a JavaScript string.
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

/// Removes one level of quoting from a JavaScript string, up to its end or to a truncated escape. Returns the text, and
/// whether the end was reached.
///
/// Only `\"`, `\\` and `\/` are unescaped. Any other escape stays as it is, because the result is JSON, where `\u00e9`
/// and `é` mean the same.
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

/// Reads a packet: `0{…}` in EIO4, `97:0{…}` in EIO3, `\x00\x09\x07\xff0{…}` in binary EIO3.
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

/// Returns what follows a length and its end mark: an empty slice if the mark has not arrived yet, `None` if this is
/// not a length.
fn skip_length(body: &[u8], is_digit: impl Fn(u8) -> bool, end: u8) -> Option<&[u8]> {
    // Nine digits exceed the length of any body; without a bound, a number could be waited for forever.
    let digits = body.iter().take(9).take_while(|&&b| is_digit(b)).count();
    match body.get(digits..)?.split_first() {
        None => Some(&[]),
        Some((&mark, rest)) => (mark == end && digits > 0).then_some(rest),
    }
}

/// The JSON object at the beginning of `text`, with the fields that stickyd uses.
#[derive(Deserialize)]
struct OpenObject {
    sid: String,
    // Values instead of numbers, because an odd optional field must not cost the session its pin.
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
    let read = |text: &[u8]| OpenObject::deserialize(&mut serde_json::Deserializer::from_slice(text));
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

/// Whether JSON that `read` rejected with this error is only truncated. If serde_json skips a number that is cut after
/// its sign, its point or its `e`, it reports the number as invalid (found by fuzzing); with one more digit it reports
/// the end of the input.
pub(crate) fn is_cut<T>(error: &serde_json::Error, text: &[u8], read: impl Fn(&[u8]) -> serde_json::Result<T>) -> bool {
    let half_a_number = || matches!(text.last(), Some(b'-' | b'+' | b'.' | b'e' | b'E'));
    error.is_eof() || (half_a_number() && read(&[text, b"0"].concat()).is_err_and(|error| error.is_eof()))
}

/// Reads a number of milliseconds, clamped to 100 ms..=24 h; `default` seconds if the value is not a number (Infinity
/// is null in JSON).
fn milliseconds(value: &Value, default: f64) -> Duration {
    let seconds = value.as_f64().map_or(default, |ms| ms / 1e3);
    Duration::from_secs_f64(seconds.clamp(0.1, 86_400.0))
}
