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

use memchr::{memchr, memmem};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};

use super::conn::Conn;
use super::request_end::HeadScan;
use crate::metrics::LimitLabel;
use crate::net::client_io::ClientIo;
use crate::thread::ThreadOrder;

/// Time limit for shutting down a TLS connection.
const LINGER_AFTER_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum bytes per read: an ordinary head in one piece, and little of a body after it, because it has to be copied.
const HEAD_PIECE_BYTES: usize = 16 * 1024;

/// Waits for a head, of which `ahead` has arrived already. `false` means that the connection is over.
pub(crate) async fn rest(conn: &Rc<Conn>, io: &mut ClientIo, ahead: &mut Vec<u8>) -> bool {
    let mut scan = RestScan::default();
    if scan.take_for_hyper(ahead, ahead.len()) {
        return true;
    }
    let goes_on = poll_fn(|cx| {
        // Read first, so that a request already in the socket is served even while stickyd stops.
        if let Poll::Ready(more) = read(conn, io, ahead, &mut scan, cx) {
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
fn read(conn: &Conn, io: &mut ClientIo, ahead: &mut Vec<u8>, scan: &mut RestScan, cx: &mut Context<'_>) -> Poll<bool> {
    let mut buffer = conn.thread.buffer.borrow_mut();
    let room = HEAD_PIECE_BYTES.min(buffer.len());
    loop {
        let mut piece = ReadBuf::new(buffer.get_mut(..room).unwrap_or_default());
        match Pin::new(&mut *io).poll_read(cx, &mut piece) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(())) if !piece.filled().is_empty() => {}
            Poll::Ready(_) => return Poll::Ready(false),
        }
        ahead.extend_from_slice(piece.filled());
        if ahead.len() >= conn.thread.limits().head_bytes || scan.take_for_hyper(ahead, piece.filled().len()) {
            return Poll::Ready(true);
        }
    }
}

/// Decides when hyper should see a head: at its end, or when it cannot become a valid one. Each byte is looked at once,
/// so that a head which arrives byte by byte costs no more than another.
#[derive(Default)]
struct RestScan {
    head: HeadScan,
    /// Number of bytes before the first line: blank lines, which are skipped (RFC 9112 §2.2).
    blank: usize,
    /// Whether the first line has been checked.
    checked: bool,
}

impl RestScan {
    /// Looks at the last `new` of `bytes`.
    fn take_for_hyper(&mut self, bytes: &[u8], new: usize) -> bool {
        let before = bytes.len().saturating_sub(new);
        let tail = bytes.get(before..).unwrap_or_default();
        if self.head.end_in(tail).is_some() {
            return true;
        }
        if self.checked {
            return false;
        }
        if self.blank >= before {
            let rest = bytes.get(self.blank..).unwrap_or_default();
            self.blank += rest.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        }
        let Some(first) = bytes.get(self.blank) else { return false };
        let line = memchr(b'\n', bytes.get(before.max(self.blank)..).unwrap_or_default());
        self.checked = line.is_some();
        let line = line.and_then(|end| bytes.get(self.blank..before.max(self.blank) + end));
        !first.is_ascii_alphabetic() || line.is_some_and(|line| memmem::find(line, b" HTTP/1.").is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether hyper should see these bytes, which arrive in pieces of this size, and after how many of them.
    fn seen_after(bytes: &[u8], size: usize) -> Option<usize> {
        let mut scan = RestScan::default();
        let ends = (1..=bytes.len()).filter(|end| end % size == 0 || *end == bytes.len());
        let mut before = 0;
        ends.into_iter().find(|end| scan.take_for_hyper(&bytes[..*end], end - std::mem::replace(&mut before, *end)))
    }

    #[test]
    fn a_partial_head_waits_and_garbage_does_not() {
        for half in
            ["G", "GET / HT", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: a\r\n", "\r", "\r\nGE", "\r\n\r\n\n"]
        {
            for size in 1..=half.len() {
                assert_eq!(seen_after(half.as_bytes(), size), None, "{half:?} by {size}");
            }
        }
        for (rest, after) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 27),
            ("\r\n\nGET / HTTP/1.1\nHost: a\n\n", 27),
            ("\x16\x03\x01", 1),
            ("\r\n\x16", 3),
            ("GET /\r\n", 7),
            ("\r\nGET /\r\n", 9),
            ("\0", 1),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 16),
        ] {
            assert_eq!(seen_after(rest.as_bytes(), 1), Some(after), "{rest:?}");
            for size in 2..=rest.len() {
                let seen = seen_after(rest.as_bytes(), size);
                assert!(seen.is_some_and(|seen| seen >= after && seen < after + size), "{rest:?} by {size}: {seen:?}");
            }
        }
    }
}
