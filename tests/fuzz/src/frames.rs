//! Headers of WebSocket frames, in pieces of any size.
//!
//! Input: the side that sends, the size of the pieces, and the bytes: frames that are written here from choices, with
//! or without a mistake, or any bytes.

use stickyd::testing::websocket::{CloseCode, FIRST_BYTES_MAX, FirstText, Mark, Observed, Observer, Sender, Signal};
use stickyd::testing::websocket::{close_frame, first_text as first_of, ping_frame};

use super::bytes::Choices;

/// Checks the observer against a reader that has all bytes at once.
pub fn check(data: &[u8]) {
    let mut choices = Choices(data);
    let kind = choices.byte();
    let from = if kind & 1 == 0 { Sender::Client } else { Sender::Worker };
    let cuts = [choices.byte(), choices.byte()];
    own_frames(&mut choices);
    let bytes = if kind & 2 == 0 { choices.0.to_vec() } else { frames(from, &mut choices) };
    let known = read(from, &bytes);
    observe(from, &bytes, cuts, &known);
    first_text(&bytes);
}

/// What a reader of all bytes knows.
#[derive(Default)]
struct Known {
    /// The signals of the small frames, in order.
    signals: Vec<Signal>,
    /// Where each frame ends, whether it is a control frame, whether it ends a message, whether one is still open.
    frames: Vec<(usize, bool, bool, bool)>,
    /// The position after the header of the first Close.
    close_at: Option<usize>,
    /// The position after the first byte that is invalid.
    wrong_at: Option<usize>,
}

/// Reads frames by RFC 6455 §5.2, with all bytes at hand.
fn read(from: Sender, bytes: &[u8]) -> Known {
    let (mut known, mut at, mut open) = (Known::default(), 0, false);
    while let Some(&first) = bytes.get(at) {
        let (fin, rsv1, opcode) = (first >> 7 == 1, first >> 6 & 1 == 1, first & 0x0f);
        let control = opcode >= 8;
        let legal = first & 0x30 == 0
            && match opcode {
                0 => open && !rsv1,
                1 | 2 => !open,
                8..=10 => fin && !rsv1,
                _ => false,
            };
        if !legal {
            known.wrong_at = Some(at + 1);
            return known;
        }
        let Some(&second) = bytes.get(at + 1) else { return known };
        let (masked, short) = (second >> 7 == 1, u64::from(second & 0x7f));
        if masked != (from == Sender::Client) || control && short > 125 {
            known.wrong_at = Some(at + 2);
            return known;
        }
        let wide = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if opcode == 8 {
            known.close_at.get_or_insert(at + 2);
        }
        let written = bytes.get(at + 2..).unwrap_or_default();
        if wide == 8 && written.first().is_some_and(|&top| top > 0x7f) {
            known.wrong_at = Some(at + 3);
            return known;
        }
        let Some(written) = written.get(..wide) else { return known };
        let length = written.iter().fold(0_u64, |sum, &byte| sum << 8 | u64::from(byte));
        if wide == 2 && length < 126 || wide == 8 && length < 65_536 {
            known.wrong_at = Some(at + 2 + wide);
            return known;
        }
        let length = if wide == 0 { short } else { length };
        let header = (at + 2 + wide + if masked { 4 } else { 0 }) as u64;
        if !control {
            open = !fin;
        }
        let end = header.saturating_add(length);
        if end > bytes.len() as u64 {
            return known;
        }
        let key = if masked { bytes[header as usize - 4..header as usize].to_vec() } else { vec![0] };
        let payload = bytes[header as usize..end as usize].iter().zip(key.iter().cycle());
        let payload: Vec<u8> = payload.map(|(octet, mask)| octet ^ mask).collect();
        known.signals.extend(signal(first, &payload));
        at = end as usize;
        known.frames.push((at, control, fin && !control, open));
    }
    known
}

/// The signal of a complete small frame.
fn signal(first: u8, payload: &[u8]) -> Option<Signal> {
    match (first, payload) {
        (0x81, [only]) => Some(Signal::Text(*only)),
        (0x88, [high, low, ..]) => Some(Signal::Close(Some(u16::from_be_bytes([*high, *low])))),
        (0x88, _) => Some(Signal::Close(None)),
        (0x89, payload) => Some(Signal::Ping(Mark::of(payload))),
        (0x8a, payload) => Some(Signal::Pong(Mark::of(payload))),
        _ => None,
    }
}

/// Feeds the bytes in pieces, and compares every answer before and after each piece.
fn observe(from: Sender, bytes: &[u8], cuts: [u8; 2], known: &Known) {
    let (mut observer, mut at, mut turn) = (Observer::new(from), 0, 0);
    let mut signals = Vec::new();
    while at < bytes.len() {
        let piece = usize::from(cuts[turn % 2]) % 64 + 1;
        let end = (at + piece).min(bytes.len());
        let at_boundary = at == 0 || known.frames.iter().any(|(end, ..)| *end == at);
        let next = known.frames.iter().map(|(end, ..)| *end).find(|end| *end >= at);
        let gone = known.wrong_at.is_some_and(|wrong| wrong <= at);
        let expected = match next {
            _ if gone => None,
            _ if at_boundary => Some(0),
            Some(next) if next <= end => Some(next - at),
            _ => None,
        };
        assert_eq!(observer.next_boundary(&bytes[at..end]), expected, "at {at} of {bytes:02x?}");

        for message in [false, true] {
            // A place for our frames is a boundary, and never after a Close.
            let open = |open: &bool| message && *open;
            let place = observer.next_place(&bytes[at..end], message).map(|place| at + place);
            let known_place = std::iter::once((0, false))
                .chain(known.frames.iter().map(|(end, _, _, open)| (*end, *open)))
                .find(|(end, is_open)| *end >= at && !open(is_open))
                .map(|(place, _)| place)
                .filter(|place| *place <= end && !gone && known.close_at.is_none_or(|close| close > *place));
            assert_eq!(place, known_place, "message {message}, at {at} of {bytes:02x?}");
        }
        let seen = observer.feed_heeding(&bytes[at..end], |signal| signals.push(signal));
        let here: Vec<_> = known.frames.iter().filter(|(frame, ..)| (at + 1..=end).contains(frame)).collect();
        let expected = Observed {
            frames: here.len() as u32,
            controls: here.iter().filter(|(_, control, ..)| *control).count() as u32,
            messages: here.iter().filter(|(_, _, message, _)| *message).count() as u32,
            close: known.close_at.is_some_and(|close| (at + 1..=end).contains(&close)),
        };
        assert_eq!(seen, expected, "at {at} of {bytes:02x?}");
        (at, turn) = (end, turn + 1);

        let gone = known.wrong_at.is_some_and(|wrong| wrong <= at);
        let last = known.frames.iter().find(|(end, ..)| *end == at).filter(|_| !gone);
        assert_eq!(observer.is_websocket(), !gone, "{bytes:02x?}");
        assert_eq!(observer.at_frame_boundary(), last.is_some(), "{bytes:02x?}");
        assert_eq!(observer.at_message_boundary(), last.is_some_and(|(.., open)| !open), "{bytes:02x?}");
        assert_eq!(observer.close_seen(), known.close_at.is_some_and(|close| close <= at), "{bytes:02x?}");
    }
    assert_eq!(signals, known.signals, "{bytes:02x?}");
}

/// The first text of a worker, which may come in any pieces, is known once it is complete.
fn first_text(bytes: &[u8]) {
    let known = read(Sender::Worker, bytes);
    let (mut text, mut start, mut whole) = (None::<Vec<u8>>, 0, None);
    for (end, ..) in known.frames.iter().take_while(|(end, ..)| *end <= FIRST_BYTES_MAX) {
        let header = if bytes[start + 1] < 126 { 2 } else { 4 };
        let payload = &bytes[start + header..*end];
        match (bytes[start], &mut text) {
            (0x89 | 0x8a, _) => {}
            (0x01 | 0x81, None) => text = Some(payload.to_vec()),
            (0x00 | 0x80, Some(text)) => text.extend_from_slice(payload),
            _ => break,
        }
        if matches!(bytes[start], 0x80 | 0x81) {
            whole = text;
            break;
        }
        start = *end;
    }
    match (first_of(bytes), whole) {
        (FirstText::Whole(text), Some(whole)) => assert_eq!(*text, *whole),
        (FirstText::NeedMore | FirstText::No, None) => {}
        (said, whole) => panic!("{said:?} of {whole:?} in {bytes:02x?}"),
    }
    let mut before = FirstText::NeedMore;
    for end in 0..=bytes.len().min(FIRST_BYTES_MAX) {
        let now = first_of(&bytes[..end]);
        assert!(before == FirstText::NeedMore || before == now, "{before:?}, then {now:?}");
        assert!(end < FIRST_BYTES_MAX || now != FirstText::NeedMore, "asks for more than there may be");
        before = now;
    }
}

/// Every frame that stickyd writes is one complete frame to any reader.
fn own_frames(choices: &mut Choices<'_>) {
    let code = u16::from_be_bytes([choices.byte(), choices.byte()]);
    let reason = String::from_utf8_lossy(choices.some(200)).into_owned();
    let ping = ping_frame(&[choices.byte(); 8]);
    assert_eq!(read(Sender::Worker, ping.as_ref()).frames, [(10, true, false, false)]);
    let Ok(code) = CloseCode::new(code) else { return };
    let frame = close_frame(code, &reason);
    let bytes = frame.as_ref();
    assert_eq!(read(Sender::Worker, bytes).frames, [(bytes.len(), true, false, false)]);
    assert_eq!(bytes[2..4], code.get().to_be_bytes());
    let said = std::str::from_utf8(&bytes[4..]).expect("text");
    assert!(reason.starts_with(said) && (said == reason || said.len() > 119), "{said:?} of {reason:?}");
}

/// Frames made from choices; one in eight has an invalid first byte.
fn frames(from: Sender, choices: &mut Choices<'_>) -> Vec<u8> {
    let (mut bytes, mut open) = (Vec::new(), false);
    while !choices.is_over() && bytes.len() < 4_096 {
        let (what, mask) = (choices.byte(), choices.byte());
        let first = match what % 8 {
            0 => mask,
            1 => choices.of(&[0x88, 0x89, 0x8a]),
            2 | 3 => {
                let opcode = if open { 0 } else { 1 };
                open = true;
                opcode
            }
            _ => {
                let opcode = if open { 0x80 } else { 0x81 + (what >> 7) };
                open = false;
                opcode
            }
        };
        let length = match what >> 3 & 7 {
            0 => 65_536,
            1 => choices.below(1_200),
            2 => choices.of(&[125, 126, 127]),
            _ => usize::from(choices.byte() % 32),
        };
        let length = if first & 8 != 0 { length % 126 } else { length };
        let masked = if from == Sender::Client { 0x80 } else { 0 };
        bytes.push(first);
        match length {
            0..=125 => bytes.push(masked | length as u8),
            126..=0xffff => {
                bytes.push(masked | 126);
                bytes.extend((length as u16).to_be_bytes());
            }
            _ => {
                bytes.push(masked | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        if masked != 0 {
            bytes.extend([mask; 4]);
        }
        bytes.extend(std::iter::repeat_n(b'x', length));
    }
    bytes
}
