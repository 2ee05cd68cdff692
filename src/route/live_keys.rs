//! The keys of a route while stickyd runs: known ones, or those of a server, which rotate.
//!
//! A server is asked at start, every ten minutes, and when a token names an unknown key, but for that at most once in
//! 30 s, so that a flood of made-up key names reaches no server. A failed fetch never replaces good keys. Pure but for
//! its locks: time is an argument, and the fetch itself is in `server::jwks`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use crate::clock::Millis;
use crate::config::OutboundTarget;
use crate::config::jwt::KeySource;
use crate::jwt::{Claims, KeySet, TokenFault, TokenTerms, Unverified, verify};
use crate::locks::lock;

/// Time between two fetches of good keys.
const EVERY_MS: u64 = 600_000;

/// Minimum time between a fetch and the next one for an unknown key.
const PAUSE_MS: u64 = 30_000;

/// Pause after a first failure; it doubles up to [`PAUSE_MS`].
const RETRY_MS: u64 = 1_000;

/// The keys of one source.
pub(crate) struct LiveKeys {
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
pub(crate) enum Refused {
    /// The token is at fault.
    Fault(TokenFault),
    /// The keys are not known yet; trying again after this time may help.
    NoKeys(Duration),
}

/// The present time, in both forms that are needed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    /// Time of the monotonic clock.
    pub(crate) ms: Millis,
    /// The second since 1970.
    pub(crate) unix_s: u64,
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

/// Reads both clocks once.
pub(crate) fn now() -> Now {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Now { ms: crate::clock::now_ms(), unix_s: since.as_secs() }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::hmac;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    fn at(seconds: u64) -> Now {
        Now { ms: Millis::START.saturating_add(Duration::from_secs(seconds)), unix_s: 1_800_000_000 + seconds }
    }

    fn server() -> Arc<LiveKeys> {
        let url = hyper::Uri::from_static("http://127.0.0.1:1/jwks");
        LiveKeys::new(&KeySource::Server(OutboundTarget { url, authorities: Arc::default() }))
    }

    /// A key set whose key is named `kid`.
    fn set(kid: &str) -> String {
        let point = URL_SAFE_NO_PAD.encode([1; 32]);
        format!(r#"{{"keys":[{{"kty":"EC","crv":"P-256","x":"{point}","y":"{point}","kid":"{kid}"}}]}}"#)
    }

    /// A token that names `kid`; its signature is not good.
    fn token(kid: &str, issued_s: Option<u64>) -> String {
        let head = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"ES256","kid":"{kid}"}}"#));
        let iat = issued_s.map(|at| format!(r#"{{"iat":{at}}}"#)).unwrap_or_else(|| "{}".to_owned());
        let key = hmac::Key::new(hmac::HMAC_SHA512, b"x");
        let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&key, b"x").as_ref());
        format!("{head}.{}.{signature}", URL_SAFE_NO_PAD.encode(iat))
    }

    fn said(keys: &LiveKeys, token: &str, now: Now) -> Refused {
        keys.verify(token.as_bytes(), &TokenTerms::default(), now).unwrap_err()
    }

    const WRONG: Refused = Refused::Fault(TokenFault::WrongSignature);

    #[test]
    fn without_keys_clients_are_asked_to_come_back() {
        let keys = server();
        assert!(matches!(said(&keys, &token("a", None), at(0)), Refused::NoKeys(_)));
        assert!(keys.try_begin_fetch(at(0)) && !keys.try_begin_fetch(at(0)), "one fetch is in flight");
        keys.fetched(Err("down".to_owned()), 0).unwrap_err();
        // After failures, the pauses double: 1, 2, 4, 8, 16, 30, 30 …
        let mut begun = Vec::new();
        for second in 0..120 {
            if keys.try_begin_fetch(at(second)) {
                begun.push(second);
                keys.fetched(Err("down".to_owned()), 0).unwrap_err();
            }
        }
        assert_eq!(begun, [1, 3, 7, 15, 31, 61, 91]);
    }

    /// A key whose tokens are good: its JWK set, and what signs.
    fn signer() -> (String, impl Fn(u64) -> String) {
        use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let set = format!(r#"{{"keys":[{{"kty":"EC","crv":"P-256","x":"{x}","y":"{y}","kid":"a"}}]}}"#);
        let sign = move |issued_s: u64| {
            let head = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","kid":"a"}"#);
            let claims = format!(r#"{{"sub":"u","iat":{issued_s},"exp":{}}}"#, issued_s + 60);
            let said = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims));
            let signature = pair.sign(&aws_lc_rs::rand::SystemRandom::new(), said.as_bytes()).unwrap();
            format!("{said}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
        };
        (set, sign)
    }

    /// An hour in which the server is dead, slow, or gives nonsense: known keys pass all the time.
    #[test]
    fn a_dead_or_poisoned_server_never_takes_good_keys_away() {
        let (keys, (good, sign)) = (server(), signer());
        assert!(keys.try_begin_fetch(at(0)));
        assert_eq!(keys.fetched(Ok(good.as_bytes()), at(0).unix_s), Ok(true));
        let (mut fetches, mut ends_at) = (0, None);
        for second in 1..=3_600 {
            let now = at(second);
            // Each fetch hangs until its time-out.
            if ends_at == Some(second) {
                let answers: [Result<&[u8], String>; 5] = [
                    Err("time-out".to_owned()),
                    Ok(b"<html>"),
                    Ok(b"{\"keys\":[]}"),
                    Ok(b"{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAA\",\"kid\":\"a\"}]}"),
                    Ok(b""),
                ];
                keys.fetched(answers[fetches % 5].clone(), now.unix_s).unwrap_err();
                (fetches, ends_at) = (fetches + 1, None);
            } else if keys.try_begin_fetch(now) {
                ends_at = Some(second + 10);
            }
            let claims = keys.verify(sign(now.unix_s).as_bytes(), &TokenTerms::default(), now);
            assert_eq!(claims.unwrap().text("sub").as_deref(), Some("u"), "{second}");
            assert_eq!(said(&keys, &token("a", None), now), WRONG, "the key is known, the signature is not its own");
        }
        assert!((75..=130).contains(&fetches), "{fetches}");
        // The server is back, with another key.
        let back = 3_700;
        if ends_at.is_some() {
            keys.fetched(Err("time-out".to_owned()), at(3_601).unix_s).unwrap_err();
        }
        assert!(keys.try_begin_fetch(at(back)));
        assert_eq!(keys.fetched(Ok(set("b").as_bytes()), at(back).unix_s), Ok(true));
        assert!(!keys.try_begin_fetch(at(back + 599)) && keys.try_begin_fetch(at(back + 600)), "every ten minutes");
    }

    #[test]
    fn a_flood_of_unknown_keys_asks_the_server_twice_a_minute() {
        let keys = server();
        assert!(keys.try_begin_fetch(at(0)));
        keys.fetched(Ok(set("a").as_bytes()), at(0).unix_s).unwrap();
        let mut fetches = 0;
        for second in 1..=300 {
            for number in 0..50 {
                let _ = said(&keys, &token(&format!("x{second}-{number}"), None), at(second));
            }
            if keys.try_begin_fetch(at(second)) {
                fetches += 1;
                keys.fetched(Ok(set("a").as_bytes()), at(second).unix_s).unwrap();
            }
        }
        assert_eq!(fetches, 10);
    }

    #[test]
    fn a_new_key_is_awaited_and_an_old_unknown_one_refused() {
        let keys = server();
        assert!(keys.try_begin_fetch(at(0)));
        keys.fetched(Ok(set("a").as_bytes()), at(0).unix_s).unwrap();
        assert_eq!(said(&keys, &token("b", Some(at(0).unix_s - 60)), at(10)), WRONG, "the keys are younger");
        let waits = said(&keys, &token("b", Some(at(10).unix_s)), at(10));
        assert_eq!(waits, Refused::NoKeys(Duration::from_secs(20)));
        assert!(!keys.try_begin_fetch(at(29)) && keys.try_begin_fetch(at(30)));
        assert!(matches!(said(&keys, &token("b", None), at(30)), Refused::NoKeys(_)), "a fetch is in flight");
        assert_eq!(keys.fetched(Ok(set("b").as_bytes()), at(30).unix_s), Ok(true));
        assert_eq!(said(&keys, &token("b", None), at(31)), WRONG);
    }
}
