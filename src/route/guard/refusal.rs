//! The reasons for which guards reject requests. Left out: what is answered (`proxy::respond`).

use std::time::Duration;

use hyper::StatusCode;

use crate::config::guards::Refuse;
use crate::jwt::TokenFault;
use crate::metrics::GuardLabel;
use crate::route::live_keys::Refused;

/// Why a guard rejects a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GuardRefusal {
    /// The client's network or the page's origin is not allowed.
    Forbidden(GuardLabel, Refuse),
    /// A rate limit is reached; the client may retry after this time.
    TooOften(GuardLabel, Duration),
    /// The token is not accepted.
    Token(TokenFault, Refuse),
    /// The keys that verify tokens are not known yet; the client may retry after this time.
    NoKeys(Duration),
    /// The user has as many sockets as allowed.
    TooMany(Refuse),
    /// The request has no user with the right password.
    NoPassword,
    /// Another service has refused the request with this status, 401 or 403.
    Denied(StatusCode),
    /// The guard has no verdict; the client may retry after this time.
    NoVerdict(Duration),
}

impl GuardRefusal {
    /// The guard that rejects the request.
    pub(crate) fn label(self) -> GuardLabel {
        match self {
            Self::Forbidden(label, _) | Self::TooOften(label, _) => label,
            Self::Token(fault, _) => GuardLabel::of_fault(fault),
            Self::NoKeys(_) => GuardLabel::JwtKeys,
            Self::TooMany(_) => GuardLabel::Users,
            Self::NoPassword => GuardLabel::Basic,
            Self::Denied(_) => GuardLabel::Auth,
            Self::NoVerdict(_) => GuardLabel::AuthFailed,
        }
    }

    /// The refusal of a token.
    pub(crate) fn of_token(why: Refused, refuse: Refuse) -> Self {
        match why {
            Refused::Fault(fault) => Self::Token(fault, refuse),
            Refused::NoKeys(wait) => Self::NoKeys(wait),
        }
    }
}
