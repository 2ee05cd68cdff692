//! Refusals in the client's own protocol: their reasons, the session ids that carry them, and the little that has to be
//! remembered between two requests of a refused session.
//!
//! ```text
//! stickyd.<base64url( version 1 | reason 1 | time 4 | random 6 | MAC 16 )>
//! ```
//!
//! The MAC is under the fleet's secret and the upstream's name, so any stickyd of a fleet answers the session that
//! another one has refused. Only the namespaces that the client names in its CONNECT packets are remembered, for ten
//! seconds and in a bounded table. Left out: what is answered (`proxy::told_refusals`, `tunnel::told`).

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use aws_lc_rs::{constant_time, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::sync::Notify;

use crate::clock::Millis;
use crate::jwt::TokenFault;
use crate::keys::Key;
use crate::keys::derive::{derive, first};
use crate::locks::lock;
use crate::telemetry::say_full;

/// Beginning of a session id of stickyd's own.
const PREFIX: &str = "stickyd.";

/// Seconds for which such an id is valid.
const VALID_S: u64 = 30;

/// How long the namespaces of a refused session are remembered, in milliseconds.
const KEPT_MS: u64 = 10_000;

/// Maximum number of sessions whose refusal is under way, and of those remembered.
const MOST: usize = 4_096;

/// Maximum number of namespaces of one session that get an answer.
const NAMESPACES: usize = 16;

const MAC: usize = 16;
const SAID: usize = 12;

/// Why a client is refused for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ToldReason {
    /// Its token is at fault.
    Token(TokenFault),
    /// The page's origin is not allowed.
    Origin,
    /// Its user has as many sockets as allowed.
    TooMany,
}

impl ToldReason {
    /// The code that the application gets.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Token(fault) => fault.code(),
            Self::Origin => "origin_not_allowed",
            Self::TooMany => "too_many_connections",
        }
    }

    /// The code as words.
    pub(crate) fn message(self) -> &'static str {
        match self {
            Self::Token(fault) => fault.message(),
            Self::Origin => "origin not allowed",
            Self::TooMany => "too many connections",
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::Token(fault) => fault as u8,
            Self::Origin => 100,
            Self::TooMany => 101,
        }
    }

    fn of_number(number: u8) -> Option<Self> {
        match number {
            100 => Some(Self::Origin),
            101 => Some(Self::TooMany),
            _ => TokenFault::ALL.into_iter().find(|fault| *fault as u8 == number).map(Self::Token),
        }
    }
}

/// Makes the id of a session that is refused for this reason, at this second since 1970.
pub(crate) fn seal(secret: &[u8], upstream: &str, reason: ToldReason, now_s: u64, random: [u8; 6]) -> String {
    let mut bytes = vec![1, reason.number()];
    bytes.extend(u32::try_from(now_s & 0xffff_ffff).unwrap_or(0).to_be_bytes());
    bytes.extend(random);
    let mac = mac(secret, upstream, &bytes);
    bytes.extend(mac);
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// Returns the reason in an id of stickyd's own; `None` if it is another's, forged, or too old.
pub(crate) fn open(secret: &[u8], upstream: &str, sid: &[u8], now_s: u64) -> Option<ToldReason> {
    let bytes = URL_SAFE_NO_PAD.decode(sid.strip_prefix(PREFIX.as_bytes())?).ok()?;
    let (said, given) = bytes.split_at_checked(SAID)?;
    constant_time::verify_slices_are_equal(&mac(secret, upstream, said), given).ok()?;
    let [1, reason, a, b, c, d, ..] = said else { return None };
    let made = u64::from(u32::from_be_bytes([*a, *b, *c, *d]));
    // Clocks of a fleet may differ a little.
    let age = (now_s & 0xffff_ffff).abs_diff(made);
    (age <= VALID_S).then_some(())?;
    ToldReason::of_number(*reason)
}

fn mac(secret: &[u8], upstream: &str, said: &[u8]) -> [u8; MAC] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &derive(secret, "told", &[upstream]));
    first(hmac::sign(&key, said).as_ref())
}

/// What refused sessions have said, and how many are being told.
#[derive(Default)]
pub(crate) struct ToldTable {
    entries: Mutex<HashMap<Key, ToldEntry>>,
    telling: AtomicUsize,
}

struct ToldEntry {
    reason: Option<ToldReason>,
    namespaces: Vec<String>,
    /// Whether any namespace was told before.
    answered: bool,
    until_ms: Millis,
    news: Arc<Notify>,
}

/// A place among the sessions that are being told.
pub(crate) struct ToldPlace(Arc<ToldTable>);

impl Drop for ToldPlace {
    fn drop(&mut self) {
        self.0.telling.fetch_sub(1, Relaxed);
    }
}

impl ToldTable {
    /// Takes a place for one session that is told why it is refused; `None` if all are taken.
    pub(crate) fn try_place(self: &Arc<Self>) -> Option<ToldPlace> {
        let place = ToldPlace(self.clone());
        if self.telling.fetch_add(1, Relaxed) < MOST {
            return Some(place);
        }
        say_full!("too many clients are being refused in their own protocol: others are refused by HTTP");
        None
    }

    /// Whether one more session may be told.
    pub(crate) fn has_room(&self) -> bool {
        self.telling.load(Relaxed) < MOST && lock(&self.entries).len() < MOST
    }

    /// Remembers a namespace of a refused session; returns `false` if the table is full.
    pub(crate) fn say(&self, key: Key, reason: ToldReason, namespace: String, now: Millis) -> bool {
        let news = {
            let mut entries = lock(&self.entries);
            let Some(entry) = entry(&mut entries, key, now) else { return false };
            entry.reason.get_or_insert(reason);
            if entry.namespaces.len() < NAMESPACES && !entry.namespaces.contains(&namespace) {
                entry.namespaces.push(namespace);
            }
            entry.news.clone()
        };
        news.notify_waiters();
        true
    }

    /// Takes the namespaces that a refused session has named since the last call; `None` if there are none.
    pub(crate) fn take(&self, key: Key) -> Option<(ToldReason, Vec<String>)> {
        let mut entries = lock(&self.entries);
        let entry = entries.get_mut(&key).filter(|entry| !entry.namespaces.is_empty())?;
        entry.answered = true;
        Some((entry.reason?, std::mem::take(&mut entry.namespaces)))
    }

    /// Whether a refused session was told so before; `None` if it is not known.
    pub(crate) fn was_answered(&self, key: Key) -> Option<(ToldReason, bool)> {
        let entries = lock(&self.entries);
        let entry = entries.get(&key)?;
        Some((entry.reason?, entry.answered))
    }

    /// Returns what tells that the session has said something; `None` if the table is full.
    pub(crate) fn news(&self, key: Key, now: Millis) -> Option<Arc<Notify>> {
        entry(&mut lock(&self.entries), key, now).map(|entry| entry.news.clone())
    }

    /// Forgets what is too old.
    pub(crate) fn sweep(&self, now: Millis) {
        lock(&self.entries).retain(|_, entry| entry.until_ms > now);
    }
}

fn entry(entries: &mut HashMap<Key, ToldEntry>, key: Key, now: Millis) -> Option<&mut ToldEntry> {
    if entries.len() >= MOST && !entries.contains_key(&key) {
        say_full!("too many refused sessions are remembered: others are refused by HTTP");
        return None;
    }
    let until_ms = now.saturating_add(std::time::Duration::from_millis(KEPT_MS));
    let new = || ToldEntry { reason: None, namespaces: Vec::new(), answered: false, until_ms, news: Arc::default() };
    Some(entries.entry(key).or_insert_with(new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_id_opens_for_half_a_minute_at_its_upstream() {
        let reason = ToldReason::Token(TokenFault::Expired);
        let sid = seal(b"secret", "app", reason, 1_000, [7; 6]);
        assert!(sid.starts_with("stickyd.") && sid.len() < 64);
        let open = |secret: &[u8], upstream, sid: &str, now| open(secret, upstream, sid.as_bytes(), now);
        assert_eq!(open(b"secret", "app", &sid, 1_000), Some(reason));
        assert_eq!(open(b"secret", "app", &sid, 1_030), Some(reason));
        assert_eq!(open(b"secret", "app", &sid, 1_031), None);
        assert_eq!(open(b"other", "app", &sid, 1_000), None);
        assert_eq!(open(b"secret", "other", &sid, 1_000), None);
        let mut forged = sid.into_bytes();
        for place in PREFIX.len()..forged.len() {
            forged[place] ^= 1;
            assert_eq!(super::open(b"secret", "app", &forged, 1_000), None, "{place}");
            forged[place] ^= 1;
        }
        for other in ["", "stickyd.", "stickyd.AAAA", "AAAAAAAAAAAAAAAAAAAA"] {
            assert_eq!(open(b"secret", "app", other, 1_000), None);
        }
        for reason in
            TokenFault::ALL.map(ToldReason::Token).into_iter().chain([ToldReason::Origin, ToldReason::TooMany])
        {
            let sid = seal(b"secret", "app", reason, 5, [0; 6]);
            assert_eq!(open(b"secret", "app", &sid, 5), Some(reason));
        }
    }

    #[test]
    fn the_table_is_bounded_and_swept() {
        let table = ToldTable::default();
        let now = Millis::START;
        let key = |number: usize| Key(number as u64, 1);
        for number in 0..MOST {
            assert!(table.say(key(number), ToldReason::Origin, String::new(), now));
        }
        assert!(!table.say(key(MOST), ToldReason::Origin, String::new(), now) && !table.has_room());
        assert!(table.say(key(0), ToldReason::Origin, "/chat".to_owned(), now), "a known session is remembered");
        assert_eq!(table.take(key(0)), Some((ToldReason::Origin, vec![String::new(), "/chat".to_owned()])));
        assert_eq!(table.take(key(0)), None);
        assert_eq!(table.was_answered(key(0)), Some((ToldReason::Origin, true)));
        table.sweep(now.saturating_add(std::time::Duration::from_secs(11)));
        assert!(table.has_room());
    }
}
