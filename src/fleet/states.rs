//! Admin states that operators set for the whole fleet, kept in Redis for a stickyd that joins later, or that was away
//! while the order went round. Left out: what a state does to a worker (`admin::orders`).

use redis::Value;
use serde::{Deserialize, Serialize};

use super::Fleet;
use super::queue::{bytes, on};

/// Seconds after which states are forgotten if no order renews the table: 30 days.
const KEPT_S: u64 = 30 * 24 * 3_600;

/// Maximum number of states that are kept. Each new life of a worker may have a name of its own, so that the states of
/// past workers would pile up.
const MOST_STATES: usize = 10_000;

/// Maximum number of states that are removed at once.
const MOST_REMOVED: usize = 1_000;

/// An admin state of one worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FleetState {
    /// Time of the order by the clock of the Redis, in microseconds, or later if an order before it says so.
    pub(crate) at_us: i64,
    /// The state in the file of the stickyd that was asked. Where another file says otherwise, the file holds.
    pub(crate) file: Option<String>,
    /// When the order was given, by the clock of the Redis; `None`: at `at_us`.
    pub(crate) given_us: Option<i64>,
    /// The grace of a drain, in milliseconds from the order on.
    pub(crate) grace_ms: Option<u64>,
    /// Number of the order, which decides between two orders of one moment.
    pub(crate) question: u64,
    /// Word of the state.
    pub(crate) state: String,
    pub(crate) stickyd: String,
    pub(crate) upstream: String,
    pub(crate) who: String,
    pub(crate) worker: String,
}

impl FleetState {
    /// Of two orders for one worker, the one with the higher version holds.
    pub(crate) fn version(&self) -> (i64, u64) {
        (self.at_us, self.question)
    }
}

/// The time of an order that is later than the one before it, even if the clock of the Redis was set back since.
pub(crate) fn time_after(redis_us: i64, before: Option<(i64, u64)>) -> i64 {
    before.map_or(redis_us, |(at_us, _)| redis_us.max(at_us.saturating_add(1)))
}

impl Fleet {
    /// The state that is kept of a worker; the outer `None` means that Redis does not answer.
    pub(crate) async fn state_of(&self, upstream: &str, worker: &str) -> Option<Option<FleetState>> {
        let (key, field) = (self.control_name("admin"), self.state_field(upstream, worker));
        let mut get = on("HGET", &key);
        get.arg(&field);
        let reply = self.ask(vec![get]).await?.pop()?;
        Some(bytes(reply).and_then(|sealed| self.open_state(&key, &field, &sealed)))
    }

    fn state_field(&self, upstream: &str, worker: &str) -> String {
        self.seals.name(&format!("{upstream}/{worker}"))
    }

    fn open_state(&self, key: &str, field: &str, sealed: &[u8]) -> Option<FleetState> {
        let plain = self.seals.open(&bound(key, field), sealed);
        if plain.is_none() {
            self.series.message("bad_seal");
        }
        serde_json::from_slice(&plain?).ok()
    }

    /// Keeps a state; returns whether Redis has it.
    pub(crate) async fn store_state(&self, state: &FleetState) -> bool {
        let key = self.control_name("admin");
        let field = self.state_field(&state.upstream, &state.worker);
        let sealed = serde_json::to_vec(state).ok().and_then(|plain| self.seals.seal(&bound(&key, &field), &plain));
        let Some(sealed) = sealed else { return false };
        let (mut set, mut expire) = (on("HSET", &key), on("EXPIRE", &key));
        set.arg(field).arg(sealed);
        expire.arg(KEPT_S);
        let replies = self.ask(vec![set, expire]).await.unwrap_or_default();
        matches!(replies.first(), Some(Value::Int(_)))
    }

    /// The states of all workers; `None` if Redis does not answer. Removes the oldest ones of too many.
    pub(crate) async fn states(&self) -> Option<Vec<FleetState>> {
        let key = self.control_name("admin");
        let pairs: Vec<(Value, Value)> = match self.ask(vec![on("HGETALL", &key)]).await?.pop()? {
            Value::Map(pairs) => pairs,
            Value::Array(all) => {
                let mut all = all.into_iter();
                std::iter::from_fn(|| all.next().zip(all.next())).collect()
            }
            _ => return None,
        };
        let read = |(field, sealed): (Value, Value)| {
            let field = String::from_utf8(bytes(field)?).ok()?;
            self.open_state(&key, &field, &bytes(sealed)?).map(|state| (field, state))
        };
        let (kept, over) = newest(pairs.into_iter().filter_map(read).collect(), MOST_STATES);
        if !over.is_empty() {
            let mut remove = on("HDEL", &key);
            over.iter().take(MOST_REMOVED).for_each(|field| _ = remove.arg(field));
            // What stays for want of an answer is removed at the next look.
            _ = self.ask(vec![remove]).await;
        }
        Some(kept)
    }
}

/// The newest states, at most this number, and the fields of the others.
fn newest(mut all: Vec<(String, FleetState)>, most: usize) -> (Vec<FleetState>, Vec<String>) {
    all.sort_by_key(|(_, state)| std::cmp::Reverse(state.version()));
    let over = all.split_off(all.len().min(most));
    (all.into_iter().map(|(_, state)| state).collect(), over.into_iter().map(|(field, _)| field).collect())
}

/// What a sealed state is bound to: it cannot be moved to another worker.
fn bound(key: &str, field: &str) -> String {
    format!("{key} {field}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_of_too_many_states_are_removed() {
        let state = |at_us: i64| {
            let text = String::new;
            let (state, stickyd, who, upstream, worker) = (text(), text(), text(), text(), at_us.to_string());
            let (file, given_us, grace_ms, question) = (None, None, None, 0);
            let state = FleetState { at_us, file, given_us, grace_ms, question, state, stickyd, upstream, who, worker };
            (format!("field {at_us}"), state)
        };
        let all: Vec<_> = [3, 1, 5, 2, 4].map(state).into();
        let (kept, over) = newest(all.clone(), 3);
        assert_eq!(kept.iter().map(|one| one.at_us).collect::<Vec<_>>(), [5, 4, 3]);
        assert_eq!(over, ["field 2", "field 1"]);
        assert_eq!(newest(all, 5).1, Vec::<String>::new());
    }

    #[test]
    fn an_order_is_later_than_the_one_before_it() {
        assert_eq!(time_after(7, None), 7);
        assert_eq!([4, 9].map(|before| time_after(7, Some((before, 1)))), [7, 10]);
        assert_eq!(time_after(7, Some((i64::MAX, 1))), i64::MAX);
        // Whatever the clock does, each order is later than all before it.
        let mut last = None;
        for clock in [100, 101, 50, 50, 51, 102, 103, 200, -1, 201] {
            let at = time_after(clock, last);
            assert!(at >= clock && last.is_none_or(|last| (at, 0) > last), "{clock}");
            last = Some((at, 9));
        }
        assert_eq!(last, Some((202, 9)));
    }
}
