//! Whether stickyd serves: the answer to a balancer, a kubelet or a container runtime that checks it. The admin
//! listener and the listeners for traffic give the same one. And whether the application of a route can be reached,
//! which its own pages ask.

use super::Shared;
use crate::clock;
use crate::config::AdminState;
use crate::upstream::Upstream;
use crate::upstream::states::WorkerHealth;
use crate::upstream::worker::Worker;

/// Time in milliseconds for which a port of a range that no longer answers counts as a worker that is missing; later it
/// is one that is not needed any more.
const MISSED_MS: u64 = 600_000;

/// Whether the application of a route can be reached, as its pages may know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AppStatus {
    /// Every worker serves its sessions.
    Fine,
    /// Some workers do not serve.
    Degraded,
    /// No worker takes new sessions.
    Down,
}

impl AppStatus {
    /// Returns the status of an upstream's application. Workers that an operator has set aside are not missed.
    pub(crate) fn of(upstream: &Upstream) -> Self {
        let now = clock::now_ms();
        let workers = upstream.members.iter().map(|member| &*member.worker);
        let takes = |worker: &Worker| worker.takes_new_at_worst();
        let is_missed = |worker: &Worker| {
            let is_stale = worker.health() == WorkerHealth::Gone && worker.silent_for(now) > MISSED_MS;
            worker.admin() == AdminState::Ready && !worker.is_unused() && !is_stale
        };
        let is_ill = |worker: &Worker| worker.health() != WorkerHealth::Up || worker.is_ejected();
        if !workers.clone().any(takes) {
            Self::Down
        } else if workers.clone().any(|worker| is_missed(worker) && is_ill(worker)) {
            Self::Degraded
        } else {
            Self::Fine
        }
    }

    /// Returns the status of the answer.
    pub(crate) fn status(self) -> u16 {
        if self == Self::Down { 503 } else { 200 }
    }

    /// Returns the body of the answer.
    pub(crate) fn json(self) -> &'static str {
        match self {
            Self::Fine => "{\"status\":\"ok\"}",
            Self::Degraded => "{\"status\":\"degraded\"}",
            Self::Down => "{\"status\":\"down\"}",
        }
    }
}

/// Answer to a health check of stickyd itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// stickyd serves, and the upstream in question has a worker that takes new sessions.
    Serving,
    /// stickyd only finishes what is under way.
    Stopping,
    /// No worker of this upstream takes new sessions.
    NoWorker(String),
    /// There is no upstream of this name.
    NoUpstream(String),
}

impl Readiness {
    /// Returns the status of the answer.
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Serving => 200,
            Self::Stopping | Self::NoWorker(_) => 503,
            Self::NoUpstream(_) => 404,
        }
    }

    /// Returns the body of the answer.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Serving => "ok\n".to_owned(),
            Self::Stopping => "stopping\n".to_owned(),
            Self::NoWorker(name) => format!("no worker of `{name}` takes new sessions\n"),
            Self::NoUpstream(name) => format!("there is no upstream `{name}`\n"),
        }
    }
}

impl Shared {
    /// Returns whether stickyd serves; with an upstream, whether that has a worker that takes new sessions, too.
    pub(crate) fn readiness(&self, stopping: bool, upstream: Option<&str>) -> Readiness {
        if stopping {
            return Readiness::Stopping;
        }
        let Some(name) = upstream else { return Readiness::Serving };
        let snapshot = self.snapshot.load();
        let Some(upstream) = snapshot.upstream(name) else { return Readiness::NoUpstream(name.to_owned()) };
        match upstream.members.iter().any(|member| member.worker.takes_new()) {
            true => Readiness::Serving,
            false => Readiness::NoWorker(name.to_owned()),
        }
    }
}
