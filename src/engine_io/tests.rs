//! Every captured body of docs/reference/protocols.md §1 at every prefix, the recogniser against a slow and obvious
//! one, and random bytes.

use std::borrow::Cow;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

// ---- recognise

/// The rules of `recognise` in the slow and obvious way: decode everything, keep the last of each key.
fn recognise_slowly(query: &str) -> Option<(Option<Vec<u8>>, Vec<u8>)> {
    fn decode(text: &str) -> Vec<u8> {
        let bytes = text.replace('+', " ").into_bytes();
        let (mut out, mut i) = (Vec::new(), 0);
        while i < bytes.len() {
            let pair = bytes.get(i + 1..i + 3).and_then(|h| std::str::from_utf8(h).ok());
            let pair = pair.filter(|h| h.bytes().all(|b| b.is_ascii_hexdigit()));
            if let (b'%', Some(pair)) = (bytes[i], pair) {
                out.push(u8::from_str_radix(pair, 16).unwrap());
                i += 3;
            } else {
                out.push(bytes[i]);
                i += 1;
            }
        }
        out
    }
    let mut last = std::collections::HashMap::new();
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        last.insert(decode(key), decode(value));
    }
    last.get(&b"EIO"[..])?;
    let transport = last.get(&b"transport"[..])?.clone();
    Some((last.get(&b"sid"[..]).cloned().filter(|sid| !sid.is_empty()), transport))
}

fn check(query: &str) {
    match (recognise(Some(query)), recognise_slowly(query)) {
        (None, None) => {}
        (Some(quick), Some((sid, transport))) => {
            let expected = match &transport[..] {
                b"polling" => RequestTransport::Polling,
                b"websocket" => RequestTransport::WebSocket,
                _ => RequestTransport::Other,
            };
            assert_eq!(quick.transport, expected, "{query}");
            match (quick.sid, sid) {
                (Sid::None, None) => {}
                (Sid::Given(quick), Some(slow)) => assert_eq!(quick, slow, "{query}"),
                (Sid::TooLong, Some(slow)) => assert!(slow.len() > MAX_SID, "{query}"),
                other => panic!("{query}: {other:?}"),
            }
        }
        other => panic!("{query}: {other:?}"),
    }
}

proptest! {
    #[test]
    fn recogniser_agrees_with_the_obvious_one(query in prop_oneof![
        "([sS]id|s%69d|%73%69%64|EIO|E%49O|transport|t|si%64x)=?[a-zA-Z+%0-9&=]{0,12}(&(sid|s%69d|EIO|transport|trans%70ort)=(|polling|webso%63ket|a%2Fb%c3%a9+%zz%4)){0,6}",
        ".{0,80}",
    ]) {
        check(&query);
    }

    #[test]
    fn long_sids_are_too_long_exactly_beyond_the_limit(n in 250usize..262, encoded in any::<bool>()) {
        let query = format!("EIO=4&transport=polling&sid={}", if encoded { "%41" } else { "A" }.repeat(n));
        let sid = recognise(Some(&query)).unwrap().sid;
        prop_assert_eq!(matches!(sid, Sid::TooLong), n > MAX_SID);
        check(&query);
    }
}

#[test]
fn queries_are_recognised() {
    let sid = |query| recognise(Some(query)).map(|e| e.sid);
    let given = |text: &'static str| Some(Sid::Given(Cow::Borrowed(text.as_bytes())));
    assert_eq!(recognise(None), None);
    for none in ["", "sid=x", "EIO=4", "transport=polling", "eio=4&transport=polling", "EIO=4&Transport=polling", "&&="]
    {
        assert_eq!(recognise(Some(none)), None, "{none}");
    }
    for handshake in
        ["EIO=4&transport=polling", "EIO=4&transport=polling&sid=", "EIO=4&sid=a&transport=x&sid", "EIO&transport"]
    {
        assert_eq!(sid(handshake), Some(Sid::None), "{handshake}");
    }
    assert_eq!(sid("EIO=3&transport=polling&t=Q7s_3_0&b64=1&sid=s-KK6sslWYHRuUBzAAAA"), given("s-KK6sslWYHRuUBzAAAA"));
    assert_eq!(sid("sid=a&EIO=4&sid=b&transport=websocket"), given("b"));
    assert_eq!(sid("EIO=4&transport=polling&s%69d=a%2fb"), given("a/b"));
    assert_eq!(sid("EIO=4&transport=polling&sid=room%2F%CE%B1+b%2Bc%26d0.26"), given("room/α b+c&d0.26"));
    assert_eq!(sid("EIO=4&transport=polling&sid=%zz%4"), given("%zz%4"));
    assert_eq!(sid("EIO=4&transport=polling&sid=a=b"), given("a=b"));
    let plain = recognise(Some("EIO=4&transport=websocket&sid=plain")).unwrap();
    assert_eq!(plain.transport, RequestTransport::WebSocket);
    assert!(matches!(plain.sid, Sid::Given(Cow::Borrowed(_))), "nothing to decode, nothing to allocate");
}

// ---- open_packet

/// Bodies of docs/reference/protocols.md §1.1: (body, sid, ping interval in ms, ping timeout in ms, bytes needed).
fn captured() -> Vec<(Vec<u8>, &'static str, u64, u64, usize)> {
    let v4 = r#"0{"sid":"rLiAov3TzDQLlepbAAAA","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}"#;
    let v3 = r#"0{"sid":"s-KK6sslWYHRuUBzAAAA","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":5000}"#;
    let py = r#"0{"sid":"FM2r7QzpyayQGwXcAAAA","upgrades":["websocket"],"pingTimeout":20000,"pingInterval":25000,"maxPayload":1000000}"#;
    let odd = r#"0{"sid":"room/α b+c&d\n\"\\\u00e9","upgrades":[],"pingInterval":300,"pingTimeout":200}"#;
    let jsonp = |payload: &str| format!("___eio[0]({});", serde_json::to_string(payload).unwrap());
    let python_jsonp = format!("___eio[12](\"{}\");", py.replace('"', "\\\""));
    let (s4, s3, sp, so) =
        ("rLiAov3TzDQLlepbAAAA", "s-KK6sslWYHRuUBzAAAA", "FM2r7QzpyayQGwXcAAAA", "room/α b+c&d\n\"\\é");
    let counted = |text: &str| format!("{}:{text}", text.chars().count());
    let binary = |text: &str| {
        let digits = text.len().to_string().into_bytes().into_iter().map(|d| d - b'0');
        [&[0][..], &digits.collect::<Vec<_>>(), &[0xff], text.as_bytes()].concat()
    };
    // In JSONP every quote is one byte longer; in any encoding, the bytes needed end at the closing brace.
    let brace = |body: &str| body.rfind('}').unwrap() + 1;
    let text = |body: String, sid, pi, pt| {
        let need = brace(&body);
        (body.into_bytes(), sid, pi, pt, need)
    };
    let mut all = vec![
        text(v4.into(), s4, 25_000, 20_000),
        text(v3.into(), s3, 25_000, 5_000),
        text(py.into(), sp, 25_000, 20_000),
        text(odd.into(), so, 300, 200),
        text(counted(v4), s4, 25_000, 20_000),
        text(counted(v3) + "2:40", s3, 25_000, 5_000),
        text(jsonp(v4), s4, 25_000, 20_000),
        text(jsonp(&(counted(v3) + "2:40")), s3, 25_000, 5_000),
        text(jsonp(odd), so, 300, 200),
        text(python_jsonp, sp, 25_000, 20_000),
    ];
    let frame = binary(v3);
    all.push((frame.clone(), s3, 25_000, 5_000, frame.len()));
    all.push(([&frame[..], b"\x00\x02\xff40"].concat(), s3, 25_000, 5_000, frame.len()));
    all.push(([v4.as_bytes(), b"\x1e40{\"sid\":\"no\"}"].concat(), s4, 25_000, 20_000, v4.len()));
    all
}

#[test]
fn every_prefix_of_captured_bodies_has_a_result() {
    for (body, sid, interval, timeout, needed) in captured() {
        for end in 0..=body.len() {
            let shown = String::from_utf8_lossy(&body[..end]).into_owned();
            match open_packet(&body[..end]) {
                OpenPacket::NeedMore => assert!(end < needed, "still waiting: {shown}"),
                OpenPacket::NotOne => panic!("given up: {shown}"),
                OpenPacket::Open(open) => {
                    assert!(end >= needed, "too early: {shown}");
                    assert_eq!(open.sid, sid);
                    assert_eq!(open.ping_interval, Duration::from_millis(interval));
                    assert_eq!(open.ping_timeout, Duration::from_millis(timeout));
                }
            }
        }
    }
}

/// Found by fuzzing: a field that stickyd does not read may be any number, and a body may be cut in the middle of it.
#[test]
fn a_truncated_number_is_not_an_invalid_one() {
    let body = br#"0{"load":[-1.5e+3,0.25,1E-7],"sid":"abc","pingInterval":-2.5e3}"#;
    for end in 0..body.len() {
        assert_eq!(open_packet(&body[..end]), OpenPacket::NeedMore, "{end}");
    }
    assert!(matches!(open_packet(body), OpenPacket::Open(_)));
    for wrong in [&br#"0{"x":--"#[..], br#"0{"x":1..."#, br#"0{"x":1.e"#, br#"0{"x":1e+-"#, br#"0{-"#] {
        assert_eq!(open_packet(wrong), OpenPacket::NotOne, "{}", String::from_utf8_lossy(wrong));
    }
}

#[test]
fn max_payload_is_optional() {
    let payload = |body: &str| match open_packet(body.as_bytes()) {
        OpenPacket::Open(open) => open.max_payload,
        other => panic!("{other:?}"),
    };
    assert_eq!(payload(r#"0{"sid":"a","maxPayload":1000000}"#), Some(1_000_000));
    for none in [r#"0{"sid":"a"}"#, r#"0{"sid":"a","maxPayload":null}"#, r#"0{"sid":"a","maxPayload":-1}"#] {
        assert_eq!(payload(none), None);
    }
}

#[test]
fn absurd_ping_numbers_are_clamped() {
    let pings = |interval: &str, timeout: &str| {
        let body = format!(r#"0{{"sid":"a","pingInterval":{interval},"pingTimeout":{timeout}}}"#);
        match open_packet(body.as_bytes()) {
            OpenPacket::Open(open) => (open.ping_interval.as_millis(), open.ping_timeout.as_millis()),
            other => panic!("{body}: {other:?}"),
        }
    };
    assert_eq!(pings("0", "-5"), (100, 100));
    assert_eq!(pings("1e300", "99999999999999999999"), (86_400_000, 86_400_000));
    assert_eq!(pings("1500.5", "2500"), (1_500, 2_500));
    assert_eq!(pings("null", "\"soon\""), (25_000, 60_000));
}

#[test]
fn other_bodies_are_not_handshakes() {
    let long = format!(r#"0{{"sid":"{}"}}"#, "a".repeat(MAX_SID + 1));
    let never: [&[u8]; 19] = [
        b"40{\"sid\":\"x\"}",
        b"{\"sid\":\"x\"}",
        b"<html>",
        b"0[",
        b"0x",
        b"0{]",
        b"0{\"sid\":1}",
        b"0{\"sid\":\"\"}",
        b"0{}",
        b"97:4",
        b"97;",
        b"1234567890:",
        b"\x00\xff0{",
        b"\x00\x0a",
        b"\x00\x09\x07\xff4",
        b"___eio(",
        b"___eio[a",
        b"___eio[0](\"0{\\\"sid\\\":\\\"x\\\"\");",
        long.as_bytes(),
    ];
    for body in never {
        assert_eq!(open_packet(body), OpenPacket::NotOne, "{}", String::from_utf8_lossy(body));
    }
    // A digit may still be the length of an EIO3 packet.
    for body in [&b"1"[..], b"4", b"___eio[0](\"4"] {
        assert_eq!(open_packet(body), OpenPacket::NeedMore, "{}", String::from_utf8_lossy(body));
    }
    assert_eq!(open_packet(b""), OpenPacket::NeedMore);
    let deep = format!("0{{\"x\":{}", "[".repeat(100_000));
    assert_eq!(open_packet(deep.as_bytes()), OpenPacket::NeedMore); // never a stack overflow; the bound is the caller's
    let deep = format!("0{{\"pingInterval\":{}", "[".repeat(100_000));
    assert_eq!(open_packet(deep.as_bytes()), OpenPacket::NotOne);
}

#[test]
fn the_first_frame_may_be_a_handshake() {
    let sid = |payload: &[u8]| websocket_open(payload).map(|open| open.sid);
    assert_eq!(
        sid(br#"0{"sid":"QYbOx2IHXVqQ69rTAAAB","upgrades":[],"pingInterval":25000}"#).unwrap(),
        "QYbOx2IHXVqQ69rTAAAB"
    );
    for none in [&b""[..], b"40", b"0", b"0{\"sid\":\"x\"", b"97:0{\"sid\":\"x\"}", b"HTTP/1.1 400 Bad Request"] {
        assert_eq!(sid(none), None);
    }
}

proptest! {
    /// A custom sid in a query is read as the handshake named it.
    #[test]
    fn any_sid_survives_handshake_and_query(sid in "\\PC{1,60}", ascii in any::<bool>(), wrap in 0..4) {
        prop_assume!(sid.len() <= MAX_SID);
        let mut json = serde_json::json!({"sid": &sid, "pingInterval": 25000, "pingTimeout": 20000}).to_string();
        if ascii {
            // As written by JSON encoders that escape everything except ASCII.
            json = json.chars().flat_map(|c| {
                let mut units = [0; 2];
                let escaped = c.encode_utf16(&mut units).iter().map(|u| format!("\\u{u:04x}")).collect::<String>();
                if c.is_ascii() { c.to_string() } else { escaped }.chars().collect::<Vec<_>>()
            }).collect();
        }
        let packet = format!("0{json}");
        let body = match wrap {
            0 => packet,
            1 => format!("{}:{packet}2:40", packet.encode_utf16().count()),
            2 => format!("___eio[7]({});", serde_json::to_string(&packet).unwrap()),
            _ => format!("___eio[]({});", serde_json::to_string(&format!("9:{packet}")).unwrap()),
        };
        let OpenPacket::Open(open) = open_packet(body.as_bytes()) else { panic!("{body}") };
        prop_assert_eq!(&open.sid, &sid);
        let encoded: String = sid.bytes().map(|b| format!("%{b:02X}")).collect();
        let query = format!("EIO=4&transport=polling&sid={encoded}");
        prop_assert_eq!(recognise(Some(&query)).unwrap().sid, Sid::Given(Cow::Borrowed(sid.as_bytes())));
    }

    /// A result changes only from NeedMore to another one, and never again.
    #[test]
    fn longer_prefixes_never_change_a_result(body in prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        (0usize..13, 0usize..200, any::<u8>()).prop_map(|(which, at, byte)| {
            let mut body = captured().swap_remove(which).0;
            let at = at % body.len();
            body[at] = byte;
            body
        }),
        "(0|97:0|___eio\\[0\\]\\(\"0)\\{\"sid\":\"[a-z\\\\u0-9\"{},:]{0,40}".prop_map(String::into_bytes),
    ]) {
        let mut known = OpenPacket::NeedMore;
        for end in 0..=body.len() {
            let now = open_packet(&body[..end]);
            prop_assert!(known == OpenPacket::NeedMore || now == known, "{:?} then {:?}", known, now);
            known = now;
        }
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..600), status in 0u16..1000) {
        websocket_open(&bytes);
        is_refusal(status, &bytes);
        is_refusal(400, &bytes);
        says_goodbye(&bytes);
    }
}

// ---- the rest

#[test]
fn refusals_are_recognised() {
    for yes in [
        r#"{"code":1,"message":"Session ID unknown"}"#,
        r#"{"code":"1","message":"Session ID unknown"}"#,
        r#"{"code":400,"message":"Session ID unknown"}"#,
        "{ \"message\" : \"Session ID unknown\", \"code\" : 1 }\n",
        r#""Invalid session AAAAAAAAAAAAAAAAAAAA""#,
        "Session ID unknown",
    ] {
        assert!(is_refusal(400, yes.as_bytes()), "{yes}");
        for status in [200, 401, 403, 404, 500] {
            assert!(!is_refusal(status, yes.as_bytes()), "{status} {yes}");
        }
    }
    let padded = format!("{}{}", r#"{"code":1,"message":"Session ID unknown"}"#, " ".repeat(MAX_REFUSAL));
    for no in [
        "",
        r#"{"code":0,"message":"Transport unknown"}"#,
        r#"{"code":3,"message":"Bad request"}"#,
        r#"{"code":5,"message":"Unsupported protocol version"}"#,
        r#"{"code":1,"message":"Session ID unknown""#,
        r#"{"code":1}"#,
        r#"{"code":1,"message":{"a":"Session ID unknown"}}"#,
        r#""Invalid transport""#,
        "Bad request",
        "<p>Session ID unknown</p>",
        &padded,
    ] {
        assert!(!is_refusal(400, no.as_bytes()), "{no}");
    }
}

#[test]
fn close_packets_are_recognised() {
    for yes in
        ["1", "41\x1e1", "42[\"a\"]\x1e41\x1e1", "1\x1e41", "1:1", "2:411:1", "17:42[\"echo\",\"hi é\"]1:1", "3:4😀1:1"]
    {
        assert!(says_goodbye(yes.as_bytes()), "{yes:?}");
    }
    assert!(says_goodbye(b"\x00\x01\xff1") && says_goodbye(b"\x00\x02\xff41\x00\x01\xff1"));
    assert!(says_goodbye(b"\x01\x02\xff\x04\x02\x00\x01\xff1"));
    for no in [
        "",
        "3",
        "41",
        "40",
        "42[\"1\"]",
        "42[\"a:1:1\"]",
        "2:41",
        "1:2",
        "14:42[\"x\",\"1:1\"]",
        "2:1",
        "9:1:1",
        "12",
        "b1",
        "\x1e",
        ":1",
        "2:40x",
    ] {
        assert!(!says_goodbye(no.as_bytes()), "{no:?}");
    }
    assert!(
        !says_goodbye(b"\x00")
            && !says_goodbye(b"\x00\x01\xff")
            && !says_goodbye(b"\x00\x01\xff11")
            && !says_goodbye(b"\x00\x0a")
    );
}
