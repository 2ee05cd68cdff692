//! What waits to be written to one worker. A worker that leaves [`LIMIT`] bytes unread and reads nothing for [`STUCK`]
//! is cut, so that it neither slows the others nor fills the memory; it comes back by itself and gets what is still
//! kept. For one that does read, [`BURST`] bytes may wait: several large messages at once do not cut it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

/// Bytes that may wait for a worker that reads nothing.
pub(crate) const LIMIT: usize = 8 * 1024 * 1024;
/// Bytes that may wait for a worker that reads.
const BURST: usize = 64 * 1024 * 1024;
/// Time without any progress after which a worker does not read.
const STUCK: Duration = Duration::from_millis(500);
/// Frames that are written with one system call.
const TOGETHER: usize = 64;

/// Queue of frames for one link.
#[derive(Debug)]
pub(crate) struct LinkOutbox {
    queue: RefCell<VecDeque<(Bytes, Option<Rc<()>>)>>,
    bytes: Cell<usize>,
    filled: Notify,
    full: Cell<bool>,
    /// Time at which the worker last took anything, or had taken all.
    progress: Cell<Instant>,
    /// Notified once when the worker reads too slowly.
    pub(crate) overflow: Notify,
}

impl Default for LinkOutbox {
    fn default() -> Self {
        Self {
            queue: RefCell::default(),
            bytes: Cell::new(0),
            filled: Notify::new(),
            full: Cell::new(false),
            progress: Cell::new(Instant::now()),
            overflow: Notify::new(),
        }
    }
}

impl LinkOutbox {
    /// Queues a frame; false if the link is being cut.
    pub(crate) fn push(&self, frame: Bytes) -> bool {
        self.add(frame, None)
    }

    /// Queues a frame that holds the mark until it has been written.
    pub(crate) fn push_marked(&self, frame: Bytes, mark: &Rc<()>) -> bool {
        self.add(frame, Some(mark.clone()))
    }

    fn add(&self, frame: Bytes, mark: Option<Rc<()>>) -> bool {
        if self.full.get() {
            return false;
        }
        let waiting = self.bytes.get();
        if waiting == 0 {
            self.progress.set(Instant::now());
        }
        let bytes = waiting + frame.len();
        // A single frame of any length may wait alone.
        if waiting > 0 && (bytes > BURST || bytes > LIMIT && self.is_stuck(Instant::now())) {
            self.cut();
            return false;
        }
        self.bytes.set(bytes);
        self.queue.borrow_mut().push_back((frame, mark));
        self.filled.notify_one();
        true
    }

    fn is_stuck(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.progress.get()) > STUCK
    }

    /// Cuts the link of a worker that reads nothing of more than [`LIMIT`] bytes.
    pub(crate) fn cut_if_stuck(&self, now: Instant) {
        if self.bytes.get() > LIMIT && self.is_stuck(now) && !self.full.get() {
            self.cut();
        }
    }

    fn cut(&self) {
        self.full.set(true);
        self.queue.borrow_mut().clear();
        self.overflow.notify_one();
    }

    /// Writes what is queued, for ever.
    ///
    /// # Errors
    /// The error of the socket.
    pub(crate) async fn write_to(&self, mut socket: impl AsyncWrite + Unpin) -> io::Result<()> {
        loop {
            let mut batch: Vec<_> = {
                let mut queue = self.queue.borrow_mut();
                let count = queue.len().min(TOGETHER);
                queue.drain(..count).collect()
            };
            if batch.is_empty() {
                self.filled.notified().await;
                continue;
            }
            let total: usize = batch.iter().map(|(frame, _)| frame.len()).sum();
            write_all(&mut socket, &mut batch, &self.progress).await?;
            self.bytes.set(self.bytes.get().saturating_sub(total));
        }
    }
}

async fn write_all(
    socket: &mut (impl AsyncWrite + Unpin),
    batch: &mut [(Bytes, Option<Rc<()>>)],
    progress: &Cell<Instant>,
) -> io::Result<()> {
    let mut done = 0;
    while done < batch.len() {
        let slices: Vec<_> = batch.iter().skip(done).map(|(frame, _)| IoSlice::new(frame)).collect();
        let mut written = socket.write_vectored(&slices).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        progress.set(Instant::now());
        for (frame, _) in batch.iter_mut().skip(done) {
            let part = frame.len().min(written);
            frame.advance(part);
            written -= part;
            if !frame.is_empty() {
                break;
            }
            done += 1;
        }
    }
    Ok(())
}

#[cfg(test)]
impl LinkOutbox {
    /// Takes the frames that wait.
    pub(crate) fn take_all(&self) -> Vec<Bytes> {
        self.bytes.set(0);
        self.queue.borrow_mut().drain(..).map(|(frame, _)| frame).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_no_reason_to_cut_but_a_stuck_worker_is() {
        let (outbox, frame) = (LinkOutbox::default(), Bytes::from(vec![0; 5 * 1024 * 1024]));
        assert!((0..4).all(|_| outbox.push(frame.clone())), "20 MB at once");
        let later = Instant::now() + STUCK * 2;
        outbox.cut_if_stuck(later);
        assert!(!outbox.push(frame.clone()), "cut: it took nothing");
        let outbox = LinkOutbox::default();
        assert!((0..12).all(|_| outbox.push(frame.clone())) && !outbox.push(frame), "never more than 64 MB");
    }
}
