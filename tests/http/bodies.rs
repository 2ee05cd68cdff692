//! Bodies and trailers in both directions: complete, in pieces, and never buffered.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use crate::support::proxy::Proxy;
use crate::support::raw::{Raw, RawWorker, ok};
use crate::support::wait::wait_for;

const BIG: usize = 10_000_000;

#[test]
fn sized_and_chunked_bodies_arrive() {
    let mut worker = RawWorker::answering(|request| ok(request.text()));
    let proxy = Proxy::before(&[worker.address]);
    let mut client = Raw::connect(proxy.address);
    let answer = client.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(answer.text(), "hello");
    let (_, request) = worker.request();
    assert_eq!((request.header("content-length"), request.header("transfer-encoding")), (Some("5"), None));
    let answer = client.ask(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;ext=\"1\"\r\nhel\r\n02\r\nlo\r\n0\r\n\r\n",
    );
    assert_eq!(answer.text(), "hello");
    let (_, request) = worker.request();
    assert_eq!((request.header("content-length"), request.header("transfer-encoding")), (None, Some("chunked")));
}

#[test]
fn a_get_with_a_body_keeps_it() {
    let mut worker = RawWorker::answering(|request| ok(request.text()));
    let proxy = Proxy::before(&[worker.address]);
    let mut client = Raw::connect(proxy.address);
    assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").text(), "hi");
    let answer = client.ask("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nyo\r\n0\r\n\r\n");
    assert_eq!(answer.text(), "yo");
    worker.request();
    assert_eq!(worker.request().1.header("transfer-encoding"), Some("chunked"));
}

#[test]
fn a_chunked_answer_arrives_piece_by_piece() {
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let worker = RawWorker::scripted(move |leg| {
        leg.request();
        leg.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for piece in ["one", "two"] {
            leg.send(format!("3\r\n{piece}\r\n"));
            gate.lock().unwrap().recv().unwrap();
        }
        leg.send("0\r\n\r\n");
    });
    let proxy = Proxy::before(&[worker.address]);
    let mut client = Raw::connect(proxy.address);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.head().unwrap();
    // The client has each piece before the worker sends the next.
    assert_eq!(client.exactly(8), b"3\r\none\r\n");
    go.send(()).unwrap();
    assert_eq!(client.exactly(8), b"3\r\ntwo\r\n");
    go.send(()).unwrap();
    assert_eq!(client.exactly(5), b"0\r\n\r\n");
}

#[test]
fn a_request_body_reaches_the_worker_piece_by_piece() {
    let (tell, told) = mpsc::channel::<Vec<u8>>();
    let worker = RawWorker::scripted(move |leg| {
        leg.raw.head();
        for _ in 0..2 {
            tell.send(leg.raw.exactly(3)).unwrap();
        }
        leg.send(ok("thanks"));
        leg.until_closed();
    });
    let proxy = Proxy::before(&[worker.address]);
    let mut client = Raw::connect(proxy.address);
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\none");
    assert_eq!(told.recv().unwrap(), b"one");
    client.send("two");
    assert_eq!(told.recv().unwrap(), b"two");
    assert_eq!(client.answer().text(), "thanks");
}

#[test]
fn trailers_pass_both_ways() {
    let mut worker = RawWorker::answering(|_| {
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n"
            .to_owned()
    });
    let proxy = Proxy::before(&[worker.address]);
    let answer = Raw::connect(proxy.address).ask(
        "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\
         Trailer: X-Check, X-Forwarded-For\r\n\r\n\
         2\r\nhi\r\n0\r\nX-Check: 9\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n",
    );
    assert_eq!(answer.trailers, [("x-sum".to_owned(), "7".to_owned())]);
    let (_, request) = worker.request();
    assert_eq!(request.header("te"), Some("trailers"));
    assert_eq!(
        request.trailers,
        [("x-check".to_owned(), "9".to_owned())],
        "a trailer cannot set the client's identity"
    );
}

#[test]
fn ten_megabytes_pass_both_ways() {
    let worker = RawWorker::scripted(|leg| {
        while let Some(request) = leg.request() {
            leg.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", request.body.len()));
            leg.send(&request.body);
        }
    });
    let proxy = Proxy::before(&[worker.address]);
    let body: Vec<u8> = (0..BIG).map(|i| u8::try_from(i % 251).unwrap()).collect();
    let mut client = Raw::connect(proxy.address);
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {BIG}\r\n\r\n")).send(&body);
    assert!(client.answer().body == body);
}

#[test]
fn a_client_that_stops_reading_stops_the_worker() {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let worker = RawWorker::scripted(move |leg| {
        leg.request();
        let all = 64 * BIG;
        leg.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {all}\r\n\r\n"));
        let chunk = vec![b'x'; 100_000];
        while leg.send(&chunk) {
            count.fetch_add(chunk.len(), Ordering::SeqCst);
        }
    });
    let proxy = Proxy::before(&[worker.address]);
    let mut client = Raw::connect(proxy.address);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.head().unwrap();
    // No progress for a while. What is on the way fits into four socket buffers and those of stickyd.
    let mut last = (0, 0);
    wait_for("the worker makes no progress", || {
        let now = sent.load(Ordering::SeqCst);
        last = if now == last.0 && now > 0 { (now, last.1 + 1) } else { (now, 0) };
        last.1 > 100
    });
    assert!(last.0 < 4 * BIG, "{} bytes are buffered on the way", last.0);
    // The worker goes on when the client reads again.
    client.exactly(last.0 + 1_000_000);
}

#[test]
fn a_worker_that_stops_reading_stops_the_client() {
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let worker = RawWorker::scripted(move |leg| {
        leg.raw.head();
        gate.lock().unwrap().recv().unwrap();
        leg.raw.exactly(20 * BIG);
        leg.send(ok("all"));
        leg.until_closed();
    });
    let proxy = Proxy::before(&[worker.address]);
    let sent = Arc::new(AtomicUsize::new(0));
    let stream = std::net::TcpStream::connect(proxy.address).unwrap();
    let mut client = Raw::on(crate::support::raw::patient(stream.try_clone().unwrap()));
    let mut sender = Raw::on(stream);
    let count = sent.clone();
    let sending = std::thread::spawn(move || {
        sender.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 20 * BIG));
        let chunk = vec![b'x'; 100_000];
        for _ in 0..20 * BIG / chunk.len() {
            sender.send(&chunk);
            count.fetch_add(chunk.len(), Ordering::SeqCst);
        }
    });
    let mut last = (0, 0);
    wait_for("the client makes no progress", || {
        let now = sent.load(Ordering::SeqCst);
        last = if now == last.0 && now > 0 { (now, last.1 + 1) } else { (now, 0) };
        last.1 > 100
    });
    assert!(last.0 < 4 * BIG, "{} bytes are buffered on the way", last.0);
    go.send(()).unwrap();
    sending.join().unwrap();
    assert_eq!(client.answer().text(), "all");
}

#[test]
fn an_early_answer_to_an_upload_is_delivered() {
    let worker = RawWorker::scripted(|leg| {
        leg.raw.head();
        leg.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig");
        leg.until_closed();
    });
    let proxy = Proxy::before(&[worker.address]);
    // A client that reads its answer only after it has sent everything, or cannot send more.
    let mut client = Raw::connect(proxy.address);
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {BIG}\r\n\r\n"));
    let chunk = vec![b'x'; 10_000];
    for _ in 0..BIG / chunk.len() {
        if client.try_send(&chunk).is_err() {
            break;
        }
    }
    let answer = client.answer();
    assert_eq!((answer.status(), answer.text()), (413, "big"));
}
