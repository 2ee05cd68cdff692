//! Which answers refuse a session, and which bodies end one.
//!
//! Input: choices, then packets of a POST body; all of the input is also taken as the body of an answer.

use serde_json::Value;
use stickyd::testing::engine_io::{MAX_REFUSAL, is_refusal, says_goodbye};

use super::bytes::Choices;

/// Checks refusals and goodbyes.
pub fn check(data: &[u8]) {
    let mut choices = Choices(data);
    let status = choices.of(&[400, 400, 400, 200, 404, 500]);
    refusal(status, choices.0);
    refusal(400, data);
    // Any bytes as the body of an answer.
    says_goodbye(data);
    goodbye(&mut choices);
}

/// An answer of a worker is a refusal only if it has the form that workers send.
fn refusal(status: u16, body: &[u8]) {
    const UNKNOWN: &str = "Session ID unknown";
    let trimmed = body.trim_ascii();
    let found = is_refusal(status, body);
    let json = serde_json::from_slice::<Value>(trimmed).ok();
    let object = json.as_ref().and_then(Value::as_object);
    let says = object.and_then(|object| object.get("message")).and_then(Value::as_str) == Some(UNKNOWN);
    // JSON that two readers may read differently: a repeated or escaped key, and what only one of them accepts.
    let odd = json.is_none() || trimmed.windows(2).any(|part| part == b"\\u");
    let odd = odd || trimmed.windows(9).filter(|part| part == b"\"message\"").count() > 1;
    let plain = trimmed == UNKNOWN.as_bytes() || trimmed.starts_with(b"\"Invalid session ");
    let is = status == 400 && body.len() <= MAX_REFUSAL;
    let shown = String::from_utf8_lossy(body);
    if found {
        assert!(is && (says || plain || odd && trimmed.starts_with(b"{")), "taken for a refusal: {status} {shown:?}");
    } else {
        assert!(!is || !plain && (!says || odd), "not taken for a refusal: {shown:?}");
    }
}

/// A payload ends its session if one of its packets is `1`, in each encoding.
fn goodbye(choices: &mut Choices<'_>) {
    let kind = choices.byte();
    let mut packets = Vec::new();
    while !choices.is_over() && packets.len() < 20 {
        packets.push(match choices.byte() % 4 {
            0 => "1".to_owned(),
            1 => "41".to_owned(),
            _ => String::from_utf8_lossy(choices.some(40)).replace('\x1e', "."),
        });
    }
    let ends = packets.iter().any(|packet| packet == "1");
    let text: String = packets.iter().map(|packet| format!("{}:{packet}", packet.encode_utf16().count())).collect();
    let body = match kind % 3 {
        0 => packets.join("\x1e").into_bytes(),
        1 => text.into_bytes(),
        _ => packets.iter().flat_map(|packet| frame(packet.as_bytes())).collect(),
    };
    let says = says_goodbye(&body);
    // EIO4's packets may look like a counted payload as a whole: a wrong yes costs a discovery, a wrong no costs a
    // count.
    let looks_counted = kind.is_multiple_of(3) && !ends && body.first().is_some_and(u8::is_ascii_digit);
    assert!(says == ends || looks_counted || begins_binary(kind, &body), "{:?}", String::from_utf8_lossy(&body));
}

/// An EIO4 body that begins with a byte of EIO3's binary is taken as that.
fn begins_binary(kind: u8, body: &[u8]) -> bool {
    kind.is_multiple_of(3) && matches!(body.first(), Some(0 | 1))
}

/// A frame of EIO3's binary: a kind, the length as one byte per digit, 255, the packet.
fn frame(packet: &[u8]) -> Vec<u8> {
    let digits: Vec<u8> = packet.len().to_string().bytes().map(|digit| digit - b'0').collect();
    [&[0][..], &digits, b"\xff", packet].concat()
}
