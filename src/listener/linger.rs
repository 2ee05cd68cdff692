//! What a client still sends after our last answer is read, and dropped, for a while.
//!
//! A socket closed with unread bytes is reset, and so is one that bytes come to afterwards; the reset may take the answer with
//! it before the client has read it (RFC 9112 §9.6). Left out: after which answers this is due (`conn`, `h2`).

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};

use super::conn::ClientIo;
use crate::thread::{Order, Registered};

/// How long (nginx's lingering_timeout).
const LINGER: Duration = Duration::from_secs(5);

/// Says our end, if that was not said, and reads until the client has said its own, for at most [`LINGER`] and so many bytes.
pub(super) async fn linger(mut io: ClientIo, live: &Registered, mut most: u64) {
    let mut read = |io: &mut ClientIo, cx: &mut Context<'_>| {
        live.watch(cx.waker());
        let mut buffer = live.thread().buffer.borrow_mut();
        while live.order() != Order::Cut && most > 0 {
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
    // hyper and h2 have said it, unless hyper refused to speak at all (to HTTP/2's preface).
    let all = async {
        let _ = io.shutdown().await;
        poll_fn(|cx| read(&mut io, cx)).await;
    };
    // The limit is the point.
    let _ = tokio::time::timeout(LINGER, all).await;
}
