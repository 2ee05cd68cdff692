//! The keys of a route while stickyd runs: known ones, or those of a server, which rotate.
//!
//! A server is asked at start, every ten minutes, and when a token names an unknown key, but for that at most once in
//! 30 s, so that a flood of made-up key names reaches no server. A failed fetch never replaces good keys. Pure but for
//! its locks: time is an argument, and the fetch itself is in `server::jwks`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use crate::clock::Millis;
use crate::config::jwt::KeySource;
use crate::config::OutboundTarget;
use crate::jwt::{Claims, KeySet, TokenFault, TokenTerms, Unverified, verify};
use crate::locks::lock;

/// Time between two fetches of good keys.
const EVERY_MS: u64 = 600_000;

/// Minimum time between a fetch and the next one for an unknown key.
const PAUSE_MS: u64 = 30_000;

/// Pause after a first failure; it doubles up to [`PAUSE_MS`].
const RETRY_MS: u64 = 1_000;

/// The keys of one source.
pub struct LiveKeys {
    server: Option<OutboundTarget>,
    set: ArcSwapOption<KeySet>,
    fetch: Mutex<FetchState>,
}

/// When keys were fetched, and when they are fetched next.
#[derive(Debug, Default)]
struct FetchState {
    /// When the last fetch began.
    began_ms: Option<Millis>,
    /// Second since 1970 at which the last good fetch began.
    good_s: u64,
    in_flight: bool,
    /// Whether a token has named an unknown key.
    wanted: bool,
    /// Failures in a row.
    failures: u32,
}

/// Why a token is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The token is at fault.
    Fault(TokenFault),
    /// The keys are not known yet; trying again after this time may help.
    NoKeys(Duration),
}

/// The present time, in both forms that are needed.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Of the monotonic clock.
    pub ms: Millis,
    /// Seconds since 1970.
    pub unix_s: u64,
}

impl LiveKeys {
    /// Prepares the keys of a source.
    pub(crate) fn new(source: &KeySource) -> Arc<Self> {
        let (server, set) = match source {
            KeySource::Known(set) => (None, Some(set.clone())),
            KeySource::Server(server) => (Some(server.clone()), None),
        };
        Arc::new(Self { server, set: ArcSwapOption::from(set), fetch: Mutex::default() })
    }

    /// The server that is asked for the keys; `None` for known keys.
    pub(crate) fn server(&self) -> Option<&OutboundTarget> {
        self.server.as_ref()
    }

    /// Whether any keys are known.
    pub(crate) fn is_ready(&self) -> bool {
        self.set.load().is_some()
    }

    /// Verifies a token.
    ///
    /// # Errors
    /// The token is not accepted.
    pub(crate) fn verify(&self, token: &[u8], terms: &TokenTerms, now: Now) -> Result<Claims, Refused> {
        let set = self.set.load();
        let Some(set) = set.as_ref() else { return Err(Refused::NoKeys(Duration::from_millis(RETRY_MS))) };
        verify(token, set, terms, now.unix_s).map_err(|why| match why {
            Unverified::Fault(fault) => Refused::Fault(fault),
            Unverified::UnknownKey { issued_s } => self.unknown_key(issued_s, now),
        })
    }

    /// What a token with an unknown key gets: patience while a new key may be on its way.
    fn unknown_key(&self, issued_s: Option<u64>, now: Now) -> Refused {
        let wrong = Refused::Fault(TokenFault::WrongSignature);
        if self.server.is_none() {
            return wrong;
        }
        let mut fetch = lock(&self.fetch);
        let since = fetch.began_ms.map_or(u64::MAX, |began| now.ms.since(began));
        if fetch.in_flight || since >= PAUSE_MS {
            fetch.wanted = true;
            return Refused::NoKeys(Duration::from_millis(RETRY_MS));
        }
        // The last fetch may be older than the key.
        if issued_s.is_some_and(|issued| issued >= fetch.good_s) {
            fetch.wanted = true;
            return Refused::NoKeys(Duration::from_millis(PAUSE_MS - since));
        }
        wrong
    }

    /// Begins a fetch if one is due; the caller then has to call [`LiveKeys::fetched`].
    pub(crate) fn try_begin_fetch(&self, now: Now) -> bool {
        if self.server.is_none() {
            return false;
        }
        let mut fetch = lock(&self.fetch);
        let pause = match fetch.failures {
            _ if fetch.wanted && self.is_ready() => PAUSE_MS,
            0 => EVERY_MS,
            failures => RETRY_MS.saturating_mul(1 << failures.min(10).saturating_sub(1)).min(PAUSE_MS),
        };
        if fetch.in_flight || fetch.began_ms.is_some_and(|began| now.ms.since(began) < pause) {
            return false;
        }
        (fetch.in_flight, fetch.began_ms, fetch.wanted) = (true, Some(now.ms), false);
        true
    }

    /// Takes the result of a fetch that began at `began_s`. Returns whether the keys are others than before.
    ///
    /// # Errors
    /// Words for why the answer cannot be used; the keys stay as they were.
    pub(crate) fn fetched(&self, answer: Result<&[u8], String>, began_s: u64) -> Result<bool, String> {
        let read = answer.and_then(KeySet::from_server);
        let mut fetch = lock(&self.fetch);
        fetch.in_flight = false;
        match read {
            Ok(set) => {
                (fetch.failures, fetch.good_s) = (0, began_s);
                let is_new = self.set.load().as_deref() != Some(&set);
                self.set.store(Some(Arc::new(set)));
                Ok(is_new)
            }
            Err(why) => {
                fetch.failures = fetch.failures.saturating_add(1);
                Err(why)
            }
        }
    }
}

/// The present time.
pub(crate) fn now() -> Now {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Now { ms: crate::clock::now_ms(), unix_s: since.as_secs() }
}
