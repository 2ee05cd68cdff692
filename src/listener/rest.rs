//! A connection that waits for a request: it has neither hyper's state nor its buffers (16 KiB), only what has come of a head.
//!
//! Silent clients and those that send a head byte by byte are most of what a flood of connections is made of; they cost a
//! small task and what they have sent. hyper gets the connection once a head is whole, or is none; and gives it back when
//! nothing has been under way for a second or two.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};

use super::conn::{ClientIo, Conn};
use crate::metrics::Limit;
use crate::thread::Order;

/// How long the goodbye of a TLS connection may take.
const GOODBYE: Duration = Duration::from_secs(5);

/// Bytes read at once: an ordinary head in one piece, and no more of a body behind it than has to be copied.
const PIECE: usize = 16 * 1024;

/// Waits for a head, of which `ahead` has come. `false`: the connection is over.
pub(super) async fn rest(conn: &Rc<Conn>, io: &mut ClientIo, ahead: &mut Vec<u8>) -> bool {
    let goes_on = poll_fn(|cx| {
        // Read first, so that a request already in the socket is served even while we stop.
        if let Poll::Ready(more) = read(conn, io, ahead, cx) {
            return Poll::Ready(more);
        }
        let half_a_head = !ahead.is_empty();
        if half_a_head {
            conn.head_has_begun();
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

/// Reads until hyper should see what came; `false`: the client is gone.
fn read(conn: &Conn, io: &mut ClientIo, ahead: &mut Vec<u8>, cx: &mut Context<'_>) -> Poll<bool> {
    let mut buffer = conn.thread.buffer.borrow_mut();
    let room = PIECE.min(buffer.len());
    loop {
        let mut piece = ReadBuf::new(buffer.get_mut(..room).unwrap_or_default());
        match Pin::new(&mut *io).poll_read(cx, &mut piece) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(())) if !piece.filled().is_empty() => {}
            Poll::Ready(_) => return Poll::Ready(false),
        }
        // Three bytes of an end may have come before.
        let new = ahead.len().saturating_sub(3);
        ahead.extend_from_slice(piece.filled());
        if ahead.len() >= conn.thread.limits().head_bytes || is_for_hyper(ahead, new) {
            return Poll::Ready(true);
        }
    }
}

/// Whether a head ends in `bytes` (behind `new`), or what came begins none: hyper says why.
fn is_for_hyper(bytes: &[u8], new: usize) -> bool {
    let tail = bytes.get(new..).unwrap_or_default();
    // A request without a body, as most are, ends with its head: nothing has to be looked for.
    if tail.ends_with(b"\n\r\n") {
        return true;
    }
    if tail.windows(3).any(|end| end == b"\n\r\n") || tail.windows(2).any(|end| end == b"\n\n") {
        return true;
    }
    // Empty lines before a request are passed over (RFC 9112 §2.2).
    let start = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len());
    let bytes = bytes.get(start..).unwrap_or_default();
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let begins = bytes.first().is_none_or(|byte| byte.is_ascii_alphabetic());
    let whole = line.len() < bytes.len();
    !begins || (whole && !line.windows(8).any(|word| word == b" HTTP/1."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_head_waits_and_rubbish_does_not() {
        for half in ["G", "GET / HT", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: a\r\n", "\r", "\r\nGE"] {
            assert!(!is_for_hyper(half.as_bytes(), 0), "{half:?}");
        }
        for rest in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\nHost: a\n\n",
            "\x16\x03\x01",
            "GET /\r\n",
            "\0",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "\r\n\r\n",
        ] {
            assert!(is_for_hyper(rest.as_bytes(), 0), "{rest:?}");
        }
    }

    #[test]
    fn an_end_in_two_pieces_is_one() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for cut in 1..head.len() {
            assert!(is_for_hyper(head, cut.saturating_sub(3)), "{cut}");
        }
    }
}
