//! Tests against a plain rustls client in memory, over a wire that cuts, stalls, corrupts and ends as configured.

mod hostile;
mod rig;

use proptest::prelude::*;

use super::*;
use crate::net::tls_stream::records::STEP;
use rig::{Damage, Rig, Step, Wire, cuts, steps, versions};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However the wire cuts both streams, and whatever is read and written in between: what one side sends, the other
    /// receives; each end is seen as an end; and a side that has seen the other's end may still send.
    #[test]
    fn all_that_is_sent_arrives(version in versions(), cuts in cuts(), steps in steps(), early in 0..5000_usize) {
        let mut rig = Rig::new(version, cuts, None);
        // Data after the Finished, in the same write.
        rig.client_says(early);
        rig.handshake().unwrap();
        for step in steps {
            rig.step(&step).unwrap();
        }
        rig.client.send_close_notify();
        prop_assert!(rig.hear_all().is_ok(), "a close_notify is a clean end");
        prop_assert!(rig.heard == rig.said, "the server received {} of {} bytes", rig.heard.len(), rig.said.len());
        rig.step(&Step::Server(vec![10, 0, 3000])).unwrap();
        rig.shut();
        rig.carry();
        prop_assert!(rig.answers_heard == rig.answers, "{} of {}", rig.answers_heard.len(), rig.answers.len());
        prop_assert!(rig.client_saw_close);
        prop_assert_eq!(rig.server().owned(), 0, "nothing is under way");
    }

    /// However the client's bytes are damaged, from the first of its hello on: the result is an error or an end, never
    /// a panic, and never a byte that the client did not send.
    #[test]
    fn a_damaged_stream_is_an_error(version in versions(), cuts in cuts(), steps in steps(), damage in Damage::any()) {
        let mut rig = Rig::new(version, cuts, Some(damage));
        let ended = rig.handshake().and_then(|()| {
            steps.iter().try_for_each(|step| rig.step(step))?;
            rig.client.send_close_notify();
            rig.hear_all()
        });
        prop_assert!(rig.said.starts_with(&rig.heard));
        match ended {
            // The damage was never reached, or it hit the version field of a record, which does not matter.
            Ok(()) => prop_assert!(rig.heard == rig.said),
            Err(error) => {
                let kinds = [io::ErrorKind::InvalidData, io::ErrorKind::UnexpectedEof];
                prop_assert!(kinds.contains(&error.kind()), "{error}");
                if error.kind() == io::ErrorKind::InvalidData && rig.is_open() {
                    // A write may have met the error before the bytes ahead of it were read.
                    while rig.read(5000).is_ok_and(|read| read.is_some_and(|count| count > 0)) {}
                    prop_assert!(rig.said.starts_with(&rig.heard));
                    prop_assert_eq!(rig.read(100).unwrap_err().kind(), error.kind(), "the connection stays broken");
                    prop_assert!(rig.flushes(), "the alert is sent");
                    prop_assert_eq!(rig.server().owned(), 0, "a broken connection keeps nothing");
                }
            }
        }
    }
}

fn open() -> Rig {
    let mut rig = Rig::new(&rustls::version::TLS13, vec![usize::MAX], None);
    rig.handshake().unwrap();
    rig
}

/// Returns the lengths of the records sent to the client so far, including their headers.
fn records(wire: &Wire) -> Vec<usize> {
    let (mut rest, mut lengths) = (wire.to_client.as_slice(), Vec::new());
    while rest.len() >= 5 {
        let length = 5 + usize::from(u16::from_be_bytes([rest[3], rest[4]]));
        lengths.push(length);
        rest = &rest[length..];
    }
    lengths
}

/// Bytes that TLS 1.3 adds to the plaintext of a record: header, content type, tag.
const ADDED: usize = 22;

#[test]
fn small_parts_share_a_record_and_large_ones_fill_records() {
    let mut rig = open();
    for (parts, expected) in [
        (vec![100, 1000], vec![1100]),
        (vec![0, 100, 0], vec![100]),
        (vec![RECORD], vec![RECORD]),
        (vec![RECORD + 1], vec![RECORD, 1]),
        (vec![200, 2 * RECORD], vec![RECORD, RECORD, 200]),
        (vec![1, 9 * RECORD], [vec![RECORD; 9], vec![1]].concat()),
        (vec![10, 20_000, 2, 10, 20_000, 2], vec![RECORD, RECORD, 40_024 - 2 * RECORD]),
    ] {
        rig.wire.borrow_mut().to_client.clear();
        let all: usize = parts.iter().sum();
        assert_eq!(rig.write(&parts).unwrap(), Some(all));
        let expected: Vec<_> = expected.into_iter().map(|plain| plain + ADDED).collect();
        assert_eq!(records(&rig.wire.borrow()), expected, "{parts:?}");
    }
}

#[test]
fn a_blocked_write_takes_one_step_and_the_next_write_waits() {
    let mut rig = open();
    rig.wire.borrow_mut().cuts = vec![0];
    assert_eq!(rig.write(&[10, 3 * STEP]).unwrap(), Some(STEP), "taken, although the socket takes nothing");
    assert!(rig.write(&[1]).unwrap().is_none() && !rig.flushes());
    assert!((STEP..STEP + 3 * 30).contains(&rig.server().owned()), "{}", rig.server().owned());
    rig.wire.borrow_mut().cuts = vec![1000];
    assert!(rig.flushes());
    assert_eq!((rig.server().owned(), records(&rig.wire.borrow())), (0, vec![RECORD + ADDED; 2]));
}

#[test]
fn close_notify_is_sent_once_and_nothing_after_it() {
    let mut rig = open();
    rig.wire.borrow_mut().to_client.clear();
    rig.shut();
    rig.shut();
    assert_eq!(rig.write(&[1]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(records(&rig.wire.borrow()), [2 + ADDED], "one alert");
    rig.carry();
    assert!(rig.client_saw_close);
}

#[test]
fn an_end_without_close_notify_is_not_clean() {
    let mut rig = open();
    rig.client_says(100);
    rig.carry();
    rig.wire.borrow_mut().ended = true;
    assert_eq!(rig.read(1000).unwrap(), Some(100));
    assert_eq!(rig.read(1000).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn a_silent_connection_is_one_struct() {
    let size = size_of::<Bufferless<tokio::net::TcpStream>>();
    println!("Bufferless: {size} bytes, of which rustls {}", size_of::<UnbufferedServerConnection>());
    // jemalloc's next size class is a quarter larger.
    assert!(size <= 1280, "{size}");
}
