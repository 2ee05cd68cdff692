//! `min_rate` over HTTP/2, in both directions: a slow client is cut, and waiting for workers or other streams is not
//! slow.

use std::time::Duration;

use bytes::Bytes;
use h2::client::Builder;
use h2::{Reason, RecvStream};
use hyper::StatusCode;

use crate::support::h2::{Client, Secured, ask, whole};
use crate::support::raw::{RawWorker, ok};
use crate::support::wait::{wait_for, within};

/// A rate so high that the test need not wait for a minute: a full window counts for less than a second.
const FAST: &str = "min_rate = 1_000_000\nmin_rate_grace = \"1s\"";

/// A pause that is longer than any client that is too slow is kept.
const SILENCE: Duration = Duration::from_secs(5);

fn before(worker: &RawWorker) -> Secured {
    Secured::with("", &format!("[upstream.app]\nworkers = [\"{}\"]\n[limits]\n{FAST}", worker.address))
}

fn limited(stickyd: &Secured, limit: &str) -> f64 {
    stickyd.proxy().metric(&format!("stickyd_limited_total{{limit=\"{limit}\"}}"))
}

/// A worker that answers `/big` with a megabyte, and everything else at once.
fn big() -> RawWorker {
    RawWorker::scripted(|leg| {
        while let Some(request) = leg.request() {
            let answer = if request.target() == "/big" { ok(&"x".repeat(1_000_000)) } else { ok("small") };
            leg.send(answer);
        }
    })
}

/// Reads a body until its stream breaks, without opening the window: how much came, and the reason of the reset.
async fn until_broken(mut body: RecvStream) -> (usize, Option<Reason>) {
    let mut bytes = 0;
    loop {
        match within(body.data()).await.expect("the body is not complete") {
            Ok(data) => bytes += data.len(),
            Err(error) => return (bytes, error.reason()),
        }
    }
}

async fn begin(client: &Client, path: &str) -> RecvStream {
    let mut ready = within(client.send.clone().ready()).await.unwrap();
    let (answer, _) = ready.send_request(ask("GET", path), true).unwrap();
    within(answer).await.unwrap().into_body()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_trickles_is_a_408_and_other_streams_go_on() {
    let mut worker = RawWorker::scripted(|leg| match leg.number {
        0 => leg.until_closed(),
        _ => while leg.request().is_some() && leg.send(ok("other")) {},
    });
    let stickyd = before(&worker);
    let client = stickyd.client().await;
    let (answer, mut send) = client.begin(ask("POST", "/")).await;
    send.send_data(Bytes::from_static(b"x"), false).unwrap();
    assert_eq!(whole(answer).await.unwrap().status, StatusCode::REQUEST_TIMEOUT);
    worker.closed(0);
    assert_eq!(limited(&stickyd, "min_rate_body"), 1.0);
    assert_eq!(client.get("/").await.text(), "other");
}

/// Sixteen bodies that their workers do not read fill the connection's window, so that no other stream can send.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_others_may_hold_up_is_waited_for() {
    let worker = RawWorker::scripted(|leg| {
        if leg.number < 16 {
            // The worker reads only the head.
            return std::thread::park_timeout(Duration::from_secs(60));
        }
        while let Some(request) = leg.request() {
            leg.send(ok(request.text()));
        }
    });
    let stickyd = before(&worker);
    let client = stickyd.client().await;
    let mut stuck = Vec::new();
    for _ in 0..16 {
        let (answer, mut send) = client.begin(ask("POST", "/stuck")).await;
        send.send_data(Bytes::from(vec![b'x'; 50_000_000]), false).unwrap();
        stuck.push((answer, send));
    }
    wait_for("all requests reach a worker", || worker.connections() == 16);
    tokio::time::sleep(SILENCE).await;
    let (answer, mut send) = client.begin(ask("POST", "/")).await;
    tokio::time::sleep(SILENCE).await;
    assert_eq!(limited(&stickyd, "min_rate_body"), 0.0);
    // Once one of the sixteen ends, there is room.
    stuck.clear();
    send.send_data(Bytes::from_static(b"late"), true).unwrap();
    assert_eq!(whole(answer).await.unwrap().text(), "late");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_whose_window_stays_shut_is_reset() {
    let worker = big();
    let stickyd = before(&worker);
    for window in [0, 1_000] {
        let client = stickyd.client_with(Builder::new().initial_window_size(window)).await;
        let taken = until_broken(begin(&client, "/big").await).await;
        assert_eq!(taken, (window as usize, Some(Reason::CANCEL)));
        let other = stickyd.client().await;
        assert_eq!(other.get("/").await.text(), "small");
    }
    assert_eq!(limited(&stickyd, "min_rate_answer"), 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shut_connection_window_ends_only_what_waits_for_it() {
    let worker = big();
    let stickyd = before(&worker);
    let client = stickyd.client_with(Builder::new().initial_window_size(1_000_000)).await;
    let (first, second) = (begin(&client, "/big").await, begin(&client, "/big").await);
    // Neither stream opens the window, so together they get the initial window of the connection.
    let (first, second) = tokio::join!(until_broken(first), until_broken(second));
    assert_eq!((first.0 + second.0, first.1, second.1), (65_535, Some(Reason::CANCEL), Some(Reason::CANCEL)));
    assert_eq!(limited(&stickyd, "min_rate_answer"), 2.0);
    // The data that was not read is given back to the connection's window.
    assert_eq!(client.get("/").await.text(), "small");
}

/// Long polls, event streams and late answers are not slow clients.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workers_silence_is_not_a_slow_client() {
    let worker = RawWorker::scripted(|leg| {
        while let Some(request) = leg.request() {
            std::thread::park_timeout(SILENCE);
            if request.target() == "/events" {
                leg.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
                std::thread::park_timeout(SILENCE);
                leg.send("1\r\nb\r\n0\r\n\r\n");
            } else {
                leg.send(ok("late"));
            }
        }
    });
    let stickyd = before(&worker);
    let client = stickyd.client().await;
    let (events, late) = tokio::join!(client.get("/events"), client.get("/"));
    assert_eq!((events.text(), late.text()), ("ab", "late"));
    assert_eq!((limited(&stickyd, "min_rate_answer"), limited(&stickyd, "min_rate_body")), (0.0, 0.0));
}
