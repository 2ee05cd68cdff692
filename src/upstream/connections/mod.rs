//! A data thread's connections to workers: idle ones in pools, the clock and the watch over response time-outs that all
//! of them share, and the descriptors that are left for them.
//!
//! A connection is on loan to one request at a time ([`connect::Lease`]). Left out: which worker, and retries
//! (`proxy::attempt`).

pub(crate) mod connect;
pub(crate) mod dial;
pub(crate) mod limit;
pub(crate) mod own;
pub(crate) mod pool;
pub(crate) mod response_timeout;
pub(crate) mod tls;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use crate::clock::{self, Millis};
use crate::descriptors::DescriptorRoom;
use crate::metrics::Metrics;
use crate::upstream::serial::WorkerSerial;
use own::OwnConnections;
use pool::IdlePool;
use response_timeout::ResponseWaits;

/// The connections of one data thread to workers, shared by its requests without locks.
pub struct WorkerConnections {
    /// Idle connections, by worker serial.
    pub(crate) pools: RefCell<HashMap<WorkerSerial, IdlePool>>,
    /// Client connections that have worker connections of their own.
    pub(crate) own: RefCell<Vec<Weak<OwnConnections>>>,
    /// Exchanges that wait for a response, and the time-outs they are under.
    pub(crate) waits: Rc<ResponseWaits>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) descriptors: Arc<DescriptorRoom>,
    now_ms: Cell<Millis>,
}

impl WorkerConnections {
    /// A thread without any connection yet.
    pub fn new(metrics: Arc<Metrics>, descriptors: Arc<DescriptorRoom>) -> Self {
        let now_ms = Cell::new(clock::now_ms());
        Self {
            pools: RefCell::default(),
            own: RefCell::default(),
            waits: ResponseWaits::new(),
            metrics,
            descriptors,
            now_ms,
        }
    }

    /// The thread's time ([`clock::now_ms`]), as of its last tick: at most [`pool::TICK`] old.
    pub fn now_ms(&self) -> Millis {
        self.now_ms.get()
    }

    /// Sets the thread's time, drops connections that are dead or were idle for too long, and times out exchanges whose
    /// response is overdue. Runs once per tick.
    pub fn tick(&self, now_ms: Millis) {
        self.now_ms.set(now_ms);
        self.waits.tick(now_ms);
        pool::sweep(self, now_ms);
    }
}
