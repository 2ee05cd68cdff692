//! Requests over HTTP/2: what reaches a worker over HTTP/1.1, what comes back, and how a connection with many streams
//! ends.

use std::sync::{Mutex, mpsc};

use bytes::Bytes;
use hyper::{HeaderMap, StatusCode};

use crate::support::answer::Answer;
use crate::support::h2::{Frames, GET, Secured, ask, frame, whole};
use crate::support::proxy::Proxy;
use crate::support::raw::{RawWorker, ok};
use crate::support::wait::{patience, wait_for, within};

fn field<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    answer.headers.get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_reaches_the_worker_as_http_1() {
    let mut worker = RawWorker::answering(|_| {
        "HTTP/1.1 200 OK\r\nConnection: keep-alive, x-hop\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\nX-Kept: 1\r\n\
         Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
            .to_owned()
    });
    let stickyd = Secured::before(&[worker.address], "");
    let client = stickyd.client().await;
    let mut request = ask("GET", "/a?b=c");
    for (name, value) in [("cookie", "a=1"), ("cookie", "b=2"), ("te", "trailers"), ("x-forwarded-for", "6.6.6.6")] {
        request.headers_mut().append(name, value.parse().unwrap());
    }
    let answer = client.exchange(request).await.unwrap();
    assert_eq!((answer.status, answer.text()), (200, "hello"));
    assert_eq!(field(&answer, "x-kept"), Some("1"));
    for hop in ["connection", "keep-alive", "transfer-encoding", "x-hop"] {
        assert_eq!(field(&answer, hop), None, "{hop}");
    }
    assert!(field(&answer, "date").is_some());
    let (_, seen) = worker.request();
    assert_eq!(seen.start, "GET /a?b=c HTTP/1.1");
    for (name, value) in [
        ("host", "localhost"),
        ("cookie", "a=1; b=2"),
        ("te", "trailers"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "localhost"),
    ] {
        assert_eq!(seen.header(name), Some(value));
    }
    for none in ["connection", "transfer-encoding", "content-length", "upgrade"] {
        assert_eq!(seen.header(none), None, "{none}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_and_trailers_pass_both_ways() {
    let mut worker = RawWorker::answering(|request| {
        let body = request.text();
        format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n{:x}\r\n{body}\r\n0\r\nX-Sum: 7\r\n\r\n",
            body.len()
        )
    });
    let stickyd = Secured::before(&[worker.address], "");
    let client = stickyd.client().await;
    let mut request = ask("POST", "/");
    request.headers_mut().insert("trailer", "x-check, x-real-ip".parse().unwrap());
    let (answer, mut send) = client.begin(request).await;
    send.send_data(Bytes::from_static(b"hello"), false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-check", "9".parse().unwrap());
    trailers.insert("x-real-ip", "6.6.6.6".parse().unwrap());
    send.send_trailers(trailers).unwrap();
    let answer = whole(answer).await.unwrap();
    assert_eq!(answer.text(), "hello");
    assert_eq!(answer.trailers.unwrap()["x-sum"], "7");
    let (_, seen) = worker.request();
    assert_eq!(seen.header("transfer-encoding"), Some("chunked"));
    assert_eq!(seen.trailers, [("x-check".to_owned(), "9".to_owned())]);
    // A length that the client sends is passed on.
    let mut request = ask("POST", "/");
    request.headers_mut().insert("content-length", "2".parse().unwrap());
    let (answer, mut send) = client.begin(request).await;
    send.send_data(Bytes::from_static(b"hi"), true).unwrap();
    assert_eq!(whole(answer).await.unwrap().text(), "hi");
    let (_, seen) = worker.request();
    assert_eq!((seen.header("content-length"), seen.header("transfer-encoding")), (Some("2"), None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_without_a_body_have_none() {
    let worker = RawWorker::answering(|request| match request.target() {
        "/304" => "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n".to_owned(),
        "/204" => "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
        _ => "HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n".to_owned(),
    });
    let stickyd = Secured::before(&[worker.address], "");
    let client = stickyd.client().await;
    let head = client.exchange(ask("HEAD", "/")).await.unwrap();
    assert_eq!((field(&head, "content-length"), head.body.len()), (Some("77"), 0));
    for (path, status) in [("/204", 204), ("/304", 304)] {
        let answer = client.get(path).await;
        assert_eq!((answer.status, answer.body.len()), (status, 0));
        assert_eq!(field(&answer, "content-length"), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn early_hints_pass_before_the_answer() {
    let worker = RawWorker::answering(|_| {
        format!("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nConnection: close\r\n\r\n{}", ok("final"))
    });
    let stickyd = Secured::before(&[worker.address], "");
    let client = stickyd.client().await;
    let (mut answer, mut send) = client.begin(ask("POST", "/")).await;
    send.send_data(Bytes::new(), true).unwrap();
    let hints = within(std::future::poll_fn(|cx| answer.poll_informational(cx))).await.unwrap().unwrap();
    assert_eq!((hints.status(), hints.headers().len()), (StatusCode::EARLY_HINTS, 1));
    assert_eq!(hints.headers()["link"], "</x>");
    let answer = whole(answer).await.unwrap();
    assert_eq!((answer.text(), field(&answer, "link")), ("final", None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_waits_for_100_gets_it() {
    let worker = RawWorker::answering(|request| ok(request.text()));
    let stickyd = Secured::before(&[worker.address], "");
    let client = stickyd.client().await;
    let mut request = ask("POST", "/");
    request.headers_mut().insert("expect", "100-continue".parse().unwrap());
    let (mut answer, mut send) = client.begin(request).await;
    let go_on = within(std::future::poll_fn(|cx| answer.poll_informational(cx))).await.unwrap().unwrap();
    assert_eq!(go_on.status(), StatusCode::CONTINUE);
    send.send_data(Bytes::from_static(b"now"), true).unwrap();
    assert_eq!(whole(answer).await.unwrap().text(), "now");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_own_answers_end_only_their_stream() {
    let worker = RawWorker::named("w");
    let tables = format!(
        "[upstream.app]\nworkers = [\"{}\"]\n[upstream.none]\nworkers = [\"127.0.0.1:1\"]\n\
         [[route]]\npath = \"/app\"\nupstream = \"app\"\n[[route]]\npath = \"/none\"\nupstream = \"none\"",
        worker.address
    );
    let stickyd = Secured::with("", &tables);
    let client = stickyd.client().await;
    for (path, status) in [("/", 404), ("/none", 503)] {
        let answer = client.get(path).await;
        assert_eq!(answer.status, status);
        assert_eq!(field(&answer, "content-length").unwrap(), answer.body.len().to_string());
        assert!(field(&answer, "date").is_some());
    }
    let mut two_hosts = ask("GET", "/app");
    two_hosts.headers_mut().insert("host", "b.example".parse().unwrap());
    let mut many = ask("GET", "/app");
    for n in 0..101 {
        many.headers_mut().insert(hyper::header::HeaderName::try_from(format!("x-{n}")).unwrap(), "1".parse().unwrap());
    }
    let mut large = ask("GET", "/app");
    large.headers_mut().insert("x-large", "x".repeat(40_000).parse().unwrap());
    for (request, status) in [(two_hosts, 400), (many, 431), (large, 431), (ask("TRACE", "/app"), 501)] {
        let answer = client.exchange(request).await.unwrap();
        assert_eq!((answer.status, field(&answer, "connection")), (status, None));
    }
    assert_eq!(client.get("/app").await.text(), "w", "the connection goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_breaks_off_ends_only_its_stream() {
    let worker = RawWorker::scripted(|leg| {
        let Some(request) = leg.request() else { return };
        if request.target() == "/breaks" {
            leg.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
        } else {
            leg.send(ok("whole"));
        }
    });
    let stickyd = Secured::before(&[worker.address], "");
    let client = stickyd.client().await;
    let error = client.exchange(ask("GET", "/breaks")).await.unwrap_err();
    assert_eq!(error.reason(), Some(h2::Reason::INTERNAL_ERROR));
    assert_eq!(client.get("/").await.text(), "whole");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_request_leaves_its_worker() {
    let (told, asked) = mpsc::channel();
    let told = Mutex::new(told);
    let mut worker = RawWorker::scripted(move |leg| {
        leg.request();
        told.lock().unwrap().send(()).unwrap();
        leg.until_closed();
    });
    let stickyd = Secured::before(&[worker.address], "");
    let client = stickyd.client().await;
    let (answer, mut send) = client.send.clone().ready().await.unwrap().send_request(ask("GET", "/"), true).unwrap();
    tokio::task::block_in_place(|| asked.recv_timeout(patience())).unwrap();
    send.send_reset(h2::Reason::CANCEL);
    drop(answer);
    tokio::task::block_in_place(|| worker.closed(0));
    assert_eq!(stickyd.proxy().metric("stickyd_http2_resets_total"), 1.0);
    wait_for("no stream is left", || stickyd.proxy().metric("stickyd_http2_streams") == 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_hangs_up_cancels_all_its_requests() {
    let (told, asked) = mpsc::channel();
    let told = Mutex::new(told);
    let mut worker = RawWorker::scripted(move |leg| {
        leg.request();
        told.lock().unwrap().send(()).unwrap();
        leg.until_closed();
    });
    let stickyd = Secured::before(&[worker.address], "");
    let client = stickyd.client().await;
    let mut answers = Vec::new();
    for _ in 0..3 {
        let (answer, _) = client.send.clone().ready().await.unwrap().send_request(ask("GET", "/"), true).unwrap();
        answers.push(answer);
    }
    for _ in 0..3 {
        tokio::task::block_in_place(|| asked.recv_timeout(patience())).unwrap();
    }
    client.connection.abort();
    for number in 0..3 {
        tokio::task::block_in_place(|| worker.closed(number));
    }
    wait_for("the connection is gone", || stickyd.proxy().metric("stickyd_client_connections") == 0.0);
}

/// The status of stream 1, or `Err` with the code of the reset or of the GOAWAY.
async fn fate(frames: &mut Frames) -> Result<u8, u32> {
    loop {
        match frames.next().await.expect("an answer or a reset comes before the end of the connection") {
            (1, _, 1, head) => return Ok(head[0]),
            (3, _, 1, code) => return Err(u32::from_be_bytes(*code.first_chunk().unwrap())),
            (7, _, _, last) => return Err(u32::from_be_bytes(*last[4..].first_chunk().unwrap())),
            _ => {}
        }
    }
}

/// A literal field that is never indexed, without Huffman (RFC 7541 §6.2.2).
fn literal(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).unwrap();
    [&[0x10, length(name)], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_never_reach_a_worker() {
    const PROTOCOL_ERROR: Result<u8, u32> = Err(1);
    /// `:status 400` in the encoding of the static table.
    const BAD_REQUEST: Result<u8, u32> = Ok(0x8c);
    let worker = RawWorker::named("w");
    let stickyd = Secured::before(&[worker.address], "");
    let path = |path: &str| [b"\x82\x87\x41\x09localhost", &literal(":path", path)[..]].concat();
    let with = |name: &str, value: &str| [GET, &literal(name, value)[..]].concat();
    for (head, expected) in [
        (with("connection", "close"), PROTOCOL_ERROR),
        (with("transfer-encoding", "chunked"), PROTOCOL_ERROR),
        (with("upgrade", "websocket"), PROTOCOL_ERROR),
        (with("te", "gzip"), PROTOCOL_ERROR),
        (with("X-Upper", "1"), PROTOCOL_ERROR),
        (with("x-line", "a\r\nb: c"), PROTOCOL_ERROR),
        (with("x-nul", "a\0b"), PROTOCOL_ERROR),
        (with("x a", "b"), PROTOCOL_ERROR),
        (with(":path", "/twice"), PROTOCOL_ERROR),
        (with(":odd", "1"), PROTOCOL_ERROR),
        (with("host", "other"), BAD_REQUEST),
        (path("x"), PROTOCOL_ERROR),
        (path("*"), BAD_REQUEST),
        (path("/ HTTP/1.1\r\nx: y"), PROTOCOL_ERROR),
        (b"\x87\x84\x41\x09localhost".to_vec(), PROTOCOL_ERROR),
        (b"\x82\x84\x41\x09localhost".to_vec(), PROTOCOL_ERROR),
        (b"\x82\x87\x84".to_vec(), BAD_REQUEST),
        (b"\x82\x87\x84\x41\x0buser@a:b:c/".to_vec(), PROTOCOL_ERROR),
    ] {
        let mut frames = stickyd.frames().await;
        frames.send(&frame(1, 5, 1, &head)).await;
        assert_eq!(fate(&mut frames).await, expected, "{:?}", String::from_utf8_lossy(&head));
    }
    // A body with fewer bytes than the head says, and one with more.
    for body in ["abc", "abcdefg"] {
        let mut frames = stickyd.frames().await;
        frames
            .send(&frame(1, 4, 1, &[b"\x83\x87\x84\x41\x09localhost", &literal("content-length", "5")[..]].concat()))
            .await;
        frames.send(&frame(0, 1, 1, body.as_bytes())).await;
        assert_eq!(fate(&mut frames).await, PROTOCOL_ERROR, "{body}");
    }
    // Allowed all the same: a wrong scheme, and a value that only looks like a head of HTTP/1.
    let mut frames = stickyd.frames().await;
    frames.send(&frame(1, 5, 1, b"\x82\x86\x84\x41\x09localhost")).await;
    assert_eq!(fate(&mut frames).await, Ok(0x88));
    let seen = String::from_utf8(worker.bytes()).unwrap();
    assert!(seen.contains("x-forwarded-proto: https"), "{seen}");
    assert_eq!(seen.matches("GET / HTTP/1.1").count(), 1, "{seen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_can_be_left_out_and_alpn_decides() {
    let worker = RawWorker::named("w");
    let chosen = |alpn: &[u8]| Some(alpn.to_vec());
    let on = Secured::before(&[worker.address], "");
    let off = Secured::before(&[worker.address], "http2 = false");
    for (stickyd, offer, expected) in [
        (&on, &[&b"http/1.1"[..], b"h2"][..], chosen(b"h2")),
        (&on, &[b"http/1.1"], chosen(b"http/1.1")),
        (&on, &[], None),
        (&off, &[b"h2", b"http/1.1"], chosen(b"http/1.1")),
    ] {
        let io = stickyd.offering(offer).await;
        assert_eq!(io.get_ref().1.alpn_protocol().map(<[u8]>::to_vec), expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_sends_goaway_and_lets_requests_finish() {
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let mut worker = RawWorker::scripted(move |leg| {
        while leg.request().is_some() {
            gate.lock().unwrap().recv().unwrap();
            leg.send(ok("late"));
        }
    });
    let mut stickyd = Secured::before(&[worker.address], "");
    let (client, idle) = (stickyd.client().await, stickyd.client().await);
    // Both connections are complete, because only then are they closed in order. stickyd itself answers this request.
    assert!(idle.exchange(ask("TRACE", "/")).await.is_ok());
    let (answer, _send) = {
        let mut ready = client.send.clone().ready().await.unwrap();
        ready.send_request(ask("GET", "/"), true).unwrap()
    };
    tokio::task::block_in_place(|| worker.request());
    let proxy: Proxy = stickyd.proxy.take().unwrap();
    let stopped = tokio::task::spawn_blocking(move || proxy.stop());
    // GOAWAY: the idle connection ends at once, and no new request begins.
    assert!(within(idle.connection).await.unwrap().is_ok());
    within(async {
        // stickyd itself answers this: its thread may learn of the stop a moment later than the other one.
        while client.send.clone().ready().await.is_ok() && client.exchange(ask("TRACE", "/")).await.is_ok() {}
    })
    .await;
    go.send(()).unwrap();
    assert_eq!(whole(answer).await.unwrap().text(), "late");
    assert!(within(client.connection).await.unwrap().is_ok());
    assert_eq!(stopped.await.unwrap().cut, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_number_of_streams_is_limited_as_configured() {
    let worker = RawWorker::scripted(|leg| {
        leg.request();
        leg.until_closed();
    });
    let tables = format!("[upstream.app]\nworkers = [\"{}\"]\n[limits]\nhttp2_streams = 3", worker.address);
    let stickyd = Secured::with("", &tables);
    let mut frames = stickyd.frames().await;
    for stream in [1, 3, 5, 7] {
        frames.send(&frame(1, 5, stream, GET)).await;
    }
    // REFUSED_STREAM: the client may send the request again, elsewhere or later.
    loop {
        match frames.next().await.unwrap() {
            (4, 0, _, settings) => {
                let pairs: Vec<_> = settings.chunks(6).map(|pair| (pair[1], pair[5])).collect();
                assert!(pairs.contains(&(3, 3)), "MAX_CONCURRENT_STREAMS is announced: {pairs:?}");
                assert!(pairs.contains(&(8, 1)), "ENABLE_CONNECT_PROTOCOL is announced: {pairs:?}");
            }
            (3, _, stream, code) => break assert_eq!((stream, &code[..]), (7, &[0, 0, 0, 7][..])),
            _ => {}
        }
    }
    wait_for("three streams are open", || stickyd.proxy().metric("stickyd_http2_streams") == 3.0);
}
