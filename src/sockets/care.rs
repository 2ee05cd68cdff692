//! What is done for a socket while it lives: its round-trips, Pings of ours, messages to many, and being given up.
//!
//! Other threads leave a call on it and wake its tunnel's task; the tunnel sees one flag. Left out: when it is called
//! (`crate::vigil`, `admin::broadcast`), and what a tunnel makes of it (`tunnel::relay`).

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::socket::{ASKED, GIVEN_UP, POSTED, Socket, TUNNEL};
use super::{Kind, Order, Transport, lock};
use crate::broadcast::{Fate, Posted};
use crate::tunnel::frames::Signal;
use crate::tunnel::round_trip::{Half, Quality, RoundTrips, Tenths};

/// What is not touched on the way of a message, a ping or a pong excepted.
#[derive(Default)]
pub(super) struct Care {
    trips: RoundTrips,
    /// When a Ping of ours left last ([`crate::clock::now_s`]); `None`: none that is unanswered.
    asked_s: Option<NonZeroU32>,
    /// As of the last walk of the vigil; `None`: its client's leg was not measured.
    quality: Option<Quality>,
    /// What an operator has its tunnel say, and end with.
    pub(super) order: Option<Order>,
    /// Waits for the tunnel to take it; one at a time.
    post: Option<Box<Posted>>,
}

impl Care {
    /// The round-trips so far, and what they came to.
    pub(super) fn measured(&self) -> (RoundTrips, Option<Quality>) {
        (self.trips.clone(), self.quality)
    }

    /// Its tunnel is no more; the message that tunnel did not take.
    pub(super) fn leave(&mut self) -> Option<Box<Posted>> {
        (self.order, self.asked_s) = (None, None);
        self.post.take()
    }
}

impl Socket {
    /// A ping or a pong passed; which half that measured, and how long it took.
    pub fn pinged(&self, from: Half, signal: Signal, now: Tenths) -> Option<(Half, Duration)> {
        self.with_care(|care| care.trips.pass(from, signal, now))
    }

    /// What was measured so far.
    pub fn round_trips(&self) -> RoundTrips {
        lock(&self.cold).care.as_ref().map(|care| care.trips.clone()).unwrap_or_default()
    }

    /// Remembers how good it is.
    pub fn set_quality(&self, quality: Quality) {
        self.with_care(|care| care.quality = Some(quality));
    }

    fn with_care<R>(&self, f: impl FnOnce(&mut Care) -> R) -> R {
        f(lock(&self.cold).care.get_or_insert_default())
    }

    /// Whether a tunnel carries it, or tries to.
    pub fn has_tunnel(&self) -> bool {
        self.holders.load(Relaxed) & TUNNEL != 0
    }

    /// Somebody wants something of its tunnel: one load, for every poll of it.
    #[inline]
    pub fn is_called(&self) -> bool {
        self.flags.load(Relaxed) & (POSTED | ASKED | GIVEN_UP) != 0
    }

    fn call(&self, what: u8) {
        self.flags.fetch_or(what, Relaxed);
        self.wake();
    }

    fn heeds(&self, what: u8) -> bool {
        self.flags.load(Relaxed) & what != 0 && self.flags.fetch_and(!what, Relaxed) & what != 0
    }

    /// Its tunnel is to send a Ping.
    pub fn ask(&self) {
        self.call(ASKED);
    }

    /// Whether its tunnel is to send a Ping, once.
    pub fn is_asked(&self) -> bool {
        self.heeds(ASKED)
    }

    /// A Ping of ours has left at this second ([`crate::clock::now_s`]).
    pub fn asked_at(&self, now_s: u32) {
        self.with_care(|care| care.asked_s = NonZeroU32::new(now_s));
    }

    /// When a Ping of ours left last.
    pub fn asked_s(&self) -> Option<u32> {
        lock(&self.cold).care.as_ref().and_then(|care| care.asked_s).map(NonZeroU32::get)
    }

    /// Its client is dead, unless its tunnel has something of it yet unread.
    pub fn give_up(&self) {
        self.call(GIVEN_UP);
    }

    /// Whether it was given up, once.
    pub fn is_given_up(&self) -> bool {
        self.heeds(GIVEN_UP)
    }

    /// Its client is heard of after all.
    pub fn lives(&self) {
        self.with_care(|care| care.asked_s = None);
    }

    /// Whether a message can be sent to it; `Ok`: it speaks Socket.IO. A session has to be one a client knows as open: its
    /// upgrade is done, or its open packet has passed.
    ///
    /// # Errors
    /// Why not.
    pub fn takes_messages(&self) -> Result<bool, Fate> {
        if self.transport() == Transport::Polling {
            return Err(if self.has_tunnel() { Fate::NotReady } else { Fate::Polling });
        }
        if !self.has_tunnel() || self.is_ordered() || self.has_parted() {
            return Err(Fate::Closing);
        }
        let socket_io = self.kind() == Kind::EngineIo;
        let known = !socket_io || self.with_texts(|sid, _| !sid.is_empty());
        if known { Ok(socket_io) } else { Err(Fate::NotReady) }
    }

    /// Hands its tunnel a message.
    pub fn post(&self, posted: Posted) {
        let posted = Box::new(posted);
        let before = self.with_care(|care| care.post.replace(posted));
        if let Some(before) = before {
            before.missed(Fate::Slow);
        }
        self.call(POSTED);
    }

    /// The message it was handed, once.
    pub fn posted(&self) -> Option<Posted> {
        if !self.heeds(POSTED) {
            return None;
        }
        let posted = self.with_care(|care| care.post.take());
        posted.map(|posted| *posted)
    }
}

/// A Ping of ours on its way to a socket's client.
pub struct Asking(Arc<Socket>);

impl Asking {
    /// For this socket.
    pub fn new(socket: &Arc<Socket>) -> Self {
        Self(socket.clone())
    }

    /// It has left; a ping like any other from then on.
    pub fn left(&self, signal: Signal) {
        self.0.asked_at(crate::clock::now_s());
        self.0.pinged(Half::Worker, signal, crate::clock::now_tenths());
    }
}
