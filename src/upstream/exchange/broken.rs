//! The errors with which an exchange with a worker ends early.

use std::io;

use crate::body::BodyError;

/// Why an exchange, or the body of a response, ended early.
#[derive(Debug, thiserror::Error)]
pub enum BrokeOff {
    /// The connection to the worker failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The worker closed its connection before its response was complete.
    #[error("the connection ended before the response was complete")]
    Ended,
    /// What the worker sent is not a valid response head.
    #[error("invalid response: {0}")]
    Head(&'static str),
    /// What followed a valid head is not a valid response body.
    #[error("invalid response body: {0}")]
    Body(&'static str),
    /// The client's request body broke off or was malformed.
    #[error("the client's request body broke off: {0}")]
    Client(BodyError),
    /// The client's request body was longer or shorter than declared.
    #[error("the client's request body does not have its declared length")]
    ClientLength,
}

impl BrokeOff {
    /// Whether the client caused the error, not the worker.
    pub fn is_clients(&self) -> bool {
        matches!(self, Self::Client(_) | Self::ClientLength)
    }
}
