//! `max_connections`: the limit of connections in use per worker, the queue before it, and the answers when that is
//! full.

use std::sync::Arc;
use std::sync::{Condvar, Mutex};

use crate::support::proxy::Proxy;
use crate::support::raw::{Raw, RawWorker, ok};
use crate::support::wait::wait_for;

const QUIET: &str = "health = { kind = \"tcp\", interval = \"1h\" }\n";

/// A worker that answers as many requests as it is allowed to.
#[derive(Clone, Default)]
struct Valve(Arc<(Mutex<usize>, Condvar)>);

impl Valve {
    fn open(&self, times: usize) {
        *self.0.0.lock().unwrap() += times;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let mut left = self.0.1.wait_while(self.0.0.lock().unwrap(), |left| *left == 0).unwrap();
        *left -= 1;
    }

    fn worker(&self, name: &'static str) -> RawWorker {
        let valve = self.clone();
        RawWorker::answering(move |request| {
            valve.pass();
            ok(&format!("{name} {}", request.target()))
        })
    }
}

fn queue(proxy: &Proxy, worker: &RawWorker, result: &str) -> f64 {
    proxy.metric(&format!("stickyd_queued_total{{result=\"{result}\",upstream=\"app\",worker=\"{}\"}}", worker.address))
}

fn asking(proxy: &Proxy, target: &str) -> Raw {
    let mut client = Raw::connect(proxy.address);
    client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
    client
}

#[test]
fn a_full_worker_has_a_queue_and_past_it_the_answer_is_a_503() {
    let valve = Valve::default();
    let mut worker = valve.worker("w");
    let proxy = Proxy::with(&format!(
        "[upstream.app]\nworkers = [\"{}\"]\nmax_connections = 1\nqueue = 2\nqueue_timeout = \"60s\"\n{QUIET}",
        worker.address
    ));
    let live = proxy.worker(&worker.address.to_string());
    let mut first = asking(&proxy, "/1");
    assert_eq!(worker.request().1.target(), "/1");
    let mut second = asking(&proxy, "/2");
    wait_for("one request is queued", || live.gate.waiting() == 1);
    let mut third = asking(&proxy, "/3");
    wait_for("two requests are queued", || live.gate.waiting() == 2);
    let waiting = format!("stickyd_queue_waiting{{upstream=\"app\",worker=\"{}\"}}", worker.address);
    assert_eq!(proxy.metric(&waiting), 2.0);
    assert!(!live.takes_new());
    let full = Raw::connect(proxy.address).get("/4");
    assert_eq!((full.status(), full.header("retry-after")), (503, Some("1")));
    assert_eq!(queue(&proxy, &worker, "full"), 1.0);
    for (client, target) in [(&mut first, "w /1"), (&mut second, "w /2"), (&mut third, "w /3")] {
        valve.open(1);
        assert_eq!(client.answer().text(), target);
    }
    assert_eq!((worker.request().1.target(), worker.request().1.target()), ("/2", "/3"));
    assert_eq!(queue(&proxy, &worker, "waited"), 2.0);
    wait_for("all requests are done", || live.gate.in_use() == 0 && live.takes_new());
    assert_eq!(proxy.metric(&waiting), 0.0);
}

#[test]
fn a_timeout_in_the_queue_is_a_503() {
    let valve = Valve::default();
    let mut worker = valve.worker("w");
    let proxy = Proxy::with(&format!(
        "[upstream.app]\nworkers = [\"{}\"]\nmax_connections = 1\nqueue_timeout = \"200ms\"\n{QUIET}",
        worker.address
    ));
    let mut first = asking(&proxy, "/1");
    worker.request();
    let late = Raw::connect(proxy.address).get("/2");
    assert_eq!((late.status(), late.header("retry-after")), (503, Some("1")));
    assert_eq!(queue(&proxy, &worker, "timeout"), 1.0);
    valve.open(1);
    assert_eq!(first.answer().text(), "w /1");
}

#[test]
fn requests_without_a_session_go_to_free_workers() {
    let (shut, open) = (Valve::default(), Valve::default());
    open.open(1_000);
    let (mut full, free) = (shut.worker("full"), open.worker("free"));
    let proxy = Proxy::with(&format!(
        "[upstream.app]\nworkers = [\"{}\", \"{}\"]\naffinity = [\"cookie\"]\nmax_connections = 1\n{QUIET}",
        full.address, free.address
    ));
    // One request after the other, until one is sent to the worker that does not answer yet.
    let live = [&full, &free].map(|worker| proxy.worker(&worker.address.to_string()));
    let answered = format!("stickyd_requests_total{{class=\"2xx\",upstream=\"app\",worker=\"{}\"}}", free.address);
    let mut clients = Vec::new();
    while live[0].gate.in_use() == 0 {
        clients.push(asking(&proxy, "/"));
        let done = || proxy.metric(&answered) == clients.len() as f64 && live[1].gate.in_use() == 0;
        wait_for("one of the workers has the request", || live[0].gate.in_use() == 1 || done());
    }
    full.request();
    for _ in 0..10 {
        assert_eq!(Raw::connect(proxy.address).get("/").text(), "free /");
        wait_for("the request is done", || live[1].gate.in_use() == 0);
    }
    shut.open(1_000);
}

#[test]
fn a_tunnel_holds_its_connection_and_a_queued_client_none() {
    let mut worker = RawWorker::scripted(|leg| {
        let Some(request) = leg.request() else { return };
        if request.header("upgrade").is_some() {
            leg.send(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
            );
            leg.until_closed();
        } else {
            leg.send(ok("after"));
        }
    });
    let proxy = Proxy::with(&format!(
        "[upstream.app]\nworkers = [\"{}\"]\nmax_connections = 1\nqueue_timeout = \"60s\"\n{QUIET}",
        worker.address
    ));
    let mut tunnel = Raw::connect(proxy.address);
    tunnel.send(
        "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    assert_eq!(tunnel.head().unwrap().status(), 101);
    worker.request();
    let live = proxy.worker(&worker.address.to_string());
    let leaving = asking(&proxy, "/left");
    wait_for("one request is queued", || live.gate.waiting() == 1);
    let mut staying = asking(&proxy, "/stayed");
    wait_for("two requests are queued", || live.gate.waiting() == 2);
    drop(leaving);
    wait_for("one client has left the queue", || live.gate.waiting() == 1);
    assert_eq!(live.gate.in_use(), 1);
    drop(tunnel);
    assert_eq!(staying.answer().text(), "after");
    assert_eq!(worker.request().1.target(), "/stayed");
    wait_for("all requests are done", || live.gate.in_use() == 0);
}
