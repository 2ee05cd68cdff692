//! The closed sets of words that label decisions, in metrics and in the access log alike.

/// Why a request went to its worker; the `source` label and the access log's `why`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The request's sid is pinned.
    Sid,
    /// stickyd's cookie named the worker.
    Cookie,
    /// The hash of the client's address (or of the cookie's id, when its worker could not be used).
    Address,
    /// An unpinned sid, found by asking workers.
    Discovered,
    /// A new session, placed by the ring under bounded load.
    New,
    /// No affinity applies.
    Any,
    /// An ordinary request that names a Socket.IO session (`follow`).
    Follow,
}

impl Source {
    pub(super) const ALL: [Self; 7] =
        [Self::Sid, Self::Cookie, Self::Address, Self::Discovered, Self::New, Self::Any, Self::Follow];

    /// The word for it in metrics and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Sid => "sid",
            Self::Cookie => "cookie",
            Self::Address => "address",
            Self::Discovered => "discovered",
            Self::New => "new",
            Self::Any => "any",
            Self::Follow => "follow",
        }
    }
}

/// What turned a request away; the `guard` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// A page of an origin that is not in the route's list.
    Origin,
    /// A client's address.
    Network,
    /// A client address over its requests on a route.
    RateRequests,
    /// The same of its handshakes.
    RateHandshakes,
    /// All clients together, over the upstream's requests.
    UpstreamRequests,
    /// The same of handshakes.
    UpstreamHandshakes,
}

impl Guard {
    pub(super) const ALL: [Self; 6] = [
        Self::Origin,
        Self::Network,
        Self::RateRequests,
        Self::RateHandshakes,
        Self::UpstreamRequests,
        Self::UpstreamHandshakes,
    ];

    /// The word for it in metrics and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Origin => "origin",
            Self::Network => "network",
            Self::RateRequests => "rate_requests",
            Self::RateHandshakes => "rate_handshakes",
            Self::UpstreamRequests => "upstream_requests",
            Self::UpstreamHandshakes => "upstream_handshakes",
        }
    }
}

/// How a discovery ended; the `result` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discovery {
    /// A worker accepted the real request.
    Found,
    /// Found because all others refused and only this one did not answer.
    Eliminated,
    /// Every worker refused.
    Unknown,
    /// Answered from the memory of a miss less than a second ago.
    Remembered,
    /// The budget stayed empty for 5 s.
    OverBudget,
    /// Two or more workers stayed silent for 5 s.
    Undecided,
    /// An attempt failed for another reason than a refusal.
    Failed,
    /// No room to hold the body for replay.
    NoRoom,
}

impl Discovery {
    pub(super) const ALL: [Self; 8] = [
        Self::Found,
        Self::Eliminated,
        Self::Unknown,
        Self::Remembered,
        Self::OverBudget,
        Self::Undecided,
        Self::Failed,
        Self::NoRoom,
    ];

    /// The word for it in metrics and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Eliminated => "eliminated",
            Self::Unknown => "unknown",
            Self::Remembered => "remembered",
            Self::OverBudget => "over_budget",
            Self::Undecided => "undecided",
            Self::Failed => "failed",
            Self::NoRoom => "no_room",
        }
    }
}
