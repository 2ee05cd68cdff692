//! JSON Web Tokens: which keys may verify a token, and what a token says (RFC 7515, RFC 7517, RFC 7519).
//!
//! Pure: keys, terms, token and time are arguments. The algorithm is fixed by the configuration and by the key, never
//! by the token, so that a token cannot turn a public key into an HMAC secret. Signatures are verified by
//! `jsonwebtoken` with aws-lc; claims are checked here, because stickyd tells clients exactly what is wrong. Left out:
//! where a token is in a request (`route::jwt`), and how keys are fetched (`server::jwks`).

mod claims;
mod keys;
#[cfg(test)]
mod tests;
mod verify;

pub use claims::Claims;
pub use keys::KeySet;
pub(crate) use verify::MAX_TOKEN;
pub use verify::{TokenTerms, Unverified, verify};

/// What is wrong with a token. The word is told to the client, and stands in metrics and the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenFault {
    /// No token was sent where one is expected.
    Missing,
    /// The text is not a token.
    Malformed,
    /// The token has expired (`exp`).
    Expired,
    /// The token is not valid yet (`nbf`).
    NotYet,
    /// The token has another issuer (`iss`).
    WrongIssuer,
    /// The token is meant for another service (`aud`).
    WrongAudience,
    /// The signature does not fit any of the keys, or its algorithm is not allowed.
    WrongSignature,
    /// The token lacks a claim that the route requires.
    Forbidden,
}

impl TokenFault {
    /// All faults; the place of each is its number in a sealed session id.
    pub const ALL: [Self; 8] = [
        Self::Missing,
        Self::Malformed,
        Self::Expired,
        Self::NotYet,
        Self::WrongIssuer,
        Self::WrongAudience,
        Self::WrongSignature,
        Self::Forbidden,
    ];

    /// Returns the code that clients, metrics and the log get.
    pub fn code(self) -> &'static str {
        match self {
            Self::Missing => "token_missing",
            Self::Malformed => "token_malformed",
            Self::Expired => "token_expired",
            Self::NotYet => "token_not_yet",
            Self::WrongIssuer => "token_wrong_issuer",
            Self::WrongAudience => "token_wrong_audience",
            Self::WrongSignature => "token_wrong_signature",
            Self::Forbidden => "forbidden",
        }
    }

    /// Returns the code as words, for people.
    pub fn message(self) -> &'static str {
        match self {
            Self::Missing => "token missing",
            Self::Malformed => "token malformed",
            Self::Expired => "token expired",
            Self::NotYet => "token not yet valid",
            Self::WrongIssuer => "token of a wrong issuer",
            Self::WrongAudience => "token for a wrong audience",
            Self::WrongSignature => "token with a wrong signature",
            Self::Forbidden => "forbidden",
        }
    }
}
