//! Inserts a frame from stickyd into passing traffic, for all cuts and however slow the sink.

use std::task::Waker;

use proptest::prelude::*;

use super::*;
use crate::broadcast::Broadcast;

/// A source that yields its chunks, with a pause for each empty one, and then its end.
struct Chunks(std::vec::IntoIter<Vec<u8>>);

impl AsyncRead for Chunks {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.0.next() {
            Some(chunk) if chunk.is_empty() => Poll::Pending,
            Some(chunk) => {
                buf.put_slice(&chunk);
                Poll::Ready(Ok(()))
            }
            None => Poll::Ready(Ok(())),
        }
    }
}

/// A sink that takes the given numbers of bytes in turn, and is not ready for a 0.
struct Slow(Vec<u8>, std::iter::Cycle<std::vec::IntoIter<usize>>);

impl AsyncWrite for Slow {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.1.next().unwrap_or(1).min(bytes.len()) {
            0 => Poll::Pending,
            some => {
                self.0.extend_from_slice(&bytes[..some]);
                Poll::Ready(Ok(some))
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Frames of a worker, given as whether each ends its message, and its length. A control frame follows each that does
/// not.
fn traffic(frames: &[(bool, usize)]) -> (Vec<u8>, Vec<usize>) {
    let (mut bytes, mut between, mut open) = (Vec::new(), vec![0], false);
    for (last, length) in frames {
        let opcode = if open { 0 } else { 2 };
        bytes.push(opcode | if *last { 0x80 } else { 0 });
        bytes.push(u8::try_from(*length).unwrap());
        bytes.extend(vec![b'x'; *length]);
        if !last {
            bytes.extend(b"\x89\x01?");
        }
        open = !last;
        if !open {
            between.push(bytes.len());
        }
    }
    (bytes, between)
}

proptest! {
    #[test]
    fn a_message_is_inserted_once_and_between_messages(
        frames in prop::collection::vec((any::<bool>(), 0usize..120), 0..20),
        cuts in prop::collection::vec(0usize..80, 1..40),
        takes in prop::collection::vec(0usize..100, 1..8).prop_filter("some", |takes| takes.iter().any(|n| *n > 0)),
        when in 0usize..60,
    ) {
        let (bytes, between) = traffic(&frames);
        let (mut chunks, mut at) = (Vec::new(), 0);
        for cut in cuts.into_iter().cycle().take(bytes.len() + 40) {
            let end = (at + cut).min(bytes.len());
            chunks.push(bytes[at..end].to_vec());
            at = end;
        }
        chunks.push(bytes[at..].to_vec());
        let (mut from, mut to) = (Chunks(chunks.into_iter()), Slow(Vec::new(), takes.into_iter().cycle()));
        let mut way = Direction::new(Sender::Worker, Bytes::new());
        let (mut insert, mut buffer) = (None, vec![0; 4_096]);
        let broadcast = Broadcast::new(Some("to all"), None);
        let mut posted = broadcast.post(false);
        let mut cx = Context::from_waker(Waker::noop());
        let mut heard = 0;
        for turn in 0.. {
            if turn == when {
                insert = posted.take().map(Insert::message);
            }
            let ours = Ours { to_boundary: false, gate: None, insert: &mut insert, heed: |signal| {
                heard += usize::from(matches!(signal, Signal::Ping(_)));
            } };
            let step = step(&mut from, &mut to, &mut way, &mut cx, &mut buffer, ours);
            if way.source_ended && way.rest.is_empty() && step == DirectionStep::Blocked && turn > when {
                break;
            }
        }
        let frame = b"\x81\x06to all";
        let sent = to.0;
        let reached = broadcast.finish()[0] == 1;
        let place = sent.windows(frame.len()).position(|window| window == frame);
        prop_assert_eq!(place.is_some(), reached);
        prop_assert_eq!(heard, frames.iter().filter(|(last, _)| !last).count());
        match place {
            Some(at) => {
                prop_assert_eq!([&sent[..at], &sent[at + frame.len()..]].concat(), bytes);
                prop_assert!(between.contains(&at), "at {}, expected one of {:?}", at, between);
            }
            // The message came after the end, or within a message that never ended.
            None => prop_assert_eq!(sent, bytes),
        }
    }
}

/// A source that never ends.
struct Endless;

impl AsyncRead for Endless {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        buf.put_slice(&vec![b'x'; buf.remaining()]);
        Poll::Ready(Ok(()))
    }
}

#[test]
fn little_is_held_for_a_receiver_that_takes_little() {
    const BUFFER: usize = 4 * READ;
    let mut way = Direction::new(Sender::Worker, Bytes::new());
    let mut turn = |takes: usize| {
        let (mut to, mut buffer) = (Slow(Vec::new(), vec![takes].into_iter().cycle()), vec![0; BUFFER]);
        let ours = Ours { to_boundary: false, gate: None, insert: &mut None, heed: |_| {} };
        let mut cx = Context::from_waker(Waker::noop());
        let step = step(&mut Endless, &mut to, &mut way, &mut cx, &mut buffer, ours);
        (step, way.rest.len())
    };
    // A receiver that never took anything, and then one that took some.
    assert_eq!(turn(0), (DirectionStep::Moved(READ), READ));
    assert_eq!(turn(0), (DirectionStep::Blocked, READ));
    (0..STREAK).for_each(|_| assert_eq!(turn(BUFFER), (DirectionStep::Moved(READ), 0)));
    assert_eq!(turn(BUFFER), (DirectionStep::Moved(BUFFER), 0), "a receiver that takes everything gets full reads");
    assert_eq!(turn(1), (DirectionStep::Moved(BUFFER), BUFFER - 1));
    assert_eq!(turn(BUFFER), (DirectionStep::Moved(READ), 0), "a receiver that stops starts again with small reads");
}
