//! Keys of TLS session tickets that all stickyds of the fleet share, so that a client resumes its session at any of
//! them.
//!
//! A key belongs to an epoch of 12 hours by the clock of the Redis. Each stickyd holds the keys of four epochs: the two
//! last ones, whose tickets are still accepted, the current one, under which new tickets are sealed, and the next one,
//! so that a break of Redis at the change of an epoch, or clocks that differ a little, cost nothing. A stickyd that
//! finds no key stores one; all use the one that Redis has. If Redis loses a key, those that hold it store it again.
//! Keys are in memory and, sealed, in Redis until the last epoch in which their tickets are accepted is over.
//!
//! Tickets are sealed by AES-256-GCM-SIV with random nonces, for that is safe with any number of tickets per key, on
//! any number of machines. Under AES-GCM, one nonce that two machines draw for one key gives away what authenticates
//! all tickets of that key, and a forged ticket may claim any client certificate. Left out: rustls (`listener::tls`).

use std::ops::RangeInclusive;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use redis::{Cmd, Value, cmd};

use super::Fleet;
use super::queue::on;

/// Length of an epoch.
const EPOCH_MS: i64 = 12 * 3_600 * 1_000;

/// Number of later epochs in which tickets of a key are accepted.
const ACCEPTED: i64 = 2;

/// How long clients may keep a ticket, in seconds: a ticket that is made at the very end of an epoch is accepted for
/// this long.
const LIFETIME_S: u32 = 24 * 3_600;

/// Maximum number of keys of one epoch: there are several only where Redis has lost one that a stickyd did not hold.
const MOST_OF_EPOCH: usize = 4;

/// Length of a key's name, with which each ticket begins; and of that and the key itself.
const NAME: usize = 16;
const WHOLE: usize = NAME + 32;

/// The keys in hand. The threads that make handshakes read them; only the thread of the fleet changes them.
#[derive(Default)]
pub(crate) struct TicketKeys {
    ring: ArcSwap<TicketRing>,
}

#[derive(Default)]
struct TicketRing {
    epoch: i64,
    /// In the order in which they came.
    keys: Vec<Arc<TicketKey>>,
}

struct TicketKey {
    epoch: i64,
    /// Name and key, to be stored again.
    bytes: [u8; WHOLE],
    key: RandomizedNonceKey,
}

/// What a ticket turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TicketReading {
    /// None of the keys in hand has made it.
    OtherKey,
    /// It is forged, or was made under other terms.
    Refused,
    Plain(Vec<u8>),
}

impl std::fmt::Debug for TicketKeys {
    /// Shows no key, only how many there are.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TicketKeys").field("count", &self.count()).finish_non_exhaustive()
    }
}

impl TicketKeys {
    /// Seals a ticket that is valid under these terms only; `None` while there is no key of the current epoch.
    pub(crate) fn seal(&self, terms: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
        let ring = self.ring.load();
        let key = ring.current()?;
        let mut sealed = plain.to_vec();
        let nonce = key.key.seal_in_place_append_tag(Aad::from(terms), &mut sealed).ok()?;
        Some([key.name(), nonce.as_ref(), &sealed].concat())
    }

    /// Opens a ticket. Its bytes are the client's, and may be anything.
    pub(crate) fn open(&self, terms: &[u8], ticket: &[u8]) -> TicketReading {
        let ring = self.ring.load();
        let Some((name, rest)) = ticket.split_at_checked(NAME) else { return TicketReading::OtherKey };
        let Some(key) = ring.keys.iter().find(|key| key.name() == name) else { return TicketReading::OtherKey };
        key.open(terms, rest).map_or(TicketReading::Refused, TicketReading::Plain)
    }

    /// How long clients may keep a ticket that is made now, in seconds; `None` while there is no key for it.
    pub(crate) fn lifetime_s(&self) -> Option<u32> {
        self.ring.load().current().map(|_| LIFETIME_S)
    }

    /// Number of keys in hand.
    pub(crate) fn count(&self) -> usize {
        self.ring.load().keys.len()
    }

    /// Makes this epoch the current one, and forgets the keys whose tickets are no longer accepted.
    fn advance(&self, epoch: i64) {
        let before = self.ring.load();
        if before.epoch != epoch {
            let keys = before.keys.iter().filter(|key| epochs(epoch).contains(&key.epoch)).cloned().collect();
            self.ring.store(Arc::new(TicketRing { epoch, keys }));
        }
    }

    /// The key of an epoch that was adopted last.
    fn bytes_of(&self, epoch: i64) -> Option<[u8; WHOLE]> {
        self.ring.load().last_of(epoch).map(|key| key.bytes)
    }

    /// Uses the key that Redis has for an epoch. Another one that was used before still opens its tickets.
    fn adopt(&self, epoch: i64, bytes: [u8; WHOLE]) {
        let before = self.ring.load();
        if before.last_of(epoch).is_some_and(|key| key.bytes == bytes) {
            return;
        }
        let Some(key) = TicketKey::new(epoch, bytes) else { return };
        let mut keys: Vec<_> = before.keys.iter().filter(|key| key.bytes != bytes).cloned().collect();
        if keys.iter().filter(|key| key.epoch == epoch).count() >= MOST_OF_EPOCH
            && let Some(oldest) = keys.iter().position(|key| key.epoch == epoch)
        {
            keys.remove(oldest);
        }
        keys.push(Arc::new(key));
        self.ring.store(Arc::new(TicketRing { epoch: before.epoch, keys }));
    }
}

impl TicketRing {
    fn last_of(&self, epoch: i64) -> Option<&Arc<TicketKey>> {
        self.keys.iter().rfind(|key| key.epoch == epoch)
    }

    /// The key for new tickets.
    fn current(&self) -> Option<&Arc<TicketKey>> {
        self.last_of(self.epoch)
    }
}

impl TicketKey {
    /// `None` only if the library fails.
    fn new(epoch: i64, bytes: [u8; WHOLE]) -> Option<Self> {
        let (_, key) = bytes.split_at_checked(NAME)?;
        Some(Self { epoch, bytes, key: RandomizedNonceKey::new(&AES_256_GCM_SIV, key).ok()? })
    }

    fn name(&self) -> &[u8] {
        self.bytes.get(..NAME).unwrap_or_default()
    }

    fn open(&self, terms: &[u8], ticket: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = ticket.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = sealed.to_vec();
        let length = self.key.open_in_place(nonce, Aad::from(terms), &mut sealed).ok()?.len();
        sealed.truncate(length);
        Some(sealed)
    }
}

/// The epochs whose keys are held while `epoch` is the current one.
fn epochs(epoch: i64) -> RangeInclusive<i64> {
    epoch.saturating_sub(ACCEPTED)..=epoch.saturating_add(1)
}

/// How long Redis keeps the key of an epoch, in seconds: to the end of the last epoch that accepts its tickets.
fn kept_s(epoch: i64, now_ms: i64) -> i64 {
    let end_ms = epoch.saturating_add(ACCEPTED + 1).saturating_mul(EPOCH_MS);
    (end_ms.saturating_sub(now_ms) / 1_000).clamp(1, (ACCEPTED + 2) * EPOCH_MS / 1_000)
}

/// A key that Redis does not have, or that it has rubbish for.
struct LackedKey {
    epoch: i64,
    is_rubbish: bool,
}

/// Whether Redis took what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stored {
    All,
    NotAll,
}

impl Fleet {
    /// The keys of tickets, if the fleet shares them.
    pub(crate) fn ticket_keys(&self) -> Option<&Arc<TicketKeys>> {
        self.settings.tickets.then_some(&self.tickets)
    }

    /// Forgets keys that are too old, whether or not Redis answers.
    pub(super) fn forget_old_tickets(&self) {
        self.tickets.advance(self.fleet_ms().div_euclid(EPOCH_MS));
    }

    /// Takes over the keys that Redis has, and stores those that it lacks.
    pub(super) async fn share_tickets(&self) {
        if !self.settings.tickets {
            return;
        }
        let now_ms = self.fleet_ms();
        let epoch = now_ms.div_euclid(EPOCH_MS);
        self.tickets.advance(epoch);
        // What the first round writes, the second one reads. What it still cannot read then is of another type, which
        // looks like nothing; it is replaced, too, and read by the third.
        for round in 0..3 {
            let Some(lacked) = self.read_tickets(epoch).await else { return };
            let is_new = |lacked: &LackedKey| round == 0 && !lacked.is_rubbish;
            let writes: Vec<_> =
                lacked.iter().filter_map(|one| self.store_ticket(epoch, one.epoch, is_new(one), now_ms)).collect();
            if writes.is_empty() || round == 2 || self.write_tickets(writes).await != Stored::All {
                return;
            }
        }
    }

    /// Adopts the keys that Redis has; `None` if it does not answer.
    async fn read_tickets(&self, epoch: i64) -> Option<Vec<LackedKey>> {
        let mut command = cmd("MGET");
        for epoch in epochs(epoch) {
            command.arg(self.ticket_name(epoch));
        }
        let Some(Value::Array(values)) = self.ask(vec![command]).await?.pop() else { return None };
        let mut lacked = Vec::new();
        for (epoch, value) in epochs(epoch).zip(values) {
            let Value::BulkString(sealed) = value else {
                lacked.push(LackedKey { epoch, is_rubbish: false });
                continue;
            };
            match self.seals.open(&self.ticket_name(epoch), &sealed).and_then(|plain| plain.try_into().ok()) {
                Some(bytes) => self.tickets.adopt(epoch, bytes),
                None => {
                    self.series.message("bad_seal");
                    lacked.push(LackedKey { epoch, is_rubbish: true });
                }
            }
        }
        Some(lacked)
    }

    /// The command that stores the key of an epoch: the one in hand, or else a new one. `None`: no ticket is made with
    /// a key of that epoch any more, and it is not in hand.
    fn store_ticket(&self, current: i64, epoch: i64, only_new: bool, now_ms: i64) -> Option<Cmd> {
        let fresh = || (epoch >= current).then(crate::random::bytes::<WHOLE>);
        let bytes = self.tickets.bytes_of(epoch).or_else(fresh)?;
        let name = self.ticket_name(epoch);
        let mut command = on("SET", &name);
        command.arg(self.seals.seal(&name, &bytes)?).arg("EX").arg(kept_s(epoch, now_ms));
        if only_new {
            command.arg("NX");
        }
        Some(command)
    }

    async fn write_tickets(&self, writes: Vec<Cmd>) -> Stored {
        let replies = self.ask(writes).await.unwrap_or_default();
        let is_fine = !replies.is_empty() && !replies.iter().any(|reply| matches!(reply, Value::ServerError(_)));
        if is_fine { Stored::All } else { Stored::NotAll }
    }

    /// Name of an epoch's key in Redis. Fleets with another secret have other names.
    fn ticket_name(&self, epoch: i64) -> String {
        self.control_name(&format!("t:{epoch}:{}", self.seals.name("ticket key")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys_of(epochs: RangeInclusive<i64>) -> TicketKeys {
        let keys = TicketKeys::default();
        for epoch in epochs {
            keys.advance(epoch);
            keys.adopt(epoch, crate::random::bytes());
        }
        keys
    }

    fn plain(text: &[u8]) -> TicketReading {
        TicketReading::Plain(text.to_vec())
    }

    #[test]
    fn a_ticket_opens_under_its_terms_only() {
        let keys = keys_of(7..=7);
        let ticket = keys.seal(b"off", b"session").unwrap();
        assert_eq!(keys.open(b"off", &ticket), plain(b"session"));
        assert_eq!(keys.open(b"required", &ticket), TicketReading::Refused);
        assert_eq!(keys_of(7..=7).open(b"off", &ticket), TicketReading::OtherKey);
        for cut in 0..ticket.len() {
            assert_ne!(keys.open(b"off", &ticket[..cut]), plain(b"session"));
            let mut flipped = ticket.clone();
            flipped[cut] ^= 1;
            let wrong = if cut < NAME { TicketReading::OtherKey } else { TicketReading::Refused };
            assert_eq!(keys.open(b"off", &flipped), wrong, "{cut}");
        }
        assert_ne!(keys.seal(b"off", b"session"), keys.seal(b"off", b"session"), "nonces are random");
    }

    #[test]
    fn tickets_are_accepted_for_two_more_epochs() {
        let keys = keys_of(7..=8);
        keys.advance(7);
        let ticket = keys.seal(b"", b"x").unwrap();
        for epoch in 7..=9 {
            keys.advance(epoch);
            assert_eq!(keys.open(b"", &ticket), plain(b"x"), "{epoch}");
        }
        assert_eq!((keys.seal(b"", b"x"), keys.lifetime_s()), (None, None), "no key of this epoch is in hand");
        keys.advance(10);
        assert_eq!(keys.open(b"", &ticket), TicketReading::OtherKey);
        assert_eq!(keys.count(), 1, "the key itself is gone");
        // Another clock may be ahead: its tickets are opened, too.
        let ahead = keys_of(7..=8);
        let ticket = ahead.seal(b"", b"x").unwrap();
        ahead.advance(7);
        assert_eq!(ahead.open(b"", &ticket), plain(b"x"));
    }

    #[test]
    fn a_replaced_key_still_opens_its_tickets() {
        let keys = keys_of(7..=7);
        let ticket = keys.seal(b"", b"x").unwrap();
        keys.adopt(7, crate::random::bytes());
        assert_eq!(keys.open(b"", &ticket), plain(b"x"));
        assert_ne!(keys.seal(b"", b"x").unwrap()[..NAME], ticket[..NAME], "the one that Redis has is used");
        for _ in 0..20 {
            keys.adopt(7, crate::random::bytes());
        }
        assert_eq!((keys.count(), keys.open(b"", &ticket)), (MOST_OF_EPOCH, TicketReading::OtherKey));
    }

    #[test]
    fn redis_keeps_a_key_as_long_as_its_tickets_are_accepted() {
        assert_eq!(kept_s(8, 7 * EPOCH_MS), 48 * 3_600, "the next epoch, from the beginning of this one");
        assert_eq!(kept_s(7, 8 * EPOCH_MS - 1_000), 24 * 3_600 + 1, "this epoch, at its end");
        assert_eq!(kept_s(5, 8 * EPOCH_MS - 1), 1);
        assert_eq!(kept_s(0, i64::MAX), 1);
    }

    #[test]
    fn no_key_is_shown() {
        let keys = keys_of(7..=8);
        assert_eq!(format!("{keys:?}"), "TicketKeys { count: 2, .. }");
    }
}
