//! Small and empty DATA frames over HTTP/2: they cost more memory than bytes, and must end neither the connection nor,
//! as long as they mean something, their stream.

use std::sync::{Mutex, mpsc};
use std::time::Duration;

use crate::support::h2::{Frames, GET, Secured, frame};
use crate::support::raw::{RawWorker, ok};

/// POST / to the host `localhost`, from HPACK's static table.
const POST: &[u8] = b"\x83\x87\x84\x41\x09localhost";

/// The frame in which a stream ends: its kind and the first byte of its payload.
async fn end_of(frames: &mut Frames, stream: u32) -> (u8, u8) {
    loop {
        match frames.next().await.expect("the connection lives") {
            (kind @ (1 | 3), _, on, payload) if on == stream => return (kind, payload[0]),
            (7, _, _, payload) => panic!("GOAWAY {payload:?}"),
            _ => {}
        }
    }
}

/// An answer with status 200.
const OK: (u8, u8) = (1, 0x88);

/// Sends a body until the worker takes no more of it; half of the window is left. Returns the number of bytes.
async fn fill(frames: &mut Frames, stream: u32) -> usize {
    let (mut sent, mut waiting) = (0, 0);
    loop {
        while waiting < 32_768 {
            frames.send(&frame(0, 0, stream, &[b'x'; 8_192])).await;
            (sent, waiting) = (sent + 8_192, waiting + 8_192);
        }
        match tokio::time::timeout(Duration::from_secs(1), frames.next()).await {
            Ok(Some((8, _, on, more))) if on == stream => {
                waiting -= u32::from_be_bytes(*more.first_chunk().unwrap()) as usize;
            }
            Ok(Some(_)) => {}
            Ok(None) => panic!("the connection ended"),
            Err(_) => return sent,
        }
        assert!(sent < 64_000_000, "{sent} bytes for a worker that takes none");
    }
}

/// The body of a request with `small` frames after its beginning, at a worker that is slow to take it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_small_frames_wait_for_a_slow_worker() {
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let worker = RawWorker::scripted(move |leg| {
        while let Some(mut head) = leg.raw.head() {
            if head.start.starts_with("POST") {
                let _ = gate.lock().unwrap().recv();
                leg.raw.body(&mut head, false);
                let small = head.body.iter().skip_while(|byte| **byte == b'x').copied().collect::<Vec<_>>();
                let right = small.iter().enumerate().all(|(at, byte)| *byte == number(at));
                assert!(right, "the bytes are in order");
                leg.send(ok(&head.body.len().to_string()));
            } else {
                leg.send(ok("w"));
            }
        }
    });
    let stickyd = Secured::before(&[worker.address], "");
    let mut frames = stickyd.frames().await;
    frames.send(&frame(1, 4, 1, POST)).await;
    let large = fill(&mut frames, 1).await;
    let small: Vec<u8> = (0..20_000).flat_map(|at| frame(0, 0, 1, &[number(at)])).collect();
    frames.send(&small).await;
    frames.send(&frame(1, 5, 3, GET)).await;
    assert_eq!(end_of(&mut frames, 3).await, OK, "another stream is served");
    go.send(()).unwrap();
    frames.send(&frame(0, 1, 1, b"")).await;
    assert_eq!(end_of(&mut frames, 1).await, OK);
    let mut body = Vec::new();
    while let Some((kind, flags, _, data)) = frames.next().await {
        if kind == 0 {
            body.extend(data);
        }
        if kind == 0 && flags & 1 != 0 {
            break;
        }
    }
    assert_eq!(String::from_utf8(body).unwrap(), (large + 20_000).to_string());
}

/// A byte other than `x` that tells its place.
fn number(at: usize) -> u8 {
    b'0' + u8::try_from(at % 64).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_frames_end_nothing_and_their_padding_is_given_back() {
    let worker = RawWorker::answering(|request| ok(request.text()));
    let stickyd = Secured::before(&[worker.address], "");
    let mut frames = stickyd.frames().await;
    for stream in [1, 3, 5] {
        frames.send(&frame(1, 4, stream, POST)).await;
        frames.send(&frame(0, 0, stream, b"").repeat(400)).await;
        let padded = [&[255][..], &[0; 255]].concat();
        frames.send(&frame(0, 8, stream, &padded).repeat(400)).await;
        let mut given_back = [0, 0];
        while given_back != [400 * 256; 2] {
            match frames.next().await.expect("the connection lives") {
                (8, _, on, more) if on == 0 || on == stream => {
                    let more = u32::from_be_bytes(*more.first_chunk().unwrap());
                    // The connection's window is opened once at the beginning.
                    let first = on == 0 && more == (1 << 20) - 65_535;
                    given_back[usize::from(on == stream)] += if first { 0 } else { more };
                }
                (7, ..) => panic!("GOAWAY"),
                (3, ..) => panic!("a reset"),
                _ => {}
            }
        }
        frames.send(&frame(0, 1, stream, b"whole")).await;
        assert_eq!(end_of(&mut frames, stream).await, OK);
    }
}
