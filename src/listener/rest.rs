//! A connection between two requests: hyper's state and its two buffers (16 KiB) are given back after a second or two, and
//! made anew with the next byte.
//!
//! Silent clients and those that send a head byte by byte are most of what a flood of connections is made of; they cost a
//! small task and what they have sent.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncWriteExt, ReadBuf};

use super::conn::{ClientIo, Conn};
use crate::metrics::Limit;
use crate::thread::Order;

/// How long the goodbye of a TLS connection may take.
const GOODBYE: Duration = Duration::from_secs(5);

/// Waits for the next byte, `half_a_head` having come. `false`: the connection is over.
pub(super) async fn rest(conn: &Rc<Conn>, io: &mut ClientIo, half_a_head: bool) -> bool {
    if half_a_head {
        conn.head_has_begun();
    }
    let goes_on = poll_fn(|cx| {
        // Looked at first, so that a request already in the socket is served even while we stop.
        if let Poll::Ready(more) = arrived(io, cx) {
            return Poll::Ready(more);
        }
        match conn.order(cx) {
            Order::GoOn => Poll::Pending,
            Order::Idle if half_a_head => {
                conn.thread.shared.metrics.limits.reached(Limit::HeadTimeout);
                Poll::Ready(false)
            }
            Order::Cut | Order::Idle => Poll::Ready(false),
            // Somebody who has just come, or is in the middle of a head, may still be served.
            Order::Stop | Order::Leave if half_a_head || conn.is_fresh() => Poll::Pending,
            Order::Stop | Order::Leave => Poll::Ready(false),
        }
    })
    .await;
    if !goes_on {
        // A plain socket has nothing to wait for here; a TLS client that takes nothing is not waited for long.
        let _ = tokio::time::timeout(GOODBYE, io.shutdown()).await;
    }
    goes_on
}

/// Whether there is something to read; `false`: the client is gone. A look, because readiness may be of a moment ago.
fn arrived(io: &ClientIo, cx: &mut Context<'_>) -> Poll<bool> {
    let mut byte = [0];
    let mut byte = ReadBuf::new(&mut byte);
    io.tcp().poll_peek(cx, &mut byte).map(|looked| looked.is_ok_and(|count| count > 0))
}
