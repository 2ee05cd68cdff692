//! Checks signals, and the places for inserted frames, against a model that writes the traffic and so knows its
//! content.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::websocket::frames::{Observer, Sender};

/// One frame: its first byte and its payload.
type Frame = (u8, Vec<u8>);

const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;

/// Control frames between the fragments of a message.
fn control() -> impl Strategy<Value = Frame> {
    let payload = prop_oneof![Just(Vec::new()), prop::collection::vec(any::<u8>(), 0..5), Just(vec![7; 125])];
    (prop_oneof![Just(PING), Just(PONG)], payload).prop_map(|(opcode, payload)| (FIN | opcode, payload))
}

/// A message in 1 to 3 frames, mostly small, each with up to two control frames before it.
fn message() -> impl Strategy<Value = Vec<Frame>> {
    let packet = prop_oneof![Just(b"2".to_vec()), Just(b"3".to_vec()), Just(b"5".to_vec()), Just(b"2probe".to_vec())];
    let payload = prop_oneof![packet, prop::collection::vec(any::<u8>(), 0..4), Just(vec![b'x'; 200])];
    let pieces = prop::collection::vec((prop::collection::vec(control(), 0..3), payload), 1..4);
    (prop_oneof![3 => Just(1u8), 1 => Just(2)], prop::bool::weighted(0.2), pieces).prop_map(
        |(kind, compressed, pieces)| {
            let last = pieces.len() - 1;
            let mut frames = Vec::new();
            for (at, (controls, payload)) in pieces.into_iter().enumerate() {
                frames.extend(controls);
                let opcode = if at == 0 { kind | if compressed { RSV1 } else { 0 } } else { 0 };
                frames.push((opcode | if at == last { FIN } else { 0 }, payload));
            }
            frames
        },
    )
}

fn traffic() -> impl Strategy<Value = Vec<Frame>> {
    let close = prop::option::of(prop::collection::vec(any::<u8>(), 0..6));
    (prop::collection::vec(message(), 0..6), close).prop_map(|(messages, close)| {
        let close = close.map(|payload| (FIN | CLOSE, payload));
        messages.into_iter().flatten().chain(close).collect()
    })
}

/// The signal that a reader of whole frames finds in one.
fn known((first, payload): &Frame) -> Option<Signal> {
    match (first, payload.as_slice()) {
        (0x81, [packet]) => Some(Signal::Text(*packet)),
        (0x88, [high, low, ..]) => Some(Signal::Close(Some(u16::from_be_bytes([*high, *low])))),
        (0x88, _) => Some(Signal::Close(None)),
        (0x89, payload) => Some(Signal::Ping(Mark::of(payload))),
        (0x8a, payload) => Some(Signal::Pong(Mark::of(payload))),
        _ => None,
    }
}

fn write(bytes: &mut Vec<u8>, (first, payload): &Frame, mask: Option<[u8; 4]>) {
    let bit = if mask.is_some() { 0x80 } else { 0 };
    bytes.push(*first);
    match u8::try_from(payload.len()) {
        Ok(short @ 0..=125) => bytes.push(bit | short),
        _ => {
            bytes.push(bit | 126);
            bytes.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        }
    }
    bytes.extend(mask.into_iter().flatten());
    let key = mask.unwrap_or_default();
    bytes.extend(payload.iter().zip(key.into_iter().cycle()).map(|(octet, mask)| octet ^ mask));
}

proptest! {
    #[test]
    fn every_signal_is_reported_once_and_in_order(
        frames in traffic(),
        masks in prop::collection::vec(any::<[u8; 4]>(), 1..5),
        of_client: bool,
        cuts in prop::collection::vec(any::<Index>(), 0..12),
    ) {
        let from = if of_client { Sender::Client } else { Sender::Worker };
        let mut bytes = Vec::new();
        // Positions where stickyd may insert a control frame, and where it may insert a data frame.
        let (mut between_frames, mut between_messages) = (vec![0], vec![0]);
        let mut closed = usize::MAX;
        for (number, frame) in frames.iter().enumerate() {
            if frame.0 == FIN | CLOSE {
                closed = bytes.len();
            }
            write(&mut bytes, frame, of_client.then(|| masks[number % masks.len()]));
            let last = frames[..=number].iter().rev().find(|(first, _)| first & 8 == 0);
            let open = last.is_some_and(|(first, _)| first & FIN == 0);
            if closed == usize::MAX {
                between_frames.push(bytes.len());
                if !open {
                    between_messages.push(bytes.len());
                }
            }
        }
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        places.sort_unstable();
        let mut observer = Observer::new(from);
        let (mut heard, mut at) = (Vec::new(), 0);
        for end in places.into_iter().chain([bytes.len()]) {
            let chunk = &bytes[at..end];
            // A place at the very beginning counts only if the position is a boundary now.
            let next = |all: &[usize]| all.iter().find(|place| **place >= at && **place <= end).map(|place| place - at);
            // After the second byte of a Close nothing may follow; before that the observer cannot know of it.
            prop_assert_eq!(observer.next_place(chunk, false), next(&between_frames));
            prop_assert_eq!(observer.next_place(chunk, true), next(&between_messages));
            observer.feed_heeding(chunk, |signal| heard.push(signal));
            at = end;
        }
        prop_assert!(observer.is_websocket());
        prop_assert_eq!(heard, frames.iter().filter_map(known).collect::<Vec<_>>());
    }
}

#[test]
fn different_payloads_have_different_marks() {
    let mut marks: Vec<u32> = (0..=u16::MAX).map(|number| Mark::of(&number.to_be_bytes()).0).collect();
    marks.sort_unstable();
    marks.dedup();
    assert_eq!(marks.len(), 1 << 16);
}
