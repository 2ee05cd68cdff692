//! Holds back the messages of a client until they are judged (`[route.jwt]` with `auth:` in `from`).
//!
//! A gate reads the frames of a client as they arrive, cut anywhere. A message passes as soon as its first characters
//! show that it may; a CONNECT packet is held until it is whole, fragments included, and then judged. Control frames
//! pass at once. A compressed frame, a frame that is not masked, and a sequence of frames that RFC 6455 §5.4 forbids
//! cannot be read. After a refusal nothing passes, but packets are still read, so that a client that names several
//! namespaces can be told about each. Out of scope: what is admitted ([`Keeper`]), and what happens after a refusal.

use crate::engine_io::{PacketKind, packet_kind};

/// Maximum size of a message that is held, in bytes: a CONNECT packet with a token, and its frame headers.
pub(crate) const MAX_HELD: usize = 16 * 1024;

/// Decides which packets pass.
pub trait Keeper {
    /// Why a packet does not pass.
    type Refusal;

    /// Judges a packet: a whole one if it is a CONNECT packet, else its beginning. It is asked after a refusal, too,
    /// when nothing passes any more.
    ///
    /// # Errors
    /// The packet does not pass.
    fn judge(&mut self, kind: PacketKind, packet: &[u8]) -> Result<(), Self::Refusal>;
}

/// The state of a client's message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MessageState {
    /// No message has begun.
    None,
    /// The message passes as it comes.
    Passing,
    /// It is not known yet whether the message passes.
    Held,
}

/// A client's frames, up to the point that was read.
#[derive(Debug)]
pub struct Gate {
    /// Header of the current frame, as far as it has come.
    header: [u8; 14],
    header_length: usize,
    /// Bytes of the current frame's payload that are still to come; `None` while the header is read.
    left: Option<u64>,
    /// Place in the current payload, for its masking key.
    place: usize,
    message: MessageState,
    /// Raw bytes of the message that is held.
    raw: Vec<u8>,
    /// The payload of the message that is held, unmasked.
    text: Vec<u8>,
    /// Whether a packet was refused: nothing passes any more.
    is_shut: bool,
    /// Whether the client has sent a whole Close.
    has_closed: bool,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            header: [0; 14],
            header_length: 0,
            left: None,
            place: 0,
            message: MessageState::None,
            raw: Vec::new(),
            text: Vec::new(),
            is_shut: false,
            has_closed: false,
        }
    }
}

/// One call of [`Gate::feed`]: who judges, where the bytes go that pass, and the first refusal.
struct Feed<'a, K: Keeper> {
    keeper: &'a mut K,
    out: &'a mut Vec<u8>,
    refused: Option<K::Refusal>,
}

impl Gate {
    /// Reads the next bytes of the client, and appends to `out` those that may go to the worker.
    ///
    /// # Errors
    /// A packet was refused. Nothing after it passes, in this call or a later one.
    pub fn feed<K: Keeper>(&mut self, mut bytes: &[u8], keeper: &mut K, out: &mut Vec<u8>) -> Result<(), K::Refusal> {
        let mut feed = Feed { keeper, out, refused: None };
        while !bytes.is_empty() {
            match self.left {
                None => {
                    let taken = self.take_header(bytes);
                    bytes = bytes.get(taken..).unwrap_or_default();
                    if let Some(length) = self.whole_header() {
                        self.begin_frame(length, &mut feed);
                    }
                }
                Some(left) => {
                    let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    let (payload, rest) = bytes.split_at_checked(here).unwrap_or((bytes, &[]));
                    bytes = rest;
                    self.left = Some(left - here as u64);
                    self.payload(payload, &mut feed);
                }
            }
            if self.left == Some(0) {
                self.end_frame(&mut feed);
            }
        }
        feed.refused.map_or(Ok(()), Err)
    }

    /// Whether the client has sent a Close that did not pass, because a packet was refused before.
    pub(crate) fn has_closed(&self) -> bool {
        self.is_shut && self.has_closed
    }

    /// Lets nothing pass any more.
    pub(crate) fn shut(&mut self) {
        self.is_shut = true;
    }

    /// Judges a packet; a refusal shuts the gate.
    fn judge<K: Keeper>(&mut self, kind: PacketKind, packet: &[u8], feed: &mut Feed<'_, K>) {
        if let Err(refusal) = feed.keeper.judge(kind, packet) {
            feed.refused.get_or_insert(refusal);
            self.is_shut = true;
        }
    }

    /// Lets bytes pass, unless a packet was refused.
    fn emit<K: Keeper>(&self, bytes: &[u8], feed: &mut Feed<'_, K>) {
        if !self.is_shut {
            feed.out.extend(bytes);
        }
    }

    /// Takes bytes into the header until it is whole; returns how many.
    fn take_header(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        for byte in bytes {
            if self.whole_header().is_some() {
                break;
            }
            let Some(slot) = self.header.get_mut(self.header_length) else { break };
            *slot = *byte;
            self.header_length += 1;
            taken += 1;
        }
        taken
    }

    /// Returns the length of the payload once the header is whole (RFC 6455 §5.2).
    fn whole_header(&self) -> Option<u64> {
        let header = self.header.get(..self.header_length)?;
        let second = *header.get(1)?;
        let key = if second & 0x80 != 0 { 4 } else { 0 };
        let (length, size) = match second & 0x7f {
            126 => (u64::from(u16::from_be_bytes(*header.get(2..4)?.first_chunk()?)), 4),
            127 => (u64::from_be_bytes(*header.get(2..10)?.first_chunk()?), 10),
            short => (u64::from(short), 2),
        };
        (header.len() >= size + key).then_some(length)
    }

    fn first(&self) -> u8 {
        self.header.first().copied().unwrap_or_default()
    }

    fn is_control(&self) -> bool {
        self.first() & 0x08 != 0
    }

    fn begin_frame<K: Keeper>(&mut self, length: u64, feed: &mut Feed<'_, K>) {
        let first = self.first();
        let is_masked = self.header.get(1).is_some_and(|second| second & 0x80 != 0);
        let is_sound = is_masked && first & 0x70 == 0;
        let legal = match first & 0x0f {
            0x0 => self.message != MessageState::None,
            0x1 | 0x2 => self.message == MessageState::None,
            0x8..=0xa => first & 0x80 != 0 && length <= 125,
            _ => false,
        };
        if !is_sound || !legal {
            self.judge(PacketKind::Unreadable, &[], feed);
            if !self.is_control() && self.message == MessageState::None {
                self.message = MessageState::Passing;
            }
        } else if first & 0x0f == 0x1 {
            self.message = MessageState::Held;
        } else if first & 0x0f == 0x2 {
            // Binary data of a message, or a packet of a parser that is not the default one.
            self.judge(PacketKind::Message, &[], feed);
            self.message = MessageState::Passing;
        }
        (self.left, self.place) = (Some(length), 0);
        let header = self.header.get(..self.header_length).unwrap_or_default();
        if self.is_control() || self.message != MessageState::Held {
            self.emit(header, feed);
        } else {
            self.raw.extend(header);
        }
    }

    fn payload<K: Keeper>(&mut self, payload: &[u8], feed: &mut Feed<'_, K>) {
        if self.is_control() || self.message != MessageState::Held {
            return self.emit(payload, feed);
        }
        self.raw.extend(payload);
        let key: [u8; 4] = self
            .header
            .get(self.header_length.saturating_sub(4)..self.header_length)
            .and_then(|key| key.first_chunk().copied())
            .unwrap_or_default();
        for byte in payload {
            let mask = key.get(self.place & 3).copied().unwrap_or_default();
            self.text.push(byte ^ mask);
            self.place += 1;
        }
        self.look(false, feed);
    }

    fn end_frame<K: Keeper>(&mut self, feed: &mut Feed<'_, K>) {
        let (is_last, is_control) = (self.first() & 0x80 != 0, self.is_control());
        self.has_closed |= self.first() & 0x0f == 0x8;
        (self.left, self.header_length) = (None, 0);
        if is_control || !is_last {
            return;
        }
        if self.message == MessageState::Held {
            self.look(true, feed);
        }
        self.message = MessageState::None;
    }

    /// Judges the message that is held, as soon as enough of it has come, or more than may be held.
    fn look<K: Keeper>(&mut self, is_whole: bool, feed: &mut Feed<'_, K>) {
        let kind = match packet_kind(&self.text, is_whole) {
            PacketKind::NeedMore | PacketKind::Connect if !is_whole => {
                if self.raw.len() <= MAX_HELD {
                    return;
                }
                PacketKind::Unreadable
            }
            kind => kind,
        };
        // An idle tunnel owns no buffer (ARCHITECTURE.md, invariant 9).
        let (raw, text) = (std::mem::take(&mut self.raw), std::mem::take(&mut self.text));
        self.judge(kind, &text, feed);
        self.emit(&raw, feed);
        self.message = MessageState::Passing;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Admits everything after a CONNECT packet with `good` in it.
    #[derive(Default)]
    struct Door {
        open: bool,
        connects: usize,
    }

    impl Keeper for Door {
        type Refusal = PacketKind;

        fn judge(&mut self, kind: PacketKind, packet: &[u8]) -> Result<(), PacketKind> {
            match kind {
                PacketKind::Harmless => Ok(()),
                PacketKind::Connect => {
                    self.connects += 1;
                    let good = packet.windows(4).any(|part| part == b"good");
                    self.open |= good;
                    if good { Ok(()) } else { Err(kind) }
                }
                PacketKind::Message if self.open => Ok(()),
                _ => Err(kind),
            }
        }
    }

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let key = [1, 2, 3, 4];
        let mut bytes = vec![first];
        match u8::try_from(payload.len()) {
            Ok(short @ 0..=125) => bytes.push(0x80 | short),
            _ => {
                bytes.push(0x80 | 126);
                bytes.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
            }
        }
        bytes.extend(key);
        bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
        bytes
    }

    /// Feeds the bytes in pieces of this size; returns what passed, and the refusal.
    fn pass(bytes: &[u8], size: usize) -> (Vec<u8>, Result<(), PacketKind>) {
        let (mut gate, mut door, mut out) = (Gate::default(), Door::default(), Vec::new());
        for piece in bytes.chunks(size) {
            if let Err(kind) = gate.feed(piece, &mut door, &mut out) {
                return (out, Err(kind));
            }
        }
        (out, Ok(()))
    }

    #[test]
    fn admitted_messages_pass_unchanged_however_they_are_cut() {
        let long = format!("42[\"{}\"]", "x".repeat(40_000));
        let all = [
            frame(0x81, b"2probe"),
            frame(0x81, b"5"),
            frame(0x89, b"ping"),
            frame(0x81, b"40{\"token\":\"good\"}"),
            frame(0x81, b"42[\"a\"]"),
            frame(0x01, b"4"),
            frame(0x8a, b""),
            frame(0x80, b"2[\"fragments\"]"),
            frame(0x82, &[0, 1, 2]),
            frame(0x01, b"40/a,{\"token\""),
            frame(0x00, b":"),
            frame(0x80, b"\"good\"}"),
            frame(0x81, long.as_bytes()),
            frame(0x88, b""),
        ];
        let expected: usize = all.iter().map(Vec::len).sum();
        for size in [1, 2, 3, 7, 1024, expected] {
            let (out, result) = pass(&all.concat(), size);
            assert_eq!((out.len(), result), (expected, Ok(())), "{size}");
        }
    }

    #[test]
    fn nothing_of_a_refused_message_passes() {
        for (frames, kind) in [
            (vec![frame(0x81, b"42[\"a\"]")], PacketKind::Message),
            (vec![frame(0x81, b"40")], PacketKind::Connect),
            (vec![frame(0x01, b"4"), frame(0x80, b"2[\"a\"]")], PacketKind::Message),
            (vec![frame(0x01, b""), frame(0x00, b"4"), frame(0x80, b"0{}")], PacketKind::Connect),
            (vec![frame(0xc1, b"40{\"token\":\"good\"}")], PacketKind::Unreadable),
            (vec![frame(0x82, b"40{\"token\":\"good\"}")], PacketKind::Message),
            (vec![frame(0x81, b"4 {}")], PacketKind::Unreadable),
            (vec![frame(0x80, b"40")], PacketKind::Unreadable),
            (vec![frame(0x01, b"4"), frame(0x81, b"42")], PacketKind::Unreadable),
            (vec![vec![0x81, 0x02, b'4', b'2']], PacketKind::Unreadable),
            (vec![frame(0x81, &[b"40".as_slice(), &[b'x'; 20_000]].concat())], PacketKind::Unreadable),
        ] {
            for size in [1, 5, 30_000] {
                let (out, result) = pass(&frames.concat(), size);
                assert_eq!((out.len(), result), (0, Err(kind)), "{frames:?}");
            }
        }
        let second = [frame(0x81, b"40{\"token\":\"good\"}"), frame(0x81, b"40/b,{}")].concat();
        let (out, result) = pass(&second, 3);
        assert_eq!((out, result), (frame(0x81, b"40{\"token\":\"good\"}"), Err(PacketKind::Connect)));
    }

    /// Nothing passes after a refusal, but the namespaces of later packets are still seen.
    #[test]
    fn packets_are_read_after_a_refusal_and_none_passes() {
        let (mut gate, mut door, mut out) = (Gate::default(), Door::default(), Vec::new());
        let both = [frame(0x81, b"40{}"), frame(0x01, b"40/a,"), frame(0x80, b"{}")].concat();
        assert_eq!(gate.feed(&both, &mut door, &mut out), Err(PacketKind::Connect));
        assert_eq!((door.connects, out.len()), (2, 0));
        let good = [frame(0x89, b""), frame(0x81, b"40{\"token\":\"good\"}"), frame(0x81, b"42[]")].concat();
        assert_eq!(gate.feed(&good, &mut door, &mut out), Ok(()));
        assert_eq!((door.connects, out.len()), (3, 0), "nothing passes any more");
        assert_eq!((gate.raw.capacity(), gate.text.capacity()), (0, 0), "no buffer is kept");
        assert!(!gate.has_closed());
        assert_eq!(gate.feed(&frame(0x88, &[3, 0xe8]), &mut door, &mut out), Ok(()));
        assert!(gate.has_closed() && out.is_empty());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_have_a_result(bytes: Vec<u8>, size in 1_usize..9) {
            let (out, _) = pass(&bytes, size);
            proptest::prop_assert!(out.len() <= bytes.len());
        }
    }
}
