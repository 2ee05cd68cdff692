//! The observer against a library that encodes and decodes whole frames, on generated traffic.

use super::*;

/// One data message: the length of each fragment, and the control frames (opcode, length) before each.
#[derive(Clone, Debug)]
struct Message {
    text: bool,
    compressed: bool,
    fragments: Vec<(Vec<(Control, usize)>, usize)>,
}

/// Which parts of the protocol the traffic uses, and its least length.
#[derive(Clone, Copy)]
struct Uses {
    /// Compressed messages and Close frames, which end or confuse a library that did not negotiate them.
    all: bool,
    /// Whether 64-bit lengths are used.
    long: bool,
    /// The smallest number of messages.
    least: usize,
}

const EVERYTHING: Uses = Uses { all: true, long: true, least: 0 };

fn lengths(long: bool) -> impl Strategy<Value = usize> {
    prop_oneof![
        8 => 0..20_usize,
        4 => 0..300_usize,
        2 => prop_oneof![Just(125), Just(126), Just(127)],
        u32::from(long) => prop_oneof![Just(65_535), Just(65_536), 65_530..70_000_usize],
    ]
}

fn controls(close: bool) -> impl Strategy<Value = Vec<(Control, usize)>> {
    let kind =
        prop_oneof![4 => Just(Control::Ping), 4 => Just(Control::Pong), u32::from(close) => Just(Control::Close)];
    prop::collection::vec((kind, prop_oneof![0..10_usize, Just(125)]), 0..3)
}

fn traffic(uses: Uses) -> impl Strategy<Value = Vec<Message>> {
    let fragments = prop::collection::vec((controls(uses.all), lengths(uses.long)), 1..4);
    let message = (any::<bool>(), any::<bool>(), fragments).prop_map(move |(text, compressed, fragments)| Message {
        text,
        compressed: compressed && uses.all,
        fragments,
    });
    prop::collection::vec(message, uses.least..8)
}

fn senders() -> impl Strategy<Value = Sender> {
    prop_oneof![Just(Sender::Client), Just(Sender::Worker)]
}

/// Writes the frames of the messages with the library.
fn written(from: Sender, messages: &[Message]) -> Vec<u8> {
    let mask = (from == Sender::Client).then_some([0x81, 0x02, 0xff, 0x88]);
    let mut bytes = Vec::new();
    let mut write = |opcode, is_final, rsv1, length| {
        let header = FrameHeader { is_final, rsv1, rsv2: false, rsv3: false, opcode, mask };
        Frame::from_payload(header, vec![b'x'; length].into()).format(&mut bytes).unwrap();
    };
    for Message { text, compressed, fragments } in messages {
        for (at, (controls, length)) in fragments.iter().enumerate() {
            for (control, length) in controls {
                write(OpCode::Control(*control), true, false, *length);
            }
            let opcode = OpCode::Data(match at {
                0 if *text => Data::Text,
                0 => Data::Binary,
                _ => Data::Continue,
            });
            write(opcode, at + 1 == fragments.len(), at == 0 && *compressed, *length);
        }
    }
    bytes
}

/// The result of a second implementation, from the library's header parser and the rules of RFC 6455.
#[derive(Debug, Default)]
struct Judged {
    /// Where each frame ends, and whether a message is still open there.
    ends: Vec<(usize, bool)>,
    seen: Observed,
    /// A complete header broke a rule.
    broken: bool,
    /// The bytes end exactly at the end of the last frame.
    complete: bool,
}

fn judge(from: Sender, bytes: &[u8]) -> Judged {
    let mut judged = Judged::default();
    let mut open = false;
    let mut at = 0;
    loop {
        judged.complete = at == bytes.len();
        let mut cursor = Cursor::new(&bytes[at..]);
        let (header, length) = match FrameHeader::parse(&mut cursor) {
            Ok(Some(parsed)) => parsed,
            Ok(None) => return judged,
            Err(_) => {
                judged.broken = true;
                return judged;
            }
        };
        let control = matches!(header.opcode, OpCode::Control(_));
        let start = matches!(header.opcode, OpCode::Data(Data::Text | Data::Binary));
        let header_length = usize::try_from(cursor.position()).unwrap();
        judged.broken = header.rsv2
            || header.rsv3
            || (header.rsv1 && !start)
            || (control && (!header.is_final || length > 125))
            || (!control && start == open)
            || header.mask.is_some() != (from == Sender::Client)
            || length > u64::MAX / 2
            || header_length != header.len(length);
        if judged.broken {
            return judged;
        }
        judged.seen.close |= header.opcode == OpCode::Control(Control::Close);
        let Some(end) = usize::try_from(length).ok().and_then(|length| (at + header_length).checked_add(length)) else {
            return judged;
        };
        if end > bytes.len() {
            return judged;
        }
        at = end;
        open = if control { open } else { !header.is_final };
        judged.ends.push((at, open));
        judged.seen.frames += 1;
        judged.seen.controls += u32::from(control);
        judged.seen.messages += u32::from(!control && header.is_final);
    }
}

/// Cuts `bytes` at the given places, which are sorted first.
fn cut<'a>(bytes: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|index| index.index(bytes.len() + 1)).collect();
    places.sort_unstable();
    let mut chunks = Vec::new();
    let mut from = 0;
    for place in places.into_iter().chain([bytes.len()]) {
        chunks.push(&bytes[from..place]);
        from = place;
    }
    chunks
}

/// Feeds chunk by chunk, and compares the observer with the second implementation after each.
fn follow(from: Sender, chunks: &[&[u8]], judged: &Judged) -> Result<(), TestCaseError> {
    let mut observer = Observer::new(from);
    let mut at = 0;
    let mut sum = Observed::default();
    for chunk in chunks {
        let here = judged.ends.iter().find(|(end, _)| *end >= at && at > 0).map(|(end, _)| *end);
        let ahead = if at == 0 { Some(0) } else { here }.filter(|end| *end <= at + chunk.len());
        prop_assert_eq!(observer.next_boundary(chunk), ahead.map(|end| end - at));
        add(&mut sum, observer.feed(chunk));
        at += chunk.len();
        let end = judged.ends.iter().find(|(end, _)| *end == at);
        prop_assert_eq!(observer.at_frame_boundary(), end.is_some() || at == 0);
        prop_assert_eq!(observer.at_message_boundary(), end.is_some_and(|(_, open)| !open) || at == 0);
    }
    prop_assert!(observer.is_websocket());
    prop_assert_eq!(sum, judged.seen);
    prop_assert_eq!(observer.close_seen(), judged.seen.close);
    Ok(())
}

/// A stream that is at its end for reading, and discards what the library writes.
struct Ended;

impl Read for Ended {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Ok(0)
    }
}

impl Write for Ended {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

proptest! {
    #[test]
    fn boundaries_agree_with_the_library(
        from in senders(), messages in traffic(EVERYTHING), cuts in prop::collection::vec(any::<Index>(), 0..40),
    ) {
        let bytes = written(from, &messages);
        let judged = judge(from, &bytes);
        prop_assert!(judged.complete && !judged.broken);
        follow(from, &cut(&bytes, &cuts), &judged)?;
    }

    #[test]
    fn boundaries_agree_with_the_library_byte_by_byte(
        // Long payloads add nothing to this test, and the comparison is quadratic.
        from in senders(), messages in traffic(Uses { long: false, ..EVERYTHING }),
    ) {
        let bytes = written(from, &messages);
        follow(from, &bytes.chunks(1).collect::<Vec<_>>(), &judge(from, &bytes))?;
    }

    #[test]
    fn the_library_reads_the_same_number_of_messages(
        from in senders(), messages in traffic(Uses { all: false, ..EVERYTHING }),
    ) {
        let bytes = written(from, &messages);
        let seen = Observer::new(from).feed(&bytes);
        let role = if from == Sender::Client { Role::Server } else { Role::Client };
        let mut library = WebSocket::from_partially_read(Ended, bytes, role, None);
        let mut read = Observed::default();
        while let Ok(message) = library.read() {
            read.messages += u32::from(message.is_text() || message.is_binary());
            read.controls += u32::from(message.is_ping() || message.is_pong());
        }
        prop_assert_eq!((read.messages, read.controls), (seen.messages, seen.controls));
    }

    #[test]
    fn a_damaged_byte_is_judged_as_by_the_library(
        from in senders(), messages in traffic(Uses { least: 1, ..EVERYTHING }), place in any::<Index>(),
        head in any::<bool>(), octet: u8, cuts in prop::collection::vec(any::<Index>(), 0..6),
    ) {
        let mut bytes = written(from, &messages);
        // Half of the changes hit the first bytes of a frame, where they matter most.
        let ends = judge(from, &bytes).ends;
        let start = place.index(ends.len()).checked_sub(1).map_or(0, |frame| ends[frame].0);
        let hit = if head { (start + usize::from(octet % 3)).min(bytes.len() - 1) } else { place.index(bytes.len()) };
        bytes[hit] = octet;

        let judged = judge(from, &bytes);
        let mut observer = Observer::new(from);
        let mut sum = Observed::default();
        for chunk in cut(&bytes, &cuts) {
            add(&mut sum, observer.feed(chunk));
        }
        prop_assert_eq!((sum.frames, sum.messages), (judged.seen.frames, judged.seen.messages));
        // If the bytes end within a header, the observer may already know more than the library.
        prop_assert!(!judged.broken || !observer.is_websocket());
        prop_assert!(!judged.complete || judged.broken || observer.at_frame_boundary());
    }

    #[test]
    fn garbage_never_panics_and_is_never_observed_again(
        from in senders(), chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20),
    ) {
        let mut observer = Observer::new(from);
        let mut aside = false;
        for chunk in &chunks {
            let ahead = observer.next_boundary(chunk);
            prop_assert!(ahead.is_none_or(|end| end <= chunk.len()));
            let mut to_the_end = observer.clone();
            if let Some(end) = ahead {
                to_the_end.feed(&chunk[..end]);
                prop_assert!(to_the_end.at_frame_boundary());
            }
            let seen = observer.feed(chunk);
            prop_assert!(!aside || (!observer.is_websocket() && seen == Observed::default()));
            aside = !observer.is_websocket();
            prop_assert!(!aside || (!observer.at_frame_boundary() && !observer.at_message_boundary()));
            prop_assert!(!observer.at_message_boundary() || observer.at_frame_boundary());
        }
    }

    #[test]
    fn first_text_agrees_with_the_library(bytes in prop_oneof![
        prop::collection::vec(any::<u8>(), 0..20),
        (lengths(true), any::<Index>()).prop_map(|(length, end)| {
            let message = Message { text: true, compressed: false, fragments: vec![(vec![], length)] };
            let mut bytes = written(Sender::Worker, &[message]);
            bytes.truncate(end.index(bytes.len() * 2));
            bytes
        }),
    ]) {
        let judged = judge(Sender::Worker, &bytes);
        let first = bytes.first().copied();
        if let FirstText::Whole(payload) = first_text(&bytes) {
            prop_assert!(payload.len() <= FIRST_TEXT_MAX);
            if first == Some(0x81) {
                let (end, open) = judged.ends[0];
                prop_assert!(!open && bytes[..end].ends_with(&payload));
                prop_assert_eq!(judge(Sender::Worker, &bytes[..end]).seen.messages, 1);
            }
        } else if judged.ends.first().is_some_and(|(end, _)| *end <= FIRST_BYTES_MAX) {
            prop_assert!(first != Some(0x81));
        }
        if first_text(&bytes) == FirstText::NeedMore {
            prop_assert!(bytes.len() < FIRST_BYTES_MAX);
            prop_assert!(judged.ends.iter().all(|(_, open)| *open) || first != Some(0x81));
        }
    }

    #[test]
    fn the_library_reads_our_close(
        code in prop_oneof![1000..=1003_u16, 1007..=1013_u16, 3000..=4999_u16], reason in ".{0,80}",
    ) {
        let code = CloseCode::new(code).unwrap();
        let frame = close_frame(code, &reason);
        prop_assert!(frame.as_ref().len() <= 127);
        let (observer, seen) = observe(Sender::Worker, frame.as_ref());
        prop_assert!(observer.close_seen() && seen.close && seen.controls == 1 && observer.at_message_boundary());

        let mut library = WebSocket::from_partially_read(Ended, frame.as_ref().to_vec(), Role::Client, None);
        let read = library.read().unwrap();
        let tokio_tungstenite::tungstenite::Message::Close(Some(close)) = read else { panic!("{read}") };
        prop_assert_eq!(u16::from(close.code), code.get());
        prop_assert!(reason.starts_with(close.reason.as_str()));
        prop_assert!(close.reason.len() == reason.len() || close.reason.len() > 123 - 4);
    }

    #[test]
    fn the_library_reads_our_ping(payload: [u8; 8]) {
        let frame = ping_frame(&payload);
        let (observer, seen) = observe(Sender::Worker, frame.as_ref());
        prop_assert!(observer.at_message_boundary() && seen.controls == 1 && seen.frames == 1);
        let read = FrameSocket::from_partially_read(Ended, frame.as_ref().to_vec()).read(None).unwrap().unwrap();
        prop_assert_eq!(read, Frame::ping(payload.to_vec()));
    }
}
