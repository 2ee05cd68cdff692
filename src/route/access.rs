//! Guards of a route that have to wait for their verdict: a password whose check takes long, and another service.
//!
//! They come after all other guards, since they cost the most. The waiting is in `proxy::access`.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::hmac;

use super::basic::BasicGuard;
use super::forward_auth::ForwardGuard;
use crate::clock::Millis;
use crate::config::guards::Guards;
use crate::locks::lock;

/// Maximum number of verdicts that one guard remembers.
const MOST_VERDICTS: usize = 10_000;

/// The guards of one route that have to wait.
pub(crate) struct AccessGuard {
    pub(crate) basic: Option<Arc<BasicGuard>>,
    pub(crate) forward: Option<Arc<ForwardGuard>>,
}

impl AccessGuard {
    /// Creates the guards of a route; `None` if it has none. Those of before are kept with what they remember, if their
    /// configuration is the same.
    pub(crate) fn follow(guards: &Guards, before: Option<&Arc<Self>>) -> Option<Arc<Self>> {
        let basic = guards.basic.as_ref().map(|config| {
            let same = before.and_then(|before| before.basic.clone()).filter(|guard| guard.config() == &**config);
            same.unwrap_or_else(|| BasicGuard::new(config.clone()))
        });
        let forward = guards.forward.as_ref().map(|config| {
            let same = before.and_then(|before| before.forward.clone()).filter(|guard| guard.config() == &**config);
            same.unwrap_or_else(|| ForwardGuard::new(config.clone()))
        });
        (basic.is_some() || forward.is_some()).then(|| Arc::new(Self { basic, forward }))
    }
}

/// Names a request or a password without containing it: a keyed hash.
pub(crate) type VerdictKey = [u8; 32];

/// Makes [`VerdictKey`]s under a random key, from parts that cannot be taken for one another.
pub(crate) struct KeyMaker(hmac::Key);

impl KeyMaker {
    pub(crate) fn new() -> Self {
        let bytes: [u64; 4] = std::array::from_fn(|_| crate::random::u64());
        Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes.map(u64::to_ne_bytes).concat()))
    }

    pub(crate) fn key<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>) -> VerdictKey {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut key = VerdictKey::default();
        key.iter_mut().zip(context.sign().as_ref()).for_each(|(to, from)| *to = *from);
        key
    }
}

/// Verdicts that hold for a while. Bounded; when it is full, those that are over are forgotten, or else all.
pub(crate) struct KeptVerdicts<V>(Mutex<HashMap<VerdictKey, (Millis, V)>>);

impl<V: Clone> KeptVerdicts<V> {
    pub(crate) fn new() -> Self {
        Self(Mutex::default())
    }

    /// Returns a verdict that still holds.
    pub(crate) fn get(&self, key: &VerdictKey, now_ms: Millis) -> Option<V> {
        let all = lock(&self.0);
        let (until, verdict) = all.get(key)?;
        (now_ms < *until).then(|| verdict.clone())
    }

    /// Remembers a verdict for a time; zero: not at all.
    pub(crate) fn put(&self, key: VerdictKey, verdict: V, time: Duration, now_ms: Millis) {
        let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        if ms == 0 {
            return;
        }
        let mut all = lock(&self.0);
        if all.len() >= MOST_VERDICTS {
            all.retain(|_, (until, _)| now_ms < *until);
        }
        if all.len() >= MOST_VERDICTS {
            all.clear();
        }
        all.insert(key, (now_ms.plus_ms(ms), verdict));
    }
}

/// Counts what waits, in all and per client. Bounded by `most`.
pub(crate) struct WaitingRoom<C> {
    most: usize,
    most_of_one: u32,
    by_client: Mutex<(usize, HashMap<C, u32>)>,
}

/// A place in a [`WaitingRoom`], until it is dropped.
pub(crate) struct WaitingPlace<'a, C: Hash + Eq + Copy> {
    room: &'a WaitingRoom<C>,
    client: C,
}

impl<C: Hash + Eq + Copy> WaitingRoom<C> {
    pub(crate) fn new(most: usize, most_of_one: u32) -> Self {
        Self { most, most_of_one, by_client: Mutex::default() }
    }

    /// Takes a place; `None` if there are too many.
    pub(crate) fn try_enter(&self, client: C) -> Option<WaitingPlace<'_, C>> {
        let mut room = lock(&self.by_client);
        let (all, by_client) = &mut *room;
        if *all >= self.most || by_client.get(&client).is_some_and(|count| *count >= self.most_of_one) {
            return None;
        }
        *all += 1;
        *by_client.entry(client).or_default() += 1;
        Some(WaitingPlace { room: self, client })
    }
}

impl<C: Hash + Eq + Copy> Drop for WaitingPlace<'_, C> {
    fn drop(&mut self) {
        let mut room = lock(&self.room.by_client);
        let (all, by_client) = &mut *room;
        *all = all.saturating_sub(1);
        if let Some(count) = by_client.get_mut(&self.client) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                by_client.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_parts_apart() {
        let keys = KeyMaker::new();
        let key = |parts: &[&str]| keys.key(parts.iter().map(|part| part.as_bytes()));
        assert_eq!(key(&["ab", "c"]), key(&["ab", "c"]));
        for other in [&["a", "bc"][..], &["abc"], &["ab", "c", ""], &["", "ab", "c"]] {
            assert_ne!(key(&["ab", "c"]), key(other), "{other:?}");
        }
        assert_ne!(KeyMaker::new().key([&b"a"[..]]), keys.key([&b"a"[..]]));
    }

    #[test]
    fn verdicts_hold_for_their_time_and_are_bounded() {
        let (verdicts, second) = (KeptVerdicts::new(), Duration::from_secs(1));
        let key = |number: usize| std::array::from_fn(|at| if at < 8 { number.to_be_bytes()[at] } else { 0 });
        let at = Millis::new;
        verdicts.put(key(1), 1, second, at(0));
        verdicts.put(key(2), 2, Duration::ZERO, at(0));
        assert_eq!([verdicts.get(&key(1), at(999)), verdicts.get(&key(1), at(1_000))], [Some(1), None]);
        assert_eq!(verdicts.get(&key(2), at(0)), None);
        for number in 0..3 * MOST_VERDICTS {
            verdicts.put(key(number), 3, second, at(2_000));
            assert!(lock(&verdicts.0).len() <= MOST_VERDICTS);
        }
        assert_eq!(verdicts.get(&key(3 * MOST_VERDICTS - 1), at(2_001)), Some(3));
    }

    #[test]
    fn a_room_is_bounded_in_all_and_per_client() {
        let room = WaitingRoom::new(3, 2);
        let one = [room.try_enter(1), room.try_enter(1)];
        assert!(one.iter().all(Option::is_some) && room.try_enter(1).is_none());
        let other = room.try_enter(2);
        assert!(other.is_some() && room.try_enter(3).is_none());
        drop(one);
        assert!(room.try_enter(1).is_some());
        drop(other);
        assert!(lock(&room.by_client).0 == 0 && lock(&room.by_client).1.is_empty());
    }
}
