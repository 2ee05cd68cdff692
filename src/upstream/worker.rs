//! One application process as stickyd sees it: what checks and connects say, what the operator says, what it carries.
//!
//! A [`Worker`] outlives reloads: it is carried over by (upstream, address), and pins and tunnels hold it. The three axes
//! of design.md §7 meet in two questions, [`Worker::takes_new`] and [`Worker::serves`]; nothing else combines them.
//! Counts go up and down only through guards (`counts`), never by hand.

use arc_swap::ArcSwap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

use super::admin::{Admin, Change};
pub use super::counts::{Count, Established, Session};
use super::eject::{Eject, Look};
use super::gate::Gate;
use super::life::Life;
use super::notes::Notes;
use super::tls::Link;
use crate::affinity::cookie::WorkerId;
use crate::affinity::ring::Recent;
use crate::clock;
use crate::config::{self, Address, AdminState};
use crate::metrics::WorkerSeries;

/// Requests unanswered for this long, three at once, with no answer to anybody meanwhile: the worker is hung.
pub const SLOW_MS: u64 = 2_000;
const SLOW_REQUESTS: u32 = 3;

/// What checks and connects say of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Passes its checks.
    Up,
    /// Accepts, but has not (yet) passed enough checks.
    Starting,
    /// Accepts and does not answer.
    Hung,
    /// Refuses connects while established connections to it live on.
    Leaving,
    /// Refuses connects and no established connection to it is left.
    Gone,
}

impl Health {
    /// The word for it in metrics and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Starting => "starting",
            Self::Hung => "hung",
            Self::Leaving => "leaving",
            Self::Gone => "gone",
        }
    }
}

/// What the last checks amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Checks {
    /// `rise` passed in a row, or none was made yet.
    Passing = 0,
    /// `fall` failed in a row, or not enough passed since.
    Failing = 1,
    /// `fall` timed out in a row.
    TimingOut = 2,
}

/// May a worker be asked with a `PUT` probe (protocols §1.5)?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Oracle {
    /// It never has, whatever it was asked: what it says on one path is nothing to go by on another.
    Untried = 0,
    /// It answered code 1 to a random sid.
    Usable = 1,
}

/// One application process.
pub struct Worker {
    /// Unlike any other worker's in this process, those of the past included.
    pub serial: u64,
    /// The upstream's name.
    pub upstream: Box<str>,
    /// Where it listens.
    pub address: Address,
    /// Shown to operators.
    pub name: String,
    /// What cookies call it.
    pub id: WorkerId,
    /// Counters, resolved.
    pub series: WorkerSeries,
    /// Sessions placed on it in the last 10 s.
    pub recent: Recent,
    link: ArcSwap<Link>,
    /// How often `link` has changed.
    links: AtomicU32,
    /// What the operator says, and where.
    pub admin: Admin,
    /// What live requests say of it.
    pub eject: Eject,
    /// The limit of connections in use.
    pub gate: Gate,
    /// What an operator is told of it.
    pub notes: Notes,
    checks: AtomicU8,
    oracle: AtomicU8,
    refused: AtomicBool,
    refusal: tokio::sync::Notify,
    pub(super) life: Life,
    pub(super) sessions: AtomicU32,
    pub(super) tunnels: AtomicU32,
    pub(super) in_flight: AtomicU32,
    pub(super) slow: AtomicU32,
    last_answer_ms: AtomicU64,
    fresh_refusals: AtomicU64,
}

impl Worker {
    /// A worker nobody has talked to yet; taken for up until a check or connect says otherwise.
    pub fn new(upstream: &str, address: Address, name: String, id: WorkerId, series: WorkerSeries) -> Arc<Self> {
        // From 1: 0 is nobody.
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        Arc::new(Self {
            serial: SERIAL.fetch_add(1, Relaxed),
            upstream: upstream.into(),
            address,
            name,
            id,
            series,
            recent: Recent::default(),
            link: ArcSwap::from_pointee(Link::Plain),
            links: AtomicU32::new(0),
            admin: Admin::new(),
            eject: Eject::default(),
            gate: Gate::default(),
            notes: Notes::default(),
            checks: AtomicU8::new(Checks::Passing as u8),
            oracle: AtomicU8::new(Oracle::Untried as u8),
            refused: AtomicBool::new(false),
            refusal: tokio::sync::Notify::new(),
            life: Life::new(clock::now_ms()),
            sessions: AtomicU32::new(0),
            tunnels: AtomicU32::new(0),
            in_flight: AtomicU32::new(0),
            slow: AtomicU32::new(0),
            last_answer_ms: AtomicU64::new(0),
            fresh_refusals: AtomicU64::new(0),
        })
    }

    /// Whether it still has anything that must end before it may be forgotten: a session, a tunnel, a request.
    pub fn is_needed(&self) -> bool {
        self.sessions() > 0 || self.tunnels() > 0 || self.in_flight() > 0
    }

    /// Takes new sessions: up ∧ ready ∧ not ejected ∧ below its limit.
    pub fn takes_new(&self) -> bool {
        self.admin() == AdminState::Ready && self.health() == Health::Up && !self.ejected() && self.gate.is_open()
    }

    /// Set aside after live failures. The first look after the time is over says so.
    pub fn ejected(&self) -> bool {
        let look = self.eject.look(clock::now_ms);
        if look == Look::Back {
            tracing::info!(upstream = %self.upstream, worker = %self.name, "worker is back from its ejection");
        }
        look == Look::Out
    }

    /// The same, but for requests that wait for long, and for the last two terms: slowness may be the application's nature,
    /// and where all workers are slow, ejected or full a new session is better off with one of them than with none.
    pub fn takes_new_at_worst(&self) -> bool {
        self.admin() == AdminState::Ready && self.checks() == Checks::Passing && !self.refuses_connects()
    }

    /// Serves its own sessions: not gone ∧ not maint ∧ no grace of its drain over.
    pub fn serves(&self) -> bool {
        self.admin() != AdminState::Maint && !self.gone() && !self.admin.is_over()
    }

    /// Connects are refused and no established connection to it is left.
    pub fn gone(&self) -> bool {
        self.refused.load(Relaxed) && self.life.established() == 0
    }

    /// The last connect was refused; idle connections to it need a look.
    pub fn refuses_connects(&self) -> bool {
        self.refused.load(Relaxed)
    }

    /// Accepts and does not answer.
    pub fn hung(&self) -> bool {
        self.checks() == Checks::TimingOut
            || (self.slow.load(Relaxed) >= SLOW_REQUESTS && self.silent_for(clock::now_ms()) >= SLOW_MS)
    }

    /// The health axis.
    pub fn health(&self) -> Health {
        if self.refused.load(Relaxed) {
            return if self.gone() { Health::Gone } else { Health::Leaving };
        }
        if self.hung() {
            return Health::Hung;
        }
        match self.checks() {
            Checks::Passing => Health::Up,
            Checks::Failing | Checks::TimingOut => Health::Starting,
        }
    }

    /// What the last checks amount to.
    pub fn checks(&self) -> Checks {
        match self.checks.load(Relaxed) {
            0 => Checks::Passing,
            1 => Checks::Failing,
            _ => Checks::TimingOut,
        }
    }

    /// What the health task concluded.
    pub fn set_checks(&self, checks: Checks) {
        let before = self.checks.swap(checks as u8, Relaxed);
        if checks == Checks::Passing && before != Checks::Passing as u8 {
            self.eject.ease_in(clock::now_ms());
        }
    }

    /// An operator or the file has something to say of it. Only on the control thread.
    pub fn change(&self, change: Change, config: &config::Upstream) {
        self.admin.change(change, config, self.sessions(), clock::now_ms());
    }

    /// What the operator says.
    pub fn admin(&self) -> AdminState {
        self.admin.state()
    }

    /// How it is spoken to. One that does the same as the one before changes nothing: sessions can be resumed.
    pub fn set_link(&self, link: Link) {
        if !self.link.load().is_as(&link) {
            self.link.store(Arc::new(link));
            self.links.fetch_add(1, Relaxed);
        }
    }

    /// How it is spoken to now.
    pub fn link(&self) -> Arc<Link> {
        self.link.load_full()
    }

    /// Unlike the number of before once the link has changed: connections made by an older one take no more requests.
    pub fn links(&self) -> u32 {
        self.links.load(Relaxed)
    }

    /// Whether probes may be used on it.
    pub fn oracle(&self) -> Oracle {
        match self.oracle.load(Relaxed) {
            0 => Oracle::Untried,
            _ => Oracle::Usable,
        }
    }

    /// Remembers what a probe with a random sid showed.
    pub fn set_oracle(&self, oracle: Oracle) {
        self.oracle.store(oracle as u8, Relaxed);
    }

    /// A connect succeeded. After the end of a life that is a new one: another process may listen there now.
    pub fn connected(&self) {
        let connected = self.life.connected(clock::now_ms());
        // Read first: a store would have every connect take this line from the other threads.
        if self.refused.load(Relaxed) && self.refused.swap(false, Relaxed) {
            let again = connected.again;
            tracing::info!(upstream = %self.upstream, worker = %self.name, again, "worker accepts connections");
        }
        self.restarted(connected.restarted);
    }

    pub(super) fn restarted(&self, generation: Option<u32>) {
        if let Some(generation) = generation {
            self.set_oracle(Oracle::Untried);
            self.eject.new_life(clock::now_ms());
            tracing::info!(upstream = %self.upstream, worker = %self.name, generation, "worker was restarted");
        }
    }

    /// A connect was refused (ECONNREFUSED, ENOENT).
    pub fn connect_refused(&self) {
        let first = self.note_refused();
        // Empty ports of a range are told of together, by the health checks.
        if first && self.life.was_seen() {
            tracing::warn!(upstream = %self.upstream, worker = %self.name, address = %self.address,
                state = self.health().word(), "worker refuses connections");
        }
    }

    /// The same, not logged: of a worker that is still starting. Whether the connect before was not refused.
    pub fn note_refused(&self) -> bool {
        let first = !self.refused.swap(true, Relaxed);
        if first {
            self.refusal.notify_one();
        }
        if self.gone() {
            self.life.gone();
        }
        first
    }

    /// When its present life was first seen ([`clock::now_ms`]).
    pub fn since_ms(&self) -> u64 {
        self.life.since_ms()
    }

    /// Waits for the next connect that is refused after one that was not.
    pub async fn refusal(&self) {
        self.refusal.notified().await;
    }

    /// It answered somebody.
    pub fn answered(&self, now_ms: u64) {
        self.last_answer_ms.store(now_ms, Relaxed);
    }

    /// How long it has answered nobody.
    pub fn silent_for(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.last_answer_ms.load(Relaxed))
    }

    /// Lives seen so far.
    pub fn generation(&self) -> u32 {
        self.life.generation()
    }

    /// Live sessions: pins, WebSocket-first tunnels and placements under way.
    pub fn sessions(&self) -> u32 {
        self.sessions.load(Relaxed)
    }

    /// Live tunnels.
    pub fn tunnels(&self) -> u32 {
        self.tunnels.load(Relaxed)
    }

    /// Requests sent and not fully answered.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Connections to it were just lost: idle ones want a look.
    pub fn has_losses(&self, now_ms: u64) -> bool {
        self.life.has_losses(now_ms)
    }

    /// A sid this worker made less than 10 s ago was refused by it. Three in ten seconds mean that several processes
    /// share its address: says so, in words, at most once in ten seconds.
    pub fn fresh_refusal(&self, now_ms: u64) {
        const WINDOW_MS: u64 = 10_000;
        // Packed: start of the window (ms) in the upper 56 bits, count in the lower 8.
        let old = self.fresh_refusals.load(Relaxed);
        let (start, count) = (old >> 8, old & 0xff);
        let (start, count) =
            if now_ms.saturating_sub(start) > WINDOW_MS { (now_ms, 1) } else { (start, (count + 1).min(255)) };
        self.fresh_refusals.store(start << 8 | count, Relaxed);
        if count == 3 {
            tracing::warn!(upstream = %self.upstream, worker = %self.name, address = %self.address,
                "this worker refuses sessions it made itself: several processes share this address. \
                 Give each its own port (PM2: increment_var: 'PORT'); only while PM2 reloads, two do so in any case");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn a_life_ends_with_the_last_connection_and_begins_with_a_connect() {
        let series = Metrics::new().worker("app", "w");
        let worker = Worker::new("app", Address::Unix("/w".into()), "w".to_owned(), WorkerId(1), series);
        worker.connect_refused();
        worker.connected();
        assert_eq!((worker.generation(), worker.health()), (1, Health::Up), "nobody had listened before");
        let established = worker.connection();
        worker.connect_refused();
        assert_eq!(worker.health(), Health::Leaving);
        worker.connected();
        assert_eq!(worker.generation(), 1, "it had not gone");
        worker.connect_refused();
        drop(established);
        worker.connect_refused();
        assert_eq!(worker.health(), Health::Gone);
        worker.connected();
        assert_eq!((worker.generation(), worker.health()), (2, Health::Up));
    }
}
