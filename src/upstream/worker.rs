//! One application process as stickyd sees it: its health, its admin state, and the load it carries.
//!
//! A [`Worker`] outlives reloads: it is carried over by (upstream, address), and pins and tunnels hold it. Counts go up
//! and down only through guards (`counts`), never by hand. Left out: what follows from its state (`service`).

mod service;

use arc_swap::ArcSwap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use super::admin_state::{AdminChange, AdminControl};
use super::connections::dial::Ipv6Fallback;
use super::connections::limit::ConnectionGate;
use super::connections::tls::Link;
pub(crate) use super::counts::{Count, Established, SessionSeat};
use super::diagnostics::{Notes, RefusalWindow};
use super::eject::EjectionState;
use super::elsewhere::Elsewhere;
use super::restarts::Life;
use super::ring::Recent;
use super::session_ends::LATE_REQUESTS;
use super::session_paths::Oracles;
use super::slow_requests::SlowRequests;
pub(crate) use super::states::{Checks, WorkerHealth};
use crate::clock::{self, AtomicMillis, Millis};
use crate::config::{self, Address, AdminState};
use crate::cookie::WorkerId;
use crate::events::tell;
use crate::metrics::WorkerSeries;
use crate::upstream::seating::MovedMark;
use crate::upstream::serial::WorkerSerial;

/// Time for a worker to see that the session of a client is over, before the worker itself is ended.
const SEES_END: Duration = Duration::from_millis(500);

/// Time in milliseconds after which a request without a response counts as slow. A worker is hung if requests of three
/// clients are slow at once and it answered no other request within this time.
pub(crate) const SLOW_MS: u64 = 2_000;

/// Time in milliseconds for which a worker is reported as sharing its address after it last looked so.
const SHARED_MS: u64 = 600_000;

/// One application process, with everything that is known about it.
pub struct Worker {
    /// Number that identifies the worker within this stickyd process.
    pub serial: WorkerSerial,
    /// Name of the upstream that the worker belongs to.
    pub upstream: Box<str>,
    /// The address at which the worker listens.
    pub address: Address,
    /// Whether the worker is reached at ::1 if nothing listens on 127.0.0.1.
    pub(crate) ipv6: Ipv6Fallback,
    /// Name of the worker, as shown to operators.
    pub name: String,
    /// Id of the worker in cookies.
    pub id: WorkerId,
    /// Metric counters of the worker, resolved once.
    pub series: Arc<WorkerSeries>,
    /// Number of sessions placed on the worker within the last 10 s.
    pub recent: Recent,
    link: ArcSwap<Link>,
    /// Number of times that `link` has changed.
    links: AtomicU32,
    /// The admin state, from the file and as set at run time.
    pub admin: AdminControl,
    /// The record of live requests that decides about ejection.
    pub eject: EjectionState,
    /// The limit on connections in use, and its queue.
    pub gate: ConnectionGate,
    /// The last check and the last ejection, as shown to operators.
    pub notes: Notes,
    /// What the worker answers to probes, by path.
    pub(crate) oracles: Oracles,
    checks: AtomicU8,
    of_range: AtomicBool,
    refused: AtomicBool,
    outdated: AtomicBool,
    refusal: tokio::sync::Notify,
    pub(crate) life: Life,
    pub(crate) sessions: AtomicU32,
    /// Sessions through other stickyds of the fleet.
    elsewhere: Elsewhere,
    pub(crate) tunnels: AtomicU32,
    pub(crate) in_flight: AtomicU32,
    pub(crate) slow: SlowRequests,
    /// Tells the placement of sessions that the load or the state has changed.
    pub(crate) moved: MovedMark,
    last_answer: AtomicMillis,
    fresh_refusals: RefusalWindow,
    /// When it last looked as if several processes shared the address.
    shared_at: AtomicMillis,
    /// When a session last ended whose client may still have a request on the way.
    late_since: AtomicMillis,
}

impl Worker {
    /// Creates a worker that was never connected; it counts as up until a check or a connect shows otherwise.
    pub fn new(upstream: &str, address: Address, name: String, id: WorkerId, series: Arc<WorkerSeries>) -> Arc<Self> {
        Arc::new(Self {
            serial: WorkerSerial::next(),
            upstream: upstream.into(),
            address,
            ipv6: Ipv6Fallback::default(),
            name,
            id,
            series,
            recent: Recent::default(),
            link: ArcSwap::from_pointee(Link::Plain),
            links: AtomicU32::new(0),
            admin: AdminControl::new(),
            eject: EjectionState::default(),
            gate: ConnectionGate::default(),
            notes: Notes::default(),
            oracles: Oracles::default(),
            checks: AtomicU8::new(Checks::Passing as u8),
            of_range: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            outdated: AtomicBool::new(false),
            refusal: tokio::sync::Notify::new(),
            life: Life::new(clock::now_ms()),
            sessions: AtomicU32::new(0),
            elsewhere: Elsewhere::default(),
            tunnels: AtomicU32::new(0),
            in_flight: AtomicU32::new(0),
            slow: SlowRequests::default(),
            moved: MovedMark::default(),
            last_answer: AtomicMillis::default(),
            fresh_refusals: RefusalWindow::default(),
            shared_at: AtomicMillis::none(),
            late_since: AtomicMillis::none(),
        })
    }

    /// Whether anything is left that must end before the worker may be forgotten: a session, a tunnel, a request, or a
    /// request that may be on its way.
    pub fn is_needed(&self) -> bool {
        let awaits_late = || {
            self.late_since.get().is_some_and(|since| since.saturating_add(LATE_REQUESTS + SEES_END) > clock::now_ms())
        };
        self.sessions() > 0 || self.tunnels() > 0 || self.in_flight() > 0 || awaits_late()
    }

    /// Keeps the worker for the requests that a client may have sent before it learned that its session has ended.
    pub(crate) fn await_late_requests(&self) {
        self.late_since.set(Some(clock::now_ms()));
    }

    /// Tells the placement of sessions that the load or the state of the worker has changed.
    pub(crate) fn mark_moved(&self) {
        self.moved.mark(self.serial);
    }

    /// Applies a change of the admin state by an operator or the file. Must be called on the control thread only.
    pub fn change(&self, change: AdminChange, config: &config::Upstream) {
        let (before, by_file) = (self.admin.word(), matches!(change, AdminChange::File(_)));
        self.admin.change(change, config, self.sessions(), clock::now_ms());
        self.mark_moved();
        if by_file && before != self.admin.word() && self.admin() == AdminState::Ready {
            tell!(self.series.events, Ready, info, upstream = %self.upstream, worker = %self.name, before,
                "worker is ready again by the configuration");
        }
    }

    /// Returns the admin state that is in effect.
    pub fn admin(&self) -> AdminState {
        self.admin.state()
    }

    /// Sets how connections to the worker are secured. A link with the same effect as the present one changes nothing,
    /// so that TLS sessions can still be resumed.
    pub fn set_link(&self, link: Link) {
        if !self.link.load().is_as(&link) {
            self.link.store(Arc::new(link));
            self.links.fetch_add(1, Relaxed);
        }
    }

    /// Sets whether the worker's address is one of a range of ports.
    pub fn set_of_range(&self, of_range: bool) {
        self.of_range.store(of_range, Relaxed);
    }

    /// Whether the worker is only a port of a range on which no process has listened yet. Such ports are not shown one
    /// by one: a range may be wider than the number of processes.
    pub fn is_unused(&self) -> bool {
        self.of_range.load(Relaxed) && !self.life.was_seen()
    }

    /// Returns how connections to the worker are secured now.
    pub fn link(&self) -> Arc<Link> {
        self.link.load_full()
    }

    /// Returns a number that changes with the link. Connections that were made with an older link take no more
    /// requests.
    pub fn links(&self) -> u32 {
        self.links.load(Relaxed)
    }

    /// Records a successful connect. After the end of a life it begins a new one, as another process may listen there
    /// now.
    pub fn connected(&self) {
        let connected = self.life.connected(clock::now_ms());
        // Read first: a swap would move this cache line to the connecting thread at every connect.
        if self.refused.load(Relaxed) && self.refused.swap(false, Relaxed) {
            tell!(self.series.events, WorkerUp, info,
                upstream = %self.upstream, worker = %self.name, again = connected.again,
                "worker accepts connections");
            self.mark_moved();
        }
        self.restarted(connected.restarted);
    }

    pub(crate) fn restarted(&self, generation: Option<u32>) {
        if let Some(generation) = generation {
            self.series.restarts.inc();
            self.oracles.forget();
            self.eject.new_life(clock::now_ms());
            tell!(self.series.events, WorkerRestarted, info,
                upstream = %self.upstream, worker = %self.name, generation, "worker was restarted");
            self.mark_moved();
        }
    }

    /// Records a refused connect (ECONNREFUSED, ENOENT), and logs the first one in a row.
    pub fn connect_refused(&self) {
        let first = self.note_refused();
        // Workers that never accepted a connect, such as empty ports of a range, are logged together by the health
        // checks.
        if first && self.life.was_seen() {
            tell!(self.series.events, WorkerDown, warn,
                upstream = %self.upstream, worker = %self.name, address = %self.address,
                state = self.health().word(), "worker refuses connections");
        }
    }

    /// Records a refused connect of a starting worker, without a log line. Returns whether it is the first in a row.
    pub fn note_refused(&self) -> bool {
        let first = !self.refused.swap(true, Relaxed);
        if first {
            self.refusal.notify_one();
            self.mark_moved();
        }
        if self.gone() {
            self.life.gone();
        }
        first
    }

    /// Returns when the worker's present life was first seen ([`clock::now_ms`]).
    pub fn since_ms(&self) -> Millis {
        self.life.since_ms()
    }

    /// Waits for the next refused connect that follows one that was not refused.
    pub async fn refusal(&self) {
        self.refusal.notified().await;
    }

    /// Records that the worker answered a request.
    pub fn answered(&self, now_ms: Millis) {
        self.last_answer.set(Some(now_ms));
    }

    /// Returns the time in milliseconds since the worker last answered a request.
    pub fn silent_for(&self, now_ms: Millis) -> u64 {
        now_ms.since(self.last_answer.get().unwrap_or_default())
    }

    /// Whether the worker answered some request within the last `ms` milliseconds.
    pub fn has_answered_within(&self, ms: u64, now_ms: Millis) -> bool {
        self.last_answer.get().is_some_and(|last| now_ms.since(last) <= ms)
    }

    /// Number of lives seen so far.
    pub fn generation(&self) -> u32 {
        self.life.generation()
    }

    /// Returns the number of sessions by which new ones are placed: those through all stickyds of the fleet.
    pub fn load(&self) -> u32 {
        self.elsewhere.load(self.sessions())
    }

    /// Sets how many sessions the worker has through this number of other stickyds.
    pub(crate) fn set_elsewhere(&self, sessions: u64, stickyds: u32) {
        if self.elsewhere.set(sessions, stickyds, self.sessions()) {
            self.mark_moved();
        }
    }

    /// Returns the number of live sessions: pins, tunnels that began as a WebSocket, and placements in progress.
    pub fn sessions(&self) -> u32 {
        self.sessions.load(Relaxed)
    }

    /// Returns the number of live tunnels.
    pub fn tunnels(&self) -> u32 {
        self.tunnels.load(Relaxed)
    }

    /// Returns the number of requests that were sent and not fully answered.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Whether connections to the worker were lost within the last second, so that idle ones need a check.
    pub fn has_losses(&self, now_ms: Millis) -> bool {
        self.life.has_losses(now_ms)
    }

    /// Whether several processes seem to share the worker's address: it refused sessions of its own a short time ago.
    pub fn shares_address(&self, now_ms: Millis) -> bool {
        self.shared_at.get().is_some_and(|at| now_ms.since(at) < SHARED_MS)
    }

    /// Records that the worker refused a sid which it made less than 10 s ago. Three such refusals within ten seconds
    /// mean that several processes share its address, which is logged at most once in ten seconds.
    pub fn fresh_refusal(&self, now_ms: Millis) {
        if self.fresh_refusals.add(now_ms) {
            self.shared_at.set(Some(now_ms));
            tell!(self.series.events, Advice, warn,
                upstream = %self.upstream, worker = %self.name, address = %self.address,
                "worker refuses sessions it made itself: several processes share this address. \
                 Give each its own port (PM2: increment_var: 'PORT'). While PM2 reloads, two always share it");
        }
    }
}

#[cfg(test)]
mod tests;
