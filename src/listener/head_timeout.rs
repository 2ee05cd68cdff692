//! A connection at rest, which waits for a request: it has neither hyper's state nor its buffers (16 KiB), only the
//! bytes of a head that have arrived.
//!
//! Silent clients, and those that send a head byte by byte, are most of what a flood of connections consists of; at
//! rest they cost a small task and the bytes they have sent. hyper gets the connection once a head is complete, or
//! cannot become a valid one; it gives the connection back when nothing has been under way for a second or two.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};

use super::conn::Conn;
use crate::metrics::LimitLabel;
use crate::net::client_io::ClientIo;
use crate::thread::ThreadOrder;

/// Time limit for shutting down a TLS connection.
const LINGER_AFTER_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum bytes per read: an ordinary head in one piece, and little of a body after it, because it has to be copied.
const HEAD_PIECE_BYTES: usize = 16 * 1024;

/// Waits for a head, of which `ahead` has arrived already. `false` means that the connection is over.
pub(crate) async fn rest(conn: &Rc<Conn>, io: &mut ClientIo, ahead: &mut Vec<u8>) -> bool {
    let goes_on = poll_fn(|cx| {
        // Read first, so that a request already in the socket is served even while stickyd stops.
        if let Poll::Ready(more) = read(conn, io, ahead, cx) {
            return Poll::Ready(more);
        }
        let half_a_head = !ahead.is_empty();
        if half_a_head {
            conn.mark_head_started();
        }
        match conn.order(cx) {
            ThreadOrder::GoOn => Poll::Pending,
            ThreadOrder::Idle if half_a_head => {
                conn.thread.shared.metrics.limits.reached(LimitLabel::HeadTimeout);
                Poll::Ready(false)
            }
            ThreadOrder::Cut | ThreadOrder::Idle => Poll::Ready(false),
            // A client that has just connected, or is in the middle of a head, may still be served.
            ThreadOrder::Stop | ThreadOrder::Leave if half_a_head || conn.is_fresh() => Poll::Pending,
            ThreadOrder::Stop | ThreadOrder::Leave => Poll::Ready(false),
        }
    })
    .await;
    if !goes_on {
        // A plain socket has nothing to wait for here; a TLS client that does not read is not waited for long.
        let _ = tokio::time::timeout(LINGER_AFTER_TIMEOUT, io.shutdown()).await;
    }
    goes_on
}

/// Reads until hyper should see what has arrived. `false` means that the client is gone.
fn read(conn: &Conn, io: &mut ClientIo, ahead: &mut Vec<u8>, cx: &mut Context<'_>) -> Poll<bool> {
    let mut buffer = conn.thread.buffer.borrow_mut();
    let room = HEAD_PIECE_BYTES.min(buffer.len());
    loop {
        let mut piece = ReadBuf::new(buffer.get_mut(..room).unwrap_or_default());
        match Pin::new(&mut *io).poll_read(cx, &mut piece) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(())) if !piece.filled().is_empty() => {}
            Poll::Ready(_) => return Poll::Ready(false),
        }
        // Up to three bytes of the end of the head may have arrived earlier.
        let new = ahead.len().saturating_sub(3);
        ahead.extend_from_slice(piece.filled());
        if ahead.len() >= conn.thread.limits().head_bytes || is_for_hyper(ahead, new) {
            return Poll::Ready(true);
        }
    }
}

/// Returns whether a head ends in `bytes` (at or after `new`), or whether `bytes` cannot begin a valid head: hyper then
/// reports why.
fn is_for_hyper(bytes: &[u8], new: usize) -> bool {
    let tail = bytes.get(new..).unwrap_or_default();
    // Most requests have no body and end with their head: then there is nothing to search for.
    if tail.ends_with(b"\n\r\n") {
        return true;
    }
    if tail.windows(3).any(|end| end == b"\n\r\n") || tail.windows(2).any(|end| end == b"\n\n") {
        return true;
    }
    // Empty lines before a request are skipped (RFC 9112 §2.2).
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
    fn a_partial_head_waits_and_garbage_does_not() {
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
    fn the_end_of_a_head_is_found_in_two_pieces() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for cut in 1..head.len() {
            assert!(is_for_hyper(head, cut.saturating_sub(3)), "{cut}");
        }
    }
}
