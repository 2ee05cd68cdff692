//! Clients that send malformed requests get a 4xx and their connection ends; nothing of them reaches a worker.

use crate::support::proxy::Proxy;
use crate::support::raw::{Raw, RawWorker};
use crate::support::wait::at_most;

/// Sends `request` followed by a valid one: the first must be refused, and the second never read.
fn refused(proxy: &Proxy, request: &str) -> u16 {
    let mut client = Raw::connect(proxy.address);
    // The proxy may have closed before all of it was written.
    let _ = client.try_send(format!("{request}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"));
    let mut answer = client.head().unwrap_or_else(|| panic!("closed without an answer: {request:.80}"));
    assert!(answer.status() >= 400, "accepted: {request:.80}");
    client.body(&mut answer, true);
    client.closed();
    answer.status()
}

#[test]
fn what_is_not_a_request_is_refused() {
    let worker = RawWorker::named("a");
    let proxy = Proxy::before(&[worker.address]);
    let long = "x".repeat(1_000_000);
    let many: String = (0..200).map(|n| format!("X-{n}: 1\r\n")).collect();
    for (request, statuses) in [
        ("rubbish\r\n\r\n", &[400][..]),
        ("\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", &[400]),
        ("GET\r\n\r\n", &[400]),
        ("GET /\r\n\r\n", &[400]),
        ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", &[400]),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
        ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
        ("GET relative HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", &[400, 505]),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", &[400, 505]),
        ("GET / http/1.1\r\nHost: a\r\n\r\n", &[400]),
        ("GE\tT / HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
        ("GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
        ("GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nHost: a\r\n folded: 1\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n\t2\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nHost: a\r\n: 1\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nHost: a\r\nX\0: ab\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n", &[400]),
        (&format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), &[400, 414, 431]),
        (&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"), &[431]),
        (&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", &long[..33_000]), &[431]),
        (&format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"), &[431]),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
        ("GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    ] {
        let status = refused(&proxy, request);
        assert!(statuses.contains(&status), "{status} to {request:.60}");
    }
    assert_eq!(worker.connections(), 0, "{}", String::from_utf8_lossy(&worker.bytes()));
}

#[test]
fn a_large_head_within_the_limit_passes() {
    let mut worker = RawWorker::named("a");
    let proxy = Proxy::before(&[worker.address]);
    let cookie = "x".repeat(30_000);
    let answer = Raw::connect(proxy.address).ask(&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {cookie}\r\n\r\n"));
    assert_eq!(answer.status(), 200);
    assert_eq!(worker.request().1.header("x"), Some(cookie.as_str()));
}

#[test]
fn odd_framing_is_refused() {
    let worker = RawWorker::named("a");
    let proxy = Proxy::before(&[worker.address]);
    for fields in [
        "Content-Length: 1\r\nContent-Length: 2\r\n",
        "Content-Length: 1, 2\r\n",
        "Content-Length: 1, 1\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: +1\r\n",
        "Content-Length: 0x1\r\n",
        "Content-Length: 1 1\r\n",
        "Content-Length:\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: chunked, gzip\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked;a=b\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding:\r\n",
    ] {
        let status = refused(&proxy, &format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n0\r\n\r\n"));
        assert!(status == 400 || status == 501, "{status} to {fields}");
    }
    let status = refused(&proxy, "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    assert_eq!(status, 400, "HTTP/1.0 has no chunks");
    assert_eq!(worker.connections(), 0, "{}", String::from_utf8_lossy(&worker.bytes()));
}

/// hyper drops the length, which RFC 9112 §6.3 allows as well as a refusal. What must hold: the worker sees one framing
/// only, and nothing after the request is read.
#[test]
fn both_framings_become_one_and_the_connection_ends() {
    for fields in [
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\nContent-Length: 99\r\n",
    ] {
        let mut worker = RawWorker::named("a");
        let proxy = Proxy::before(&[worker.address]);
        let mut client = Raw::connect(proxy.address);
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n5\r\nhello\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
        ));
        let status = client.answer().status();
        client.closed();
        if status == 200 {
            let (_, request) = worker.request();
            assert_eq!((request.text(), request.header("content-length")), ("hello", None));
        } else {
            assert_eq!(status, 400);
        }
        assert!(!String::from_utf8_lossy(&worker.bytes()).contains("smuggled"));
    }
}

#[test]
fn malformed_chunks_end_the_attempt() {
    for body in [
        "zz\r\nabc\r\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\nabc",
        "3\nabc\n0\n\n",
        "-1\r\n\r\n",
        " 3\r\nabc\r\n0\r\n\r\n",
    ] {
        let worker = RawWorker::named("a");
        let proxy = Proxy::before(&[worker.address]);
        let mut client = Raw::connect(proxy.address);
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"));
        let rest = client.rest();
        assert!(!rest.starts_with(b"HTTP/1.1 200"), "{body:?} → {}", String::from_utf8_lossy(&rest));
        let seen = worker.bytes();
        assert!(!String::from_utf8_lossy(&seen).contains("smuggled") && !seen.ends_with(b"0\r\n\r\n"), "{body:?}");
    }
}

#[test]
fn methods_for_proxies_are_refused() {
    let worker = RawWorker::named("a");
    let proxy = Proxy::before(&[worker.address]);
    for request in [
        "CONNECT a.example:80 HTTP/1.1\r\nHost: a.example:80\r\n\r\n",
        "CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n",
        "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let status = refused(&proxy, request);
        assert!([400, 405, 501].contains(&status), "{status} to {request}");
    }
    assert_eq!(worker.connections(), 0);
}

#[test]
fn http_2_without_tls_is_refused_at_once() {
    let worker = RawWorker::named("a");
    let proxy = Proxy::before(&[worker.address]);
    let began = std::time::Instant::now();
    let mut client = Raw::connect(proxy.address);
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    client.rest();
    assert!(began.elapsed() < at_most(std::time::Duration::from_secs(4)), "the refusal comes at once");
    assert_eq!(worker.connections(), 0);
}

#[test]
fn a_fragment_in_a_target_reaches_no_worker() {
    let worker = RawWorker::named("a");
    let proxy = Proxy::with(&format!(
        "[upstream.app]\nworkers = [\"{}\"]\n[[route]]\npath = \"/open\"\nupstream = \"app\"",
        worker.address
    ));
    let mut client = Raw::connect(proxy.address);
    client.get("/open#/../closed");
    let seen = worker.bytes();
    assert!(!String::from_utf8_lossy(&seen).contains('#'), "{}", String::from_utf8_lossy(&seen));
}

#[test]
fn a_refused_client_that_is_still_sending_gets_its_answer() {
    let worker = RawWorker::named("a");
    let proxy = Proxy::before(&[worker.address]);
    let mut client = Raw::connect(proxy.address);
    let _ = client.try_send("GET / HTTP/1.1\r\nHost: a\r\nX: ");
    let chunk = vec![b'x'; 10_000];
    // More than all buffers on the way hold: without a reader the connection would be reset, and the answer lost.
    let sent = (0..2_000).take_while(|_| client.try_send(&chunk).is_ok()).count();
    assert_eq!(sent, 2_000, "the proxy keeps reading for a while");
    assert_eq!(client.answer().status(), 431);
    client.closed();
}
