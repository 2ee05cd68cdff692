//! A data thread: what its connections, pools and tunnels share without locks.
//!
//! One OS thread, one current-thread runtime, everything on it `!Send` (data-plane study §0.1). Threads share only
//! [`Shared`]. Idle limits are kept by a tick over [`Live`] entries instead of a timer per connection: a timer costs an
//! allocation and two wheel operations a request, the tick a few nanoseconds a connection a second.

mod live;
mod spare;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use tokio_util::task::TaskTracker;

use crate::clock;
use crate::config::Limits;
use crate::pace::Paces;
use crate::state::Shared;
use crate::upstream::pool::{self, Pool};
use crate::upstream::waits::Waits;

use live::{Entry, Share};
pub use live::{Live, Order, Registered, Removed};
use spare::Spare;

/// How often idle limits and idle pools are looked at.
pub const TICK: Duration = Duration::from_millis(250);

/// Seconds a client connection that was silent for too long has to end by itself.
const LINGER_S: u32 = 15;

/// Seconds after which a connection without a request is still.
const STILL_S: u32 = 2;

/// Bytes of the buffer all tunnels of a thread read into (data-plane study §2: 256 KiB beat 64 KiB by a sixth).
const TUNNEL_BUFFER: usize = 256 * 1024;

/// Shows that a thread still answers: it beats with every tick, until the thread is told to stop. Cloned to whoever watches.
#[derive(Debug, Clone, Default)]
pub struct Pulse(Arc<AtomicU32>);

impl Pulse {
    /// Beats so far, wrapping; 0 is only before the first.
    pub fn beats(&self) -> u32 {
        self.0.load(Relaxed)
    }

    /// One beat more.
    pub fn beat(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}

/// What the connections of one data thread share.
pub struct Thread {
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// Idle connections by worker serial.
    pub pools: RefCell<HashMap<u64, Pool>>,
    /// Who waits for a worker's answer.
    pub waits: Rc<Waits>,
    /// Lent to one tunnel for one poll; never across an await.
    pub buffer: RefCell<Box<[u8]>>,
    /// Every task of this thread (invariant 10).
    pub tasks: TaskTracker,
    /// TLS handshakes under way: a storm of them holds its peak of memory (data-plane study §0.6).
    pub handshakes: tokio::sync::Semaphore,
    /// Transfers that have a minimum rate.
    pub paces: Paces,
    /// As of the last tick: reading them costs a request no lock, and no count that threads share.
    limits: RefCell<Rc<Limits>>,
    /// Milliseconds, as of the last tick: for what may be a quarter of a second off.
    now_ms: Cell<u64>,
    request_ids: Cell<u64>,
    stopping: Cell<bool>,
    requests_cut: Cell<bool>,
    /// A task closes tunnels of drained workers.
    closing: Cell<bool>,
    /// Sessions closed by name, when polls were last woken for that.
    ended: Cell<u32>,
    live: RefCell<slab::Slab<Entry>>,
    spare: Spare,
}

impl Thread {
    /// A thread with nothing on it. `index` only seeds request ids.
    pub fn new(shared: Arc<Shared>) -> Rc<Self> {
        let handshakes = tokio::sync::Semaphore::new(shared.limits.load().handshakes);
        let limits = Rc::new(Limits::clone(&shared.limits.load()));
        Rc::new(Self {
            pools: RefCell::default(),
            waits: Waits::new(),
            buffer: RefCell::new(vec![0; TUNNEL_BUFFER].into_boxed_slice()),
            tasks: TaskTracker::new(),
            handshakes,
            paces: Paces::new(limits.min_rate, limits.min_rate_grace),
            limits: RefCell::new(limits),
            request_ids: Cell::new(crate::random::u64()),
            live: RefCell::default(),
            spare: Spare::default(),
            now_ms: Cell::new(clock::now_ms()),
            stopping: Cell::new(false),
            requests_cut: Cell::new(false),
            closing: Cell::new(false),
            ended: Cell::new(shared.sockets.ended()),
            shared,
        })
    }

    /// The bounds of clients, as the config says them now.
    pub fn limits(&self) -> Rc<Limits> {
        self.limits.borrow().clone()
    }

    /// Seconds a client connection may be idle.
    pub fn idle_s(&self) -> u32 {
        crate::tunnel::whole_seconds(self.limits.borrow().idle_timeout)
    }

    /// Takes over what a reload has changed of them.
    fn follow_limits(&self) {
        let now = self.shared.limits.load();
        if **self.limits.borrow() != **now {
            self.paces.set(now.min_rate, now.min_rate_grace);
            *self.limits.borrow_mut() = Rc::new(Limits::clone(&now));
        }
    }

    /// Puts a client connection on the list, with `limit` seconds of silence allowed.
    pub fn register(self: &Rc<Self>, limit: u32, listener_removed: &Removed) -> Registered {
        self.shared.clients.fetch_add(1, Relaxed);
        self.enter(limit, listener_removed, Share::Whole)
    }

    fn enter(self: &Rc<Self>, limit: u32, listener_removed: &Removed, share: Share) -> Registered {
        let live = Rc::new(Live {
            order: Cell::new(Order::GoOn),
            waker: RefCell::default(),
            since: Cell::new(clock::now_s()),
            moved: Cell::new(false),
            limit: Cell::new(limit),
            tunnel: Cell::new(false),
            share: Cell::new(share),
            worker: Cell::new(0),
            closing: Cell::new(false),
            fresh: Cell::new(true),
            still: Cell::new(false),
            spare: Cell::new(share == Share::Whole),
            listener_removed: listener_removed.clone(),
        });
        let index = self.live.borrow_mut().insert(Entry { live: live.clone(), address: 0 });
        // A thread never holds 2³² sockets; if it did, the entry would only stay listed.
        Registered { live, thread: self.clone(), index: u32::try_from(index).unwrap_or(u32::MAX) }
    }

    /// Puts one request of an HTTP/2 connection on the list, which waits at the worker of this serial: so that it can be woken.
    pub fn register_poll(self: &Rc<Self>, worker: u64) -> Registered {
        // Not even for a moment a client: others are turned away where there are too many.
        let entry = self.enter(0, &Removed::default(), Share::Poll);
        entry.waits_at(worker);
        entry
    }

    /// From now on everything live is told to stop; connections without a request yet only `with_fresh`: their first
    /// request may be on its way, and is still served.
    pub fn stop(&self, with_fresh: bool) {
        self.stopping.set(true);
        for (_, live) in &*self.live.borrow() {
            if with_fresh || !live.fresh.get() {
                live.tell(Order::Stop);
            }
        }
    }

    /// Connections of removed listeners are told so; tunnels are not, and those without a request yet are with their first.
    pub fn leave(&self) {
        for (_, live) in &*self.live.borrow() {
            let goes_on = matches!(live.order(), Order::GoOn | Order::Idle);
            if goes_on && live.listener_removed.get() && !live.tunnel.get() && !live.fresh.get() {
                live.tell(Order::Leave);
            }
        }
    }

    /// Cuts what is left: requests, or all. Returns how many; none is counted twice.
    pub fn cut(&self, tunnels_too: bool) -> usize {
        self.requests_cut.set(true);
        let live = self.live.borrow();
        let spared = |live: &Live| !tunnels_too && (live.tunnel.get() || live.share.get() == Share::Carrier);
        let left = live
            .iter()
            .filter(|(_, live)| live.order() != Order::Cut && live.share.get() != Share::Poll && !spared(live));
        left.map(|(_, live)| live.tell(Order::Cut)).count()
    }

    /// Places of the tunnels to a worker that are not closing yet.
    pub fn tunnels_of(&self, worker: u64) -> Vec<usize> {
        let live = self.live.borrow();
        let fits = |live: &Live| live.worker.get() == worker && live.tunnel.get() && !live.closing.get();
        live.iter().filter(|(_, live)| fits(live)).map(|(index, _)| index).collect()
    }

    /// Has the tunnel at this place end, if it still leads to this worker; whether it did.
    pub fn close_tunnel(&self, index: usize, worker: u64) -> bool {
        let live = self.live.borrow();
        let Some(live) = live.get(index).filter(|live| live.worker.get() == worker && live.tunnel.get()) else {
            return false;
        };
        let first = !live.closing.replace(true);
        live.wake();
        first
    }

    /// Wakes the polls that wait at a worker, so that each sees when its session is to end.
    pub fn wake_polls_of(&self, worker: u64) {
        for (_, live) in &*self.live.borrow() {
            if live.worker.get() == worker && !live.tunnel.get() {
                live.wake();
            }
        }
    }

    /// Where sessions were closed by name, every poll looks whether it was its own.
    fn wake_polls_of_closed(&self) {
        let ended = self.shared.sockets.ended();
        if self.ended.replace(ended) != ended {
            for (_, live) in &*self.live.borrow() {
                if live.worker.get() != 0 && !live.tunnel.get() {
                    live.wake();
                }
            }
        }
    }

    /// Whether nobody was closing tunnels of drained workers; from now on somebody is.
    pub fn begin_closing(&self) -> bool {
        !self.closing.replace(true)
    }

    /// Nobody is any more.
    pub fn end_closing(&self) {
        self.closing.set(false);
    }

    /// Whether everything has been told to stop.
    pub fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Whether the time of requests to finish is over.
    pub fn are_requests_cut(&self) -> bool {
        self.requests_cut.get()
    }

    /// Connections and tunnels on this thread.
    pub fn live(&self) -> usize {
        self.live.borrow().len()
    }

    /// Milliseconds on the clock of [`clock::now_ms`], at most a tick ago: three readings a request less.
    pub fn now_ms(&self) -> u64 {
        self.now_ms.get()
    }

    /// A new request id: unique in this process, and not a count that tells a client how much others do.
    pub fn request_id(&self) -> u64 {
        let next = self.request_ids.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.request_ids.set(next);
        crate::random::mix(next)
    }

    /// Keeps the idle limits and the pools; runs as long as the thread does.
    pub async fn tick(self: Rc<Self>, pulse: &Pulse) {
        let mut timer = tokio::time::interval(TICK);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut last = 0;
        loop {
            timer.tick().await;
            pulse.beat();
            self.now_ms.set(clock::now_ms());
            let now = clock::now_s();
            if now != std::mem::replace(&mut last, now) {
                self.follow_limits();
                self.find_idle(now);
                self.paces.second();
            }
            self.wake_polls_of_closed();
            pool::sweep(&self);
            crate::drain::closing::start(&self);
        }
    }

    fn find_idle(&self, now: u32) {
        for (_, live) in &*self.live.borrow() {
            if live.moved.replace(false) {
                live.since.set(now);
            }
            let limit = live.limit.get();
            let silent = now.saturating_sub(live.since.get());
            if limit != 0 && silent >= STILL_S && !live.tunnel.get() && !live.still.replace(true) {
                live.wake();
            }
            match live.order.get() {
                Order::GoOn if limit != 0 && silent > limit => live.tell(Order::Idle),
                // Half a head: hyper would wait for the rest of it for ever. A tunnel has a deadline of its own.
                Order::Idle | Order::Leave
                    if limit != 0 && !live.tunnel.get() && silent > limit.saturating_add(LINGER_S) =>
                {
                    live.tell(Order::Cut);
                }
                Order::GoOn | Order::Idle | Order::Leave | Order::Stop | Order::Cut => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::affinity::pins::Keys;
    use crate::config;

    #[test]
    fn half_a_head_is_cut_a_request_under_way_is_not() {
        let config = config::for_command_line(&["127.0.0.1:8000".into()], &["127.0.0.1:8001".into()]).unwrap();
        let thread = Thread::new(Shared::new(&config, vec![1; 32], Keys::random().unwrap()));
        let (waiting, busy) = (thread.register(75, &Removed::default()), thread.register(0, &Removed::default()));
        let began = waiting.since.get();
        thread.find_idle(began + 76);
        assert_eq!((waiting.order(), busy.order()), (Order::Idle, Order::GoOn));
        thread.find_idle(began + 75 + LINGER_S);
        assert_eq!(waiting.order(), Order::Idle);
        thread.find_idle(began + 76 + LINGER_S);
        assert_eq!((waiting.order(), busy.order()), (Order::Cut, Order::GoOn));
    }
}
