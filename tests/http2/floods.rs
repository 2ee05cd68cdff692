//! HTTP/2 clients that cost more than they ask for: each is cut or held back, and other clients are served.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::h2::{Frames, GET, Secured, ask, frame};
use crate::support::raw::{RawWorker, ok};
use crate::support::wait::{wait_for, within};

/// ENHANCE_YOUR_CALM (RFC 9113 §7).
const CALM: Option<u32> = Some(0xb);

/// A client that resets its streams as fast as it opens them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_resets_are_cut_before_they_reach_workers() {
    let worker = RawWorker::named("w");
    let stickyd = Secured::before(&[worker.address], "");
    let mut frames = stickyd.frames().await;
    let mut flood = Vec::new();
    for stream in (1..10_000).step_by(2) {
        flood.extend(frame(1, 5, stream, GET));
        flood.extend(frame(3, 0, stream, &[0, 0, 0, 8]));
    }
    frames.send(&flood).await;
    // The rest of the flood may reset the connection before the GOAWAY is read.
    assert!(matches!(frames.goaway().await, CALM | None));
    assert!(worker.connections() <= 100, "{} requests reached the worker", worker.connections());
    assert_eq!(stickyd.client().await.get("/").await.text(), "w", "others are served");
}

/// A client that resets streams only after stickyd has seen them, so that h2's own limit does not count them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patient_resets_are_counted_and_cut() {
    let worker = RawWorker::scripted(|leg| {
        leg.request();
        leg.until_closed();
    });
    let stickyd = Secured::before(&[worker.address], "");
    let metric = |series: &str| stickyd.proxy().metric(series);
    let mut frames = stickyd.frames().await;
    for stream in (1..).step_by(2).take(1_001) {
        frames.send(&frame(1, 5, stream, GET)).await;
        wait_for("the stream is seen, or the connection has ended", || {
            metric("stickyd_http2_streams_opened_total") == f64::from(stream.div_ceil(2))
        });
        frames.send(&frame(3, 0, stream, &[0, 0, 0, 8])).await;
    }
    assert!(matches!(frames.goaway().await, CALM | None));
    assert_eq!(metric("stickyd_http2_resets_total"), 1_001.0);
    assert_eq!(metric("stickyd_http2_floods_total{frames=\"resets\"}"), 1.0);
}

/// How many streams the client reset before the connection ended, and the code of its GOAWAY, if that arrived.
async fn resets_until_the_end(frames: &mut Frames) -> (usize, Option<u32>) {
    let mut resets = 0;
    while let Some((kind, _, _, payload)) = frames.next().await {
        match kind {
            3 => resets += 1,
            7 => return (resets, Some(u32::from_be_bytes(*payload[4..].first_chunk().unwrap()))),
            _ => {}
        }
    }
    (resets, None)
}

/// A client that makes stickyd reset its streams: a window over the maximum, too much data, a name in capitals.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resets_that_stickyd_has_to_send_are_limited() {
    const POST: &[u8] = b"\x83\x87\x84\x41\x09localhost";
    let worker = RawWorker::named("w");
    let stickyd = Secured::before(&[worker.address], "");
    for (what, more, mistake) in [
        ("window", &b""[..], (8, 0, &[0x7f, 0xff, 0xff, 0xff][..])),
        ("length", b"\x0f\x0d\x011", (0, 0, b"xyz")),
        ("name", b"\x00\x01X\x011", (0xfa, 0, b"")),
    ] {
        let mut frames = stickyd.frames().await;
        let mut flood = Vec::new();
        for stream in (1..2_000).step_by(2) {
            flood.extend(frame(1, 4, stream, &[POST, more].concat()));
            flood.extend(frame(mistake.0, mistake.1, stream, mistake.2));
        }
        frames.send(&flood).await;
        let (resets, _) = resets_until_the_end(&mut frames).await;
        assert!(resets <= 1_000, "{what}: {resets}");
    }
    assert!(worker.connections() <= 100, "{} requests reached the worker", worker.connections());
    assert_eq!(stickyd.client().await.get("/").await.text(), "w", "others are served");
}

/// A client that keeps opening more streams than it may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_refused_without_end_are_cut() {
    let worker = RawWorker::scripted(|leg| {
        leg.request();
        leg.until_closed();
    });
    let tables = format!("[upstream.app]\nworkers = [\"{}\"]\n[limits]\nhttp2_streams = 3", worker.address);
    let stickyd = Secured::with("", &tables);
    let mut frames = stickyd.frames().await;
    let flood: Vec<u8> = (1..10_000).step_by(2).flat_map(|stream| frame(1, 5, stream, GET)).collect();
    frames.send(&flood).await;
    let (refused, code) = resets_until_the_end(&mut frames).await;
    assert!(refused <= 1_000 && matches!(code, CALM | None), "{refused}: {code:?}");
    drop(frames);
    wait_for("the connection is gone", || stickyd.proxy().metric("stickyd_client_connections") == 0.0);
    assert!(worker.connections() <= 3, "{} requests reached the worker", worker.connections());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn useless_frames_are_cut() {
    let worker = RawWorker::named("w");
    let stickyd = Secured::before(&[worker.address], "");
    for (what, useless) in [
        ("PING", frame(6, 0, 0, b"pingping")),
        ("PONG", frame(6, 1, 0, b"pingping")),
        ("SETTINGS", frame(4, 0, 0, b"")),
        ("PRIORITY", frame(2, 0, 1, &[0, 0, 0, 0, 1])),
        ("WINDOW_UPDATE", frame(8, 0, 0, &[0, 0, 0, 1])),
        ("unknown", frame(0xfa, 0, 0, b"")),
    ] {
        let frames = stickyd.frames().await;
        let before = stickyd.proxy().metric("stickyd_http2_floods_total{frames=\"useless\"}");
        let (mut read, mut write) = tokio::io::split(frames.0);
        let flood = useless.repeat(20_000);
        let writing = async {
            // This fails once the connection is cut.
            let _ = write.write_all(&flood).await;
            let _ = write.flush().await;
        };
        // The connection ends, whatever came before.
        let mut said = Vec::new();
        let _ = within(async { tokio::join!(writing, read.read_to_end(&mut said)) }).await;
        let after = stickyd.proxy().metric("stickyd_http2_floods_total{frames=\"useless\"}");
        assert_eq!(after - before, 1.0, "{what}");
    }
    assert_eq!(stickyd.client().await.get("/").await.text(), "w", "others are served");
}

/// Headers that never end, and headers that unpack to much more than their size.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_headers_and_bombs_are_cut() {
    let worker = RawWorker::named("w");
    let stickyd = Secured::before(&[worker.address], "");
    let mut frames = stickyd.frames().await;
    frames.send(&frame(1, 1, 1, GET)).await;
    let piece = [&[0x10, 1, b'x', 126][..], &[b'y'; 126]].concat();
    frames.send(&frame(9, 0, 1, &piece.repeat(100)).repeat(200)).await;
    assert!(matches!(frames.goaway().await, CALM | None));
    // 4,000 bytes once in the table, then one byte per use.
    let mut frames = stickyd.frames().await;
    let entry = [&[0x40, 1, b'x', 0x7f, 0xa1, 0x1e][..], &[b'y'; 4_000]].concat();
    frames.send(&frame(1, 5, 1, &[GET, &entry, &[0xbe; 10_000]].concat())).await;
    loop {
        match frames.next().await {
            // 431 in Huffman code, with the index of `:status` (RFC 7541 §6.2).
            Some((1, _, 1, head)) => break assert_eq!(head[1..5], *b"\x83\x69\x90\xff", "{head:x?}"),
            Some((7 | 3, ..)) | None => break,
            Some(_) => {}
        }
    }
    assert_eq!(worker.connections(), 0);
    assert_eq!(stickyd.client().await.get("/").await.text(), "w", "others are served");
}

/// A worker that sends answers without end, and counts what was taken of them.
fn endless(taken: Arc<AtomicUsize>) -> RawWorker {
    RawWorker::scripted(move |leg| {
        while let Some(request) = leg.request() {
            if request.target() != "/endless" {
                leg.send(ok("w"));
                continue;
            }
            leg.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
            while leg.send([b'x'; 65_536]) {
                taken.fetch_add(65_536, Ordering::SeqCst);
            }
            return;
        }
    })
}

/// Waits until the counter has not changed for a second; its value.
fn at_rest(counter: &AtomicUsize) -> usize {
    let mut last = (counter.load(Ordering::SeqCst), Instant::now());
    wait_for("the counter no longer changes", || {
        let now = counter.load(Ordering::SeqCst);
        if now != last.0 || now == 0 {
            last = (now, Instant::now());
        }
        last.1.elapsed() > Duration::from_secs(1)
    });
    last.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_holds_the_worker_back() {
    let taken = Arc::<AtomicUsize>::default();
    let worker = endless(taken.clone());
    let stickyd = Secured::before(&[worker.address], "");
    let client = stickyd.client().await;
    let mut slow = Vec::new();
    for _ in 0..4 {
        let (answer, _) =
            client.send.clone().ready().await.unwrap().send_request(ask("GET", "/endless"), true).unwrap();
        slow.push(within(answer).await.unwrap());
    }
    let taken = tokio::task::block_in_place(|| at_rest(&taken));
    // The kernel's buffers on the way hold megabytes each; h2 and stickyd hold very little.
    assert!(taken < 4 * 16_000_000, "{taken} bytes were taken although no client reads them");
    // Streams have their own windows, and share 64 KiB, which the slow ones use up. Another connection is not affected.
    assert_eq!(stickyd.client().await.get("/").await.text(), "w");
    drop(slow);
    assert_eq!(client.get("/").await.text(), "w", "this connection is free once the slow streams have been given up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_does_not_read_holds_only_its_client_back() {
    let (_keep, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let worker = RawWorker::scripted(move |leg| {
        while let Some(head) = leg.raw.head() {
            if head.start.starts_with("POST") {
                let _ = gate.lock().unwrap().recv();
                return;
            }
            leg.send(ok("w"));
        }
    });
    let stickyd = Secured::before(&[worker.address], "");
    let client = stickyd.client().await;
    let (_answer, mut send) = client.begin(ask("POST", "/")).await;
    let mut sent = 0;
    // Until no window opens for a second.
    loop {
        send.reserve_capacity(16_384);
        let room = tokio::time::timeout(Duration::from_secs(1), std::future::poll_fn(|cx| send.poll_capacity(cx)));
        let Ok(Some(Ok(room))) = room.await else { break };
        send.send_data(Bytes::from(vec![0; room]), false).unwrap();
        sent += room;
        assert!(sent < 64_000_000, "{sent} bytes for a worker that takes none");
    }
    assert_eq!(client.get("/").await.text(), "w", "another stream of the same connection is served");
}
