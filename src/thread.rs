//! A data thread: the state that its connections, pools and tunnels share without locks.
//!
//! One OS thread with one current-thread runtime; everything on it is `!Send` (docs/reference/performance.md §0.1).
//! Threads share only [`Shared`]. Idle limits are enforced by a tick over [`LiveHandle`] entries instead of a timer per
//! connection: a timer costs one allocation and two timer-wheel operations per request, the tick a few nanoseconds per
//! connection and second.

pub(crate) mod idle_clients;
pub(crate) mod registered;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use tokio_util::task::TaskTracker;

use crate::clock::Seconds;
use crate::clock::{self, Millis};
use crate::config::Limits;
use crate::min_rate::Transfers;
use crate::outbound::{Outbound, OutboundFault, OutboundSettings};
use crate::route::forward_auth::ForwardGuard;
use crate::state::Shared;
use crate::upstream::connections::WorkerConnections;
use crate::upstream::serial::WorkerSerial;

use idle_clients::Spare;
pub(crate) use registered::{ListenerRemoved, LiveHandle, Registered, ThreadOrder};
use registered::{Share, ThreadEntry};

/// Maximum number of connections to the service of one guard that stay open between two questions.
const SERVICE_CONNECTIONS: usize = 16;

/// Maximum number of questions to one service per second; handshakes have limits of their own (`rate`).
const SERVICE_RATE: u64 = 100_000;

/// Seconds that an idle client connection has to end on its own before it is cut.
const LINGER_S: u32 = 15;

/// Seconds without activity after which a connection without a request counts as still.
const STILL_S: u32 = 2;

/// Size of the buffer that all tunnels of a thread read into, in bytes (docs/reference/performance.md §2: 256 KiB beat
/// 64 KiB by a sixth).
const TUNNEL_BUFFER: usize = 256 * 1024;

/// Shows that a thread still responds: it beats on every tick until the thread stops. The watchdog holds clones of it.
#[derive(Debug, Clone, Default)]
pub struct Pulse(Arc<AtomicU32>);

impl Pulse {
    /// Returns the number of beats so far, wrapping; it is 0 before the first beat.
    pub fn beats(&self) -> u32 {
        self.0.load(Relaxed)
    }

    /// Records one more beat.
    pub fn beat(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}

/// State that the connections of one data thread share.
pub struct Thread {
    /// State that all threads share.
    pub shared: Arc<Shared>,
    /// Idle connections to workers, by worker serial.
    pub connections: WorkerConnections,
    /// Read buffer, lent to one tunnel for one poll; never held across an await.
    pub buffer: RefCell<Box<[u8]>>,
    /// Every task of this thread (ARCHITECTURE.md, invariant 10).
    pub tasks: TaskTracker,
    /// Turns of TLS handshakes whose ClientHello has arrived; the limit bounds the memory peak of a handshake storm
    /// (docs/reference/performance.md §0.6).
    pub handshakes: tokio::sync::Semaphore,
    /// Transfers that must keep a minimum rate.
    pub paces: Rc<Transfers>,
    /// Limits as of the last second: a request reads them without a lock and without touching a counter shared by
    /// threads.
    limits: RefCell<Rc<Limits>>,
    request_ids: Cell<u64>,
    stopping: Cell<bool>,
    requests_cut: Cell<bool>,
    /// The second of the last tick ([`clock::now_s`]).
    last_second: Cell<Seconds>,
    /// Whether a task is closing tunnels of drained workers.
    closing: Cell<bool>,
    /// Count of sessions closed by operators when polls were last woken for it.
    ended: Cell<u32>,
    live: RefCell<slab::Slab<ThreadEntry>>,
    spare: Spare,
    /// Clients that ask the services of guards, one per guard.
    services: RefCell<Vec<(Weak<ForwardGuard>, Outbound)>>,
}

impl Thread {
    /// Creates a thread without connections.
    pub fn new(shared: Arc<Shared>) -> Rc<Self> {
        let handshakes = tokio::sync::Semaphore::new(shared.limits.load().handshakes);
        let limits = Rc::new(Limits::clone(&shared.limits.load()));
        Rc::new(Self {
            connections: WorkerConnections::new(shared.metrics.clone(), shared.caps.descriptors()),
            buffer: RefCell::new(vec![0; TUNNEL_BUFFER].into_boxed_slice()),
            tasks: TaskTracker::new(),
            handshakes,
            paces: Rc::new(Transfers::new(limits.min_rate, limits.min_rate_grace)),
            limits: RefCell::new(limits),
            request_ids: Cell::new(crate::random::u64()),
            live: RefCell::default(),
            spare: Spare::default(),
            services: RefCell::default(),
            stopping: Cell::new(false),
            requests_cut: Cell::new(false),
            last_second: Cell::new(Seconds::START),
            closing: Cell::new(false),
            ended: Cell::new(shared.sessions.sockets.ended()),
            shared,
        })
    }

    /// Returns this thread's client for the service of a guard.
    ///
    /// # Errors
    /// Fails if TLS cannot be set up.
    pub(crate) fn service_client(&self, guard: &Arc<ForwardGuard>) -> Result<Outbound, OutboundFault> {
        let mut all = self.services.borrow_mut();
        all.retain(|(known, _)| known.strong_count() > 0);
        if let Some((_, client)) = all.iter().find(|(known, _)| std::ptr::eq(known.as_ptr(), Arc::as_ptr(guard))) {
            return Ok(client.clone());
        }
        let mut settings = OutboundSettings::new(guard.config().target.authorities.clone());
        (settings.timeout, settings.idle, settings.per_second) =
            (guard.config().timeout, SERVICE_CONNECTIONS, SERVICE_RATE);
        let client = Outbound::new(&settings, &self.tasks)?;
        // Its idle connections end with it, and a thread that stops waits for them.
        if !self.is_stopping() {
            all.push((Arc::downgrade(guard), client.clone()));
        }
        Ok(client)
    }

    /// Returns the limits of clients, as configured now.
    pub fn limits(&self) -> Rc<Limits> {
        self.limits.borrow().clone()
    }

    /// Returns the number of seconds a client connection may be idle.
    pub fn idle_s(&self) -> u32 {
        clock::whole_seconds(self.limits.borrow().idle_timeout)
    }

    /// Takes over limits that a reload has changed.
    fn follow_limits(&self) {
        let now = self.shared.limits.load();
        if **self.limits.borrow() != **now {
            self.paces.set(now.min_rate, now.min_rate_grace);
            *self.limits.borrow_mut() = Rc::new(Limits::clone(&now));
        }
    }

    /// Registers a client connection in the thread's list; `limit` is the number of seconds it may be silent.
    pub fn register(self: &Rc<Self>, limit: u32, listener_removed: &ListenerRemoved) -> Registered {
        self.shared.clients.fetch_add(1, Relaxed);
        self.enter(limit, listener_removed, Share::Whole)
    }

    fn enter(self: &Rc<Self>, limit: u32, listener_removed: &ListenerRemoved, share: Share) -> Registered {
        let live = Rc::new(LiveHandle {
            order: Cell::new(ThreadOrder::GoOn),
            waker: RefCell::default(),
            since: Cell::new(clock::now_s()),
            moved: Cell::new(false),
            limit: Cell::new(limit),
            tunnel: Cell::new(false),
            share: Cell::new(share),
            worker: Cell::new(None),
            closing: Cell::new(false),
            fresh: Cell::new(true),
            still: Cell::new(false),
            spare: Cell::new(share == Share::Whole),
            listener_removed: listener_removed.clone(),
        });
        let index = self.live.borrow_mut().insert(ThreadEntry { live: live.clone(), address: None });
        // A thread never holds 2³² sockets; if it did, the entry would just never leave the list.
        Registered { live, thread: self.clone(), index: u32::try_from(index).unwrap_or(u32::MAX) }
    }

    /// Registers one request of an HTTP/2 connection that waits at the worker with this serial, so that it can be
    /// woken.
    pub fn register_poll(self: &Rc<Self>, worker: WorkerSerial) -> Registered {
        // Never counted as a client, not even briefly: at the limit, real clients would be rejected.
        let entry = self.enter(0, &ListenerRemoved::default(), Share::Poll);
        entry.set_worker(Some(worker));
        entry
    }

    /// Orders everything on the thread to stop. Connections without a request yet are included only `with_fresh`: their
    /// first request may be on its way, and is still served.
    pub fn stop(&self, with_fresh: bool) {
        self.stopping.set(true);
        self.services.borrow_mut().clear();
        for (_, live) in &*self.live.borrow() {
            if with_fresh || !live.fresh.get() {
                live.tell(ThreadOrder::Stop);
            }
        }
    }

    /// Orders connections of removed listeners to leave. Tunnels stay; connections without a request yet get the order
    /// with their first request.
    pub fn leave(&self) {
        for (_, live) in &*self.live.borrow() {
            let goes_on = matches!(live.order(), ThreadOrder::GoOn | ThreadOrder::Idle);
            if goes_on && live.listener_removed.get() && !live.tunnel.get() && !live.fresh.get() {
                live.tell(ThreadOrder::Leave);
            }
        }
    }

    /// Cuts what is left: only requests, or tunnels too. Returns how many were cut; none is counted twice.
    pub fn cut(&self, tunnels_too: bool) -> usize {
        self.requests_cut.set(true);
        let live = self.live.borrow();
        let spared = |live: &LiveHandle| !tunnels_too && (live.tunnel.get() || live.share.get() == Share::Carrier);
        let left = live
            .iter()
            .filter(|(_, live)| live.order() != ThreadOrder::Cut && live.share.get() != Share::Poll && !spared(live));
        left.map(|(_, live)| live.tell(ThreadOrder::Cut)).count()
    }

    /// Returns the indices of the tunnels to a worker that are not closing yet.
    pub fn tunnels_of(&self, worker: WorkerSerial) -> Vec<usize> {
        let live = self.live.borrow();
        let fits = |live: &LiveHandle| live.worker.get() == Some(worker) && live.tunnel.get() && !live.closing.get();
        live.iter().filter(|(_, live)| fits(live)).map(|(index, _)| index).collect()
    }

    /// Starts closing the tunnel at this index; returns `false` if it no longer leads to this worker or is closing
    /// already.
    pub fn close_tunnel(&self, index: usize, worker: WorkerSerial) -> bool {
        let live = self.live.borrow();
        let Some(live) = live.get(index).filter(|live| live.worker.get() == Some(worker) && live.tunnel.get()) else {
            return false;
        };
        let first = !live.closing.replace(true);
        live.wake();
        first
    }

    /// Wakes the polls that wait at a worker, so that each checks when its session is due to end.
    pub fn wake_polls_of(&self, worker: WorkerSerial) {
        for (_, live) in &*self.live.borrow() {
            if live.worker.get() == Some(worker) && !live.tunnel.get() {
                live.wake();
            }
        }
    }

    /// Wakes every poll if sessions were closed by an operator since the last call, so that each checks whether its own
    /// was closed.
    fn wake_polls_of_closed(&self) {
        let ended = self.shared.sessions.sockets.ended();
        if self.ended.replace(ended) != ended {
            for (_, live) in &*self.live.borrow() {
                if live.worker.get().is_some() && !live.tunnel.get() {
                    live.wake();
                }
            }
        }
    }

    /// Marks that a task closes tunnels of drained workers; returns `false` if one runs already.
    pub fn begin_closing(&self) -> bool {
        !self.closing.replace(true)
    }

    /// Marks that no task closes tunnels of drained workers any more.
    pub fn end_closing(&self) {
        self.closing.set(false);
    }

    /// Whether everything on the thread has been ordered to stop.
    pub fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Whether the time that requests have to finish is over.
    pub fn are_requests_cut(&self) -> bool {
        self.requests_cut.get()
    }

    /// Returns the time of [`clock::now_ms`] as of the last tick; this saves three clock readings per request.
    pub fn now_ms(&self) -> Millis {
        self.connections.now_ms()
    }

    /// Returns a new request id: unique in this process, and not a counter that would reveal the number of other
    /// requests.
    pub fn request_id(&self) -> u64 {
        let next = self.request_ids.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.request_ids.set(next);
        crate::random::mix(next)
    }

    /// Follows a reload's limits, finds idle clients and slow transfers (both once per second), sweeps the connections
    /// to workers, and wakes polls whose session an operator has ended. Called every [`TICK`].
    ///
    /// [`TICK`]: crate::upstream::connections::pool::TICK
    pub fn tick(&self, now_ms: Millis) {
        let now = clock::now_s();
        if now != self.last_second.replace(now) {
            self.follow_limits();
            self.find_idle(now);
            self.paces.second();
        }
        self.wake_polls_of_closed();
        self.connections.tick(now_ms);
    }

    fn find_idle(&self, now: Seconds) {
        for (_, live) in &*self.live.borrow() {
            if live.moved.replace(false) {
                live.since.set(now);
            }
            let limit = live.limit.get();
            let silent = now.since(live.since.get());
            if limit != 0 && silent >= STILL_S && !live.tunnel.get() && !live.still.replace(true) {
                live.wake();
            }
            match live.order.get() {
                ThreadOrder::GoOn if limit != 0 && silent > limit => live.tell(ThreadOrder::Idle),
                // An incomplete head: hyper would wait for the rest of it for ever. Tunnels have a deadline of their
                // own.
                ThreadOrder::Idle | ThreadOrder::Leave
                    if limit != 0 && !live.tunnel.get() && silent > limit.saturating_add(LINGER_S) =>
                {
                    live.tell(ThreadOrder::Cut);
                }
                ThreadOrder::GoOn | ThreadOrder::Idle | ThreadOrder::Leave | ThreadOrder::Stop | ThreadOrder::Cut => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::keys::Keys;

    #[test]
    fn half_a_head_is_cut_but_a_request_under_way_is_not() {
        let config = config::for_command_line(&["127.0.0.1:8000".into()], &["127.0.0.1:8001".into()]).unwrap();
        let thread = Thread::new(Shared::new(&config, vec![1; 32], Keys::random().unwrap()));
        let (waiting, busy) =
            (thread.register(75, &ListenerRemoved::default()), thread.register(0, &ListenerRemoved::default()));
        let began = waiting.since.get();
        thread.find_idle(began.plus_s(76));
        assert_eq!((waiting.order(), busy.order()), (ThreadOrder::Idle, ThreadOrder::GoOn));
        thread.find_idle(began.plus_s(75 + LINGER_S));
        assert_eq!(waiting.order(), ThreadOrder::Idle);
        thread.find_idle(began.plus_s(76 + LINGER_S));
        assert_eq!((waiting.order(), busy.order()), (ThreadOrder::Cut, ThreadOrder::GoOn));
    }
}
