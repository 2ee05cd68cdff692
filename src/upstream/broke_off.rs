//! Why an exchange with a worker broke off.

use std::io;

use crate::proxy::body::BodyError;

/// Why an exchange broke off, or an answer's body did.
#[derive(Debug, thiserror::Error)]
pub enum BrokeOff {
    /// The connection failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The worker closed its connection before its answer was whole.
    #[error("the connection ended before the answer did")]
    Ended,
    /// What came is no head of an answer.
    #[error("no answer: {0}")]
    Head(&'static str),
    /// Behind a good head came what is no body.
    #[error("no body: {0}")]
    Body(&'static str),
    /// The client's body broke off, or was longer or shorter than it said.
    #[error("the client's body broke off: {0}")]
    Client(BodyError),
    /// The client's body was longer or shorter than it said.
    #[error("the client's body is not as long as it said")]
    ClientLength,
}

impl BrokeOff {
    /// The client's doing, not the worker's.
    pub fn is_clients(&self) -> bool {
        matches!(self, Self::Client(_) | Self::ClientLength)
    }
}
