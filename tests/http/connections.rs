//! Connections to workers: kept, closed in time, and ended together with the client that waits for an answer.

use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use crate::support::proxy::Proxy;
use crate::support::raw::{Raw, RawWorker, ok};
use crate::support::wait::wait_for;

const ONE_THREAD: &str = "threads = 1\n";

fn before(worker: &RawWorker) -> Proxy {
    Proxy::with(&format!("{ONE_THREAD}[upstream.app]\nworkers = [\"{}\"]", worker.address))
}

#[test]
fn one_connection_serves_many_requests_of_many_clients() {
    let worker = RawWorker::named("a");
    let proxy = before(&worker);
    for _ in 0..5 {
        let mut client = Raw::connect(proxy.address);
        for _ in 0..5 {
            assert_eq!(client.get("/").text(), "a");
        }
    }
    assert_eq!(worker.connections(), 1);
}

#[test]
fn a_connection_the_worker_closes_is_replaced() {
    let mut worker =
        RawWorker::answering(|_| "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\na".to_owned());
    let proxy = before(&worker);
    let mut client = Raw::connect(proxy.address);
    for number in 0..3 {
        let answer = client.get("/");
        assert_eq!(
            (answer.text(), answer.header("connection")),
            ("a", None),
            "`Connection` ends at the hop of the worker"
        );
        worker.closed(number);
    }
    assert_eq!(worker.connections(), 3);
}

#[test]
fn keep_alive_timeout_is_honoured() {
    // The advertised second minus the safety margin of one is zero: such a connection is not used again.
    let worker = RawWorker::answering(|request| {
        let timeout = request.target().trim_start_matches('/');
        format!("HTTP/1.1 200 OK\r\nKeep-Alive: max=5, timeout={timeout}\r\nContent-Length: 1\r\n\r\na")
    });
    let proxy = before(&worker);
    let mut client = Raw::connect(proxy.address);
    for _ in 0..3 {
        assert_eq!(client.get("/1").header("keep-alive"), None);
    }
    assert_eq!(worker.connections(), 3);
    for _ in 0..3 {
        client.get("/60");
    }
    assert_eq!(worker.connections(), 4);
}

#[test]
fn a_connection_that_died_while_idle_fails_no_request() {
    // Closes after each answer without announcing it.
    let mut worker = RawWorker::scripted(|leg| {
        leg.request();
        leg.send(ok("a"));
    });
    let proxy = before(&worker);
    let mut client = Raw::connect(proxy.address);
    for number in 0..5 {
        assert_eq!(client.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx").text(), "a");
        worker.closed(number);
    }
    assert_eq!(worker.connections(), 5);
}

#[test]
fn a_client_that_leaves_cancels_its_attempt() {
    let mut worker = RawWorker::scripted(|leg| {
        leg.request();
        leg.until_closed();
    });
    let proxy = before(&worker);
    let mut client = Raw::connect(proxy.address);
    client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(worker.request().0, 0);
    assert!((proxy.metric(&in_flight(&worker)) - 1.0).abs() < f64::EPSILON);
    drop(client);
    worker.closed(0);
    wait_for("the request is no longer counted", || proxy.metric(&in_flight(&worker)) == 0.0);
}

#[test]
fn a_client_that_leaves_mid_answer_cancels_it() {
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let mut worker = RawWorker::scripted(move |leg| {
        leg.request();
        leg.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
        gate.lock().unwrap().recv().unwrap();
        leg.until_closed();
    });
    let proxy = before(&worker);
    let mut client = Raw::connect(proxy.address);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.head().unwrap();
    client.exactly(8);
    drop(client);
    go.send(()).unwrap();
    worker.closed(0);
}

#[test]
fn a_client_that_leaves_mid_upload_never_makes_a_whole_request() {
    let (tell, told) = mpsc::channel::<Vec<u8>>();
    let mut worker = RawWorker::scripted(move |leg| {
        leg.raw.head();
        leg.raw.exactly(3);
        tell.send(Vec::new()).unwrap();
        tell.send(leg.raw.rest()).unwrap();
    });
    let proxy = before(&worker);
    for framing in ["Content-Length: 6", "Transfer-Encoding: chunked"] {
        let first = if framing.starts_with('C') { "abc" } else { "3\r\nabc\r\n" };
        let mut client = Raw::connect(proxy.address);
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{first}"));
        told.recv().unwrap();
        drop(client);
        let rest = told.recv().unwrap();
        assert!(!rest.ends_with(b"0\r\n\r\n"), "the upload is cut, not completed: {}", String::from_utf8_lossy(&rest));
    }
    worker.closed(0);
    worker.closed(1);
}

fn in_flight(worker: &RawWorker) -> String {
    format!("stickyd_requests_in_flight{{upstream=\"app\",worker=\"{}\"}}", worker.address)
}

#[test]
fn a_worker_that_answers_early_gets_no_next_request_there() {
    let mut worker = RawWorker::scripted(|leg| {
        if leg.number > 0 {
            leg.request();
            leg.send(ok("second"));
            return;
        }
        leg.raw.head();
        leg.send(ok("early"));
        leg.until_closed();
    });
    let proxy = before(&worker);
    let mut client = Raw::connect(proxy.address);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc");
    assert_eq!(client.answer().text(), "early");
    assert_eq!(Raw::connect(proxy.address).get("/").text(), "second");
    drop(client);
    worker.closed(0);
    assert_eq!(worker.connections(), 2);
}

#[test]
fn answers_go_to_the_client_that_asked() {
    let worker = RawWorker::answering(|request| ok(&format!("{} {}", request.target(), request.text())));
    let proxy = Proxy::before(&[worker.address]);
    let address = proxy.address;
    let client = move |number: usize| {
        let mut client = Raw::connect(address);
        for n in 0..100 {
            let body = format!("{number}-{n}");
            let request = format!("PUT /{body} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            assert_eq!(client.ask(&request).text(), format!("/{body} {body}"));
            if n % 10 == 9 {
                // A client leaves in the middle of an upload: its connection to the worker must not carry anything
                // else.
                client.send("PUT /gone HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf");
                client = Raw::connect(address);
            }
        }
    };
    let clients: Vec<_> = (0..8).map(|number| std::thread::spawn(move || client(number))).collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the test is about silence, and there is no runtime here")]
fn a_session_uses_no_connection_that_a_stall_may_have_aged() {
    // Like a Node process that was stopped for longer than its keep-alive: it closes what was idle before, unread.
    let worker = RawWorker::scripted(|leg| {
        leg.request();
        leg.send(ok("0{\"sid\":\"abc\",\"upgrades\":[],\"pingInterval\":25000,\"pingTimeout\":20000}"));
        let since = Instant::now();
        while leg.request().is_some() && since.elapsed() < Duration::from_millis(300) {
            leg.send(ok("ok"));
        }
    });
    let proxy = before(&worker);
    let mut client = Raw::connect(proxy.address);
    assert_eq!(client.get("/socket.io/?EIO=4&transport=polling").status(), 200);
    let post = "POST /socket.io/?EIO=4&transport=polling&sid=abc HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n40";
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(client.ask(post).status(), 200);
    assert_eq!(worker.connections(), 2);
}
