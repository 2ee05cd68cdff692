//! HTTP/2 without TLS and without a connection's task, for the fuzz targets (`tests/fuzz`). stickyd itself does not use
//! this module.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use h2::RecvStream;
use h2::server::Builder;
use hyper::Request;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::filter::{FilterLimits, FrameFilter};
use super::inflow::{Holding, Inflow};
use super::sent::{Sent, SentFrame};
use super::translate;
use crate::listener::conn::Conn;
use crate::proxy::response_body::ClientBody;

/// Returns the HTTP/2 settings of a real connection.
pub fn builder(conn: &Conn) -> Builder {
    let mut builder = super::builder(conn);
    // A listener without TLS does not offer WebSockets over HTTP/2.
    builder.enable_connect_protocol();
    builder
}

/// Translates a request to HTTP/1.1; `None` if it has no valid translation.
pub fn translated(conn: &Conn, request: Request<RecvStream>) -> Option<Request<ClientBody>> {
    let holding = Holding::new(conn.inflow.get().cloned().unwrap_or_default(), 1);
    let asked = translate::request(request, conn.thread.limits().head_fields, holding);
    asked.fits.ok().map(|()| asked.request)
}

/// Returns what the h2 crate reads if a client sends these pieces, or the error of the connection.
///
/// # Errors
/// Fails with the name of an error of the connection.
pub fn filtered(pieces: &[&[u8]]) -> Result<Vec<u8>, String> {
    let (mut filter, mut all) = (FrameFilter::new(LIMITS, Rc::default()), Vec::new());
    let wrong = |fault| format!("{fault:?}");
    for piece in pieces {
        let passed = filter.read(piece).map_err(wrong)?;
        all.extend_from_slice(piece.get(..passed).unwrap_or_default());
        loop {
            let mut room = [0; 4_096];
            let mut room = ReadBuf::new(&mut room);
            let filled = filter.try_fill(&mut room).map_err(wrong)?;
            all.extend_from_slice(room.filled());
            let has_burst = filter.has_burst();
            filter.end_burst();
            if !filled && !has_burst {
                break;
            }
        }
    }
    Ok(all)
}

/// Limits in the fuzz targets.
const LIMITS: FilterLimits = FilterLimits { head_bytes: 32 * 1024, streams: 128 };

/// A socket whose bytes go through the filter before the h2 crate reads them.
pub struct Filtered<T> {
    io: T,
    filter: FrameFilter,
    inflow: Rc<Inflow>,
    sent: Sent,
}

impl<T> Filtered<T> {
    /// Wraps a socket, which brings the preface first.
    pub fn new(io: T) -> Self {
        let inflow = Rc::<Inflow>::default();
        Self { io, filter: FrameFilter::new(LIMITS, inflow.clone()), inflow, sent: Sent::default() }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Filtered<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let wrong = |fault| io::Error::other(format!("{fault:?}"));
        loop {
            if this.filter.try_fill(buf).map_err(wrong)? {
                return Poll::Ready(Ok(()));
            }
            if this.filter.has_burst() {
                this.filter.end_burst();
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
            let bytes = buf.filled().get(before..).unwrap_or_default();
            if bytes.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let passed = this.filter.read(bytes).map_err(wrong)?;
            buf.set_filled(before + passed);
            if passed > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Filtered<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let taken = ready!(Pin::new(&mut this.io).poll_write(cx, buf))?;
        this.sent.read(buf.get(..taken).unwrap_or_default(), |frame| {
            if let SentFrame::Reset { stream, .. } = frame {
                this.inflow.uploads.mark_reset(stream);
            }
        });
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
