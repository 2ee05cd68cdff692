//! What clients send that hyper does not decide alone: targets that no URI has, heads that are refused, what follows a
//! request, and clients that end their side.

use std::net::{Shutdown, TcpStream};
use std::sync::{Mutex, mpsc};

use crate::support::proxy::Proxy;
use crate::support::raw::{Raw, RawWorker, patient};
use crate::support::wait::wait_for;

#[test]
fn odd_targets_reach_the_worker_as_written() {
    let mut worker = RawWorker::named("a");
    let proxy = Proxy::before(&[worker.address]);
    // On one connection, so that both the first head and later ones are covered.
    let mut client = Raw::connect(proxy.address);
    for (target, written) in [
        (&b"/?filter={\"a\":1}"[..], &b"/?filter={\"a\":1}"[..]),
        (b"/?q=<x>", b"/?q=<x>"),
        (b"/<a>`\"", b"/<a>`\""),
        (b"/caf\xe9?\xe9", b"/caf\xe9?\xe9"),
        ("/café".as_bytes(), "/café".as_bytes()),
        (b"/\"#/../b", b"/\""),
        (b"http://a/\"<x>", b"/%22%3Cx%3E"),
        (b"/plain?a=b", b"/plain?a=b"),
    ] {
        let from = worker.bytes().len();
        client.send([b"GET ", target, b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat());
        assert_eq!(client.answer().text(), "a", "{}", String::from_utf8_lossy(target));
        let line = [b"GET ", written, b" HTTP/1.1\r\n"].concat();
        let arrived = worker.bytes()[from..].to_vec();
        assert!(arrived.starts_with(&line), "{}", String::from_utf8_lossy(&arrived));
        let _ = client.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
    }
    drop(client);
    worker.closed(0);
}

#[test]
fn a_refused_head_is_answered_with_a_reason_and_counted() {
    let worker = RawWorker::named("a");
    let proxy = Proxy::before(&[worker.address]);
    let cookie = "x".repeat(40_000);
    let many: String = (0..120).map(|n| format!("X-{n}: 1\r\n")).collect();
    let cases = [
        ("GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n".to_owned(), 400, "no colon"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: a={cookie}\r\n\r\n"), 431, "size limit"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"), 431, "too many header fields"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n".to_owned(), 400, "invalid value"),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n".to_owned(), 400, "Content-Length"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\n\r\n".to_owned(), 400, "Transfer-Encoding"),
        // Its body must not be taken for its head.
        (
            "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
            400,
            "Transfer-Encoding",
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 2\r\n\r\nGET".to_owned(), 400, "Content-Length"),
        // Its body comes with its head, because its first length covers it; it must not be taken for its head.
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\nContent-Length: 9\r\n\r\nGET /\x01".to_owned(),
            400,
            "Content-Length",
        ),
        (format!("POST / HTTP/1.1\r\nContent-Length: 50000\r\n{many}\r\n{cookie}"), 431, "too many header fields"),
        ("GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400, "invalid request target"),
        ("G{T / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400, "invalid method"),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n".to_owned(), 400, "without TLS"),
        // A ClientHello without a byte that could end a line, as it mostly has none.
        ("\x16\x03\x01\x02\x00\x01\x00\x01\x00\x03\x03".to_owned(), 400, "without TLS"),
        ("\0\0\0\x01SMB".to_owned(), 400, "invalid method"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 400, "HTTP/2"),
    ];
    for (n, (request, status, reason)) in (1..).zip(&cases) {
        for first in ["", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"] {
            let mut client = Raw::connect(proxy.address);
            let _ = client.try_send(format!("{first}{request}"));
            if !first.is_empty() {
                assert_eq!(client.answer().text(), "a");
            }
            let answer = client.answer();
            assert_eq!(answer.status(), *status, "{request:.60}");
            assert!(answer.text().contains(reason), "{}: {request:.60}", answer.text());
            assert_eq!(answer.header("connection"), Some("close"));
            client.closed();
        }
        wait_for("it is counted", || proxy.metric("stickyd_client_errors_total{kind=\"http\"}") >= f64::from(2 * n));
    }
    assert!(proxy.metric("stickyd_limited_total{limit=\"head_bytes\"}") > 0.0);
    assert!(proxy.metric("stickyd_limited_total{limit=\"head_fields\"}") > 0.0);
}

const KEY: &str = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// RFC 9110 §5.3: several lines of a list are one list. RFC 6455 §3: a client knows its server by a `ws:` URL.
#[test]
fn an_upgrade_is_known_in_every_valid_form() {
    let worker = RawWorker::scripted(|leg| {
        leg.request();
        leg.send(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nUpgrade: websocket\r\nConnection: x\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        );
        leg.until_closed();
    });
    let proxy = Proxy::before(&[worker.address]);
    for (target, fields) in [
        ("/", "Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket\r\n"),
        ("/", "Connection: keep-alive\r\nConnection: upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n"),
        ("/", "Connection: Upgrade\r\nUpgrade: h2c, WebSocket\r\n"),
        ("ws://a/", "Connection: Upgrade\r\nUpgrade: websocket\r\n"),
        ("WSS://a/x", "Connection: Upgrade\r\nUpgrade: websocket\r\n"),
    ] {
        let mut client = Raw::connect(proxy.address);
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}{KEY}\r\n"));
        assert_eq!(client.head().unwrap().status(), 101, "{target} {fields}");
    }
    let plain = Raw::connect(proxy.address).ask("GET ws://a/ HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(plain.status(), 400, "only an upgrade has such a target");
}

/// RFC 9112 §6.3: a body without a length ends with the connection, which an HTTP/1.0 client is told (§9.3).
#[test]
fn an_answer_of_unknown_length_closes_for_http_1_0() {
    let worker = RawWorker::answering(|request| match request.target() {
        "/long" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n".to_owned(),
        _ => crate::support::raw::ok("a"),
    });
    let proxy = Proxy::before(&[worker.address]);
    let mut client = Raw::connect(proxy.address);
    let request = |target: &str| format!("GET {target} HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
    let kept = client.ask(&request("/"));
    assert_eq!((kept.text(), kept.header("connection")), ("a", Some("keep-alive")));
    let last = client.send(request("/long")).head().unwrap();
    assert_eq!(last.header("connection"), Some("close"));
    assert_eq!(client.rest(), b"a");
}

#[test]
fn a_client_that_leaves_with_a_byte_behind_is_noticed() {
    let mut worker = RawWorker::scripted(|leg| {
        leg.request();
        leg.until_closed();
    });
    let proxy = Proxy::before(&[worker.address]);
    for (number, behind) in ["", "G", "GET /next HTTP/1.1\r\nHost: a\r\n\r\n", "\r\n"].into_iter().enumerate() {
        let mut client = Raw::connect(proxy.address);
        client.send(format!("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n{behind}"));
        worker.request();
        drop(client);
        worker.closed(number);
    }
}

#[test]
fn a_client_that_ends_its_side_gets_its_answers() {
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let mut worker = RawWorker::scripted(move |leg| {
        while leg.request().is_some() {
            gate.lock().unwrap().recv().unwrap();
            leg.send(crate::support::raw::ok("late"));
        }
    });
    let proxy = Proxy::before(&[worker.address]);
    for count in [1, 2] {
        let stream = TcpStream::connect(proxy.address).unwrap();
        let mut client = Raw::on(patient(stream.try_clone().unwrap()));
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(count));
        stream.shutdown(Shutdown::Write).unwrap();
        for _ in 0..count {
            worker.request();
            go.send(()).unwrap();
            assert_eq!(client.answer().text(), "late");
        }
        client.closed();
    }
}

#[test]
fn received_bytes_are_counted_and_not_announced_ones() {
    let worker = RawWorker::named("a");
    let proxy = Proxy::before(&[worker.address]);
    let bytes = || proxy.metric("stickyd_bytes_total{direction=\"up\",upstream=\"app\"}");
    let mut client = Raw::connect(proxy.address);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551612\r\n\r\nx");
    drop(client);
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    assert_eq!(Raw::connect(proxy.address).ask(chunked).text(), "a");
    wait_for("the bytes are counted", || if bytes() >= 5.0 { Ok(()) } else { Err(bytes()) });
    assert!(bytes() <= 6.0, "{}", bytes());
}
