//! The kinds of events, and how serious one is: closed sets of words, which the API, the metrics and notifications
//! share.

use serde::Serialize;

/// Declares the kinds with their words, so that neither the list nor a word can be forgotten.
macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $kind:ident = $word:literal,)+) => {
        /// What an event is about.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum EventKind {
            $($(#[doc = $doc])+ $kind,)+
        }

        impl EventKind {
            /// Every kind, in the order of the counters.
            pub const ALL: &[Self] = &[$(Self::$kind,)+];

            /// Returns the name of the kind in the API, in metrics and in the file.
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$kind => $word,)+
                }
            }

            /// Returns what the kind means, as one sentence.
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Self::$kind => concat!($($doc),+),)+
                }
            }
        }
    };
}

kinds! {
    /// A worker serves again, or its state has become better.
    WorkerUp = "worker_up",
    /// A worker does not serve, or its state has become worse.
    WorkerDown = "worker_down",
    /// Another process listens at the address of a worker.
    WorkerRestarted = "worker_restarted",
    /// A worker gets no new sessions for a while, because live requests failed.
    WorkerEjected = "worker_ejected",
    /// The ejection of a worker is over.
    WorkerBack = "worker_back",
    /// A worker has joined its upstream.
    WorkerAdded = "worker_added",
    /// A worker has left its upstream.
    WorkerRemoved = "worker_removed",
    /// The sessions of a worker begin to end.
    DrainBegun = "drain_begun",
    /// No session is left on a drained worker.
    DrainDone = "drain_done",
    /// An operator or the file has put a worker into maint.
    Maint = "maint",
    /// An operator or the file has made a worker ready.
    Ready = "ready",
    /// No worker of an upstream takes new sessions.
    UpstreamEmpty = "upstream_empty",
    /// A worker of an upstream that had none takes new sessions.
    UpstreamBack = "upstream_back",
    /// Clients were told that their sessions are unknown.
    SessionsLost = "sessions_lost",
    /// An upstream has fewer sockets than its alarm allows.
    SocketsLow = "sockets_low",
    /// An upstream has lost many of its sockets within a short time.
    SocketsDropped = "sockets_dropped",
    /// A worker uses more of a core than its alarm allows.
    WorkerCpu = "worker_cpu",
    /// A worker uses more memory than its alarm allows.
    WorkerMemory = "worker_memory",
    /// Another alarm of an upstream has begun or ended.
    Alarm = "alarm",
    /// A limit was reached.
    LimitReached = "limit_reached",
    /// A DNS name does not resolve.
    DnsFailed = "dns_failed",
    /// A DNS name has other addresses, or resolves again.
    DnsChanged = "dns_changed",
    /// A certificate was read anew.
    CertificateRenewed = "certificate_renewed",
    /// A changed certificate or key could not be used; those in use stay.
    CertificateFailed = "certificate_failed",
    /// A certificate expires soon.
    CertificateExpiring = "certificate_expiring",
    /// A new configuration is in use.
    ConfigReloaded = "config_reloaded",
    /// A changed file has errors, so that the configuration before it stays in use.
    ConfigRefused = "config_refused",
    /// A setting has changed that needs a restart.
    ConfigNeedsRestart = "config_needs_restart",
    /// An operator has changed something.
    Operator = "operator",
    /// The processes of workers that stickyd starts.
    Spawn = "spawn",
    /// The bus between workers.
    Bus = "bus",
    /// Messages for users whose clients are away were dropped.
    QueueDropped = "queue_dropped",
    /// A notification could not be delivered.
    Notify = "notify",
    /// A hint to the operator about a likely mistake.
    Advice = "advice",
    /// Stickyd has started to serve.
    Started = "started",
    /// Stickyd stops or is stopped.
    Stopping = "stopping",
}

impl EventKind {
    /// Returns the kind with this name.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.word() == word)
    }
}

/// How serious an event is; the level of its log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The event needs no attention.
    Info,
    /// The event may need attention.
    Warning,
    /// The event needs attention.
    Error,
}

impl Severity {
    /// Returns the name of the severity in the API.
    pub fn word(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_unique_and_lead_back_to_their_kinds() {
        for kind in EventKind::ALL {
            assert_eq!(EventKind::of(kind.word()), Some(*kind));
        }
        assert_eq!(EventKind::of("nonsense"), None);
    }
}
