//! A worker's handshake body, in its four encodings: EIO4 plain, EIO3 with a length in text or in binary, JSONP around
//! either.
//!
//! Input: a choice, then bytes that are taken as a body; or values for a handshake, which is first written in one of
//! the encodings by this check.

use std::time::Duration;

use stickyd::testing::engine_io::{Handshake, MAX_SID, OpenPacket, open_packet, websocket_open};

use super::bytes::Choices;

/// Checks what is learned from a body, and from each of its beginnings.
pub fn check(data: &[u8]) {
    let mut choices = Choices(data);
    let kind = choices.byte();
    if kind <= 1 || kind == b'_' || kind.is_ascii_digit() {
        // A body as workers write it, with nothing after it.
        prefixes(data);
        return;
    }
    written(kind, &mut choices);
    prefixes(choices.0);
}

/// The result for a beginning only moves on from "more", and then holds for the whole body.
fn prefixes(body: &[u8]) {
    let body = &body[..body.len().min(2_048)];
    let _ = websocket_open(body);
    let mut known = OpenPacket::NeedMore;
    for end in 0..=body.len() {
        let now = open_packet(&body[..end]);
        // A body that is not a handshake is not looked at again, so it only must never become one. (A sid of `5` is not
        // valid, and whether `5e` is cannot be known yet.)
        if known == OpenPacket::NotOne {
            assert!(!matches!(now, OpenPacket::Open(_)), "none, then {now:?}");
            continue;
        }
        assert!(known == OpenPacket::NeedMore || now == known, "{known:?}, then {now:?}");
        if let OpenPacket::Open(open) = &now {
            bounded(open);
        }
        known = now;
    }
}

fn bounded(open: &Handshake) {
    let sensible = Duration::from_millis(100)..=Duration::from_hours(24);
    assert!((1..=MAX_SID).contains(&open.sid.len()));
    assert!(sensible.contains(&open.ping_interval) && sensible.contains(&open.ping_timeout), "{open:?}");
}

/// A handshake with any values is read from each encoding as it was written, as soon as it is complete.
fn written(kind: u8, choices: &mut Choices<'_>) {
    let pings = [choices.below(1 << 16) as u64, choices.below(1 << 16) as u64];
    let payload = (kind & 1 != 0).then_some(u64::from(choices.byte()) * 10_000);
    let more = choices.of(&["", "40", "42[\"a\",{\"sid\":\"no\"}]"]);
    let (escapes, number) = (choices.byte(), choices.byte());
    let sid = String::from_utf8_lossy(choices.some(90)).into_owned();
    if sid.is_empty() || sid.len() > MAX_SID {
        return;
    }
    let mut json = serde_json::json!({
        "sid": sid, "upgrades": ["websocket"], "pingInterval": pings[0], "pingTimeout": pings[1],
    });
    if let Some(payload) = payload {
        json["maxPayload"] = payload.into();
    }
    let packet = format!("0{}", if escapes & 1 == 0 { json.to_string() } else { ascii(&json.to_string()) });
    let binary = kind / 2 % 6;
    // The encodings, and how many bytes of each are needed.
    let eio4 = (packet.clone(), if more.is_empty() { String::new() } else { format!("\x1e{more}") });
    let text = (counted(&packet), if more.is_empty() { String::new() } else { counted(more) });
    let (body, needed) = match binary {
        0 => ([eio4.0.as_bytes(), eio4.1.as_bytes()].concat(), packet.len()),
        1 => ([text.0.as_bytes(), text.1.as_bytes()].concat(), text.0.len()),
        2 => (jsonp(number, &[&eio4.0[..], &eio4.1].concat()), 0),
        3 => (jsonp(number, &[&text.0[..], &text.1].concat()), 0),
        _ => {
            let digits: Vec<u8> = packet.len().to_string().bytes().map(|digit| digit - b'0').collect();
            let first = [&[binary % 2][..], &digits, b"\xff", packet.as_bytes()].concat();
            (([&first[..], b"\x00\x02\xff40"].concat()), first.len())
        }
    };
    let OpenPacket::Open(open) = open_packet(&body) else {
        panic!("not learned: {:?}", String::from_utf8_lossy(&body))
    };
    let clamped = |ms: u64| Duration::from_millis(ms.max(100));
    let expected =
        Handshake { sid, ping_interval: clamped(pings[0]), ping_timeout: clamped(pings[1]), max_payload: payload };
    assert_eq!(open, expected);
    if binary == 0 {
        assert_eq!(websocket_open(packet.as_bytes()), Some(expected.clone()));
    }
    for end in 0..body.len() {
        match open_packet(&body[..end]) {
            OpenPacket::NeedMore => assert!(needed == 0 || end < needed, "still waiting at {end}"),
            OpenPacket::NotOne => panic!("given up at {end}: {:?}", String::from_utf8_lossy(&body)),
            OpenPacket::Open(open) => assert!(end >= needed && open == expected, "too early, at {end}: {open:?}"),
        }
    }
}

/// EIO3's text: lengths in UTF-16 units.
fn counted(packet: &str) -> String {
    format!("{}:{packet}", packet.encode_utf16().count())
}

/// A payload as a JSONP worker writes it.
fn jsonp(number: u8, payload: &str) -> Vec<u8> {
    let literal =
        serde_json::to_string(payload).expect("text").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029");
    format!("___eio[{number}]({literal});").into_bytes()
}

/// JSON as writers produce it that escape everything except ASCII.
fn ascii(json: &str) -> String {
    let escape = |c: char| {
        let mut units = [0; 2];
        match c {
            c if c.is_ascii() => c.to_string(),
            c => c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect(),
        }
    };
    json.chars().map(escape).collect()
}
