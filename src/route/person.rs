//! What the guards of a route know of the client of one session: whether it was admitted, and the claims of its token.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use tokio::sync::Notify;

use crate::jwt::Claims;
use crate::locks::lock;

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
    /// Whether the handshake had a good token of its own.
    by_handshake: bool,
    /// Second since 1970 at which the token expires; 0: never.
    expires_s: AtomicU64,
    /// Whether the time of its admission is limited already.
    has_deadline: AtomicBool,
    /// The expiry that is waited for; 0: none.
    waits_for_s: AtomicU64,
    /// How the client is refused for good, once it is.
    refusal: Mutex<Option<PersonRefusal>>,
    /// The claims that labels and limits need; few, so that a session costs little.
    values: Mutex<Vec<(Box<str>, Box<str>)>>,
    /// Wakes what waits until the client is admitted or refused.
    judged: Notify,
}

impl Person {
    /// A client whose token is still to come, in a CONNECT packet.
    pub(crate) fn pending() -> Self {
        Self::default()
    }

    /// A client of a session that this stickyd has not seen begin.
    pub(crate) fn found() -> Self {
        Self { found: true, ..Self::default() }
    }

    /// A client whose handshake had a good token.
    pub(crate) fn of_handshake(claims: &Claims, wanted: &[&str]) -> Self {
        let person = Self { by_handshake: true, ..Self::default() };
        person.admit(claims, wanted);
        person
    }

    /// Admits the client by a good token; the claims in `wanted` are kept.
    pub(crate) fn admit(&self, claims: &Claims, wanted: &[&str]) {
        let kept = wanted.iter().filter_map(|name| Some(((*name).into(), claims.text(name)?.into_boxed_str())));
        *lock(&self.values) = kept.collect();
        self.expires_s.store(claims.expires_s().unwrap_or(0), Relaxed);
        self.admitted.store(true, Relaxed);
        self.judged.notify_waiters();
    }

    /// Waits until the client is admitted or refused for good.
    pub(crate) async fn judged(&self) {
        loop {
            let mut judged = std::pin::pin!(self.judged.notified());
            // Before the look, so that a verdict between both is not missed.
            judged.as_mut().enable();
            if self.is_admitted() || self.refusal().is_some() {
                return;
            }
            judged.await;
        }
    }

    /// Whether a good token has come.
    pub(crate) fn is_admitted(&self) -> bool {
        self.admitted.load(Relaxed)
    }

    /// Whether the session was found at a worker, and not made through this stickyd.
    pub(crate) fn is_found(&self) -> bool {
        self.found
    }

    /// Whether the handshake had a good token of its own.
    pub(crate) fn is_admitted_by_handshake(&self) -> bool {
        self.by_handshake
    }

    /// Second since 1970 at which the token expires.
    pub(crate) fn expires_s(&self) -> Option<u64> {
        Some(self.expires_s.load(Relaxed)).filter(|at| *at > 0)
    }

    /// Whether the time of the client's admission is still to be limited; true once.
    pub(crate) fn take_deadline(&self) -> bool {
        !self.has_deadline.swap(true, Relaxed)
    }

    /// Whether this expiry is still to be waited for; true once per expiry.
    pub(crate) fn take_expiry(&self, at_s: u64) -> bool {
        self.waits_for_s.swap(at_s, Relaxed) != at_s
    }

    /// Notes that the client is refused for good, so that each of its connections tells it.
    pub(crate) fn refuse(&self, refusal: PersonRefusal) {
        lock(&self.refusal).get_or_insert(refusal);
        self.judged.notify_waiters();
    }

    /// How the client is refused for good, once it is.
    pub(crate) fn refusal(&self) -> Option<PersonRefusal> {
        lock(&self.refusal).clone()
    }

    /// Text of a claim that was kept.
    pub(crate) fn claim(&self, name: &str) -> Option<String> {
        lock(&self.values).iter().find(|(known, _)| **known == *name).map(|(_, value)| value.to_string())
    }
}
