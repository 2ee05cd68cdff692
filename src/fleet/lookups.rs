//! Lookups for requests that wait: the pin of a session, by its own id or by another name of it.
//!
//! All that one request waits is `lookup_timeout`, and nothing while the circuit is open.

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::Fleet;
use super::pin::{SharedName, SharedPin};
use super::queue::Lookup;
use super::seal::base64url;
use crate::keys::Key;

/// The keys under which the fleet may know an id that a request names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FollowNames {
    /// If it is the id of a session.
    pub(crate) sid: Key,
    /// If it is another name of one.
    pub(crate) name: Key,
}

/// What the fleet knows of an id that a request names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FollowFinding {
    /// Nothing, which has been counted.
    Nothing,
    /// The id is another name of this session, which is pinned here.
    Here(Key),
    /// The pin of its session.
    Pin(SharedPin),
}

/// Why there is no value; the word is a result of lookups.
type Absent = &'static str;

impl Fleet {
    /// Asks Redis for the pin of a session, and waits at most `lookup_timeout`. A result other than a pin is counted
    /// here, and so is none.
    pub(crate) async fn look_up(&self, key: Key) -> Option<SharedPin> {
        let pin = self.fetch_pin(key, self.deadline()).await;
        pin.inspect_err(|absent| self.counts_lookup(absent)).ok()
    }

    /// Asks Redis for the session that has this id, whichever kind of id it is; `is_here` tells the sessions that are
    /// pinned here. Waits at most until `deadline`.
    pub(crate) async fn look_up_followed(
        &self,
        names: FollowNames,
        deadline: Instant,
        is_here: impl Fn(Key) -> bool,
    ) -> FollowFinding {
        // Both are sent together, so that the answer takes one round trip for a sid, and two for another name.
        let by_sid = self.fetch_pin(names.sid, deadline);
        let by_name = self.fetch_name(names.name, deadline);
        let absent = match tokio::join!(by_sid, by_name) {
            (Ok(pin), _) => return FollowFinding::Pin(pin),
            (_, Ok(session)) if is_here(session) => return FollowFinding::Here(session),
            (_, Ok(session)) => match self.fetch_pin(session, deadline).await {
                Ok(pin) => return FollowFinding::Pin(pin),
                Err(absent) => absent,
            },
            // Of the two, what went wrong says more than what is not there.
            (Err("miss"), Err(absent)) | (Err(absent), Err(_)) => absent,
        };
        self.counts_lookup(absent);
        FollowFinding::Nothing
    }

    /// Until when a request that begins to ask now may wait.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.settings.lookup_timeout
    }

    /// Counts the result of a lookup.
    pub(crate) fn counts_lookup(&self, result: &'static str) {
        self.series.looked_up(result);
    }

    /// Name of a session's pin in Redis.
    pub(crate) fn pin_name(&self, key: Key) -> String {
        format!("{}:p:{}", self.settings.prefix, base64url(&key.to_bytes()))
    }

    /// Name in Redis of what leads from another name of a session to the session.
    pub(super) fn alias_name(&self, name: Key) -> String {
        format!("{}:a:{}", self.settings.prefix, base64url(&name.to_bytes()))
    }

    async fn fetch_pin(&self, key: Key, deadline: Instant) -> Result<SharedPin, Absent> {
        let value = self.fetch(key, &self.pin_name(key), deadline).await?;
        SharedPin::decode(&value).ok_or("bad_seal")
    }

    async fn fetch_name(&self, name: Key, deadline: Instant) -> Result<Key, Absent> {
        let value = self.fetch(name, &self.alias_name(name), deadline).await?;
        SharedName::decode(&value).ok_or("bad_seal")
    }

    async fn fetch(&self, key: Key, name: &str, deadline: Instant) -> Result<Vec<u8>, Absent> {
        let shard = self.shard_of(key).filter(|shard| self.settings.pins && shard.is_usable()).ok_or("open")?;
        let (answer, reply) = oneshot::channel();
        if !shard.add(|queue| queue.look_up(Lookup { name: name.to_owned(), answer })) {
            return Err("open");
        }
        match timeout_at(deadline, reply).await {
            Err(_) => {
                shard.used(true);
                Err("timeout")
            }
            // An error of the Redis, which its thread has counted.
            Ok(Err(_)) => Err("open"),
            Ok(Ok(value)) => {
                shard.used(false);
                self.seals.open(name, &value.ok_or("miss")?).ok_or("bad_seal")
            }
        }
    }
}
