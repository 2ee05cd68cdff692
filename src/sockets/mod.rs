//! Every live socket: tunnels and polling sessions, one entry each, for operators to list, filter and close.
//!
//! An entry is made where a session or tunnel begins ([`Sockets::open`]) and is held from two sides: by what owns the session
//! (its pin, or the tunnel itself where there is no pin) and by the tunnel. It leaves the list once, when the last of them
//! lets go (`socket`). On the way of a message nothing is locked and nothing is read-modify-written: the tunnel's own thread
//! is the only writer of its numbers, and stores them relaxed; whoever lists may see them a moment old.
//!
//! The list is cut into [`SHARDS`], each a `std` mutex over a slab, locked where an entry comes or goes and while a list of
//! its entries is copied: a few microseconds with ten thousand sockets. Full means: the socket lives, is counted, and is not
//! listed. Left out: what is shown of an entry (`admin::sockets`), and when one is told to close
//! (`drain::ordered`).

mod care;
mod common;
mod facts;
mod filter;
mod socket;
#[cfg(test)]
mod tests;
mod text;
mod told;
mod way;
mod words;

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use slab::Slab;

use crate::clock;
use crate::config::Farewell;
use crate::telemetry::say_full;
use crate::upstream::worker::{Session, Worker};
use common::Commons;

pub use care::Asking;
pub use facts::{Facts, From, LONGEST_LABEL, Label, Labels};
pub use filter::Filter;
pub use socket::{Listed, Socket, Tunnelled};
pub use told::Told;
pub use way::Way;
pub use words::{End, Kind, State, Transport};

/// What a tunnel is told to say, and to end with. One for all that are closed together.
pub type Order = Arc<Farewell>;

/// Parts of the list; [`Sockets::shard`] takes `0..SHARDS`.
pub const SHARDS: usize = 64;

/// Sockets are listed, and what they carry is noted. Not in one build of the bench, which measures what that costs.
pub(crate) const KEPT: bool = !cfg!(feature = "bench-no-registry");

/// A new socket, as it is known where it begins.
pub struct New<'a> {
    /// Where it leads.
    pub worker: &'a Arc<Worker>,
    /// The session's place in its worker's count; `None`: no session.
    pub session: Option<Session>,
    /// How its bytes travel.
    pub transport: Transport,
    /// What speaks on it.
    pub kind: Kind,
    /// The client's name for the session; empty: none, or not known yet.
    pub sid: &'a [u8],
    /// What its request said; `None`: it was not read.
    pub facts: Option<&'a Facts>,
}

/// All live sockets.
pub struct Sockets {
    shards: Vec<Mutex<Shard>>,
    commons: Commons,
    len: AtomicUsize,
    /// Sockets that came so far; chooses the shard.
    opened: AtomicUsize,
    cap: usize,
    /// Polling sessions closed so far.
    ended: AtomicU32,
    /// Itself, for entries that go.
    own: Weak<Self>,
}

#[derive(Default)]
struct Shard {
    entries: Slab<Arc<Socket>>,
    /// Entries that came so far: no two of this shard have the same id.
    lives: u32,
}

/// Where an entry is, and which of those that were there: never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(u64);

impl Id {
    /// Of a socket that is not listed.
    const NONE: Self = Self(0);

    /// From the entry's life (32 bits, from 1), its place (26) and its shard (6).
    fn new(life: u32, index: usize, shard: usize) -> Option<Self> {
        let index = u64::try_from(index).ok().filter(|index| *index < 1 << 26)?;
        Some(Self(u64::from(life) << 32 | index << 6 | u64::try_from(shard).ok()?))
    }

    fn place(self) -> (usize, usize) {
        // Both have fewer bits than any `usize` here.
        let part = |bits: u64| usize::try_from(bits).unwrap_or(usize::MAX);
        (part(self.0 & 0x3f), part(self.0 >> 6 & 0x3ff_ffff))
    }
}

impl Sockets {
    /// An empty list that takes `cap` entries.
    pub fn new(cap: usize) -> Arc<Self> {
        Arc::new_cyclic(|own| Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            commons: Commons::default(),
            len: AtomicUsize::new(0),
            opened: AtomicUsize::new(0),
            cap,
            ended: AtomicU32::new(0),
            own: own.clone(),
        })
    }

    /// Entries on the list.
    pub fn len(&self) -> usize {
        self.len.load(Relaxed)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entries at most.
    pub fn capacity(&self) -> usize {
        self.cap
    }

    /// An operator has ended a polling session: the poll it waits with has to be told.
    pub fn one_ended(&self) {
        self.ended.fetch_add(1, Relaxed);
    }

    /// Unlike the number of before once polling sessions were ended; wraps.
    pub fn ended(&self) -> u32 {
        self.ended.load(Relaxed)
    }

    /// A socket, on the list until the guard goes, and every tunnel on it. It counts once it [`begins`](Socket::begins).
    pub fn open(&self, mut new: New<'_>) -> Listed {
        let nothing = Facts::nothing();
        let facts = new.facts.unwrap_or(&nothing);
        let common = self.commons.get(&self.own, facts);
        let socket = Socket::new(&mut new, facts, common, clock::now_s());
        Listed::new(self.list(socket))
    }

    /// Puts it on the list, if there is room.
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
        say_full!("the list of sockets is full: one more lives unlisted ([limits] sockets)");
        Arc::new(socket)
    }

    /// Takes it off the list.
    fn remove(&self, socket: &Socket) {
        if socket.id() == Id::NONE {
            return;
        }
        let (shard, index) = socket.id().place();
        // Dropped after the lock.
        let _gone = self.shards.get(shard).and_then(|shard| {
            let mut shard = lock(shard);
            let gone = shard.entries.try_remove(index);
            // After a flood.
            if shard.entries.is_empty() && shard.entries.capacity() > 64 {
                shard.entries.shrink_to_fit();
            }
            gone
        });
        self.len.fetch_sub(1, Relaxed);
    }

    /// The sockets of one shard, of `0..SHARDS`. Its lock is held while they are copied: 20 ns each.
    pub fn shard(&self, shard: usize) -> Vec<Arc<Socket>> {
        self.shards
            .get(shard)
            .map(|shard| lock(shard).entries.iter().map(|(_, one)| one.clone()).collect())
            .unwrap_or_default()
    }

    /// The socket of an id.
    pub fn get(&self, id: Id) -> Option<Arc<Socket>> {
        let (shard, index) = id.place();
        let shard = self.shards.get(shard).map(lock)?;
        shard.entries.get(index).filter(|socket| socket.id() == id).cloned()
    }
}

/// What is kept here stays meaningful whatever panicked: a list.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
