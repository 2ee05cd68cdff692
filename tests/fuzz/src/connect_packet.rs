//! Packets and frames of clients that are not admitted yet. Input: how the bytes are cut, then frames of a client, as
//! bytes or as choices; all of it is also taken as the body of a POST.

use stickyd::testing::engine_io::{ConnectPacket, PacketKind, packet_kind, packets};
use stickyd::testing::websocket::{Gate, Keeper};

use super::bytes::Choices;

/// Checks what passes without a token, in bodies and in frames.
pub fn check(data: &[u8]) {
    for packet in packets(data) {
        let kind = packet_kind(packet, true);
        assert_ne!(kind, PacketKind::NeedMore);
        let connects = some_server_connects(packet);
        assert!(
            !connects || matches!(kind, PacketKind::Connect | PacketKind::Unreadable),
            "{kind:?} passes as {:?}",
            String::from_utf8_lossy(packet)
        );
        if let Some(connect) = ConnectPacket::read(packet) {
            assert!(kind == PacketKind::Connect && !connect.namespace.contains(','));
        }
    }
    let mut choices = Choices(data);
    let size = choices.below(64) + 1;
    check_frames(choices.0, size);
    let mut frames = Vec::new();
    while !choices.is_over() && frames.len() < 40_000 {
        frame(&mut choices, &mut frames);
    }
    check_frames(&frames, size);
}

/// Checks what passes of these frames: it does not depend on how they are cut, and no server finds a message of the
/// application in it.
fn check_frames(bytes: &[u8], size: usize) {
    let whole = pass(bytes, usize::MAX);
    assert_eq!(pass(bytes, size), whole, "what passes depends on how the bytes are cut");
    for message in messages(&whole.0) {
        let first = message.first();
        let is_harmless = matches!(first, None | Some(b'1' | b'2' | b'3' | b'5' | b'6'));
        assert!(is_harmless, "passes: {:?}", String::from_utf8_lossy(&message));
    }
}

/// Appends a frame as choices describe it: often a sound one, with a beginning that means something to some server.
fn frame(choices: &mut Choices<'_>, frames: &mut Vec<u8>) {
    let first = choices.of(&[0x81, 0x81, 0x01, 0x80, 0x00, 0x82, 0x02, 0x89, 0x8a, 0x88, 0xc1, 0x41, 0x09, 0x83]);
    let beginning = choices.of(&[
        "",
        "2",
        "2probe",
        "5",
        "3",
        "4",
        "40",
        "40{",
        "0",
        "0{\"token\":\"x\"}",
        "40/a,",
        "42[\"a\"]",
        "/a,{}",
        "b",
        "1",
        "6",
        "4 ",
        "4\u{a0}",
        "\u{664}",
        " ",
        "451-",
        "401-{}",
        "4\"0\"",
        "x",
    ]);
    let payload = [beginning.as_bytes(), choices.some(40)].concat();
    let form = choices.byte();
    frames.push(first);
    let mask = if form & 0x0f == 0 { 0 } else { 0x80 };
    match u8::try_from(payload.len()) {
        Ok(short) if form & 0x30 != 0 && short < 126 => frames.push(mask | short),
        _ if form & 0x10 == 0 => {
            frames.push(mask | 126);
            frames.extend(u16::try_from(payload.len()).unwrap_or(0).to_be_bytes());
        }
        _ => {
            frames.push(mask | 127);
            frames.extend((payload.len() as u64).to_be_bytes());
        }
    }
    let key = if mask == 0 { Vec::new() } else { vec![choices.byte(), 0, choices.byte(), 7] };
    frames.extend(&key);
    frames.extend(payload.iter().enumerate().map(|(at, byte)| match key.get(at % 4) {
        Some(key) => byte ^ key,
        None => *byte,
    }));
}

/// The messages in a client's frames, as a server reads them (RFC 6455 §5), the last one as far as it has come. Frames
/// that a server closes the connection for end the list.
fn messages(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let (mut all, mut open) = (Vec::new(), None::<Vec<u8>>);
    while let [first, second, rest @ ..] = bytes {
        let (length, rest) = match second & 0x7f {
            126 if rest.len() >= 2 => (u64::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
            127 if rest.len() >= 8 => (u64::from_be_bytes(rest[..8].try_into().unwrap()), &rest[8..]),
            126 | 127 => break,
            short => (u64::from(short), rest),
        };
        if second & 0x80 == 0 || rest.len() < 4 {
            break;
        }
        let (key, rest) = rest.split_at(4);
        let here = usize::try_from(length).unwrap_or(usize::MAX).min(rest.len());
        let (payload, behind) = rest.split_at(here);
        let is_whole = payload.len() as u64 == length;
        bytes = behind;
        if first & 0x08 != 0 {
            continue;
        }
        let payload = payload.iter().enumerate().map(|(at, byte)| byte ^ key[at % 4]);
        open.get_or_insert_default().extend(payload);
        if first & 0x80 != 0 && is_whole {
            all.extend(open.take());
        }
    }
    all.extend(open);
    all
}

/// Whether any server is known to take a packet for a CONNECT packet: JavaScript's `Number` of the character is 0, or
/// Python's `int` of it is. The same holds for the 4 before it.
fn some_server_connects(packet: &[u8]) -> bool {
    let text = String::from_utf8_lossy(packet);
    let mut characters = text.chars();
    let is_four = characters.next().is_some_and(|first| first == '4' || is_digit_of_any_script(first, 4));
    let second = characters.next();
    is_four && second.is_none_or(|second| second == '0' || second.is_whitespace() || is_digit_of_any_script(second, 0))
}

fn is_digit_of_any_script(character: char, digit: u32) -> bool {
    // Zeros of some scripts whose digits follow each other.
    let zeros = [0x660, 0x6f0, 0x966, 0x9e6, 0xff10];
    zeros.iter().any(|zero| u32::from(character) == zero + digit)
}

/// Admits nothing but Engine.IO's own packets; notes the first refusal.
#[derive(Default)]
struct Closed(Vec<PacketKind>);

impl Keeper for Closed {
    type Refusal = PacketKind;

    fn judge(&mut self, kind: PacketKind, _: &[u8]) -> Result<(), PacketKind> {
        if kind == PacketKind::Harmless {
            return Ok(());
        }
        if self.0.is_empty() {
            self.0.push(kind);
        }
        Err(kind)
    }
}

/// What passes of these bytes, and why no more does.
fn pass(bytes: &[u8], size: usize) -> (Vec<u8>, Vec<PacketKind>) {
    let (mut gate, mut keeper, mut out) = (Gate::default(), Closed::default(), Vec::new());
    for piece in bytes.chunks(size.min(bytes.len().max(1))) {
        // After a refusal the gate goes on reading, and nothing passes.
        let before = (out.len(), keeper.0.is_empty());
        let fed = gate.feed(piece, &mut keeper, &mut out);
        assert!(fed.is_ok() || !keeper.0.is_empty());
        assert!(before.1 || out.len() == before.0, "something passes after a refusal");
    }
    assert!(out.len() <= bytes.len());
    (out, keeper.0)
}
