//! Passwords (RFC 7617) of a route, checked against the hashes of a file.
//!
//! A check takes as long as the hash was made to take, so it runs on a thread that may block, a few at a time, and a
//! right password is remembered for a while: by a keyed hash of it, never itself. An unknown user costs as much time as
//! a wrong password. Left out: the waiting (`proxy::access`); reading of the file (`config::access`).

use std::sync::Arc;
use std::time::Duration;

use argon2::Argon2;
use argon2::password_hash::PasswordVerifier as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{self, HeaderMap, HeaderValue};
use tokio::sync::Semaphore;

use super::access::{KeptVerdicts, KeyMaker, VerdictKey, WaitingRoom};
use crate::clock::Millis;
use crate::config::access::BasicAuth;
use crate::upstream::eject::ClientKey;

/// Number of passwords that are checked at a time.
const AT_ONCE: usize = 2;

/// Maximum number of requests that wait for the check of their password, in all and per client address. A page that is
/// loaded sends some twenty at once, of which the first check decides all.
const WAITING: usize = 256;
const WAITING_OF_ONE: u32 = 32;

/// Time for which a right password is remembered.
const REMEMBERED: Duration = Duration::from_secs(300);

/// Maximum length of credentials, in bytes of base64.
const LONGEST: usize = 1_024;

/// The passwords of one route.
pub(crate) struct BasicGuard {
    config: Arc<BasicAuth>,
    keys: KeyMaker,
    known: KeptVerdicts<()>,
    pub(crate) turns: Arc<Semaphore>,
    pub(crate) waiting: WaitingRoom<ClientKey>,
    challenge: HeaderValue,
}

/// User and password of a request.
pub(crate) struct Credentials {
    user: String,
    password: Vec<u8>,
    key: VerdictKey,
}

impl BasicGuard {
    pub(crate) fn new(config: Arc<BasicAuth>) -> Arc<Self> {
        let challenge = format!("Basic realm=\"{}\", charset=\"UTF-8\"", config.realm);
        Arc::new(Self {
            keys: KeyMaker::new(),
            known: KeptVerdicts::new(),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            waiting: WaitingRoom::new(WAITING, WAITING_OF_ONE),
            // `config` has checked the realm.
            challenge: HeaderValue::try_from(challenge).unwrap_or_else(|_| HeaderValue::from_static("Basic")),
            config,
        })
    }

    pub(crate) fn config(&self) -> &BasicAuth {
        &self.config
    }

    /// Returns the value of `WWW-Authenticate` that asks for a password.
    pub(crate) fn challenge(&self) -> HeaderValue {
        self.challenge.clone()
    }

    /// Reads user and password of a request; `None`: there are none, or they are malformed.
    pub(crate) fn credentials(&self, headers: &HeaderMap) -> Option<Credentials> {
        let mut fields = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(field), None) = (fields.next(), fields.next()) else { return None };
        let (scheme, coded) = field.as_bytes().split_at_checked("Basic ".len())?;
        let coded = coded.trim_ascii();
        if !scheme.eq_ignore_ascii_case(b"Basic ") || coded.len() > LONGEST {
            return None;
        }
        let decoded = STANDARD.decode(coded).ok()?;
        let colon = decoded.iter().position(|byte| *byte == b':')?;
        let (user, password) = (decoded.get(..colon)?, decoded.get(colon + 1..)?);
        let (key, user) = (self.keys.key([user, password]), std::str::from_utf8(user).ok()?.to_owned());
        Some(Credentials { user, password: password.to_vec(), key })
    }

    /// Whether these credentials were right a short time ago.
    pub(crate) fn knows(&self, given: &Credentials, now_ms: Millis) -> bool {
        self.known.get(&given.key, now_ms).is_some()
    }

    /// Remembers that these credentials are right.
    pub(crate) fn remember(&self, given: &Credentials, now_ms: Millis) {
        self.known.put(given.key, (), REMEMBERED, now_ms);
    }

    /// Checks a password. Takes long: it may only be called where a thread may block.
    pub(crate) fn is_right(&self, given: &Credentials) -> bool {
        let users = &self.config.users.0;
        let found = users.binary_search_by(|(name, _)| name.as_str().cmp(&given.user));
        let (Ok(at) | Err(at)) = found;
        // For an unknown user, the hash of another one takes the same time.
        let hash = users.get(at).or_else(|| users.first()).map(|(_, hash)| hash.as_str()).unwrap_or_default();
        fits(hash, &given.password) && found.is_ok()
    }
}

/// Whether a password is that of a hash.
fn fits(hash: &str, password: &[u8]) -> bool {
    match hash.starts_with("$argon2") {
        true => Argon2::default().verify_password(password, hash).is_ok(),
        false => bcrypt::verify(password, hash).unwrap_or(false),
    }
}

#[cfg(test)]
mod tests {
    use argon2::password_hash::PasswordHasher as _;

    use super::*;
    use crate::config::access::PasswordFile;

    fn guard() -> Arc<BasicGuard> {
        let params = argon2::Params::new(64, 1, 1, None).unwrap();
        let argon2 = Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
        let ann = argon2.hash_password_with_salt(b"one:two", b"0123456789abcdef").unwrap().to_string();
        let bob = bcrypt::hash("p\u{e4}ss", 4).unwrap();
        let users = PasswordFile(vec![("ann".to_owned(), ann), ("bob".to_owned(), bob)]);
        BasicGuard::new(Arc::new(BasicAuth { realm: "shop".to_owned(), users }))
    }

    fn field(text: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_str(text).unwrap())])
    }

    #[test]
    fn passwords_are_checked_against_both_kinds_of_hashes() {
        let guard = guard();
        for (credentials, is_right) in [
            ("ann:one:two", true),
            ("bob:p\u{e4}ss", true),
            ("bob:pass", false),
            ("ann:", false),
            ("ann:one", false),
            ("Ann:one:two", false),
            ("zoe:p\u{e4}ss", false),
            (":", false),
        ] {
            let given = guard.credentials(&field(&format!("bAsIc {}", STANDARD.encode(credentials)))).unwrap();
            assert_eq!(guard.is_right(&given), is_right, "{credentials}");
        }
        assert_eq!(guard.challenge(), "Basic realm=\"shop\", charset=\"UTF-8\"");
    }

    #[test]
    fn malformed_credentials_are_none() {
        let guard = guard();
        let long = format!("Basic {}", STANDARD.encode(format!("ann:{}", "x".repeat(LONGEST))));
        let no_text = format!("Basic {}", STANDARD.encode(b"\xff:x"));
        for wrong in
            ["", "Basic", "Basic ", "Basic YW5u", "Basic !", "Bearer YW5uOng=", "BasicYW5uOng=", &long, &no_text]
        {
            assert!(guard.credentials(&field(wrong)).is_none(), "{wrong}");
        }
        let mut twice = field("Basic YW5uOng=");
        assert!(guard.credentials(&twice).is_some());
        twice.append(header::AUTHORIZATION, HeaderValue::from_static("Basic YW5uOng="));
        assert!(guard.credentials(&twice).is_none());
    }

    #[test]
    fn a_right_password_is_remembered_for_a_while() {
        let guard = guard();
        let given = |text: &str| guard.credentials(&field(&format!("Basic {}", STANDARD.encode(text)))).unwrap();
        guard.remember(&given("ann:x"), Millis::new(0));
        assert!(
            guard.knows(&given("ann:x"), Millis::new(299_999)) && !guard.knows(&given("ann:x"), Millis::new(300_000))
        );
        assert!(!guard.knows(&given("ann:y"), Millis::new(1)) && !guard.knows(&given("ann::x"), Millis::new(1)));
    }
}
