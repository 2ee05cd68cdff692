//! Verifies a token: its form, its signature, and then its claims, in this order.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::TokenFault;
use super::claims::{Claims, time};
use super::keys::{KeySet, VerifyingKey};

/// Maximum length of a token in bytes; longer ones are malformed.
pub(crate) const MAX_TOKEN: usize = 8_192;

/// Number of keys tried for a token that names none: each costs the check of a signature.
const TRIED: usize = 8;

/// What a token has to say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenTerms {
    /// Algorithms that are allowed; empty: those of the keys.
    pub algorithms: Vec<Algorithm>,
    /// Allowed issuers; empty: any.
    pub issuers: Vec<String>,
    /// Audiences of which the token must name one; empty: any.
    pub audiences: Vec<String>,
    /// Claims that the token must have, each with one of these values.
    pub claims: Vec<(String, Vec<String>)>,
    /// Tolerance for clocks that differ, in seconds.
    pub leeway_s: u64,
}

/// Why a token was not verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unverified {
    /// The token is at fault.
    Fault(TokenFault),
    /// The token names a key that is not in the set. `issued_s`: when the token says that it was issued, which nothing
    /// has verified.
    UnknownKey {
        /// Second since 1970 in `iat`.
        issued_s: Option<u64>,
    },
}

impl From<TokenFault> for Unverified {
    fn from(fault: TokenFault) -> Self {
        Self::Fault(fault)
    }
}

/// The part of a token's header (RFC 7515 §4) that chooses the key.
#[derive(Deserialize)]
struct TokenHeader {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
}

/// Verifies a token at the second `now_s` since 1970.
///
/// # Errors
/// The first fault of the token.
pub fn verify(token: &[u8], keys: &KeySet, terms: &TokenTerms, now_s: u64) -> Result<Claims, Unverified> {
    let token = token.trim_ascii();
    if token.len() > MAX_TOKEN {
        return Err(TokenFault::Malformed.into());
    }
    let mut parts = token.split(|byte| *byte == b'.');
    let (Some(head), Some(body), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(TokenFault::Malformed.into());
    };
    let header: TokenHeader = json(head).ok_or(TokenFault::Malformed)?;
    let claims: Map<String, Value> = json(body).ok_or(TokenFault::Malformed)?;
    let wrong = Unverified::Fault(TokenFault::WrongSignature);
    let algorithm: Algorithm = header.alg.parse().map_err(|_| wrong)?;
    if !terms.algorithms.is_empty() && !terms.algorithms.contains(&algorithm) {
        return Err(wrong);
    }
    let fits = |key: &&VerifyingKey| key.algorithms.contains(&algorithm);
    let mut candidates: Vec<_> = match &header.kid {
        Some(id) => keys.keys.iter().filter(|key| key.id.as_ref() == Some(id)).collect(),
        None => keys.keys.iter().collect(),
    };
    if candidates.is_empty() {
        // A key without an id may be the one that is meant.
        candidates = keys.keys.iter().filter(|key| key.id.is_none()).collect();
        if candidates.is_empty() {
            return Err(Unverified::UnknownKey { issued_s: claims.get("iat").and_then(time) });
        }
    }
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (false, false, false);
    let mut fault = TokenFault::WrongSignature;
    for key in candidates.into_iter().filter(fits).take(TRIED) {
        match jsonwebtoken::decode::<Map<String, Value>>(token, &key.key, &validation) {
            Ok(verified) => {
                let claims = Claims(verified.claims);
                return check(&claims, terms, now_s).map(|()| claims).map_err(Unverified::from);
            }
            Err(error) => {
                if matches!(error.kind(), ErrorKind::InvalidToken | ErrorKind::Json(_) | ErrorKind::Base64(_)) {
                    fault = TokenFault::Malformed;
                }
            }
        }
    }
    Err(fault.into())
}

/// Checks what a token says.
fn check(claims: &Claims, terms: &TokenTerms, now_s: u64) -> Result<(), TokenFault> {
    let date = |name| match claims.0.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => time(value).map(Some).ok_or(TokenFault::Malformed),
    };
    if date("exp")?.is_some_and(|exp| exp.saturating_add(terms.leeway_s) <= now_s) {
        return Err(TokenFault::Expired);
    }
    if date("nbf")?.is_some_and(|from| from > now_s.saturating_add(terms.leeway_s)) {
        return Err(TokenFault::NotYet);
    }
    if !terms.issuers.is_empty() && !claims.has_any("iss", &terms.issuers) {
        return Err(TokenFault::WrongIssuer);
    }
    if !terms.audiences.is_empty() && !claims.has_any("aud", &terms.audiences) {
        return Err(TokenFault::WrongAudience);
    }
    match terms.claims.iter().all(|(name, wanted)| claims.has_any(name, wanted)) {
        true => Ok(()),
        false => Err(TokenFault::Forbidden),
    }
}

/// Decodes base64url and JSON. The text is checked as a whole: from bytes, the parser takes any bytes in the fields
/// that it skips.
fn json<T: for<'de> Deserialize<'de>>(part: &[u8]) -> Option<T> {
    let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
    serde_json::from_str(std::str::from_utf8(&bytes).ok()?).ok()
}
