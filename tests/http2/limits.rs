//! `[limits]` with HTTP/2: limits of requests apply to streams, and limits of connections to the whole connection.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::StatusCode;

use crate::support::h2::{GET, Secured, ask, frame, whole};
use crate::support::raw::{RawWorker, ok};
use crate::support::wait::{wait_for, within};

fn limited(stickyd: &Secured, limit: &str) -> f64 {
    stickyd.proxy().metric(&format!("stickyd_limited_total{{limit=\"{limit}\"}}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_request_of_a_connection_is_followed_by_goaway() {
    let worker = RawWorker::named("a");
    let tables = format!("[upstream.app]\nworkers = [\"{}\"]\n[limits]\nrequests_per_connection = 3", worker.address);
    let stickyd = Secured::with("", &tables);
    let client = stickyd.client().await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.status, StatusCode::OK);
    }
    // The connection ends in order: without an error, and no request is lost.
    assert!(within(client.connection).await.unwrap().is_ok());
    assert_eq!(limited(&stickyd, "requests_per_connection"), 1.0);
    assert_eq!(stickyd.client().await.get("/").await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn targets_and_fields_are_bounded() {
    let worker = RawWorker::named("a");
    let limits = "head_fields = 10\ntarget_bytes = 300";
    let stickyd = Secured::with("", &format!("[upstream.app]\nworkers = [\"{}\"]\n[limits]\n{limits}", worker.address));
    let client = stickyd.client().await;
    assert_eq!(client.get(&format!("/{}", "x".repeat(299))).await.status, StatusCode::OK);
    assert_eq!(client.get(&format!("/{}", "x".repeat(300))).await.status, StatusCode::URI_TOO_LONG);
    for (fields, status) in [(9, StatusCode::OK), (10, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)] {
        let mut request = ask("GET", "/");
        (0..fields).for_each(|_| {
            request.headers_mut().append("x-many", "1".parse().unwrap());
        });
        assert_eq!(client.exchange(request).await.unwrap().status, status, "{fields} and the host");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_is_limited_and_other_streams_go_on() {
    let worker = RawWorker::named("a");
    let stickyd = Secured::with("", &format!("[upstream.app]\nworkers = [\"{}\"]\nmax_body = 10", worker.address));
    let client = stickyd.client().await;
    for (told, bytes, status) in [
        (Some("10"), 10, StatusCode::OK),
        (None, 10, StatusCode::OK),
        (Some("11"), 0, StatusCode::PAYLOAD_TOO_LARGE),
        (None, 11, StatusCode::PAYLOAD_TOO_LARGE),
    ] {
        let mut request = ask("POST", "/");
        if let Some(length) = told {
            request.headers_mut().insert("content-length", length.parse().unwrap());
        }
        let (answer, mut send) = client.begin(request).await;
        // This fails only if the answer has already come.
        let _ = send.send_data(Bytes::from(vec![b'x'; bytes]), bytes == 10);
        assert_eq!(whole(answer).await.unwrap().status, status, "{told:?} {bytes}");
    }
    assert_eq!(limited(&stickyd, "max_body"), 2.0);
    assert_eq!(client.get("/").await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_too_large_after_its_answers_head_ends_its_stream() {
    let first = AtomicBool::new(true);
    let worker = RawWorker::scripted(move |leg| {
        if first.swap(false, Ordering::Relaxed) {
            leg.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
            return leg.until_closed();
        }
        leg.request();
        leg.send(ok("other"));
    });
    let stickyd = Secured::with("", &format!("[upstream.app]\nworkers = [\"{}\"]\nmax_body = 10", worker.address));
    let client = stickyd.client().await;
    let (answer, mut send) = client.begin(ask("POST", "/")).await;
    send.send_data(Bytes::from_static(b"x"), false).unwrap();
    let mut body = within(answer).await.unwrap().into_body();
    assert_eq!(within(body.data()).await.unwrap().unwrap(), "a");
    send.send_data(Bytes::from(vec![b'x'; 10]), false).unwrap();
    assert!(within(body.data()).await.unwrap().is_err());
    assert_eq!(client.get("/").await.text(), "other");
}

/// Each stream uses a connection to a worker, like each connection of HTTP/1.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_streams_of_an_address_count_as_its_connections() {
    let worker = RawWorker::scripted(|leg| {
        while let Some(request) = leg.request() {
            if request.target() == "/wait" {
                return leg.until_closed();
            }
            leg.send(ok("a"));
        }
    });
    let tables = format!("[upstream.app]\nworkers = [\"{}\"]\n[limits]\nconnections_per_address = 3", worker.address);
    let stickyd = Secured::with("", &tables);
    let client = stickyd.client().await;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        waiting.push(client.begin(ask("GET", "/wait")).await);
    }
    assert_eq!(client.get("/").await.status, StatusCode::SERVICE_UNAVAILABLE, "the fourth stream is refused");
    assert_eq!(limited(&stickyd, "connections_per_address"), 1.0);
    waiting.pop();
    wait_for("one stream has ended, so that another may begin", || {
        stickyd.proxy().metric("stickyd_http2_streams") == 2.0
    });
    assert_eq!(client.get("/").await.text(), "a");
    drop(waiting);
    wait_for("all streams have ended", || stickyd.proxy().metric("stickyd_http2_streams") == 0.0);
    // What the streams had used is free again, for other connections, too.
    for _ in 0..2 {
        assert_eq!(stickyd.client().await.get("/").await.text(), "a");
    }
}

/// Heads are not subject to the client's windows, so that only what is read from workers limits them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_wait_at_their_workers_for_a_client_that_does_not_read() {
    let large = "~".repeat(60_000);
    let worker =
        RawWorker::answering(move |_| format!("HTTP/1.1 200 OK\r\nX-Large: {large}\r\nContent-Length: 0\r\n\r\n"));
    let stickyd = Secured::before(&[worker.address], "");
    let mut frames = stickyd.frames().await;
    let heads: Vec<u8> = (1..256).step_by(2).flat_map(|stream| frame(1, 5, stream, GET)).collect();
    frames.send(&heads).await;
    let begun = || stickyd.proxy().metric("stickyd_http2_streams_opened_total");
    wait_for("all streams have begun", || begun() == 128.0);
    let (mut last, mut since) = (f64::MAX, Instant::now());
    wait_for("the number of open streams has not changed for a second", || {
        let open = stickyd.proxy().metric("stickyd_http2_streams");
        if open != last {
            (last, since) = (open, Instant::now());
        }
        since.elapsed() > Duration::from_secs(1)
    });
    // The kernel's buffers on the way take a part of them, 2.6 MB on loopback.
    assert!(last >= 32.0, "{} of 128 heads with 60 KB each were read for a client that reads nothing", 128.0 - last);
    let mut answered = 0;
    while answered < 128 {
        let (kind, ..) = frames.next().await.expect("every request is answered");
        answered += usize::from(kind == 1);
    }
}
