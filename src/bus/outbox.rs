//! What waits to be written to one worker. A worker that does not read is cut at [`LIMIT`] bytes, so that it neither
//! slows the others nor fills the memory; it comes back by itself and gets what is still kept.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::rc::Rc;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

/// Bytes that may wait for a worker.
pub(crate) const LIMIT: usize = 8 * 1024 * 1024;
/// Frames that are written with one system call.
const TOGETHER: usize = 64;

/// Queue of frames for one link.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: RefCell<VecDeque<(Bytes, Option<Rc<()>>)>>,
    bytes: Cell<usize>,
    filled: Notify,
    full: Cell<bool>,
    /// Notified once when the worker reads too slowly.
    pub(crate) overflow: Notify,
}

impl Outbox {
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
        let bytes = self.bytes.get() + frame.len();
        // A single frame of any length may wait alone.
        if bytes > LIMIT && self.bytes.get() > 0 {
            self.full.set(true);
            self.queue.borrow_mut().clear();
            self.overflow.notify_one();
            return false;
        }
        self.bytes.set(bytes);
        self.queue.borrow_mut().push_back((frame, mark));
        self.filled.notify_one();
        true
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
            write_all(&mut socket, &mut batch).await?;
            self.bytes.set(self.bytes.get().saturating_sub(total));
        }
    }
}

async fn write_all(socket: &mut (impl AsyncWrite + Unpin), batch: &mut [(Bytes, Option<Rc<()>>)]) -> io::Result<()> {
    let mut rest = batch;
    while !rest.is_empty() {
        let slices: Vec<_> = rest.iter().map(|(frame, _)| IoSlice::new(frame)).collect();
        let mut written = socket.write_vectored(&slices).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        while let Some((frame, _)) = rest.first_mut() {
            let part = frame.len().min(written);
            frame.advance(part);
            written -= part;
            if !frame.is_empty() {
                break;
            }
            rest = &mut rest[1..];
        }
    }
    Ok(())
}

#[cfg(test)]
impl Outbox {
    /// Takes the frames that wait.
    pub(crate) fn take_all(&self) -> Vec<Bytes> {
        self.bytes.set(0);
        self.queue.borrow_mut().drain(..).map(|(frame, _)| frame).collect()
    }
}
