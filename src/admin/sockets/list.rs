//! The list of sockets: gathered, sorted and written on a thread of its own, and sent piece by piece.
//!
//! Ten thousand sockets are some megabytes of JSON. Neither a data thread nor the control thread, which checks the workers,
//! has a part in writing them; what traffic's threads may wait for is one shard of the list, or one socket's texts, to be
//! copied. The thread gives way to all others ([`NICE`]): an operator may wait, clients do not. One list at a time; each is
//! bounded by its page.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use serde::{Serialize, Serializer};
use tokio::sync::{mpsc, oneshot};

use super::super::{Refusal, refuse};
use super::Order;
use super::view::{Row, Shown};
use crate::clock;
use crate::sockets::{Filter, SHARDS, Socket, Sockets};

/// How much the thread gives way: with this weight (110 of 1,024) a busy core leaves it a tenth. More, and it might be kept
/// from running while it holds a shard's lock.
const NICE: i32 = 10;

/// Rows written in one go: some 30 µs. A thread of traffic that wakes up where this one runs is let in once its turn is over,
/// which the scheduler grants it for milliseconds, whatever it has to give way to; so its turns are made short.
const IN_A_ROW: usize = 24;

/// Between two of those; the thread's timers are not put off for others' sake, which would double it.
const PAUSE: Duration = Duration::from_micros(50);

/// Lists that wait for their turn: as many as there are connections.
const WAITING: usize = super::super::CONNECTIONS;

/// Bytes of a piece. After each, what else the control thread has to do has its turn.
const PIECE: usize = 64 * 1024;

/// What is listed.
pub(super) struct Wanted {
    pub(super) filter: Filter,
    pub(super) order: Order,
    pub(super) offset: usize,
    pub(super) limit: usize,
}

struct Job {
    wanted: Wanted,
    done: oneshot::Sender<VecDeque<Bytes>>,
}

/// The thread that writes lists. It ends by itself once nobody can ask for one any more; the list it is at then is short work.
#[derive(Clone)]
pub(in crate::admin) struct Lister(mpsc::Sender<Job>);

impl Lister {
    /// Starts it.
    ///
    /// # Errors
    /// The operating system's: no thread.
    pub(in crate::admin) fn start(sockets: Arc<Sockets>) -> io::Result<Self> {
        let (jobs, mut asked) = mpsc::channel::<Job>(WAITING);
        std::thread::Builder::new().name("lists".to_owned()).spawn(move || {
            give_way();
            while let Some(job) = asked.blocking_recv() {
                // Whoever asked may have left meanwhile.
                if !job.done.is_closed() {
                    let _ = job.done.send(write(&sockets, &job.wanted));
                }
            }
        })?;
        Ok(Self(jobs))
    }

    /// The answer to who asked, once the list is written.
    pub(super) async fn list(&self, wanted: Wanted) -> Result<Response, Refusal> {
        let (done, pieces) = oneshot::channel();
        let asked = self.0.send(Job { wanted, done }).await.is_ok();
        match pieces.await {
            Ok(pieces) if asked => {
                let json = [(header::CONTENT_TYPE, "application/json")];
                Ok((json, Body::new(Pieces { left: pieces, pause: false })).into_response())
            }
            _ => Err(refuse(StatusCode::SERVICE_UNAVAILABLE, "stickyd is stopping")),
        }
    }
}

/// Makes this thread, and no other, give way. Linux takes "this process" for the thread that asks (setpriority(2)).
fn give_way() {
    let lowered = rustix::process::getpriority_process(None)
        .and_then(|now| rustix::process::setpriority_process(None, now.saturating_add(NICE).min(19)));
    if let Err(error) = lowered {
        tracing::debug!(%error, "lists are written with the priority of everything else");
    }
    // In nanoseconds; where it cannot be had, a list takes longer.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
}

/// One page.
#[derive(Serialize)]
struct Page<'a> {
    live: usize,
    total: usize,
    offset: usize,
    next_offset: Option<usize>,
    sockets: Rows<'a>,
}

struct Rows<'a> {
    sockets: &'a [Arc<Socket>],
    shown: RefCell<Shown>,
}

impl Serialize for Rows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.sockets.iter().enumerate().map(|(number, socket)| {
            if number % IN_A_ROW == IN_A_ROW - 1 {
                std::thread::park_timeout(PAUSE);
            }
            Row { socket, shown: &self.shown }
        }))
    }
}

fn write(sockets: &Sockets, wanted: &Wanted) -> VecDeque<Bytes> {
    let now_s = clock::now_s();
    let mut fitting = Vec::new();
    for shard in 0..SHARDS {
        fitting.extend(sockets.shard(shard).into_iter().filter(|socket| wanted.filter.fits(socket, now_s)));
        std::thread::park_timeout(PAUSE);
    }
    wanted.order.sort(&mut fitting, now_s);
    let total = fitting.len();
    let rest = fitting.get(wanted.offset..).unwrap_or_default();
    let rows = rest.get(..wanted.limit).unwrap_or(rest);
    let next = wanted.offset.saturating_add(rows.len());
    let page = Page {
        live: sockets.len(),
        total,
        offset: wanted.offset,
        next_offset: (next < total && !rows.is_empty()).then_some(next),
        sockets: Rows { sockets: rows, shown: RefCell::new(Shown::new(now_s)) },
    };
    let mut cut = Cut::default();
    // Nothing in it can fail: all keys are texts, and memory takes every byte.
    let _ = serde_json::to_writer(&mut cut, &page);
    cut.finish()
}

/// Bytes, cut into pieces.
#[derive(Default)]
struct Cut {
    done: VecDeque<Bytes>,
    last: Vec<u8>,
}

impl Cut {
    fn finish(mut self) -> VecDeque<Bytes> {
        if !self.last.is_empty() {
            self.done.push_back(self.last.into());
        }
        self.done
    }
}

impl io::Write for Cut {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.last.len() + bytes.len() > PIECE && !self.last.is_empty() {
            self.done.push_back(std::mem::replace(&mut self.last, Vec::with_capacity(PIECE)).into());
        }
        self.last.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An answer's body, with a pause for other tasks behind each piece.
struct Pieces {
    left: VecDeque<Bytes>,
    pause: bool,
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if std::mem::take(&mut self.pause) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.pause = true;
        Poll::Ready(self.left.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.iter().map(|piece| piece.len() as u64).sum())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn pieces_make_the_whole() {
        let (mut cut, mut whole) = (Cut::default(), Vec::new());
        for number in 0..40_000_u32 {
            let bytes = number.to_string().repeat(usize::try_from(number % 7).unwrap());
            cut.write_all(bytes.as_bytes()).unwrap();
            whole.extend_from_slice(bytes.as_bytes());
        }
        let long = vec![b'x'; 3 * PIECE];
        cut.write_all(&long).unwrap();
        whole.extend_from_slice(&long);
        let pieces = cut.finish();
        assert!(pieces.len() > 3 && pieces.iter().all(|piece| !piece.is_empty()));
        assert!(pieces.iter().filter(|piece| piece.len() > PIECE).count() <= 1, "only what was one write is longer");
        assert_eq!(pieces.iter().flatten().copied().collect::<Vec<_>>(), whole);
        assert!(Cut::default().finish().is_empty());
    }
}
