//! The session that a query names. Input: the query.

use std::borrow::Cow;

use stickyd::testing::engine_io::{MAX_SID, RequestTransport, Sid, raw_eio_and_sid, recognise};

/// Checks the single pass of the hot path against the simplest way to read a query.
pub fn check(data: &[u8]) {
    // hyper only accepts targets that are text.
    let Ok(query) = std::str::from_utf8(data) else { return };
    let pairs: Vec<_> = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect();
    let last = |name: &[u8]| pairs.iter().rev().find(|(key, _)| decode(key, b' ') == name).map(|(_, value)| *value);
    let (eio, transport, sid) = (last(b"EIO"), last(b"transport"), last(b"sid"));

    let found = recognise(Some(query));
    assert_eq!(found.is_some(), eio.is_some() && transport.is_some(), "{query:?}");
    assert_eq!(raw_eio_and_sid(query), eio.zip(sid), "{query:?}");
    let (Some(found), Some(transport)) = (found, transport) else { return };
    assert_eq!(
        found.transport,
        match &decode(transport, b' ')[..] {
            b"polling" => RequestTransport::Polling,
            b"websocket" => RequestTransport::WebSocket,
            _ => RequestTransport::Other,
        }
    );
    let sid = decode(sid.unwrap_or_default(), b' ');
    let expected = match sid.len() {
        0 => Sid::None,
        1..=MAX_SID => Sid::Given(Cow::Owned(sid)),
        _ => Sid::TooLong,
    };
    assert_eq!(found.sid, expected, "{query:?}");
}

fn decode(text: &str, plus: u8) -> Vec<u8> {
    decode_bytes(text.as_bytes(), plus)
}

/// Percent-decoding by its definition: `%` and two hex digits are a byte, everything else is itself.
fn decode_bytes(mut text: &[u8], plus: u8) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(&first) = text.first() {
        let digits = text.get(1..3).filter(|two| first == b'%' && two.iter().all(u8::is_ascii_hexdigit));
        let byte = digits.and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        out.push(byte.unwrap_or(if first == b'+' { plus } else { first }));
        text = &text[if byte.is_some() { 3 } else { 1 }..];
    }
    out
}
