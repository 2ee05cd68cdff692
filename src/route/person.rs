//! What the guards of a route know of the client of one session: whether it was admitted, and the claims of its token.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::clock::Millis;
use crate::jwt::{Claims, TokenFault};
use crate::locks::lock;

/// Maximum number of namespaces that one client is told about.
const NAMESPACES: usize = 16;

/// The words in which a client is refused for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PersonRefusal {
    /// For people, such as `token expired`.
    pub(crate) message: &'static str,
    /// For programs, such as `token_expired`.
    pub(crate) code: &'static str,
    /// The namespace that is refused; empty for `/`.
    pub(crate) namespace: String,
}

/// The client of a session, as far as its token tells.
#[derive(Debug, Default)]
pub(crate) struct Person {
    /// Whether a good token has come.
    admitted: AtomicBool,
    /// Whether the session was found at a worker, and not made through this stickyd.
    found: bool,
    /// Whether the packets of the session may come to other stickyds, too.
    shared: AtomicBool,
    /// Whether the handshake had a good token of its own.
    by_handshake: bool,
    /// Whether other stickyds were told that the client is admitted.
    told: AtomicBool,
    /// The path at which its session lives, hashed.
    path: u64,
    /// The fault of the token in its handshake; `None` if there was none.
    fault: Option<TokenFault>,
    /// Second since 1970 at which the token expires; 0: never.
    expires_s: AtomicU64,
    /// When it must be admitted, in milliseconds since the start; 0: not known yet.
    admitted_until_ms: AtomicU64,
    /// The expiry that is waited for; 0: none.
    waits_for_s: AtomicU64,
    /// How the client is refused for good, once it is: for each namespace that it has named.
    refusals: Mutex<Vec<PersonRefusal>>,
    /// The claims that labels and limits need; few, so that a session costs little.
    values: Mutex<Vec<(Box<str>, Box<str>)>>,
}

impl Person {
    /// A client whose token is still to come, in a CONNECT packet. `path` is that of its session, `fault` what is told
    /// if no token comes.
    pub(crate) fn pending(path: &str, fault: TokenFault) -> Self {
        Self { path: hash(path), fault: Some(fault), ..Self::default() }
    }

    /// A client of a session that this stickyd has not seen begin.
    pub(crate) fn found() -> Self {
        Self { found: true, ..Self::default() }
    }

    /// A client whose handshake had a good token. `path` is that of its session.
    pub(crate) fn of_handshake(claims: &Claims, wanted: &[&str], path: &str) -> Self {
        let person = Self { by_handshake: true, path: hash(path), ..Self::default() };
        person.admit(claims, wanted);
        person
    }

    /// Admits the client by a good token; the claims in `wanted` are kept.
    pub(crate) fn admit(&self, claims: &Claims, wanted: &[&str]) {
        let kept = wanted.iter().filter_map(|name| Some(((*name).into(), claims.text(name)?.into_boxed_str())));
        *lock(&self.values) = kept.collect();
        self.expires_s.store(claims.expires_s().unwrap_or(0), Relaxed);
        self.admitted.store(true, Relaxed);
    }

    /// Whether a good token has come.
    pub(crate) fn is_admitted(&self) -> bool {
        self.admitted.load(Relaxed)
    }

    /// Whether the session was found at a worker, and not made through this stickyd.
    pub(crate) fn is_found(&self) -> bool {
        self.found
    }

    /// Notes that the packets of the session may come to other stickyds, too.
    pub(crate) fn share(&self) {
        self.shared.store(true, Relaxed);
    }

    /// Whether packets of the session may have come to another stickyd.
    pub(crate) fn is_shared(&self) -> bool {
        self.found || self.shared.load(Relaxed)
    }

    /// Whether other stickyds still have to be told that the client is admitted; true once.
    pub(crate) fn take_untold(&self) -> bool {
        !self.by_handshake && self.is_shared() && !self.told.swap(true, Relaxed)
    }

    /// Whether the session began through the guard of this stickyd, at this path. Its id then stands for a token, there
    /// and nowhere else.
    pub(crate) fn has_session_at(&self, path: &str) -> bool {
        !self.found && self.path == hash(path)
    }

    /// What is wrong with the client's token if its packets bring none.
    pub(crate) fn fault(&self) -> TokenFault {
        self.fault.unwrap_or(TokenFault::Missing)
    }

    /// Whether the handshake had a good token of its own.
    pub(crate) fn is_admitted_by_handshake(&self) -> bool {
        self.by_handshake
    }

    /// Second since 1970 at which the token expires.
    pub(crate) fn expires_s(&self) -> Option<u64> {
        Some(self.expires_s.load(Relaxed)).filter(|at| *at > 0)
    }

    /// The time by which the client must be admitted: `at` at the first call, and the same time ever after, so that a
    /// client that opens one WebSocket after the other gains nothing.
    pub(crate) fn set_deadline(&self, at: Millis) -> Millis {
        let ms = at.get().max(1);
        match self.admitted_until_ms.compare_exchange(0, ms, Relaxed, Relaxed) {
            Ok(_) => Millis::new(ms),
            Err(before) => Millis::new(before),
        }
    }

    /// Whether this expiry is still to be waited for; true once per expiry.
    pub(crate) fn take_expiry(&self, at_s: u64) -> bool {
        self.waits_for_s.swap(at_s, Relaxed) != at_s
    }

    /// Notes that the client is refused for good, so that each of its connections tells it. The first refusal of a
    /// namespace counts.
    pub(crate) fn refuse(&self, refusal: PersonRefusal) {
        let mut refusals = lock(&self.refusals);
        if refusals.len() < NAMESPACES && refusals.iter().all(|known| known.namespace != refusal.namespace) {
            refusals.push(refusal);
        }
    }

    /// Whether the client is refused for good.
    pub(crate) fn is_refused(&self) -> bool {
        !lock(&self.refusals).is_empty()
    }

    /// How the client is refused for good, once it is: for each namespace that it has named.
    pub(crate) fn refusals(&self) -> Vec<PersonRefusal> {
        lock(&self.refusals).clone()
    }

    /// Text of a claim that was kept.
    pub(crate) fn claim(&self, name: &str) -> Option<String> {
        lock(&self.values).iter().find(|(known, _)| **known == *name).map(|(_, value)| value.to_string())
    }
}

/// Hashes a path, so that a client cannot make a session large. The hash needs no secret: to profit from a collision, a
/// client would have to find a path that a given other one collides with.
fn hash(path: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    hasher.finish()
}
