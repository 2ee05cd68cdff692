//! Every live socket: one entry per tunnel or polling session, for operators to list, filter and close.
//!
//! An entry is made where a session or tunnel begins ([`Sockets::open`]). It is held from two sides: by the owner of
//! the session (its pin, or the tunnel itself if there is no pin) and by the tunnel. It leaves the list once: when the
//! last of them releases it, or with the tunnel that became its transport (`socket`). Passing a message takes no lock
//! and no read-modify-write operation: the tunnel's own thread is the only writer of the socket's numbers and stores
//! them relaxed, so that a list may show them slightly late.
//!
//! The list is split into [`SHARDS`] shards, each a `std` mutex over a slab, locked when an entry comes or goes and
//! while the shard's entries are copied: a few microseconds with ten thousand sockets. If the list is full, a new
//! socket lives and is counted, but is not listed. Not in this module: what is shown of an entry (`admin::sockets`),
//! and when a socket is closed (`drain::ordered`).

pub(crate) mod attention;
pub(crate) mod backend_labels;
mod common;
mod filter;
mod holders;
pub(crate) mod labels;
mod mailbag;
mod posts;
pub(crate) mod row;
mod socket;
pub(crate) mod socket_id;
#[cfg(test)]
mod tests;
pub(crate) mod traffic;

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Weak};

use slab::Slab;

use crate::clock;
use crate::config::CloseNotice;
use crate::locks::lock;
use crate::telemetry::say_full;
use crate::upstream::worker::{SessionSeat, Worker};
use common::Commons;

pub(crate) use crate::metrics::socket_labels::{EndReason, SocketKind, Transport};
pub(crate) use attention::OwedPing;
pub(crate) use filter::Filter;
pub(crate) use holders::{Listed, Tunnelled};
pub(crate) use labels::{OpeningRequest, SocketFacts};
pub(crate) use mailbag::{MailUser, Mailbag, OfferProgress};
pub(crate) use row::SocketRow;
pub(crate) use socket::Socket;
pub(crate) use traffic::Traffic;

/// Close frame that a tunnel is to send and end with; shared by all tunnels that are closed together.
pub(crate) type CloseOrder = Arc<CloseNotice>;

/// Number of shards of the list; [`Sockets::shard`] takes `0..SHARDS`.
pub const SHARDS: usize = 64;

/// Whether sockets are listed and their traffic is counted; false only in the build of the benchmark that measures the
/// cost of this.
pub(crate) const KEPT: bool = !cfg!(feature = "bench-no-registry");

/// Facts about a new socket that are known where it begins.
pub struct New<'a> {
    /// Worker that the socket leads to.
    pub worker: &'a Arc<Worker>,
    /// The session's place in its worker's session count; `None` if there is no session.
    pub session: Option<SessionSeat>,
    /// Transport of the socket.
    pub transport: Transport,
    /// Protocol of the socket.
    pub kind: SocketKind,
    /// Session id as the client sends it; empty if there is none or it is not known yet.
    pub sid: &'a [u8],
    /// Facts from the request; `None` if it was not read.
    pub facts: Option<&'a SocketFacts>,
}

/// The list of all live sockets.
pub struct Sockets {
    shards: Vec<Mutex<SocketShard>>,
    commons: Commons,
    len: AtomicUsize,
    /// Number of sockets opened so far; it chooses the shard.
    opened: AtomicUsize,
    cap: usize,
    /// Number of polling sessions that operators closed so far.
    ended: AtomicU32,
    /// Names of the labels that the backend has set.
    backend_names: backend_labels::BackendNames,
    /// Reference to the list itself, for entries that leave it.
    own: Weak<Self>,
}

#[derive(Default)]
struct SocketShard {
    entries: Slab<Arc<Socket>>,
    /// Number of entries so far: no two entries of this shard have the same id.
    lives: u32,
}

/// Id of an entry: its place on the list, and which of all entries that used this place it is; never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(u64);

impl Id {
    /// Id of a socket that is not listed.
    const NONE: Self = Self(0);

    /// Combines the number of the entry's life (32 bits, from 1), its place (26 bits) and its shard (6 bits).
    fn new(life: u32, index: usize, shard: usize) -> Option<Self> {
        let index = u64::try_from(index).ok().filter(|index| *index < 1 << 26)?;
        Some(Self(u64::from(life) << 32 | index << 6 | u64::try_from(shard).ok()?))
    }

    fn place(self) -> (usize, usize) {
        // Both parts have fewer bits than any supported `usize`.
        let part = |bits: u64| usize::try_from(bits).unwrap_or(usize::MAX);
        (part(self.0 & 0x3f), part(self.0 >> 6 & 0x3ff_ffff))
    }
}

impl Sockets {
    /// Makes an empty list of at most `cap` entries.
    pub fn new(cap: usize) -> Arc<Self> {
        Arc::new_cyclic(|own| Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            commons: Commons::default(),
            len: AtomicUsize::new(0),
            opened: AtomicUsize::new(0),
            cap,
            ended: AtomicU32::new(0),
            backend_names: backend_labels::BackendNames::default(),
            own: own.clone(),
        })
    }

    /// Number of entries on the list.
    pub fn len(&self) -> usize {
        self.len.load(Relaxed)
    }

    /// Whether the list is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Maximum number of entries on the list.
    pub fn capacity(&self) -> usize {
        self.cap
    }

    /// Records that an operator has ended a polling session, so that the poll which waits for the session is answered.
    pub fn one_ended(&self) {
        self.ended.fetch_add(1, Relaxed);
    }

    /// Number that changes whenever polling sessions have been ended; it wraps.
    pub fn ended(&self) -> u32 {
        self.ended.load(Relaxed)
    }

    /// Makes a socket, which is listed while the returned guard or a tunnel holds it, but not longer than the tunnel
    /// that became its transport. It is counted once it [`begins`](Socket::begins).
    pub fn open(&self, mut new: New<'_>) -> Listed {
        let nothing = SocketFacts::nothing();
        let facts = new.facts.unwrap_or(&nothing);
        let common = self.commons.get(&self.own, facts);
        let socket = Socket::new(&mut new, facts, common, clock::now_s());
        Listed::new(self.list(socket))
    }

    /// Puts a socket on the list, if there is room.
    fn list(&self, mut socket: Socket) -> Arc<Socket> {
        let number = self.opened.fetch_add(1, Relaxed) % SHARDS;
        if self.len.fetch_add(1, Relaxed) < self.cap
            && KEPT
            && let Some(mut shard) = self.shards.get(number).map(lock)
        {
            shard.lives = shard.lives.wrapping_add(1).max(1);
            if let Some(id) = Id::new(shard.lives, shard.entries.vacant_key(), number) {
                socket.set_id(id);
                let socket = Arc::new(socket);
                shard.entries.insert(socket.clone());
                return socket;
            }
        }
        self.len.fetch_sub(1, Relaxed);
        socket.worker().series.sockets.unlisted.inc();
        say_full!(upstream = %socket.worker().upstream, worker = %socket.worker().name,
            "list of sockets is full: a new socket is not listed ([limits] sockets)");
        Arc::new(socket)
    }

    /// Removes a socket from the list.
    fn remove(&self, socket: &Socket) {
        if socket.id() == Id::NONE {
            return;
        }
        let (shard, index) = socket.id().place();
        // Dropped after the lock is released.
        let _gone = self.shards.get(shard).and_then(|shard| {
            let mut shard = lock(shard);
            let gone = shard.entries.try_remove(index);
            // Frees memory after a flood.
            if shard.entries.is_empty() && shard.entries.capacity() > 64 {
                shard.entries.shrink_to_fit();
            }
            gone
        });
        self.len.fetch_sub(1, Relaxed);
    }

    /// Returns the sockets of one shard (`0..SHARDS`). Its lock is held while they are copied, for 20 ns per socket.
    pub fn shard(&self, shard: usize) -> Vec<Arc<Socket>> {
        self.shards
            .get(shard)
            .map(|shard| lock(shard).entries.iter().map(|(_, one)| one.clone()).collect())
            .unwrap_or_default()
    }

    /// Returns the first socket of one shard that fits. The shard's lock is held meanwhile.
    pub(crate) fn find_in(&self, shard: usize, fits: impl Fn(&Socket) -> bool) -> Option<Arc<Socket>> {
        let shard = self.shards.get(shard).map(lock)?;
        shard.entries.iter().map(|(_, socket)| socket).find(|socket| fits(socket)).cloned()
    }

    /// Returns the socket with this id.
    pub fn get(&self, id: Id) -> Option<Arc<Socket>> {
        let (shard, index) = id.place();
        let shard = self.shards.get(shard).map(lock)?;
        shard.entries.get(index).filter(|socket| socket.id() == id).cloned()
    }
}
