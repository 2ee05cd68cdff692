//! The part of the fleet's thread in the limits of users: checks new sockets, does what other stickyds say about
//! entries, and enters places again that Redis has lost.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::Value;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::check::{ENTRY, LONGEST};
use super::{HeldPlace, LIST_S, SEEN, TOPIC, UserKey, list_command};
use crate::fleet::{Fleet, FleetMessage};
use crate::locks::lock;

/// Number of checks at once.
const CHECKS: usize = 256;

/// Pause between two parts of the round in which places are looked at, and the number of parts of a long round: places
/// that Redis has lost are entered again within five minutes, and in small fleets within seconds.
const PAUSE: Duration = Duration::from_secs(2);
const PARTS: usize = 150;

/// Number of places that each part looks at in any case.
const PART: usize = 200;

/// Number of places that are looked at together.
const TOGETHER: usize = 256;

/// Number of entries up to which a list is looked at in each round; longer ones are read whole, and rarely.
const LOOKED_AT: usize = 256;
const LONG_LOOK: Duration = Duration::from_secs(10);

/// Users with longer lists, by when these were looked at.
type LongLooks = HashMap<UserKey, Instant>;

/// Length of an entry in Redis: itself, nonce and tag.
const MEMBER: usize = ENTRY + 28;

/// Keeps the lists of users right, for ever.
pub(in crate::fleet) async fn keep(fleet: Arc<Fleet>) {
    let Some(mut waits) = lock(&fleet.users.waits).take() else { return };
    let mut messages = fleet.subscribe(TOPIC);
    let turns = Arc::new(Semaphore::new(CHECKS));
    let checks = tokio_util::task::TaskTracker::new();
    let rounds = rounds(&fleet);
    tokio::pin!(rounds);
    loop {
        tokio::select! {
            Some(new) = waits.recv() => {
                // The semaphore is never closed.
                let Ok(turn) = turns.clone().acquire_owned().await else { return };
                let fleet = fleet.clone();
                checks.spawn_local(async move {
                    fleet.check_new(new).await;
                    drop(turn);
                });
            }
            Some(message) = messages.recv() => {
                if let FleetMessage::Message { payload, .. } = message {
                    obey(&fleet, &payload);
                }
            }
            () = &mut rounds => return,
        }
    }
}

/// Looks at entries of this stickyd that another one has met.
fn obey(fleet: &Fleet, payload: &[u8]) {
    let Some((gives_way, rest)) = payload.split_first() else { return };
    let Some((node, rest)) = rest.split_first_chunk() else { return };
    let Some((user, members)) = rest.split_first_chunk() else { return };
    if u64::from_be_bytes(*node) != fleet.node {
        return;
    }
    let user = UserKey(*user);
    for member in members.chunks_exact(MEMBER) {
        let Some(entry) = fleet.opened(user, member).filter(|entry| entry.node == fleet.node) else { continue };
        match fleet.users.get(entry.number) {
            Some(place) if place.user == user && *gives_way == 1 => place.holder.give_way(false),
            Some(_) => {}
            // It may have left a moment ago.
            None if fleet.sees_all(user) => fleet.remove_entry(user, member.to_vec()),
            None => {}
        }
    }
}

/// Looks at all places, over and over: slowly while all is well, and at once after Redis was away.
async fn rounds(fleet: &Fleet) {
    let (mut from, mut long) = (0, LongLooks::new());
    loop {
        long.retain(|_, looked| looked.elapsed() < LONG_LOOK);
        if timeout(PAUSE, fleet.users.rejoin.notified()).await.is_ok() {
            long.clear();
            // What waited for Redis goes first, so that nothing is entered twice.
            let mut last = 0;
            while let Some(next) = look_at_some(fleet, last, &mut long).await {
                last = next;
            }
            continue;
        }
        let mut left = (lock(&fleet.users.held).len() / PARTS).max(PART);
        while left > 0 {
            match look_at_some(fleet, from, &mut long).await {
                Some(next) => from = next,
                None => {
                    from = 0;
                    break;
                }
            }
            left = left.saturating_sub(TOGETHER);
        }
    }
}

/// Looks at some places, beginning with this number. Returns the next one; `None` after the last.
async fn look_at_some(fleet: &Fleet, from: u64, long: &mut LongLooks) -> Option<u64> {
    while fleet.shards().any(|shard| lock(&shard.queue).writes.len() > SEEN) {
        sleep(Duration::from_millis(50)).await;
        if fleet.shards().all(|shard| !shard.is_usable()) {
            return None;
        }
    }
    let some: Vec<(u64, HeldPlace)> = {
        let held = lock(&fleet.users.held);
        held.range(from..).take(TOGETHER).map(|(number, place)| (*number, place.clone())).collect()
    };
    let last = some.last()?.0;
    let mut users: BTreeMap<UserKey, Vec<(u64, HeldPlace)>> = BTreeMap::new();
    for (number, place) in some {
        users.entry(place.user).or_default().push((number, place));
    }
    for shard in fleet.shards() {
        let own: Vec<_> = users.iter().filter(|(user, _)| is_at(fleet, **user, shard)).collect();
        let commands = own.iter().flat_map(|(user, _)| {
            let name = fleet.list_name(**user);
            let mut keep = list_command("EXPIRE", &name);
            keep.arg(LIST_S);
            let mut range = list_command("LRANGE", &name);
            range.arg(0).arg(LOOKED_AT.saturating_sub(1));
            [keep, range, list_command("LLEN", &name)]
        });
        if own.is_empty() {
            continue;
        }
        let Some(replies) = fleet.ask_shard(shard, commands.collect()).await else { continue };
        let mut replies = replies.into_iter();
        for (user, places) in own {
            let (kept, range, length) = (replies.next(), replies.next(), replies.next());
            let is_long = look_at_user(fleet, *user, places, (kept, range, length)).await;
            if is_long && !long.contains_key(user) {
                long.insert(*user, Instant::now());
                enter_lost(fleet, *user).await;
            }
        }
    }
    Some(last.saturating_add(1))
}

fn is_at(fleet: &Fleet, user: UserKey, shard: &Arc<crate::fleet::Shard>) -> bool {
    fleet.shard_of(user.key()).is_some_and(|own| Arc::ptr_eq(own, shard))
}

/// Enters the places of one user again that Redis has lost, and closes the oldest sockets if there are too many.
/// Returns whether the list is too long for that: it then has to be read whole.
async fn look_at_user(
    fleet: &Fleet,
    user: UserKey,
    places: &[(u64, HeldPlace)],
    (kept, range, length): (Option<Value>, Option<Value>, Option<Value>),
) -> bool {
    let found = match range {
        Some(Value::Array(found)) => found,
        Some(Value::ServerError(error)) => {
            fleet.was_refused(user, error.code());
            return false;
        }
        _ => return false,
    };
    let Some(Value::Int(length)) = length else { return false };
    let length = usize::try_from(length).unwrap_or(0);
    let is_whole = length <= LOOKED_AT;
    let is_lost = kept == Some(Value::Int(0));
    let times = |member: &Vec<u8>| found.iter().filter(|one| **one == Value::BulkString(member.clone())).count();
    for (number, place) in places {
        let times = times(&place.member);
        let held = lock(&fleet.users.held);
        if !held.contains_key(number) {
            continue;
        }
        // Under the lock, so that the entry is in the queue before its removal.
        if times == 0 && (is_lost || is_whole) {
            fleet.add_entry(user, place.member.clone(), None);
        } else if times > 1 {
            fleet.remove_entry(user, place.member.clone());
        }
    }
    if let Some((_, place)) = places.first()
        && !place.terms.refuses
        && length > place.terms.most
    {
        fleet.close_oldest(user, place.terms, length).await;
    }
    !is_whole
}

/// Enters the places of a user with a long list again that Redis has lost.
async fn enter_lost(fleet: &Fleet, user: UserKey) {
    let _turn = fleet.users.long_turn.lock().await;
    let own: Vec<(u64, Vec<u8>)> = {
        let held = lock(&fleet.users.held);
        held.iter().filter(|(_, place)| place.user == user).map(|(at, place)| (*at, place.member.clone())).collect()
    };
    if !fleet.sees_all(user) {
        return;
    }
    let mut range = list_command("LRANGE", &fleet.list_name(user));
    range.arg(0).arg(LONGEST.saturating_sub(1));
    let found = fleet.ask_list(user, vec![range]).await.and_then(|mut replies| replies.pop());
    let Some(Value::Array(found)) = found.filter(|found| matches!(found, Value::Array(all) if all.len() < LONGEST))
    else {
        return;
    };
    let there: HashSet<Vec<u8>> = found.into_iter().filter_map(bytes).collect();
    for (number, member) in own.into_iter().filter(|(_, member)| !there.contains(member)) {
        let held = lock(&fleet.users.held);
        if held.contains_key(&number) {
            fleet.add_entry(user, member, None);
        }
    }
}

fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    }
}
