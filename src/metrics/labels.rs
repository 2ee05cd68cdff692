//! Closed sets of words that label decisions, both in metrics and in the access log.

use crate::jwt::TokenFault;

/// Reason why a request went to its worker; the `source` label and the access log's `why`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceLabel {
    /// The request's sid is pinned to the worker.
    Sid,
    /// The cookie of stickyd named the worker.
    Cookie,
    /// Hash of the client's address, or of the cookie's id if the worker it names cannot be used.
    Address,
    /// The sid was not pinned; discovery found its worker.
    Discovered,
    /// A new session, placed by the ring under bounded load.
    New,
    /// No affinity applies to the request.
    Any,
    /// An ordinary request that names a Socket.IO session (`follow`).
    Follow,
    /// The client has authenticated a connection to the worker (NTLM, Negotiate).
    Connection,
}

impl SourceLabel {
    pub(crate) const ALL: [Self; 8] = [
        Self::Sid,
        Self::Cookie,
        Self::Address,
        Self::Discovered,
        Self::New,
        Self::Any,
        Self::Follow,
        Self::Connection,
    ];

    /// Returns the word for it in metrics and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Sid => "sid",
            Self::Cookie => "cookie",
            Self::Address => "address",
            Self::Discovered => "discovered",
            Self::New => "new",
            Self::Any => "any",
            Self::Follow => "follow",
            Self::Connection => "connection",
        }
    }
}

/// The guard that rejected a request; the `guard` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardLabel {
    /// The request's origin is not in the route's list.
    Origin,
    /// The client's address is not allowed.
    Network,
    /// A client address exceeded its rate of requests on a route.
    RateRequests,
    /// A client address exceeded its rate of handshakes on a route.
    RateHandshakes,
    /// All clients together exceeded the upstream's rate of requests.
    UpstreamRequests,
    /// All clients together exceeded the upstream's rate of handshakes.
    UpstreamHandshakes,
    /// A user exceeded the rate of requests on a route.
    UserRequests,
    /// A user exceeded the rate of handshakes on a route.
    UserHandshakes,
    /// A user has as many sockets as `users` allows.
    Users,
    /// The keys that verify tokens are not known yet.
    JwtKeys,
    /// The request has no token.
    JwtMissing,
    /// The token is malformed.
    JwtMalformed,
    /// The token has expired.
    JwtExpired,
    /// The token is not valid yet.
    JwtNotYet,
    /// The token has another issuer.
    JwtWrongIssuer,
    /// The token is for another audience.
    JwtWrongAudience,
    /// The signature of the token is wrong.
    JwtWrongSignature,
    /// The token lacks a required claim.
    JwtForbidden,
    /// The request has no user with the right password.
    Basic,
    /// Another service has refused the request.
    Auth,
    /// There was no verdict: the other service did not answer, or too many passwords wait to be checked.
    AuthFailed,
}

impl GuardLabel {
    pub(crate) const ALL: [Self; 21] = [
        Self::Origin,
        Self::Network,
        Self::RateRequests,
        Self::RateHandshakes,
        Self::UpstreamRequests,
        Self::UpstreamHandshakes,
        Self::UserRequests,
        Self::UserHandshakes,
        Self::Users,
        Self::JwtKeys,
        Self::JwtMissing,
        Self::JwtMalformed,
        Self::JwtExpired,
        Self::JwtNotYet,
        Self::JwtWrongIssuer,
        Self::JwtWrongAudience,
        Self::JwtWrongSignature,
        Self::JwtForbidden,
        Self::Basic,
        Self::Auth,
        Self::AuthFailed,
    ];

    /// Returns the label for a fault of a token.
    pub(crate) fn of_fault(fault: TokenFault) -> Self {
        match fault {
            TokenFault::Missing => Self::JwtMissing,
            TokenFault::Malformed => Self::JwtMalformed,
            TokenFault::Expired => Self::JwtExpired,
            TokenFault::NotYet => Self::JwtNotYet,
            TokenFault::WrongIssuer => Self::JwtWrongIssuer,
            TokenFault::WrongAudience => Self::JwtWrongAudience,
            TokenFault::WrongSignature => Self::JwtWrongSignature,
            TokenFault::Forbidden => Self::JwtForbidden,
        }
    }

    /// Returns the word for it in metrics and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Origin => "origin",
            Self::Network => "network",
            Self::RateRequests => "rate_requests",
            Self::RateHandshakes => "rate_handshakes",
            Self::UpstreamRequests => "upstream_requests",
            Self::UpstreamHandshakes => "upstream_handshakes",
            Self::UserRequests => "user_requests",
            Self::UserHandshakes => "user_handshakes",
            Self::Users => "users",
            Self::JwtKeys => "jwt_keys",
            Self::JwtMissing => "jwt_missing",
            Self::JwtMalformed => "jwt_malformed",
            Self::JwtExpired => "jwt_expired",
            Self::JwtNotYet => "jwt_not_yet",
            Self::JwtWrongIssuer => "jwt_wrong_issuer",
            Self::JwtWrongAudience => "jwt_wrong_audience",
            Self::JwtWrongSignature => "jwt_wrong_signature",
            Self::JwtForbidden => "jwt_forbidden",
            Self::Basic => "basic",
            Self::Auth => "auth",
            Self::AuthFailed => "auth_failed",
        }
    }
}

/// Result of a discovery; the `result` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discovery {
    /// A worker accepted the real request.
    Found,
    /// All other workers refused, and only this one did not answer.
    Eliminated,
    /// Every worker refused the session.
    Unknown,
    /// Every worker refused the same sid less than a second ago, so none was asked again.
    Remembered,
    /// The budget for discoveries stayed empty for 5 s.
    OverBudget,
    /// Two or more workers stayed silent for 5 s.
    Undecided,
    /// An attempt failed for a reason other than a refusal.
    Failed,
    /// There was no room to hold the body for replay.
    NoRoom,
}

impl Discovery {
    pub(crate) const ALL: [Self; 8] = [
        Self::Found,
        Self::Eliminated,
        Self::Unknown,
        Self::Remembered,
        Self::OverBudget,
        Self::Undecided,
        Self::Failed,
        Self::NoRoom,
    ];

    /// Returns the word for it in metrics and logs.
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

/// The outcome of a live request at a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// The worker sent a response that is not a server error.
    Answer,
    /// The worker responded with 500, 502, 503 or 504.
    ServerError,
    /// No connection to the worker could be made.
    Connect,
    /// The connection broke before the response head was complete, or the response was invalid.
    Broken,
    /// The worker did not respond in time.
    TimedOut,
}

impl AttemptOutcome {
    /// Returns the outcome that a response with this status is.
    pub fn of(status: u16) -> Self {
        if matches!(status, 500 | 502..=504) { Self::ServerError } else { Self::Answer }
    }

    /// Returns the name of this outcome as the reason of an ejection, in metrics and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Answer | Self::ServerError => "errors",
            Self::Connect => "connect",
            Self::Broken => "broken",
            Self::TimedOut => "timeout",
        }
    }
}
