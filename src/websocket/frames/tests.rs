//! Each rule once in a table, then the observer against tungstenite, on random traffic cut at random places.

mod library;

use std::io::{Cursor, Read, Write};

use proptest::prelude::*;
use proptest::sample::Index;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode as LibraryCode, Control, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{Frame, FrameHeader, FrameSocket};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocket};

use super::first::FIRST_TEXT_MAX;
use super::outgoing::CloseCodeError;
use super::*;

/// Observes `bytes` in one chunk, then again byte by byte: the cuts must not matter.
fn observe(from: Sender, bytes: &[u8]) -> (Observer, Observed) {
    let mut whole = Observer::new(from);
    let seen = whole.feed(bytes);
    let mut single = Observer::new(from);
    let mut sum = Observed::default();
    for octet in bytes.chunks(1) {
        add(&mut sum, single.feed(octet));
    }
    assert_eq!(sum, seen, "{bytes:02x?}");
    assert_eq!(format!("{single:?}"), format!("{whole:?}"), "{bytes:02x?}");
    (whole, seen)
}

fn add(sum: &mut Observed, seen: Observed) {
    sum.frames += seen.frames;
    sum.controls += seen.controls;
    sum.messages += seen.messages;
    assert!(!(sum.close && seen.close), "the first Close is reported once");
    sum.close |= seen.close;
}

#[test]
fn an_observer_takes_sixteen_bytes() {
    assert!(size_of::<Observer>() <= 16, "{}", size_of::<Observer>());
}

#[test]
fn a_new_observer_is_at_every_boundary() {
    let observer = Observer::new(Sender::Client);
    assert!(observer.is_websocket() && observer.at_frame_boundary() && observer.at_message_boundary());
    assert!(!observer.close_seen());
    assert_eq!(observer.next_boundary(b""), Some(0));
    assert_eq!(observe(Sender::Client, b"").1, Observed::default());
}

#[test]
fn legal_frames_are_counted_and_boundaries_found() {
    use Sender::{Client, Worker};
    // what, from, bytes, (frames, controls, messages, close), at a frame boundary, at a message boundary
    type Row = (&'static str, Sender, &'static [u8], (u32, u32, u32, bool), bool, bool);
    let table: &[Row] = &[
        ("text", Worker, b"\x81\x022p", (1, 0, 1, false), true, true),
        ("empty text", Worker, b"\x81\x00", (1, 0, 1, false), true, true),
        ("binary", Worker, b"\x82\x01x", (1, 0, 1, false), true, true),
        ("compressed text", Worker, b"\xc1\x01x", (1, 0, 1, false), true, true),
        ("compressed, first fragment", Worker, b"\x41\x01x", (1, 0, 0, false), true, false),
        ("compressed, last fragment", Worker, b"\x41\x01x\x80\x01y", (2, 0, 1, false), true, true),
        ("masked text", Client, b"\x81\x81kkkkx", (1, 0, 1, false), true, true),
        ("masked, empty", Client, b"\x81\x80kkkk", (1, 0, 1, false), true, true),
        ("masked, empty, in the key", Client, b"\x81\x80kkk", (0, 0, 0, false), false, false),
        ("one header byte", Worker, b"\x81", (0, 0, 0, false), false, false),
        ("in the payload", Worker, b"\x81\x02x", (0, 0, 0, false), false, false),
        ("in a 16-bit length", Worker, b"\x81\x7e\x00", (0, 0, 0, false), false, false),
        ("in a 64-bit length", Worker, b"\x81\x7f\0\0\0\0\0", (0, 0, 0, false), false, false),
        (
            "largest length there is",
            Client,
            b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff",
            (0, 0, 0, false),
            false,
            false,
        ),
        ("ping inside a message", Worker, b"\x01\x01x\x89\x00", (2, 1, 0, false), true, false),
        ("pong inside, then its end", Worker, b"\x01\x01x\x8a\x00\x80\x00", (3, 1, 1, false), true, true),
        ("three fragments", Worker, b"\x02\x00\x00\x01x\x80\x00", (3, 0, 1, false), true, true),
        ("close without code", Worker, b"\x88\x00", (1, 1, 0, true), true, true),
        ("close, header only", Worker, b"\x88\x02", (0, 0, 0, true), false, false),
        ("close, masked, header only", Client, b"\x88\x82", (0, 0, 0, true), false, false),
        ("close inside a message", Worker, b"\x01\x00\x88\x00", (2, 1, 0, true), true, false),
        ("two frames and a half", Worker, b"\x81\x01x\x89\x01x\x81", (2, 1, 1, false), false, false),
        ("bytes after a close", Worker, b"\x88\x00\x81\x01x", (2, 1, 1, true), true, true),
    ];
    for (what, from, bytes, (frames, controls, messages, close), frame, message) in table {
        let (observer, seen) = observe(*from, bytes);
        assert_eq!(
            seen,
            Observed { frames: *frames, controls: *controls, messages: *messages, close: *close },
            "{what}"
        );
        assert!(observer.is_websocket(), "{what}");
        assert_eq!(observer.at_frame_boundary(), *frame, "{what}");
        assert_eq!(observer.at_message_boundary(), *message, "{what}");
        assert_eq!(observer.close_seen(), *close, "{what}");
    }
}

#[test]
fn the_observer_steps_aside_at_the_byte_that_breaks_a_rule() {
    use Sender::{Client, Worker};
    // what, from, bytes: the last byte is the one that breaks the rule
    let table: &[(&str, Sender, &[u8])] = &[
        ("HTTP/1.1 400 in the tunnel", Worker, b"H"),
        ("GET from the client", Client, b"G"),
        ("a TLS record", Worker, b"\x16"),
        ("reserved data opcode 3", Worker, b"\x83"),
        ("reserved data opcode 7", Worker, b"\x87"),
        ("reserved control opcode 11", Worker, b"\x8b"),
        ("reserved control opcode 15", Worker, b"\x8f"),
        ("RSV2", Worker, b"\xa1"),
        ("RSV3", Worker, b"\x91"),
        ("RSV1 on a ping", Worker, b"\xc9"),
        ("RSV1 on a close", Worker, b"\xc8"),
        ("RSV1 on a continuation", Worker, b"\x41\x00\xc0"),
        ("fragmented ping", Worker, b"\x09"),
        ("fragmented close", Worker, b"\x08"),
        ("ping of 126 bytes", Worker, b"\x89\x7e"),
        ("masked ping of 126 bytes", Client, b"\x89\xfe"),
        ("close with a 64-bit length", Worker, b"\x88\x7f"),
        ("masked worker frame", Worker, b"\x81\x81"),
        ("unmasked client frame", Client, b"\x81\x01"),
        ("unmasked client close", Client, b"\x88\x00"),
        ("continuation without a start", Worker, b"\x80"),
        ("continuation after the end", Worker, b"\x01\x00\x80\x00\x80"),
        ("text inside a message", Worker, b"\x01\x01x\x81"),
        ("binary inside a message", Worker, b"\x01\x01x\x02"),
        ("text inside, after a ping", Worker, b"\x01\x01x\x89\x00\x81"),
        ("16-bit length of 125", Worker, b"\x81\x7e\x00\x7d"),
        ("64-bit length of 65535", Worker, b"\x81\x7f\0\0\0\0\0\0\xff\xff"),
        ("64-bit length, top bit", Worker, b"\x81\x7f\x80"),
    ];
    for (what, from, bytes) in table {
        let (_, legal) = bytes.split_last().unwrap();
        let (before, seen_before) = observe(*from, legal);
        assert!(before.is_websocket(), "{what}: too early");
        let (mut observer, seen) = observe(*from, bytes);
        assert!(!observer.is_websocket(), "{what}");
        assert_eq!(seen, seen_before, "{what}: a broken header does not count as a frame");
        assert_eq!(before.next_boundary(&bytes[legal.len()..]), before.at_frame_boundary().then_some(0), "{what}");

        assert_eq!(observer.feed(b"\x81\x01x\x88\x00"), Observed::default(), "{what}: observed again");
        assert!(!observer.is_websocket() && !observer.at_frame_boundary() && !observer.at_message_boundary(), "{what}");
        assert_eq!(observer.next_boundary(b"\x81\x01x"), None, "{what}");
    }
}

#[test]
fn counts_from_before_stepping_aside_are_kept() {
    let (observer, seen) = observe(Sender::Worker, b"\x81\x01x\x88\x00HTTP");
    assert_eq!(seen, Observed { frames: 2, controls: 1, messages: 1, close: true });
    assert!(observer.close_seen() && !observer.is_websocket());
}

#[test]
fn shortest_forms_of_extended_lengths_are_legal() {
    for (header, payload) in [(&b"\x81\x7e\x00\x7e"[..], 126), (b"\x81\x7f\0\0\0\0\0\x01\0\0", 65536)] {
        let bytes = [header, &vec![0; payload]].concat();
        let (observer, seen) = observe(Sender::Worker, &bytes);
        assert_eq!(seen.messages, 1);
        assert!(observer.at_message_boundary());
    }
}

#[test]
fn next_boundary_finds_the_end_of_the_current_frame() {
    let mut observer = Observer::new(Sender::Worker);
    observer.feed(b"\x81\x03a");
    assert_eq!(observer.next_boundary(b""), None);
    assert_eq!(observer.next_boundary(b"b"), None);
    assert_eq!(observer.next_boundary(b"bc"), Some(2));
    assert_eq!(observer.next_boundary(b"bc\x81\x01x"), Some(2));
    assert!(!observer.at_frame_boundary(), "next_boundary changes nothing");
    observer.feed(b"bc\x81");
    assert_eq!(observer.next_boundary(b"\x01x\x81"), Some(2));
    assert_eq!(observer.next_boundary(b"\x81x\x81"), None, "masked, so not a valid frame");
}

#[test]
fn first_text_reads_a_workers_first_message() {
    use FirstText::{NeedMore, No, Whole};
    let long = |length: u16| [&[0x81, 126][..], &length.to_be_bytes(), &vec![b'x'; length.into()]].concat();
    let table: &[(&str, &[u8], FirstText<'_>)] = &[
        ("nothing yet", b"", NeedMore),
        ("one byte", b"\x81", NeedMore),
        ("two bytes", b"\x81\x03", NeedMore),
        ("not whole", b"\x81\x030{", NeedMore),
        ("whole", b"\x81\x030{}", Whole(b"0{}".into())),
        ("more bytes after it", b"\x81\x030{}\x81\x0240", Whole(b"0{}".into())),
        ("empty", b"\x81\x00", Whole(b"".into())),
        ("16-bit length, not whole", b"\x81\x7e\x00", NeedMore),
        ("16-bit length, not the shortest form", b"\x81\x7e\x00\x7d", No),
        ("16-bit length, smallest", &long(126), Whole(vec![b'x'; 126].into())),
        ("largest", &long(1024), Whole(vec![b'x'; 1024].into())),
        ("largest, not whole", &long(1024)[..1027], NeedMore),
        ("too long", b"\x81\x7e\x04\x01", No),
        ("64-bit length", b"\x81\x7f", No),
        ("masked", b"\x81\x83", No),
        ("a fragment", b"\x01\x010", NeedMore),
        ("fragments", b"\x01\x010\x00\x00\x80\x02{}", Whole(b"0{}".into())),
        ("a ping before, a pong between", b"\x89\x01?\x01\x010\x8a\x00\x80\x02{}\x89", Whole(b"0{}".into())),
        ("fragments, a close between", b"\x01\x010\x88\x00", No),
        ("two beginnings", b"\x01\x010\x81\x00", No),
        ("no beginning", b"\x80", No),
        ("compressed", b"\xc1", No),
        ("binary", b"\x82", No),
        ("ping", b"\x89\x00", NeedMore),
        ("pings without end", &b"\x89\x00".repeat(514), No),
        ("a ping of 16-bit length", b"\x89\x7e\x00\x7e", No),
        ("close", b"\x88\x00", No),
        ("HTTP/1.1 400 in the tunnel", b"HTTP/1.1 400 Bad Request\r\n", No),
    ];
    for (what, bytes, expected) in table {
        assert_eq!(first_text(bytes), *expected, "{what}");
        // However the bytes are cut, the final result is the same, and it is reached at the same byte.
        let known = (0..=bytes.len()).map(|end| first_text(&bytes[..end])).find(|known| *known != NeedMore);
        assert_eq!(known.unwrap_or(NeedMore), *expected, "{what}");
    }
}

#[test]
fn only_sendable_close_codes_are_accepted() {
    for code in 0..=u16::MAX {
        let checked = CloseCode::new(code);
        assert_eq!(checked.is_ok(), matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999), "{code}");
        // tungstenite does not know 1014 (bad gateway), which IANA registered after the RFC.
        let allowed = LibraryCode::from(code).is_allowed() || code == 1014;
        assert_eq!(checked.is_ok(), allowed, "{code}: the library disagrees");
        assert!(checked.is_ok_and(|legal| legal.get() == code) || checked.is_err());
    }
    assert_eq!(CloseCode::new(999), Err(CloseCodeError::OutOfRange(999)));
    assert_eq!(CloseCode::new(5000), Err(CloseCodeError::OutOfRange(5000)));
    assert_eq!(CloseCode::new(1006), Err(CloseCodeError::NeverSent(1006)));
    assert_eq!(CloseCode::new(1004), Err(CloseCodeError::Reserved(1004)));
    assert_eq!(CloseCode::new(2999), Err(CloseCodeError::Reserved(2999)));
    for named in [CloseCode::NORMAL, CloseCode::GOING_AWAY, CloseCode::SERVICE_RESTART, CloseCode::TRY_AGAIN_LATER] {
        assert_eq!(CloseCode::new(named.get()), Ok(named));
    }
}

#[test]
fn our_control_frames_have_the_expected_bytes() {
    assert_eq!(close_frame(CloseCode::SERVICE_RESTART, "").as_ref(), b"\x88\x02\x03\xf4");
    assert_eq!(close_frame(CloseCode::GOING_AWAY, "bye").as_ref(), b"\x88\x05\x03\xe9bye");
    assert_eq!(ping_frame(b"").as_ref(), b"\x89\x00");
    assert_eq!(ping_frame(b"stickyd").as_ref(), b"\x89\x07stickyd");
    assert_eq!(ping_frame(&[7; 125]).as_ref().len(), 127);
    // 122 + 2 bytes: the last character would begin within the limit of 123 bytes and end after it.
    let reason = format!("{}é", "x".repeat(122));
    assert_eq!(close_frame(CloseCode::NORMAL, &reason).as_ref().len(), 2 + 2 + 122);
    assert_eq!(close_frame(CloseCode::NORMAL, &"x".repeat(500)).as_ref().len(), 2 + 125);
}
