//! A pin as Redis keeps it, 16 bytes before they are sealed, and another name of a session, 17 bytes.

use std::time::Duration;

use redis::Value;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::lookups::{FollowFinding, FollowNames};
use super::queue::{Question, on};
use super::{Fleet, QUESTION};
use crate::keys::Key;

/// Version of the layout; a value of another version counts as none.
const VERSION: u8 = 1;

/// The session was ended by an operator, and no stickyd may find it again.
const ENDED: u8 = 1;

/// A pin that stickyds share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SharedPin {
    /// Id of the worker, the same on every stickyd of the fleet.
    pub(crate) worker: u64,
    /// How long the session lives after its last activity, in seconds.
    pub(crate) ttl_s: u32,
    /// Whether an operator has ended the session.
    pub(crate) is_ended: bool,
}

impl SharedPin {
    pub(crate) fn new(worker: u64, ttl: Duration) -> Self {
        Self { worker, ttl_s: u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX).max(1), is_ended: false }
    }

    pub(crate) fn encode(self) -> [u8; 16] {
        let [a, b, c, d] = self.ttl_s.to_be_bytes();
        let [i, j, k, l, m, n, o, p] = self.worker.to_be_bytes();
        [VERSION, if self.is_ended { ENDED } else { 0 }, 0, 0, a, b, c, d, i, j, k, l, m, n, o, p]
    }

    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let [VERSION, flags, _, _, a, b, c, d, i, j, k, l, m, n, o, p] = *value else { return None };
        Some(Self {
            worker: u64::from_be_bytes([i, j, k, l, m, n, o, p]),
            ttl_s: u32::from_be_bytes([a, b, c, d]),
            is_ended: flags & ENDED != 0,
        })
    }

    /// How long Redis keeps the pin, in seconds: longer than any pause between two renewals (`WALK` in
    /// `server::fleet`).
    pub(crate) fn kept_s(self) -> u64 {
        (u64::from(self.ttl_s) * 4).clamp(240, 30 * 24 * 3_600)
    }
}

/// What leads from another name of a session to the session's pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SharedName {
    /// Key of the session.
    session: Key,
    /// How long the session lives after its last activity, in seconds; it is not stored.
    ttl_s: u32,
}

impl SharedName {
    pub(crate) fn new(session: Key, ttl: Duration) -> Self {
        Self { session, ttl_s: SharedPin::new(0, ttl).ttl_s }
    }

    fn encode(self) -> [u8; 17] {
        let mut value = [VERSION; 17];
        for (to, from) in value.iter_mut().skip(1).zip(self.session.to_bytes()) {
            *to = from;
        }
        value
    }

    /// Reads the key of the session.
    pub(crate) fn decode(value: &[u8]) -> Option<Key> {
        let (&VERSION, session) = value.split_first()? else { return None };
        session.try_into().ok().map(Key::from_bytes)
    }
}

/// What Redis keeps of a session.
#[derive(Debug, Clone, Copy)]
pub(crate) enum SharedValue {
    Pin(SharedPin),
    Name(SharedName),
}

impl SharedValue {
    pub(crate) fn encode(self) -> Vec<u8> {
        match self {
            Self::Pin(pin) => pin.encode().to_vec(),
            Self::Name(name) => name.encode().to_vec(),
        }
    }

    /// How long Redis keeps it, in seconds. A name is of no use without its pin.
    pub(crate) fn kept_s(self) -> u64 {
        match self {
            Self::Pin(pin) => pin.kept_s(),
            Self::Name(name) => SharedPin { worker: 0, ttl_s: name.ttl_s, is_ended: false }.kept_s(),
        }
    }
}

impl From<SharedPin> for SharedValue {
    fn from(pin: SharedPin) -> Self {
        Self::Pin(pin)
    }
}

impl From<SharedName> for SharedValue {
    fn from(name: SharedName) -> Self {
        Self::Name(name)
    }
}

impl Fleet {
    /// The pin of a session, for an operator: counts nothing, and waits longer than requests do. `None` if Redis does
    /// not answer.
    pub(crate) async fn inspect(&self, key: Key) -> Option<Option<SharedPin>> {
        let value = self.inspect_value(key, &self.pin_name(key)).await?;
        Some(value.and_then(|pin| SharedPin::decode(&pin)))
    }

    /// What Redis knows of an id that an ordinary request names, for an operator: nothing is counted.
    pub(crate) async fn inspect_followed(&self, names: FollowNames, is_here: impl Fn(Key) -> bool) -> FollowFinding {
        if let Some(Some(pin)) = self.inspect(names.sid).await {
            return FollowFinding::Pin(pin);
        }
        let name = self.inspect_value(names.name, &self.alias_name(names.name)).await.flatten();
        match name.and_then(|name| SharedName::decode(&name)) {
            Some(session) if is_here(session) => FollowFinding::Here(session),
            Some(session) => self.inspect(session).await.flatten().map_or(FollowFinding::Nothing, FollowFinding::Pin),
            None => FollowFinding::Nothing,
        }
    }

    /// The opened value of a pin or a name; the outer `None` means that Redis does not answer.
    async fn inspect_value(&self, key: Key, name: &str) -> Option<Option<Vec<u8>>> {
        let shard = self.shard_of(key).filter(|shard| self.settings.pins && shard.is_usable())?;
        let (answer, reply) = oneshot::channel();
        let commands = vec![on("GET", name)];
        shard.add(|queue| queue.questions.push_back(Question { commands, answer }));
        match timeout(QUESTION, reply).await.ok()?.ok()?.pop()? {
            Value::BulkString(sealed) => Some(self.seals.open(name, &sealed)),
            Value::Nil => Some(None),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_comes_back_as_it_was() {
        let pin = SharedPin { is_ended: true, ..SharedPin::new(0x0102_0304_0506_0708, Duration::from_secs(50)) };
        assert_eq!(SharedPin::decode(&pin.encode()), Some(pin));
        assert_eq!(SharedPin::decode(&pin.encode()[1..]), None);
        assert_eq!(SharedPin::decode(&[2; 16]), None, "another version");
        let name = SharedName::new(Key(1 << 56, 2), Duration::from_secs(50));
        assert_eq!(SharedName::decode(&SharedValue::from(name).encode()), Some(Key(1 << 56, 2)));
        assert_eq!(SharedName::decode(&[2; 17]), None, "another version");
        assert_eq!((SharedName::decode(&[1; 16]), SharedName::decode(&[])), (None, None));
        assert_eq!(SharedValue::from(name).kept_s(), pin.kept_s());
        assert_eq!((pin.kept_s(), SharedPin::new(1, Duration::from_secs(300)).kept_s()), (240, 1_200));
    }
}
