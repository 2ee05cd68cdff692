//! One live socket: what it is, what it has carried, and what holds it.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Waker;

use Ordering::{AcqRel, Relaxed};

use super::attention::Care;
use super::backend_labels::{BackendLabels, merged};
use super::common::Common;
use super::labels::{ClaimTexts, LONGEST_LABEL};
use super::socket_id::{Texts, pack_label, printable};
use super::traffic::Traffic;
use super::{CloseOrder, Id, New, SocketFacts, lock};
use crate::clock::{self, Seconds};
use crate::config::labels::{LabelRules, LabelSource};
use crate::keys::Key;
use crate::metrics::socket_labels::{EndReason, QUIET_S, SocketKind, SocketState, Transport};
use crate::metrics::{SocketCarrier, Way};
use crate::upstream::worker::{SessionSeat, Worker};
use crate::websocket::round_trip::{Quality, RoundTrips};

/// Bits of `holders`, in this order: the session's owner; the tunnel; whether the socket is listed; whether it was
/// counted as opened.
pub(super) const OWNER: u8 = 1;
pub(crate) const TUNNEL: u8 = 2;
pub(super) const LIVE: u8 = 4;
const COUNTED: u8 = 8;

/// Bit of `transport`: the socket is counted among those that live on its transport. It is in the same number, so that
/// a change of the transport and the end of the socket cannot both count it.
const COUNTED_LIVE: u8 = 0x80;

/// Bits of `flags`, in this order: an operator wants the socket closed; its client owes an answer; one side has sent
/// Close; the tunnel is to send a message; the tunnel is to send a Ping; the tunnel is to end.
const ORDERED: u8 = 1;
const SUSPECT: u8 = 2;
pub(super) const PARTING: u8 = 4;
pub(crate) const POSTED: u8 = 8;
pub(crate) const ASKED: u8 = 16;
pub(crate) const GIVEN_UP: u8 = 32;

/// A live socket: a tunnel or a polling session.
pub struct Socket {
    pub(super) worker: Arc<Worker>,
    common: Arc<Common>,
    pub(crate) cold: Mutex<Cold>,
    id: Id,
    /// Second at which the socket began ([`clock::now_s`]).
    since_s: Seconds,
    /// Generation of the worker when the socket began.
    generation: u32,
    /// Traffic from the client.
    pub up: Traffic,
    /// Traffic to the client.
    pub down: Traffic,
    transport: AtomicU8,
    pub(crate) flags: AtomicU8,
    pub(crate) holders: AtomicU8,
    end: AtomicU8,
    kind: SocketKind,
    tls: bool,
}

/// State of a socket that passing messages does not touch.
pub(crate) struct Cold {
    texts: Texts,
    /// Place in the worker's session count, for as long as the session has an owner.
    pub(super) session: Option<SessionSeat>,
    /// Waker of the tunnel's task.
    pub(super) waker: Option<Waker>,
    /// Made when it is first needed; most plain WebSockets never need it.
    pub(crate) care: Option<Box<Care>>,
}

impl Cold {
    /// Returns the encoded texts in one piece.
    pub(crate) fn texts(&self) -> &[u8] {
        self.texts.bytes()
    }

    /// Returns the labels that the backend has set.
    pub(crate) fn backend_labels(&self) -> Option<&Arc<BackendLabels>> {
        self.care.as_ref().and_then(|care| care.labels.as_ref())
    }

    /// Returns what pings that passed have measured.
    pub(crate) fn measured(&self) -> (RoundTrips, Option<Quality>) {
        self.care.as_ref().map(|care| care.measured()).unwrap_or_default()
    }
}

impl Socket {
    pub(crate) fn new(new: &mut New<'_>, facts: &SocketFacts, common: Arc<Common>, now_s: Seconds) -> Self {
        let texts = Texts::new(facts.address, new.sid, &facts.labels);
        Self {
            worker: new.worker.clone(),
            common,
            cold: Mutex::new(Cold { texts, session: new.session.take(), waker: None, care: None }),
            id: Id::NONE,
            since_s: now_s,
            generation: new.worker.generation(),
            up: Traffic::default(),
            down: Traffic::default(),
            transport: AtomicU8::new(new.transport as u8),
            flags: AtomicU8::new(0),
            holders: AtomicU8::new(OWNER | LIVE),
            end: AtomicU8::new(0),
            kind: new.kind,
            tls: facts.tls,
        }
    }

    pub(crate) fn set_id(&mut self, id: Id) {
        self.id = id;
    }

    /// Id of the socket on the list; all unlisted sockets have the same.
    pub fn id(&self) -> Id {
        self.id
    }

    /// Worker that the socket leads to.
    pub fn worker(&self) -> &Arc<Worker> {
        &self.worker
    }

    /// Generation of the worker when the socket began.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Route that led to the upstream; `None` if there are no routes.
    pub fn route(&self) -> Option<&str> {
        self.common.key.route.as_deref()
    }

    /// User agent of the client, shortened; empty if it sent none.
    pub fn agent(&self) -> &str {
        &self.common.key.agent
    }

    /// Rules of the socket's labels.
    pub(crate) fn labels(&self) -> &LabelRules {
        &self.common.key.labels
    }

    /// Protocol of the socket.
    pub fn kind(&self) -> SocketKind {
        self.kind
    }

    /// Whether the client connected over TLS, to stickyd or to a trusted proxy.
    pub fn tls(&self) -> bool {
        self.tls
    }

    /// Second at which the socket began ([`clock::now_s`]).
    pub fn since_s(&self) -> Seconds {
        self.since_s
    }

    /// Current transport of the socket.
    pub fn transport(&self) -> Transport {
        transport_of(self.transport.load(Relaxed))
    }

    /// Counts bytes and messages that passed at this second.
    #[inline]
    pub fn moved(&self, way: Way, by: SocketCarrier, (bytes, messages): (u64, u32), now_s: Seconds) {
        let traffic = if way == Way::Up { &self.up } else { &self.down };
        traffic.moved(bytes, messages, now_s);
        if super::KEPT {
            self.worker.series.carried(way, by, messages, bytes);
        }
    }

    /// Whether this is the socket's sid.
    pub(crate) fn has_sid(&self, sid: &[u8]) -> bool {
        lock(&self.cold).texts.sid() == sid
    }

    /// Address of the socket's client.
    pub fn address(&self) -> IpAddr {
        lock(&self.cold).texts.address()
    }

    /// Calls `f` with the sid (empty if there is none) and the labels by name.
    pub fn with_texts<R>(&self, f: impl FnOnce(&[u8], &[(&str, Option<&str>)]) -> R) -> R {
        let cold = lock(&self.cold);
        let read = self.labels().iter().map(|rule| rule.name.as_str()).zip(cold.texts.labels());
        let labels: Vec<_> = merged(read, cold.backend_labels()).collect();
        f(cold.texts.sid(), &labels)
    }

    /// Sets the labels that are read from a token, once it is known.
    pub(crate) fn learn_claims(&self, claims: ClaimTexts<'_>) {
        if !self.labels().iter().any(|rule| matches!(rule.from, LabelSource::Claim(_))) {
            return;
        }
        let mut cold = lock(&self.cold);
        let mut packed = Vec::new();
        for (rule, known) in self.labels().iter().zip(cold.texts.labels()) {
            match &rule.from {
                LabelSource::Claim(name) => {
                    let value = claims(name).map(|value| printable(value.as_bytes(), LONGEST_LABEL));
                    pack_label(&mut packed, value.as_deref().or(known));
                }
                LabelSource::Query(_)
                | LabelSource::Cookie(_)
                | LabelSource::Header(_)
                | LabelSource::Certificate(_)
                | LabelSource::Backend => {
                    pack_label(&mut packed, known);
                }
            }
        }
        cold.texts = cold.texts.with_labels(&packed);
    }

    /// Stores the sid of a WebSocket-first session once it is known.
    pub fn learn_sid(&self, sid: &[u8]) {
        let mut cold = lock(&self.cold);
        cold.texts = cold.texts.with_sid(sid);
    }

    /// Stores the key of the session's pin if the sid does not lead to it; this takes 16 bytes.
    pub fn keep_key(&self, key: Key) {
        let mut cold = lock(&self.cold);
        cold.texts = cold.texts.with_key(key.to_bytes());
    }

    /// Key of the session's pin, if it was stored.
    pub fn key(&self) -> Option<Key> {
        lock(&self.cold).texts.key().map(Key::from_bytes)
    }

    /// State of the socket at this second ([`clock::now_s`]).
    pub fn state(&self, now_s: Seconds) -> SocketState {
        let flags = self.flags.load(Relaxed);
        let last = self.up.last_s().max(self.down.last_s()).unwrap_or(self.since_s);
        if flags & (ORDERED | PARTING) != 0 {
            SocketState::Closing
        } else if self.worker.admin.ending().is_some() {
            SocketState::Draining
        } else if flags & SUSPECT != 0 {
            SocketState::Suspect
        } else if now_s.since(last) >= QUIET_S {
            SocketState::Quiet
        } else {
            SocketState::Open
        }
    }

    /// Sets whether the client owes an answer.
    pub fn set_suspect(&self, suspect: bool) {
        if suspect {
            self.flags.fetch_or(SUSPECT, Relaxed);
        } else if self.flags.load(Relaxed) & SUSPECT != 0 {
            self.flags.fetch_and(!SUSPECT, Relaxed);
        }
    }

    /// Records that one side has sent Close.
    pub fn parts(&self) {
        self.flags.fetch_or(PARTING, Relaxed);
    }

    /// Counts the socket as opened, and thereby as closed once it is over.
    pub fn begins(&self) {
        if self.holders.fetch_or(COUNTED, AcqRel) & COUNTED == 0 {
            let transport = transport_of(self.transport.fetch_or(COUNTED_LIVE, AcqRel));
            self.worker.series.sockets.opened(transport);
            self.worker.series.socket_starts(transport);
        }
    }

    /// Moves the socket to another transport.
    pub(super) fn change_transport(&self, to: Transport) {
        let change = |now: u8| Some(to as u8 | now & COUNTED_LIVE);
        if let Ok(before) = self.transport.fetch_update(AcqRel, Relaxed, change)
            && before & COUNTED_LIVE != 0
        {
            self.worker.series.socket_lives(transport_of(before), -1);
            self.worker.series.socket_lives(to, 1);
        }
    }

    /// Whether the socket is to be shown: of two that are made at once for one session, only one begins.
    pub fn has_begun(&self) -> bool {
        self.holders.load(Relaxed) & COUNTED != 0
    }

    /// Whether the socket has begun and is not over.
    pub(crate) fn is_live(&self) -> bool {
        self.holders.load(Relaxed) & (LIVE | COUNTED) == LIVE | COUNTED
    }

    /// Whether one side has sent Close.
    pub fn has_parted(&self) -> bool {
        self.flags.load(Relaxed) & PARTING != 0
    }

    /// Sets the reason why the socket ends, unless one is set already.
    pub fn set_end_reason(&self, why: EndReason) {
        let _ = self.end.compare_exchange(0, why as u8, Relaxed, Relaxed);
    }

    /// Reason why the socket ends, if one is set.
    pub fn end_reason(&self) -> Option<EndReason> {
        let end = self.end.load(Relaxed);
        EndReason::ALL.into_iter().find(|one| *one as u8 == end)
    }

    /// Closes the socket at an operator's command: its tunnel sends this Close frame and ends. `false` if there is no
    /// tunnel or a close was ordered before.
    pub fn order(&self, order: &CloseOrder) -> bool {
        let waker = {
            let mut cold = lock(&self.cold);
            let told = cold.care.as_ref().is_some_and(|care| care.order.is_some());
            if told || self.holders.load(Relaxed) & TUNNEL == 0 {
                return false;
            }
            cold.care.get_or_insert_default().order = Some(order.clone());
            cold.waker.clone()
        };
        self.set_end_reason(EndReason::Operator);
        self.flags.fetch_or(ORDERED, AcqRel);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Whether an operator wants the socket closed. This is a single load, made at every poll of the tunnel.
    #[inline]
    pub fn is_ordered(&self) -> bool {
        self.flags.load(Relaxed) & ORDERED != 0
    }

    /// Close frame that the tunnel is to send.
    pub fn ordered(&self) -> Option<CloseOrder> {
        lock(&self.cold).care.as_ref().and_then(|care| care.order.clone())
    }

    /// Stores the waker of the tunnel's task; called once, because it stays the same for the tunnel's life.
    pub fn woken_by(&self, waker: &Waker) {
        lock(&self.cold).waker = Some(waker.clone());
    }

    /// Wakes the tunnel's task, from any thread.
    pub fn wake(&self) {
        let waker = lock(&self.cold).waker.clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(super) fn let_go(&self, holder: u8) {
        if self.holders.fetch_and(!holder, AcqRel) & (OWNER | TUNNEL) == holder {
            self.finish();
        }
    }

    /// Counts the socket as closed and removes it from the list; only the first call has an effect.
    pub(super) fn finish(&self) {
        let before = self.holders.fetch_and(!(LIVE | COUNTED), AcqRel);
        if before & LIVE == 0 {
            return;
        }
        let last = self.transport.fetch_and(!COUNTED_LIVE, AcqRel);
        if last & COUNTED_LIVE != 0 {
            self.worker.series.socket_ends(transport_of(last));
        }
        let age_s = clock::now_s().since(self.since_s);
        let default = if self.transport() == Transport::Polling { EndReason::Expired } else { EndReason::ClientGone };
        if before & COUNTED != 0 {
            let codes = [self.up.code(), self.down.code()];
            self.worker.series.sockets.closed(self.transport(), codes, self.end_reason().unwrap_or(default), age_s);
        }
        self.leave_place();
        if let Some(sockets) = self.common.sockets.upgrade() {
            sockets.remove(self);
        }
    }
}

/// Returns the transport in a value of `transport`.
fn transport_of(bits: u8) -> Transport {
    let number = bits & !COUNTED_LIVE;
    Transport::ALL.into_iter().find(|one| *one as u8 == number).unwrap_or(Transport::Polling)
}
