//! HTTP/2 clients that no longer exist although their kernel, or a balancer, still answers for them.

use crate::support::h2::{Frames, GET, Secured, frame};
use crate::support::raw::RawWorker;
use crate::support::wait::wait_for;

const PING: u8 = 6;
const ACK: u8 = 1;

/// The payload of the next PING, which the client has to answer.
async fn ping(frames: &mut Frames) -> Option<Vec<u8>> {
    while let Some((kind, flags, _, payload)) = frames.next().await {
        if (kind, flags) == (PING, 0) {
            return Some(payload);
        }
    }
    None
}

/// The connections have a request that waits, as polls do; idle ones end by `idle_timeout` instead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_answers_no_ping_is_closed() {
    let worker = RawWorker::scripted(|leg| leg.until_closed());
    let stickyd = Secured::before(&[worker.address], "");
    let (mut gone, mut there) = (stickyd.frames().await, stickyd.frames().await);
    for client in [&mut gone, &mut there] {
        // END_HEADERS, END_STREAM.
        client.send(&frame(1, 5, 1, GET)).await;
    }
    let ends = async {
        assert!(ping(&mut gone).await.is_some(), "the client gets a PING");
        assert_eq!(ping(&mut gone).await, None, "the client is cut");
    };
    let stays = async {
        // The other client answers both of its PINGs and is still connected.
        for _ in 0..2 {
            let payload = ping(&mut there).await.expect("the client gets a PING");
            there.send(&frame(PING, ACK, 0, &payload)).await;
        }
    };
    tokio::join!(ends, stays);
    wait_for("one client is gone", || stickyd.proxy().metric("stickyd_client_connections") < 1.5);
    there.send(&frame(PING, 0, 0, b"stillyou")).await;
    let answer = loop {
        if let (PING, ACK, _, payload) = there.next().await.expect("the connection is open") {
            break payload;
        }
    };
    assert_eq!(answer, b"stillyou");
}
