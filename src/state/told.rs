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
use crate::upstream::eject::ClientKey;

/// Beginning of a session id of stickyd's own.
const PREFIX: &str = "stickyd.";

/// Seconds for which such an id is valid.
const VALID_S: u64 = 30;

/// How long the namespaces of a refused session are remembered, in milliseconds.
const KEPT_MS: u64 = 10_000;

/// Maximum number of sessions whose refusal is under way, and of those remembered.
const MOST: usize = 4_096;

/// How many of each one client address may have, so that one address cannot keep others from being told.
const MOST_OF_ONE: usize = 1_024;

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
    entries: Mutex<ToldEntries>,
    telling: Mutex<ClientShares>,
}

#[derive(Default)]
struct ToldEntries {
    by_session: HashMap<Key, ToldEntry>,
    shares: ClientShares,
}

struct ToldEntry {
    client: ClientKey,
    reason: Option<ToldReason>,
    /// Namespaces that were named since the last answer, and why each is refused.
    named: Vec<(ToldReason, String)>,
    /// Whether any namespace was told before.
    answered: bool,
    until_ms: Millis,
    news: Arc<Notify>,
}

/// Counts what the clients have of something that is bounded in all and for each of them.
#[derive(Default)]
struct ClientShares {
    all: usize,
    by_client: HashMap<ClientKey, usize>,
}

impl ClientShares {
    fn has_room(&self, client: &ClientKey) -> bool {
        self.all < MOST && self.by_client.get(client).is_none_or(|count| *count < MOST_OF_ONE)
    }

    fn try_take(&mut self, client: ClientKey) -> bool {
        let fits = self.has_room(&client);
        if fits {
            self.all += 1;
            *self.by_client.entry(client).or_default() += 1;
        }
        fits
    }

    fn give_back(&mut self, client: &ClientKey) {
        self.all = self.all.saturating_sub(1);
        if let Some(count) = self.by_client.get_mut(client) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.by_client.remove(client);
            }
        }
    }
}

/// A place among the sessions that are being told.
pub(crate) struct ToldPlace {
    table: Arc<ToldTable>,
    client: ClientKey,
}

impl Drop for ToldPlace {
    fn drop(&mut self) {
        lock(&self.table.telling).give_back(&self.client);
    }
}

impl ToldTable {
    /// Takes a place for one session that is told why it is refused; `None` if all are taken.
    pub(crate) fn try_place(self: &Arc<Self>, client: ClientKey) -> Option<ToldPlace> {
        if lock(&self.telling).try_take(client) {
            return Some(ToldPlace { table: self.clone(), client });
        }
        say_full!("too many clients are being refused in their own protocol: others are refused by HTTP");
        None
    }

    /// Whether one more session of this client may be told.
    pub(crate) fn has_room(&self, client: &ClientKey) -> bool {
        lock(&self.telling).has_room(client) && lock(&self.entries).shares.has_room(client)
    }

    /// Remembers a namespace of a refused session; returns `false` if the table is full.
    pub(crate) fn say(&self, key: Key, client: ClientKey, reason: ToldReason, namespace: String, now: Millis) -> bool {
        let news = {
            let mut entries = lock(&self.entries);
            let Some(entry) = entries.entry(key, client, now) else { return false };
            entry.reason.get_or_insert(reason);
            if entry.named.len() < NAMESPACES && entry.named.iter().all(|(_, known)| *known != namespace) {
                entry.named.push((reason, namespace));
            }
            entry.news.clone()
        };
        news.notify_waiters();
        true
    }

    /// Takes the namespaces that a refused session has named since the last call, each with the reason why it is
    /// refused; `None` if there are none.
    pub(crate) fn take(&self, key: Key) -> Option<Vec<(ToldReason, String)>> {
        let mut entries = lock(&self.entries);
        let entry = entries.by_session.get_mut(&key).filter(|entry| !entry.named.is_empty())?;
        entry.answered = true;
        Some(std::mem::take(&mut entry.named))
    }

    /// Whether a refused session was told so before; `None` if it is not known.
    pub(crate) fn was_answered(&self, key: Key) -> Option<(ToldReason, bool)> {
        let entries = lock(&self.entries);
        let entry = entries.by_session.get(&key)?;
        Some((entry.reason?, entry.answered))
    }

    /// Returns what tells that the session has said something; `None` if the table is full.
    pub(crate) fn news(&self, key: Key, client: ClientKey, now: Millis) -> Option<Arc<Notify>> {
        lock(&self.entries).entry(key, client, now).map(|entry| entry.news.clone())
    }

    /// Forgets what is too old.
    pub(crate) fn sweep(&self, now: Millis) {
        let mut entries = lock(&self.entries);
        let ToldEntries { by_session, shares } = &mut *entries;
        by_session.retain(|_, entry| {
            let stays = entry.until_ms > now;
            if !stays {
                shares.give_back(&entry.client);
            }
            stays
        });
    }
}

impl ToldEntries {
    fn entry(&mut self, key: Key, client: ClientKey, now: Millis) -> Option<&mut ToldEntry> {
        if !self.by_session.contains_key(&key) && !self.shares.try_take(client) {
            say_full!("too many refused sessions are remembered: others are refused by HTTP");
            return None;
        }
        let until_ms = now.saturating_add(std::time::Duration::from_millis(KEPT_MS));
        let new =
            || ToldEntry { client, reason: None, named: Vec::new(), answered: false, until_ms, news: Arc::default() };
        Some(self.by_session.entry(key).or_insert_with(new))
    }
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
        let (now, origin) = (Millis::START, ToldReason::Origin);
        let key = |number: usize| Key(number as u64, 1);
        let client = |number: usize| [u8::try_from(number / MOST_OF_ONE).unwrap(); 16];
        let named = |reason, name: &str| (reason, name.to_owned());
        for number in 0..MOST {
            assert!(table.say(key(number), client(number), origin, String::new(), now));
        }
        assert!(!table.say(key(MOST), [9; 16], origin, String::new(), now) && !table.has_room(&[9; 16]));
        let expired = ToldReason::Token(TokenFault::Expired);
        assert!(table.say(key(0), client(0), expired, "/chat".to_owned(), now), "a known session is remembered");
        assert_eq!(table.take(key(0)), Some(vec![named(origin, ""), named(expired, "/chat")]));
        assert_eq!(table.take(key(0)), None);
        assert_eq!(table.was_answered(key(0)), Some((origin, true)));
        table.sweep(now.saturating_add(std::time::Duration::from_secs(11)));
        assert!(table.has_room(&client(0)) && table.has_room(&[9; 16]));
        assert!(lock(&table.entries).shares.by_client.is_empty());
    }

    #[test]
    fn one_client_cannot_keep_others_from_being_told() {
        let table = Arc::new(ToldTable::default());
        let (now, flood, other) = (Millis::START, [1; 16], [2; 16]);
        let mut places: Vec<_> = std::iter::from_fn(|| table.try_place(flood)).take(MOST).collect();
        assert_eq!(places.len(), MOST_OF_ONE);
        let say =
            |number: usize, client| table.say(Key(number as u64, 1), client, ToldReason::Origin, String::new(), now);
        let said = (0..MOST).filter(|number| say(*number, flood)).count();
        assert_eq!(said, MOST_OF_ONE);
        assert!(!table.has_room(&flood) && table.has_room(&other));
        assert!(table.try_place(other).is_some() && say(MOST, other));
        places.pop();
        assert!(table.try_place(flood).is_some());
        drop(places);
        assert!(lock(&table.telling).by_client.is_empty());
    }
}
