//! How HTTP/2 connections end: frames that a client sends after stickyd's GOAWAY cost it no answer.

use std::sync::{Mutex, mpsc};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::h2::{Frames, GET, Secured, frame};
use crate::support::raw::{RawWorker, ok};
use crate::support::wait::wait_for;

const BODY: usize = 20_000;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

/// A connection with two open requests that has received GOAWAY; each message to the sender lets the worker answer one.
async fn leaving() -> (Secured, Frames, mpsc::Sender<()>) {
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let worker = RawWorker::scripted(move |leg| {
        while leg.request().is_some() {
            let _ = gate.lock().unwrap().recv();
            leg.send(ok(&"x".repeat(BODY)));
        }
    });
    let tables = format!("[upstream.app]\nworkers = [\"{}\"]\n[limits]\nrequests_per_connection = 2", worker.address);
    let stickyd = Secured::with("", &tables);
    let mut frames = stickyd.frames().await;
    frames.send(&[frame(1, 5, 1, GET), frame(1, 5, 3, GET)].concat()).await;
    // The first GOAWAY only warns; the second, after an answered PING, names the last request (RFC 9113 §6.8).
    let mut goaways = 0;
    while goaways < 2 {
        match frames.next().await.expect("GOAWAY comes first") {
            (PING, 0, _, payload) => frames.send(&frame(PING, 1, 0, &payload)).await,
            (GOAWAY, ..) => goaways += 1,
            _ => {}
        }
    }
    (stickyd, frames, go)
}

fn metric(stickyd: &Secured, name: &str) -> f64 {
    stickyd.proxy().metric(name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_after_goaway_cost_a_client_no_answer() {
    let (stickyd, mut frames, go) = leaving().await;
    (0..2).for_each(|_| go.send(()).unwrap());
    wait_for("both requests are answered", || metric(&stickyd, "stickyd_http2_streams") == 0.0);
    // The client has not read so far. A reset in answer to the first PING would hit the next ones.
    for _ in 0..20 {
        frames.0.write_all(&frame(PING, 0, 0, &[7; 8])).await.unwrap();
        frames.0.flush().await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut rest = Vec::new();
    frames.0.read_to_end(&mut rest).await.expect("the connection ends with a TLS close");
    let (mut bytes, mut whole) = (0, 0);
    let mut rest = &rest[..];
    while let [a, b, c, kind, flags, _, _, _, _, behind @ ..] = rest {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        if *kind == 0 {
            bytes += length;
            whole += usize::from(flags & 1);
        }
        rest = &behind[length..];
    }
    assert_eq!((bytes, whole), (2 * BODY, 2));
    drop(frames);
    wait_for("the connection is gone", || metric(&stickyd, "stickyd_client_connections") == 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_leaves_is_closed() {
    let (stickyd, frames, go) = leaving().await;
    assert_eq!(metric(&stickyd, "stickyd_client_connections"), 1.0);
    (0..2).for_each(|_| go.send(()).unwrap());
    wait_for("the connection is gone", || metric(&stickyd, "stickyd_client_connections") == 0.0);
    drop(frames);
}
