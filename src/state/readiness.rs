//! Whether stickyd serves: the answer to a balancer, a kubelet or a container runtime that checks it. The admin
//! listener and the listeners for traffic give the same one.

use super::Shared;

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
