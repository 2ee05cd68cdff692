//! Why a request of stickyd's own got no whole answer.
//!
//! Texts are made for operators and contain neither the path nor the query of a URL, which may be the secret of a
//! receiver.

use std::error::Error;
use std::io;
use std::time::Duration;

use http_body_util::LengthLimitError;
use tower::timeout::error::Elapsed;

use super::names::NameError;

/// Why there is no whole answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OutboundFault {
    /// The client could not be set up.
    #[error("the client cannot be set up: {0}")]
    Setup(String),
    /// The host's name has no address.
    #[error("the host's name cannot be resolved: {0}")]
    Name(String),
    /// No connection could be made.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The TLS handshake failed, or the certificate is not trusted.
    #[error("the TLS handshake failed: {0}")]
    Tls(String),
    /// The answer was not complete in time.
    #[error("no complete answer within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    /// The answer is larger than the bound.
    #[error("the answer is too large")]
    TooLarge,
    /// The connection broke, or what came is not HTTP.
    #[error("the connection broke: {0}")]
    Broken(String),
}

impl OutboundFault {
    /// Finds the reason in an error of the layers. `timeout` is the time-out of these layers.
    pub(super) fn of(error: &(dyn Error + 'static), timeout: Duration) -> Self {
        let is_connect =
            error.downcast_ref::<hyper_util::client::legacy::Error>().is_some_and(|error| error.is_connect());
        let mut last = error;
        for cause in causes(error) {
            last = cause;
            if cause.is::<Elapsed>() {
                return Self::Timeout(timeout);
            }
            if cause.is::<LengthLimitError>() {
                return Self::TooLarge;
            }
            if let Some(name) = cause.downcast_ref::<NameError>() {
                return Self::Name(name.0.clone());
            }
            if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
                return Self::Tls(tls.to_string());
            }
        }
        if is_connect { Self::Connect(last.to_string()) } else { Self::Broken(last.to_string()) }
    }

    /// Whether the request certainly did not reach the target.
    pub(crate) fn is_unsent(&self) -> bool {
        match self {
            Self::Setup(_) | Self::Name(_) | Self::Connect(_) | Self::Tls(_) => true,
            Self::Timeout(_) | Self::TooLarge | Self::Broken(_) => false,
        }
    }
}

/// The error and what caused it, outermost first.
fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| cause(*error))
}

/// What caused an error. An I/O error does not name what it wraps as its source, but the source of that.
fn cause<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}
