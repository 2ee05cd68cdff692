//! One worker's connection to the hub: checks who it is, reads its frames, and confirms what it published.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::Hub;
use super::far::FarOutcome;
use super::frame::{self, FrameError, Incoming, LinkHello, MemberId, Publish};
use super::group::BusGroup;
use super::outbox::LinkOutbox;
use crate::events::tell;
use crate::printable::printable;
use crate::telemetry::say_full;

/// Time in which a connection must say who it is.
const HELLO_TIME: Duration = Duration::from_secs(10);
/// Time for reading what a process published before it died.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Pause between two confirmations of what a member published.
const CONFIRM: Duration = Duration::from_millis(20);
/// Bytes that are read at once.
const READ: usize = 64 * 1024;
/// Space below which a buffer is replaced.
const LEAST_READ: usize = 4 * 1024;

/// Reason why a worker's link ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BusLinkError {
    /// The socket of the worker failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A frame cannot be read.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame is longer than [`frame::LONGEST`].
    #[error("a frame of {0} bytes is too long")]
    TooLong(usize),
    /// The first frame does not greet, or did not come in time.
    #[error("the connection did not say who it is")]
    NoHello,
    /// The worker's preload is of another version of stickyd.
    #[error("the preload speaks version {0} of the bus: restart the worker")]
    Version(u32),
    /// The process belongs to another user.
    #[error("the process runs as user {0}, and only user {1} may use the bus")]
    User(u32, u32),
    /// The worker reads too slowly, which was told.
    #[error("the worker did not read {} bytes", super::outbox::LIMIT)]
    Slow,
}

/// Serves one connection until it ends.
pub(crate) async fn serve(hub: Rc<Hub>, socket: UnixStream) {
    let result = greet_and_run(&hub, socket).await;
    match result {
        Ok(()) => {}
        Err(BusLinkError::Io(error)) => tracing::debug!(%error, "a worker's link to the bus broke"),
        Err(BusLinkError::Slow) => hub.members.metrics.bus.slow.inc(),
        Err(error) => say_full!(%error, "cut a worker's link to the bus"),
    }
}

async fn greet_and_run(hub: &Rc<Hub>, socket: UnixStream) -> Result<(), BusLinkError> {
    let (theirs, ours) = (socket.peer_cred()?.uid(), rustix::process::geteuid().as_raw());
    if theirs != ours {
        return Err(BusLinkError::User(theirs, ours));
    }
    let (read, write) = socket.into_split();
    let mut frames = FrameReader { socket: read, buffer: BytesMut::with_capacity(READ) };
    let hello = match timeout(HELLO_TIME, frames.next()).await.map_err(|_| BusLinkError::NoHello)?? {
        Some(Incoming::Hello(hello)) => hello,
        Some(_) => return Err(BusLinkError::NoHello),
        None => return Ok(()),
    };
    if hello.version != frame::VERSION {
        return Err(BusLinkError::Version(hello.version));
    }
    if let Some(adapter) = &hello.own_adapter {
        let (upstream, path, adapter) = (printable(&hello.upstream), printable(&hello.path), printable(adapter));
        tracing::info!(%upstream, %path, pid = hello.pid, %adapter, "a worker uses an adapter of its own, not the bus");
        return Ok(());
    }
    let outbox = Rc::new(LinkOutbox::default());
    let pid = hello.pid;
    let member = LinkedMember::join(hub, *hello, &outbox);
    let mut read = std::pin::pin!(member.read(frames));
    tokio::select! {
        result = &mut read => result,
        // A process that has died reads nothing, but what it published last may still have to be read.
        Err(_) = outbox.write_to(write) => timeout(LAST_WORDS, read).await.unwrap_or(Ok(())),
        () = outbox.overflow.notified() => {
            let (upstream, path) = &member.key;
            tell!(hub.members.metrics.events, Bus, warn, upstream = %upstream, %path, pid,
                "cut a worker's link to the bus: it did not read 8 MB of messages");
            Err(BusLinkError::Slow)
        }
        () = member.confirm() => Ok(()),
    }
}

/// A linked member. Dropping it removes it from its group.
struct LinkedMember<'a> {
    hub: &'a Rc<Hub>,
    id: MemberId,
    key: super::group::GroupKey,
    group: Rc<RefCell<BusGroup>>,
    outbox: &'a Rc<LinkOutbox>,
    /// What it published and what is not yet written everywhere, oldest first.
    unconfirmed: RefCell<VecDeque<(u64, Rc<()>)>>,
    /// Notified when there is something to confirm.
    published: Notify,
}

impl<'a> LinkedMember<'a> {
    fn join(hub: &'a Rc<Hub>, hello: LinkHello, outbox: &'a Rc<LinkOutbox>) -> Self {
        let key = (hello.upstream.clone(), hello.path.clone());
        let group = hub.groups.borrow_mut().entry(key.clone()).or_default().clone();
        let is_first = group.borrow().near().next().is_none();
        let lost = group.borrow_mut().join(Instant::now(), &hello, outbox, hub.position.get());
        hub.far.changed(&key, &mut group.borrow_mut(), is_first);
        if lost > 0 {
            hub.members.metrics.bus.dropped.inc_by(lost);
            tell!(
                hub.members.metrics.events, Bus, warn,
                upstream = %key.0,
                path = %key.1,
                pid = hello.pid,
                lost,
                "a worker missed messages of the bus"
            );
        }
        let id = hello.member;
        hub.members.join(hello);
        Self { hub, id, key, group, outbox, unconfirmed: RefCell::default(), published: Notify::new() }
    }

    async fn read(&self, mut frames: FrameReader) -> Result<(), BusLinkError> {
        loop {
            let frame = match frames.next().await {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok(()),
                // Clients choose some of these texts, and must not be able to cut their worker's link.
                Err(BusLinkError::Frame(FrameError::Json(error))) => {
                    tracing::debug!(%error, "ignored a frame of a worker that cannot be read");
                    continue;
                }
                Err(error) => return Err(error),
            };
            let now = Instant::now();
            match frame {
                Incoming::Hello(_) => return Err(BusLinkError::NoHello),
                Incoming::Publish(publish) => self.publish(now, &publish),
                Incoming::Direct { to, payload } => {
                    let group = self.group.borrow();
                    if group.is_emitter(to) {
                        self.hub.emits.answered(self.id, &payload);
                    } else if !group.direct(self.id, to, &payload) {
                        self.hub.far.direct(&self.key, &group, self.id, to, &payload);
                    }
                }
                Incoming::Session(update) => self.group.borrow_mut().session(now, self.id, *update),
                Incoming::Restore(query) => {
                    let answer = self.group.borrow_mut().restore(now, self.hub.position.get(), self.id, &query);
                    self.outbox.push(answer);
                }
                Incoming::Facts(facts) => self.hub.members.facts(self.id, facts),
            }
        }
    }

    fn publish(&self, now: Instant, publish: &Publish) {
        let mark = Rc::new(());
        let position = self.hub.next_position();
        let published = self.group.borrow_mut().publish(now, self.id, position, publish, &mark);
        self.unconfirmed.borrow_mut().push_back((publish.sequence, mark));
        self.published.notify_one();
        self.hub.count(&self.key, &published);
        if !published.known {
            // What is sent is counted on the way.
            let outcome = self.hub.far.publish(&self.key, &self.group.borrow(), self.id, publish);
            if outcome == FarOutcome::TooLong {
                self.hub.members.metrics.bus.far.too_long.inc();
            }
        }
    }

    /// Confirms what has been written to all others.
    async fn confirm(&self) {
        loop {
            if self.unconfirmed.borrow().is_empty() {
                self.published.notified().await;
            }
            tokio::time::sleep(CONFIRM).await;
            let mut unconfirmed = self.unconfirmed.borrow_mut();
            let mut last = None;
            while unconfirmed.front().is_some_and(|(_, mark)| Rc::strong_count(mark) == 1) {
                last = unconfirmed.pop_front().map(|(sequence, _)| sequence);
            }
            if let Some(sequence) = last {
                self.outbox.push(frame::ack(sequence));
            }
        }
    }
}

impl Drop for LinkedMember<'_> {
    fn drop(&mut self) {
        let mut group = self.group.borrow_mut();
        if group.leave(Instant::now(), self.id, self.outbox) {
            self.hub.members.leave(self.id);
            self.hub.far.changed(&self.key, &mut group, false);
            self.hub.emits.gone(self.id);
        }
    }
}

/// Splits the bytes of a socket into frames.
struct FrameReader {
    socket: OwnedReadHalf,
    buffer: BytesMut,
}

impl FrameReader {
    /// Returns the next frame; `None` at the end of the connection. Safe to cancel between bytes.
    async fn next(&mut self) -> Result<Option<Incoming>, BusLinkError> {
        loop {
            if let Some((head, _)) = self.buffer.split_first_chunk::<4>() {
                let length = u32::from_be_bytes(*head) as usize;
                if length > frame::LONGEST {
                    return Err(BusLinkError::TooLong(length));
                }
                if self.buffer.len() >= 4 + length {
                    let mut frame = self.buffer.split_to(4 + length);
                    let _ = frame.split_to(4);
                    return Ok(Some(frame::read(frame.freeze())?));
                }
                self.buffer.reserve(4 + length - self.buffer.len());
            } else if self.buffer.capacity() - self.buffer.len() < LEAST_READ {
                self.buffer.reserve(READ);
            }
            if self.socket.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }
}
