//! Workers that send malformed answers, break off, or stay silent: a clear answer, and the connection is not used
//! again.

use std::sync::{Mutex, mpsc};

use crate::support::proxy::{Proxy, free_address};
use crate::support::raw::{Leg, Raw, RawWorker, ok};

fn before(worker: &RawWorker) -> Proxy {
    Proxy::with(&format!("threads = 1\n[upstream.app]\nworkers = [\"{}\"]", worker.address))
}

/// A worker that answers `/good` well and everything else with these bytes, then waits for the proxy to close.
fn saying(bytes: impl Into<Vec<u8>>) -> RawWorker {
    let bytes = bytes.into();
    RawWorker::scripted(move |leg| {
        while let Some(request) = leg.request() {
            if request.target() == "/good" {
                leg.send(ok("good"));
            } else {
                leg.send(&bytes);
            }
        }
    })
}

#[test]
fn a_malformed_answer_is_a_502_and_its_connection_is_closed() {
    let huge = format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 0\r\n\r\n", "x".repeat(100_000));
    let many: String = (0..300).map(|n| format!("X-{n}: 1\r\n")).collect();
    for bytes in [
        "rubbish\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00",
        "<html>HTTP/0.9 says hello</html>",
        "HTTP/1.1 99 Low\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 1000 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/3.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "HTTP/1.1 200 OK\r\nContent-Length: 3, 4\r\n\r\nabcd",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\na",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nbad name: 1\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 0\r\n\r\n",
        &huge,
        &format!("HTTP/1.1 200 OK\r\n{many}Content-Length: 0\r\n\r\n"),
    ] {
        let mut worker = saying(bytes);
        let proxy = before(&worker);
        let mut client = Raw::connect(proxy.address);
        let answer = client.get("/bad");
        assert_eq!(answer.status(), 502, "{bytes:.80}");
        worker.closed(0);
        assert_eq!(client.get("/good").text(), "good", "the client's connection goes on: {bytes:.80}");
        assert_eq!(worker.connections(), 2);
    }
}

#[test]
fn a_content_length_given_twice_alike_is_one_length() {
    let worker = saying("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc");
    let proxy = before(&worker);
    let answer = Raw::connect(proxy.address).get("/");
    assert_eq!((answer.header("content-length"), answer.text()), (Some("3"), "abc"));
}

#[test]
fn a_close_or_reset_before_an_answer_is_a_502() {
    let scripts: [fn(&mut Leg); 4] = [
        |leg| drop(leg.request()),
        |leg| {
            leg.request();
            leg.reset();
        },
        |leg| {
            leg.request();
            leg.send("HTTP/1.1 200 O");
        },
        |leg| {
            leg.request();
            leg.send("HTTP/1.1 100 Continue\r\n\r\n");
        },
    ];
    for script in scripts {
        let worker = RawWorker::scripted(script);
        let proxy = before(&worker);
        let mut client = Raw::connect(proxy.address);
        assert_eq!(client.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx").status(), 502);
        assert_eq!(worker.connections(), 1, "a request that may have been processed is not sent again");
    }
}

#[test]
fn a_body_that_breaks_off_is_visible_to_the_client() {
    let heads = [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzzz\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcX\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nabc",
    ];
    for (number, reset) in (0..heads.len()).flat_map(|number| [(number, false), (number, true)]) {
        // The worker closes only after the client has the beginning.
        let (go, gate) = mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let worker = RawWorker::scripted(move |leg| {
            leg.request();
            leg.send(heads[number]);
            gate.lock().unwrap().recv().unwrap();
            if reset {
                leg.reset();
            }
        });
        let proxy = before(&worker);
        let mut client = Raw::connect(proxy.address);
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let Some(mut head) = client.head() else { continue };
        go.send(()).unwrap();
        if head.status() == 502 {
            continue;
        }
        assert!(!client.body(&mut head, true), "read as complete: {head:?} of {}", heads[number]);
    }
}

#[test]
fn bytes_after_an_answer_end_the_connection() {
    let poison = format!("{}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", ok("first"));
    let mut worker = RawWorker::scripted(move |leg| {
        if leg.request().is_some() {
            leg.send(if leg.number == 0 { poison.clone() } else { ok("second") });
        }
        leg.until_closed();
    });
    let proxy = before(&worker);
    let mut client = Raw::connect(proxy.address);
    assert_eq!(client.get("/").text(), "first");
    worker.closed(0);
    assert_eq!(client.get("/").text(), "second");
}

#[test]
fn late_bytes_on_an_idle_connection_end_it() {
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let (sent, arrived) = mpsc::channel::<()>();
    let mut worker = RawWorker::scripted(move |leg| {
        leg.request();
        if leg.number > 0 {
            leg.send(ok("second"));
            return;
        }
        leg.send(ok("first"));
        gate.lock().unwrap().recv().unwrap();
        leg.send(ok("poison"));
        sent.send(()).unwrap();
        leg.until_closed();
    });
    let proxy = before(&worker);
    let mut client = Raw::connect(proxy.address);
    assert_eq!(client.get("/").text(), "first");
    go.send(()).unwrap();
    // On loopback, bytes that were sent have arrived.
    arrived.recv().unwrap();
    assert_eq!(client.get("/").text(), "second");
    worker.closed(0);
}

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[test]
fn a_101_must_have_been_asked_for_and_be_right() {
    let switching = |fields: &str| format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n");
    let right = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
    for (request, answer) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", switching(right)),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", switching("")),
        (UPGRADE, switching("Connection: Upgrade\r\nUpgrade: websocket\r\n")),
        (UPGRADE, switching(right).replace("HTTP/1.1", "HTTP/1.0")),
        (UPGRADE, switching(&right.replace("s3pPL", "S3pPL"))),
        (UPGRADE, switching(&right.replace("websocket", "h2c"))),
        (UPGRADE, switching(&right.replace("Connection: Upgrade\r\n", ""))),
    ] {
        let mut worker = saying(format!("{answer}raw bytes"));
        let proxy = before(&worker);
        let mut client = Raw::connect(proxy.address);
        assert_eq!(client.ask(request).status(), 502, "{answer}");
        worker.closed(0);
        assert!(
            !client.try_send("GET /good HTTP/1.1\r\nHost: a\r\n\r\n").is_ok_and(|()| worker.bytes().ends_with(b"good"))
        );
    }
}

#[test]
fn an_ordinary_answer_to_an_upgrade_is_passed_on() {
    let mut worker = saying(ok("no websocket here"));
    let proxy = before(&worker);
    let mut client = Raw::connect(proxy.address);
    assert_eq!(client.ask(UPGRADE).text(), "no websocket here");
    // The client's next bytes are a request, not bytes for a tunnel.
    client.send("not HTTP at all\r\n\r\n");
    assert_eq!(client.answer().status(), 400);
    worker.request();
    assert!(!String::from_utf8_lossy(&worker.bytes()).contains("not HTTP"));
}

#[test]
fn a_worker_that_never_answers_is_a_504_at_the_limit() {
    let mut worker = RawWorker::scripted(|leg| {
        leg.request();
        leg.until_closed();
    });
    let proxy =
        Proxy::with(&format!("[upstream.app]\nworkers = [\"{}\"]\nresponse_timeout = \"300ms\"", worker.address));
    let began = std::time::Instant::now();
    let mut client = Raw::connect(proxy.address);
    assert_eq!(client.get("/").status(), 504);
    assert!(began.elapsed() >= std::time::Duration::from_millis(300));
    worker.closed(0);
    let series =
        format!("stickyd_worker_failures_total{{kind=\"timeout\",upstream=\"app\",worker=\"{}\"}}", worker.address);
    assert!((proxy.metric(&series) - 1.0).abs() < f64::EPSILON);
}

#[test]
fn a_connect_that_a_worker_does_not_accept_is_given_up() {
    // A listener whose queue is full: the kernel drops what comes.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let _held: Vec<_> = (0..3)
        .map(|_| {
            let filler = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            filler.set_nonblocking(true).unwrap();
            let _ = filler.connect(&address.into());
            filler
        })
        .collect();
    let proxy = Proxy::with(&format!("[upstream.app]\nworkers = [\"{address}\"]\nconnect_timeout = \"200ms\""));
    let began = std::time::Instant::now();
    let answer = Raw::connect(proxy.address).get("/");
    // Nothing was sent, so another worker was looked for; there is none.
    assert_eq!((answer.status(), answer.header("retry-after")), (503, Some("1")));
    let took = began.elapsed().as_millis();
    assert!((200..4_000).contains(&took), "connect_timeout is 200 ms, not {took}");
}

#[test]
fn a_refused_connect_goes_to_the_next_worker_even_for_a_post() {
    let alive = RawWorker::answering(|request| ok(request.text()));
    let mut all: Vec<_> = (0..4).map(|_| free_address()).collect();
    all.push(alive.address);
    let proxy = Proxy::before(&all);
    for _ in 0..8 {
        let answer = Raw::connect(proxy.address).ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
        assert_eq!((answer.status(), answer.text()), (200, "body"));
    }
}

#[test]
fn without_any_worker_the_answer_is_a_503_with_retry_after() {
    let proxy = Proxy::before(&[free_address(), free_address()]);
    let mut client = Raw::connect(proxy.address);
    for _ in 0..3 {
        let answer = client.get("/");
        assert_eq!((answer.status(), answer.header("retry-after")), (503, Some("1")));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
}
