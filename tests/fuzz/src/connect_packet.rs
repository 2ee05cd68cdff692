//! Packets and frames of clients that are not admitted yet. Input: how the bytes are cut, then frames of a client; all
//! of it is also taken as the body of a POST.

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
    let whole = pass(choices.0, usize::MAX);
    assert_eq!(pass(choices.0, size), whole, "what passes depends on how the bytes are cut");
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

/// Admits nothing but Engine.IO's own packets.
#[derive(Default)]
struct Closed(Vec<PacketKind>);

impl Keeper for Closed {
    type Refusal = PacketKind;

    fn judge(&mut self, kind: PacketKind, _: &[u8]) -> Result<(), PacketKind> {
        self.0.push(kind);
        if kind == PacketKind::Harmless { Ok(()) } else { Err(kind) }
    }
}

/// What passes of these bytes, and why no more does.
fn pass(bytes: &[u8], size: usize) -> (Vec<PacketKind>, Option<PacketKind>) {
    let (mut gate, mut keeper, mut out) = (Gate::default(), Closed::default(), Vec::new());
    let mut refused = None;
    for piece in bytes.chunks(size.min(bytes.len().max(1))) {
        refused = gate.feed(piece, &mut keeper, &mut out).err();
        if refused.is_some() {
            break;
        }
    }
    assert!(out.len() <= bytes.len());
    (keeper.0, refused)
}
