//! Long-lived responses: an event stream, or another protocol's stream from a session to its client. Each counts as a
//! live session of its worker while it lasts, and a drain ends it like a poll.
//!
//! Nothing of it is buffered, and no time-out cuts it. A drain ends it with a complete body (the last chunk), so that
//! an `EventSource` reconnects at once. Other responses are never ended that way, because a truncated response must not
//! look complete. Without a drain, a stream costs an entry on its thread's list and a check of two flags per wake-up.
//!
//! An id that first appears in the stream itself (the endpoint event of older MCP) is learned as it passes, before the
//! client has its last byte. Out of scope: Engine.IO's polls, which are short and are ended while they wait
//! ([`super::open_poll`]).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::body::Frame;
use hyper::http::response::Parts;

use super::Job;
use crate::affinity::Ttl;
use crate::affinity::ask::RequestKind;
use crate::affinity::{Choice, SessionHold};
use crate::client::Client;
use crate::clock::{self, Millis};
use crate::config::pattern::{PatternMatch, Template};
use crate::config::rules::{AnswerPlace, Learn, Protocol};
use crate::engine_io::MAX_HANDSHAKE;
use crate::keys::Key;
use crate::rules::{answer, extract};
use crate::sockets::{self, New, Transport};
use crate::state::Shared;
use crate::thread::{Registered, ThreadOrder};
use crate::upstream::Upstream;
use crate::upstream::session_ends::{EndSlot, Ending};
use crate::upstream::worker::{SessionSeat, Worker};

/// The longest time between two checks, in milliseconds: a drain may be cancelled, or its grace may change.
const STREAM_CHECK_MS: u64 = 1_000;

/// A long-lived response to a client.
pub struct Stream {
    shared: Arc<Shared>,
    upstream: Arc<Upstream>,
    worker: Arc<Worker>,
    /// The session that the stream belongs to, and with which it ends.
    key: Option<Key>,
    /// The stream's own place in its worker's session count, if it belongs to no session.
    seat: Option<SessionSeat>,
    /// Keeps the pin of a session that was learned from this stream.
    hold: Option<SessionHold>,
    /// When the current drain ends the stream, in milliseconds; chosen at the first check.
    due_ms: Option<Millis>,
    /// The stream's entry on its thread's list, by which a drain wakes it.
    entry: Registered,
    /// Timer for the next check; set only during a drain.
    look: Option<Pin<Box<tokio::time::Sleep>>>,
    newborn: Option<Newborn>,
}

/// Looks for a session id in the stream.
struct Newborn {
    client: Client,
    /// The templates that are still possible, each with the index of its rule.
    hopes: Vec<(usize, Template)>,
    seen: Vec<u8>,
}

impl Stream {
    /// Creates the stream of a response of unknown length; `None` if the response is not long-lived.
    pub fn of(job: &Job, choice: &mut Choice, parts: &Parts) -> Option<Box<Self>> {
        if !parts.status.is_success() {
            return None;
        }
        let (events, live) = (answer::is_events(&parts.headers), job.ask.rule(&job.upstream));
        // SockJS's other streams are like events: they consist of lines, and their end makes the client connect again.
        let frames = live.is_some_and(|live| live.rule.protocol == Protocol::SockJs) && job.ask.is_poll();
        if !(events || frames) {
            return None;
        }
        let key = match job.ask.kind {
            RequestKind::Session { key, .. } if choice.hold.is_some() => Some(key),
            _ => None,
        };
        // A session that was learned from the head of this response is already counted by its pin.
        let seat = match choice.hold {
            Some(_) => None,
            None => Some(choice.seat.take().unwrap_or_else(|| choice.worker.session())),
        };
        Some(Box::new(Self {
            shared: job.conn.thread.shared.clone(),
            upstream: job.upstream.clone(),
            worker: choice.worker.clone(),
            key: key.or_else(|| choice.hold.as_ref().map(SessionHold::key)),
            seat,
            hold: None,
            due_ms: None,
            entry: job.conn.thread.register_poll(choice.worker.serial),
            look: None,
            newborn: Newborn::of(job, parts.status).filter(|_| events),
        }))
    }

    /// Inspects a frame that passes, as long as an id may appear.
    pub fn passes(&mut self, frame: &Frame<Bytes>) {
        let (Some(newborn), Some(data)) = (&mut self.newborn, frame.data_ref()) else { return };
        match newborn.look(data) {
            PatternMatch::NeedMore => {}
            PatternMatch::Never => self.newborn = None,
            PatternMatch::Found((rule, id)) => self.bear(rule, &id),
        }
    }

    /// Pins the session whose id appeared here; the stream belongs to that session from now on.
    fn bear(&mut self, rule: usize, id: &[u8]) {
        let (Some(newborn), Some(live)) = (self.newborn.take(), self.upstream.rules.get(rule)) else { return };
        let key = live.key(&self.shared.sessions.keys, &self.upstream.config.name, id);
        let seat = self.seat.take().unwrap_or_else(|| self.worker.session());
        // The facts of the request are not kept for the life of a stream.
        let (transport, kind) = (Transport::Polling, sockets::SocketKind::Plain);
        let new = New { worker: &self.worker, session: Some(seat), transport, kind, sid: id, facts: None };
        self.shared.sessions.pin(key, newborn.client, new, Ttl::Configured(live.rule.ttl));
        live.series.learned.inc();
        self.hold = self.shared.sessions.hold(key);
        self.key = Some(key);
    }

    /// Ready once a drain or the shutdown of stickyd ends the stream: a complete end is better than a cut.
    pub fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.entry.watch(cx.waker());
        if matches!(self.entry.order(), ThreadOrder::Stop | ThreadOrder::Cut) {
            return Poll::Ready(());
        }
        if !self.worker.admin.ends() {
            if self.look.take().is_some() {
                // The drain was cancelled.
                self.due_ms = None;
                self.entry.set_worker(Some(self.worker.serial));
            }
            return Poll::Pending;
        }
        loop {
            if self.look.as_mut().is_some_and(|look| look.as_mut().poll(cx).is_pending()) {
                return Poll::Pending;
            }
            let left = self.due().map_or(STREAM_CHECK_MS, |due| due.since(clock::now_ms()));
            if left == 0 {
                match self.key {
                    Some(key) => self.shared.sessions.end(&self.upstream, key),
                    None => self.upstream.series().drained_polling.inc(),
                }
                return Poll::Ready(());
            }
            // From now on the stream is woken by its own timer.
            self.entry.set_worker(None);
            self.look = Some(Box::pin(tokio::time::sleep(Duration::from_millis(left.min(STREAM_CHECK_MS)))));
        }
    }

    /// When the drain ends the stream: together with its session, or, if it belongs to none, at a random moment of the
    /// time left.
    fn due(&mut self) -> Option<Millis> {
        if let Some(key) = self.key {
            return self.shared.sessions.ends_at(key, &self.worker);
        }
        let ending = self.worker.admin.ending()?;
        let late = |ending: &Ending| {
            let (chance, jitter) = (crate::random::u64() >> 32, crate::random::u64() >> 32);
            let slot = ending.late_slot(clock::now_ms(), u32::try_from(chance).unwrap_or(0));
            ending.due_ms(slot, u32::try_from(jitter).unwrap_or(0))
        };
        let slot = self.due_ms.or_else(|| late(&ending));
        self.due_ms = slot;
        // The time of the drain may have been shortened meanwhile.
        Some(slot?.min(ending.due_ms(EndSlot::NONE, 0)?))
    }
}

impl Newborn {
    fn of(job: &Job, status: StatusCode) -> Option<Self> {
        let facts = job.ask.facts.as_ref().filter(|facts| facts.bears())?;
        let hope = |(rule, learn): (usize, &Learn)| match &learn.from {
            AnswerPlace::Prefix(template) if learn.status.is_none_or(|wanted| wanted == status.as_u16()) => {
                Some((rule, template.clone()))
            }
            _ => None,
        };
        let rules = job.upstream.rules.iter().enumerate();
        let births = rules.flat_map(|(rule, live)| live.births(facts).map(move |learn| (rule, learn)));
        let hopes: Vec<_> = births.filter_map(hope).collect();
        (!hopes.is_empty()).then(|| Self { client: job.client, hopes, seen: Vec::new() })
    }

    fn look(&mut self, data: &[u8]) -> PatternMatch<(usize, Vec<u8>)> {
        let room = MAX_HANDSHAKE.saturating_sub(self.seen.len());
        self.seen.extend_from_slice(data.get(..room).unwrap_or(data));
        let mut found = None;
        self.hopes.retain(|(rule, template)| match extract::behind(template, &self.seen, false) {
            PatternMatch::NeedMore => true,
            PatternMatch::Never => false,
            PatternMatch::Found(id) => {
                found.get_or_insert((*rule, id));
                false
            }
        });
        match found {
            Some(found) => PatternMatch::Found(found),
            None if self.hopes.is_empty() || self.seen.len() >= MAX_HANDSHAKE => PatternMatch::Never,
            None => PatternMatch::NeedMore,
        }
    }
}
