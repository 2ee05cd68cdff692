//! `request_timeout`: how long a request may take, and which requests it never ends.

use std::time::Duration;

use h2::Reason;
use hyper::StatusCode;

use crate::support::h2::{Secured, ask};
use crate::support::proxy::Proxy;
use crate::support::raw::{Raw, RawWorker, ok};
use crate::support::wait::{wait_for, within};

/// A delay that is longer than the limit.
const LATE: Duration = Duration::from_secs(4);

/// A worker that depends on the path: a late answer, a body that drips for ever, an event stream, a polling session.
fn slow() -> RawWorker {
    RawWorker::scripted(|leg| {
        while let Some(request) = leg.request() {
            let target = request.target().to_owned();
            if target.contains("EIO=4") && !target.contains("sid=") {
                leg.send(ok("0{\"sid\":\"S1\",\"upgrades\":[],\"pingInterval\":25000,\"pingTimeout\":20000}"));
            } else if target == "/drip" {
                leg.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                while leg.send("1\r\nx\r\n") {
                    std::thread::park_timeout(Duration::from_millis(200));
                }
                return;
            } else if target == "/events" {
                leg.send(
                    "HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream; a=b\r\nTransfer-Encoding: chunked\r\n\r\n",
                );
                std::thread::park_timeout(LATE);
                leg.send("2\r\n:x\r\n0\r\n\r\n");
            } else {
                std::thread::park_timeout(if target == "/quick" { Duration::ZERO } else { LATE });
                leg.send(ok("late"));
            }
        }
    })
}

fn tables(worker: &RawWorker) -> String {
    format!("[upstream.app]\nworkers = [\"{}\"]\nrequest_timeout = \"1s\"", worker.address)
}

fn ended(proxy: &Proxy) -> f64 {
    proxy.metric("stickyd_limited_total{limit=\"request_timeout\"}")
}

#[test]
fn a_request_over_its_time_is_a_504_or_cut() {
    let worker = slow();
    let proxy = Proxy::with(&tables(&worker));
    assert_eq!(Raw::connect(proxy.address).get("/late").status(), 504);
    let mut client = Raw::connect(proxy.address);
    client.send("GET /drip HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.head().unwrap().status(), 200);
    let dripped = client.rest();
    assert!(!dripped.ends_with(b"0\r\n\r\n"), "the client sees that the body is not complete");
    wait_for("both requests are counted", || ended(&proxy) > 1.5);
    // A request that ended in time does not end its connection later.
    let mut client = Raw::connect(proxy.address);
    assert_eq!(client.get("/quick").text(), "late");
    std::thread::park_timeout(Duration::from_secs(2));
    assert_eq!(client.get("/quick").text(), "late");
    assert_eq!(ended(&proxy), 2.0);
}

#[test]
fn polls_and_event_streams_have_no_limit() {
    let worker = slow();
    let proxy = Proxy::with(&tables(&worker));
    let mut clients: Vec<_> = (0..2).map(|_| Raw::connect(proxy.address)).collect();
    let opened = clients[0].get("/socket.io/?EIO=4&transport=polling");
    assert_eq!(opened.status(), 200);
    clients[0].send("GET /socket.io/?EIO=4&transport=polling&sid=S1 HTTP/1.1\r\nHost: a\r\n\r\n");
    clients[1].send("GET /events HTTP/1.1\r\nHost: a\r\n\r\n");
    let texts: Vec<_> = clients.iter_mut().map(|client| client.answer().text().to_owned()).collect();
    assert_eq!(texts, ["late", ":x"]);
    assert_eq!(ended(&proxy), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http_2_only_the_stream_ends() {
    let worker = slow();
    let stickyd = Secured::with("", &tables(&worker));
    let client = stickyd.client().await;
    assert_eq!(client.get("/late").await.status, StatusCode::GATEWAY_TIMEOUT);
    let mut ready = within(client.send.clone().ready()).await.unwrap();
    let (answer, _) = ready.send_request(ask("GET", "/drip"), true).unwrap();
    let mut body = within(answer).await.unwrap().into_body();
    let error = loop {
        match within(body.data()).await.expect("the body is not complete") {
            Ok(data) => body.flow_control().release_capacity(data.len()).unwrap(),
            Err(error) => break error,
        }
    };
    assert_eq!(error.reason(), Some(Reason::CANCEL));
    assert_eq!(client.get("/quick").await.text(), "late");
    assert_eq!(ended(stickyd.proxy()), 2.0);
}
