//! Lingering close: after our last response, bytes that the client still sends are read and dropped for a while.
//!
//! A socket closed with unread bytes is reset, and so is one to which bytes come after it was closed; the reset may
//! destroy the response before the client has read it (RFC 9112 §9.6). Which responses need this is decided in `conn`
//! and `h2`.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};

use crate::net::client_io::ClientIo;
use crate::thread::{Registered, ThreadOrder};

/// Maximum duration of a lingering close (the default of nginx's `lingering_timeout`).
const LINGER: Duration = Duration::from_secs(5);

/// Shuts down our side, unless that was done before, and reads until the client has ended its side, for at most
/// [`LINGER`] and `most` bytes.
pub(crate) async fn linger(mut io: ClientIo, live: &Registered, mut most: u64) {
    let mut read = |io: &mut ClientIo, cx: &mut Context<'_>| {
        live.watch(cx.waker());
        let mut buffer = live.thread().buffer.borrow_mut();
        while live.order() != ThreadOrder::Cut && most > 0 {
            let mut buffer = ReadBuf::new(&mut buffer);
            match Pin::new(&mut *io).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    most = most.saturating_sub(buffer.filled().len() as u64);
                }
                Poll::Ready(_) => break,
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(())
    };
    // hyper and h2 have done this already, unless hyper rejected the connection at its first bytes (HTTP/2's preface).
    let all = async {
        let _ = io.shutdown().await;
        poll_fn(|cx| read(&mut io, cx)).await;
    };
    // Running into the time-out is a normal end.
    let _ = tokio::time::timeout(LINGER, all).await;
}
