//! Upkeep of a live socket: round-trip measurements, Pings sent by stickyd, and giving up a dead client.
//!
//! Other threads leave a request on the socket and wake its tunnel's task, which checks a single flag. Not in this
//! module: messages (`posts`), when requests are made (`crate::vigil`), and what the tunnel does with them
//! (`tunnel::relay`).

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::backend_labels::BackendLabels;
use super::posts::PostQueue;
use super::socket::{ASKED, GIVEN_UP, LIVE, POSTED, Socket, TUNNEL};
use super::{CloseOrder, Mailbag, SocketKind, Transport, lock};
use crate::broadcast::Fate;
use crate::clock::Seconds;
use crate::fleet::users::UserPlace;
use crate::websocket::frames::Signal;
use crate::websocket::round_trip::{Half, Quality, RoundTrips, Tenths};

/// State of a socket that messages do not touch, except pings and pongs.
#[derive(Default)]
pub(crate) struct Care {
    trips: RoundTrips,
    /// Second at which stickyd last sent a Ping ([`crate::clock::now_s`]); `None` if no Ping is unanswered.
    asked_s: Option<Seconds>,
    /// Quality of the connection at the last walk of the vigil; `None` if the client's leg was not measured.
    quality: Option<Quality>,
    /// Close frame that the tunnel is to send and end with, by an operator's command.
    pub(crate) order: Option<CloseOrder>,
    /// Messages that wait for the tunnel to take them; made with the first.
    pub(super) posts: Option<Box<PostQueue>>,
    /// Labels that the backend has set; never empty.
    pub(super) labels: Option<Arc<BackendLabels>>,
    /// Part in the delivery of queued messages.
    mailbag: Option<Arc<Mailbag>>,
    /// Place among the sockets of its user in the fleet.
    place: Option<UserPlace>,
}

impl Care {
    /// Returns the round trips so far, and the quality that was derived from them.
    pub(crate) fn measured(&self) -> (RoundTrips, Option<Quality>) {
        (self.trips.clone(), self.quality)
    }

    /// Part in the delivery of queued messages, if there is one.
    pub(crate) fn mailbag(&self) -> Option<&Arc<Mailbag>> {
        self.mailbag.as_ref()
    }

    /// As `mailbag`, and makes one if there is none.
    pub(crate) fn mailbag_or_new(&mut self) -> Arc<Mailbag> {
        self.mailbag.get_or_insert_default().clone()
    }

    /// Clears what concerned only the tunnel, which has ended; returns the messages that the tunnel did not take.
    pub(crate) fn leave(&mut self) -> Option<Box<PostQueue>> {
        (self.order, self.asked_s) = (None, None);
        self.posts.take()
    }
}

impl Socket {
    /// Records a ping or pong that passed; returns which half of the path it measured, and the time it took.
    pub fn pinged(&self, from: Half, signal: Signal, now: Tenths) -> Option<(Half, Duration)> {
        self.with_care(|care| {
            if let (Half::Client, Signal::Pong(mark), Some(bag)) = (from, signal, &care.mailbag) {
                bag.pong(mark);
            }
            care.trips.pass(from, signal, now)
        })
    }

    /// Round trips that were measured so far.
    pub fn round_trips(&self) -> RoundTrips {
        lock(&self.cold).care.as_ref().map(|care| care.trips.clone()).unwrap_or_default()
    }

    /// Stores the quality of the client's connection.
    pub fn set_quality(&self, quality: Quality) {
        self.with_care(|care| care.quality = Some(quality));
    }

    pub(super) fn with_care<R>(&self, f: impl FnOnce(&mut Care) -> R) -> R {
        f(lock(&self.cold).care.get_or_insert_default())
    }

    /// Keeps the socket's place among those of its user, until the socket is over.
    pub(crate) fn keep_place(&self, place: UserPlace) {
        // The place before, if any, is left after the lock is released.
        drop(self.with_care(|care| care.place.replace(place)));
        if self.holders.load(Relaxed) & LIVE == 0 {
            self.leave_place();
        }
    }

    /// Leaves the place among the sockets of its user.
    pub(crate) fn leave_place(&self) {
        let place = lock(&self.cold).care.as_mut().and_then(|care| care.place.take());
        drop(place);
    }

    /// Whether a tunnel carries the socket, or is being tried.
    pub fn has_tunnel(&self) -> bool {
        self.holders.load(Relaxed) & TUNNEL != 0
    }

    /// Whether any request waits for the tunnel. This is a single load, made at every poll of the tunnel.
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

    /// Requests that the tunnel send a Ping.
    pub fn ask(&self) {
        self.call(ASKED);
    }

    /// Whether the tunnel is to send a Ping; clears the request.
    pub fn take_ping_request(&self) -> bool {
        self.heeds(ASKED)
    }

    /// Records that stickyd sent a Ping at this second ([`crate::clock::now_s`]).
    pub fn asked_at(&self, now_s: Seconds) {
        self.with_care(|care| care.asked_s = Some(now_s));
    }

    /// Second at which stickyd last sent a Ping ([`crate::clock::now_s`]), if that is unanswered.
    pub fn asked_s(&self) -> Option<Seconds> {
        lock(&self.cold).care.as_ref().and_then(|care| care.asked_s)
    }

    /// Requests that the tunnel end because its client is dead, unless it has unread data of the client.
    pub fn give_up(&self) {
        self.call(GIVEN_UP);
    }

    /// Whether the client was given up; clears the request.
    pub fn take_given_up(&self) -> bool {
        self.heeds(GIVEN_UP)
    }

    /// Records that the client is alive after all, so that no Ping is unanswered.
    pub fn lives(&self) {
        self.with_care(|care| care.asked_s = None);
    }

    /// Whether a broadcast message can be sent to the socket; `Ok(true)` if it speaks Socket.IO. The client must know
    /// its session as open: the upgrade is done, or the open packet has passed.
    ///
    /// # Errors
    /// Returns the outcome to be counted instead.
    pub fn takes_messages(&self) -> Result<bool, Fate> {
        if self.transport() == Transport::Polling {
            return Err(if self.has_tunnel() { Fate::NotReady } else { Fate::Polling });
        }
        if !self.has_tunnel() || self.is_ordered() || self.has_parted() {
            return Err(Fate::Closing);
        }
        let socket_io = self.kind() == SocketKind::EngineIo;
        let known = !socket_io || self.with_texts(|sid, _| !sid.is_empty());
        if known { Ok(socket_io) } else { Err(Fate::NotReady) }
    }
}

/// A Ping from stickyd on its way to a socket's client.
pub struct OwedPing(Arc<Socket>);

impl OwedPing {
    /// Prepares a Ping for this socket.
    pub fn new(socket: &Arc<Socket>) -> Self {
        Self(socket.clone())
    }

    /// Records that the Ping has left; from then on it is measured like any other ping.
    pub fn left(&self, signal: Signal) {
        self.0.asked_at(crate::clock::now_s());
        self.0.pinged(Half::Worker, signal, crate::clock::now_tenths());
    }
}
