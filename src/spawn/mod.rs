//! Workers that stickyd starts itself (`spawn` of an upstream, `stickyd run --spawn`).
//!
//! Two processes share the work. The *spawner* (`spawner`) is the parent of the workers and decides nothing. The
//! *manager* runs on stickyd's control thread: it decides which workers there are (`pool`), gives each its address
//! (`ports`) and its environment (`environment`), names those that are healthy in the snapshot, and replaces them one
//! after the other. Whichever of the two processes survives the other ends the workers; a spawner that is a service
//! keeps them. Left out: how a worker is checked (`upstream::health`) and how its sessions end (`drain`).

mod backoff;
pub(crate) mod environment;
mod link;
mod listening;
mod manager;
mod pool;
mod ports;
mod protocol;
mod shim;
mod slot;
mod spawner;

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

pub(crate) use manager::{SpawnStop, keep};
pub(crate) use protocol::LogLine;
pub(crate) use shim::ShimCommand;
pub(crate) use spawner::SpawnerCommand;

/// Orders that wait for the manager.
const ORDERS: usize = 64;

/// Settings of the manager that need a restart.
pub(crate) struct SpawnSettings {
    /// Socket of a spawner that is a service of its own.
    pub(crate) spawner: Option<PathBuf>,
    /// Whether workers' lines are written as JSON.
    pub(crate) json: bool,
}

/// Result of an order; the error is for the operator.
pub(crate) type OrderOutcome = Result<PoolState, String>;

/// Which workers an order is for: all, those of an upstream, or one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Target {
    pub(crate) upstream: Option<String>,
    pub(crate) slot: Option<u32>,
}

/// What an operator wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Replace workers one after the other.
    Restart,
    /// Have this many workers.
    Scale(u32),
    /// End workers and start no new ones.
    Stop,
    /// Start workers that were stopped.
    Start,
}

/// An order to the manager.
pub(crate) enum SpawnOrder {
    Wish(Target, Wish, oneshot::Sender<OrderOutcome>),
    /// Replace all workers, as SIGHUP asks.
    RestartAll,
    Show(oneshot::Sender<Vec<PoolState>>),
    Lines {
        from: u64,
        target: Target,
        answer: oneshot::Sender<LogPage>,
    },
}

/// Log lines of workers, and the number from which to ask on.
pub(crate) struct LogPage {
    pub(crate) lines: Vec<LogLine>,
    pub(crate) next: u64,
}

/// Sends orders to the manager. Cheap to clone.
#[derive(Clone)]
pub struct SpawnHandle(mpsc::Sender<SpawnOrder>);

impl SpawnHandle {
    /// A handle, and where its orders arrive.
    pub(crate) fn new() -> (Self, mpsc::Receiver<SpawnOrder>) {
        let (sender, orders) = mpsc::channel(ORDERS);
        (Self(sender), orders)
    }

    /// Replaces all workers that stickyd has started, one after the other.
    pub fn restart_all(&self) {
        // A full queue holds orders that an operator repeats; the roll they begin is the same.
        let _ = self.0.try_send(SpawnOrder::RestartAll);
    }

    /// Gives an order; returns the state of the upstream after it.
    pub(crate) async fn wish(&self, target: Target, wish: Wish) -> OrderOutcome {
        let (answer, said) = oneshot::channel();
        let sent = self.0.send(SpawnOrder::Wish(target, wish, answer)).await;
        let stopping = || "stickyd is stopping".to_owned();
        sent.map_err(|_| stopping())?;
        said.await.map_err(|_| stopping())?
    }

    /// Returns the state of all upstreams whose workers stickyd starts.
    pub(crate) async fn show(&self) -> Vec<PoolState> {
        let (answer, said) = oneshot::channel();
        let _ = self.0.send(SpawnOrder::Show(answer)).await;
        said.await.unwrap_or_default()
    }

    /// Returns log lines from a number on.
    pub(crate) async fn lines(&self, from: u64, target: Target) -> Option<LogPage> {
        let (answer, said) = oneshot::channel();
        let _ = self.0.send(SpawnOrder::Lines { from, target, answer }).await;
        tokio::time::timeout(Duration::from_secs(5), said).await.ok()?.ok()
    }
}

/// The workers of one upstream, as operators see them.
#[derive(Debug, Clone)]
pub(crate) struct PoolState {
    pub(crate) upstream: String,
    pub(crate) instances: u32,
    pub(crate) workers: Vec<SlotState>,
    /// The last replacement of workers, over or not.
    pub(crate) roll: Option<RollState>,
}

/// One worker, as operators see it.
#[derive(Debug, Clone)]
pub(crate) struct SlotState {
    pub(crate) worker: u32,
    pub(crate) state: &'static str,
    pub(crate) address: Option<String>,
    pub(crate) pid: Option<u32>,
    pub(crate) memory_bytes: u64,
    pub(crate) up_s: Option<u64>,
    pub(crate) restarts: u64,
    /// Time until the next start.
    pub(crate) starts_in_ms: Option<u64>,
    /// Process ids of earlier processes that still serve their sessions.
    pub(crate) leaving: Vec<u32>,
    /// Why the worker is not ready.
    pub(crate) why: Option<String>,
    /// The last lines of the process that ended last.
    pub(crate) last_lines: Vec<String>,
}

/// A replacement of workers.
#[derive(Debug, Clone)]
pub(crate) struct RollState {
    pub(crate) id: u64,
    pub(crate) outcome: RollOutcome,
    pub(crate) replaced: u32,
    pub(crate) total: u32,
    /// Why it failed, and the last lines of the process that was not healthy.
    pub(crate) why: Option<String>,
    pub(crate) last_lines: Vec<String>,
}

/// How a replacement of workers stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RollOutcome {
    Running,
    Done,
    Failed,
}

impl RollOutcome {
    /// The word for it in the API.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}
