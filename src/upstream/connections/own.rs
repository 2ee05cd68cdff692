//! Worker connections that belong to one client connection, because they were authenticated (NTLM, Negotiate).
//!
//! Such a connection answers as its user (RFC 4559 §6). It never enters a pool: between two requests it rests here, it
//! is taken only for the same client connection and client address, and it ends with the client's connection. The
//! address matters where a trusted proxy sends the requests of several clients over one connection. How such
//! authentication is recognised is in `exchange::connection_auth`.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::WorkerConnections;
use super::connect::Lease;
use crate::clock::Millis;
use crate::upstream::worker::Worker;

/// Maximum number of idle worker connections that one client connection keeps, and of workers that it remembers.
const MOST: usize = 4;

/// Time in milliseconds for which such a connection may be idle if the worker advertises none. It is longer than that
/// of a pooled one, because a new connection has to be authenticated again.
pub(crate) const OWN_IDLE_MS: u64 = 60_000;

/// The worker connections of one client connection; the most recently used one is last.
#[derive(Default)]
pub struct OwnConnections {
    #[allow(clippy::vec_box, reason = "a lease is lent in its box")]
    idle: RefCell<Vec<(IpAddr, Box<Lease>)>>,
    workers: RefCell<Vec<(IpAddr, Arc<Worker>)>>,
}

/// The client to which a worker connection belongs.
#[derive(Clone)]
pub struct LeaseOwner {
    own: Rc<OwnConnections>,
    address: IpAddr,
}

impl OwnConnections {
    /// Creates the store of one client connection, which the thread's sweep looks after.
    pub fn new(connections: &WorkerConnections) -> Rc<Self> {
        let own = Rc::<Self>::default();
        connections.own.borrow_mut().push(Rc::downgrade(&own));
        own
    }

    /// Whether there is an idle connection to `worker` for the client with this address. Dead ones are dropped.
    pub fn check_any(&self, worker: &Worker, address: IpAddr, now_ms: Millis) -> bool {
        let mut idle = self.idle.borrow_mut();
        for (_, dead) in idle.extract_if(.., |(_, lease)| !lease.check_alive()) {
            dead.found_dead(now_ms);
        }
        idle.iter().any(|(of, lease)| *of == address && lease.worker().serial == worker.serial)
    }

    /// Takes an idle connection to `worker` that belongs to the client with this address and is alive.
    pub fn take(self: &Rc<Self>, worker: &Worker, address: IpAddr, now_ms: Millis) -> Option<Box<Lease>> {
        let mut idle = self.idle.borrow_mut();
        loop {
            let fits = |(of, lease): &(IpAddr, Box<Lease>)| *of == address && lease.worker().serial == worker.serial;
            let index = idle.iter().rposition(fits)?;
            let (_, mut lease) = idle.remove(index);
            if lease.check_alive() {
                lease.belong_to(self.of(address));
                return Some(lease);
            }
            lease.found_dead(now_ms);
        }
    }

    /// Returns the owner to which worker connections of the client with this address belong.
    pub fn of(self: &Rc<Self>, address: IpAddr) -> LeaseOwner {
        LeaseOwner { own: self.clone(), address }
    }

    /// Returns the worker that has last authenticated a connection of this client, among those that `fits`.
    pub fn last_worker(&self, address: IpAddr, fits: impl Fn(&Worker) -> bool) -> Option<Arc<Worker>> {
        let workers = self.workers.borrow();
        let found = workers.iter().rev().find(|(of, worker)| *of == address && fits(worker));
        found.map(|(_, worker)| worker.clone())
    }

    fn sweep(&self, now_ms: Millis) {
        let old_or_dead = |lease: &mut Lease| lease.idle_for(now_ms) >= lease.idle_limit_ms() || !lease.check_alive();
        for (_, gone) in self.idle.borrow_mut().extract_if(.., |(_, lease)| old_or_dead(lease)) {
            gone.found_dead(now_ms);
        }
    }
}

impl LeaseOwner {
    /// Remembers the worker as the one at which this client is authenticated, or is about to be.
    pub(crate) fn remember(&self, worker: &Arc<Worker>) {
        let mut workers = self.own.workers.borrow_mut();
        if workers.last().is_some_and(|(of, last)| *of == self.address && last.serial == worker.serial) {
            return;
        }
        workers.retain(|(of, known)| *of != self.address || known.serial != worker.serial);
        if workers.len() >= MOST {
            workers.remove(0);
        }
        workers.push((self.address, worker.clone()));
    }

    /// Keeps an idle connection for the next request of this client.
    pub(crate) fn put(self, lease: Box<Lease>) {
        let mut idle = self.own.idle.borrow_mut();
        if idle.len() >= MOST {
            idle.remove(0);
        }
        idle.push((self.address, lease));
    }
}

/// Closes such connections that have ended or were idle for too long, and forgets client connections that are over.
pub(crate) fn sweep(all: &mut Vec<Weak<OwnConnections>>, now_ms: Millis) {
    all.retain(|own| own.upgrade().inspect(|own| own.sweep(now_ms)).is_some());
}
