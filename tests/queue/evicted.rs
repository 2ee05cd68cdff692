//! A Redis that evicts or loses keys: their messages are lost, and the numbers of the others mend themselves.

use serde_json::json;

use super::{Mail, counted, counts, is_empty, order, start};
use crate::support::node::NodeServer;
use crate::support::proxy::Binary;
use crate::support::redis::Redis;
use crate::support::wait::wait_for;

/// Names of the keys of this kind.
fn keys(redis: &Redis, kind: &str) -> Vec<String> {
    redis.keys(&format!("stickyd:{{ctl}}:{kind}:"))
}

/// Waits until the numbers are these.
fn counts_become(binary: &Binary, messages: u64, users: u64) {
    wait_for("the numbers are right again", || {
        let seen = counts(binary);
        if seen == (messages, users) { Ok(()) } else { Err(seen) }
    });
}

/// Queues so many messages for a user, and removes the list in Redis.
fn lose(binary: &Binary, redis: &Redis, user: &str, messages: usize) {
    let before = keys(redis, "q");
    (0..messages).for_each(|number| _ = order(binary, user, number));
    let new: Vec<_> = keys(redis, "q").into_iter().filter(|key| !before.contains(key)).collect();
    let [list] = new.as_slice() else { panic!("{new:?}") };
    assert_eq!(redis.cli(&["del", list]), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_redis_lost_stop_counting() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(1, &[]).await);
    let binary = start(&workers, &redis, ", total = 20");
    for number in 0..8 {
        order(&binary, "bob", number);
    }
    lose(&binary, &redis, "alice", 12);
    counts_become(&binary, 8, 1);
    // There is room again: nothing has to go for new messages.
    for number in 0..12 {
        order(&binary, "carol", number);
    }
    assert_eq!((counts(&binary), counted(&binary, "dropped_total")), ((20, 2), 0.0));
    // A user whose list is gone, and whose first message is the oldest, costs the others nothing either.
    let mut bob = Mail::of(&binary, "bob", json!({"transports": ["websocket"]}));
    bob.has(8).await;
    assert_eq!(bob.numbers(), (0..8).collect::<Vec<_>>());
    counts_become(&binary, 12, 1);
    for key in keys(&redis, "q") {
        redis.cli(&["del", &key]);
    }
    for number in 0..20 {
        order(&binary, "dora", number);
    }
    assert_eq!(counted(&binary, "dropped_total"), 0.0);
    counts_become(&binary, 20, 1);
    let mut dora = Mail::of(&binary, "dora", json!({"transports": ["websocket"]}));
    dora.has(20).await;
    is_empty(&binary).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_and_users_that_redis_lost_come_back() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(1, &[]).await);
    let binary = start(&workers, &redis, ", total = 30");
    for (user, messages) in [("alice", 4), ("bob", 7), ("carol", 9)] {
        (0..messages).for_each(|number| _ = order(&binary, user, number));
    }
    assert_eq!(counts(&binary), (20, 3));
    for kind in ["qh", "qu"] {
        let [key] = keys(&redis, kind).try_into().unwrap();
        assert_eq!(redis.cli(&["del", &key]), "1");
        counts_become(&binary, 20, 3);
    }
    // A message comes before the numbers are right.
    let [key] = keys(&redis, "qh").try_into().unwrap();
    assert_eq!(redis.cli(&["del", &key]), "1");
    order(&binary, "bob", 7);
    counts_become(&binary, 21, 3);
    // Numbers of users that have nothing are forgotten.
    let [alice, bob, carol] =
        ["alice", "bob", "carol"].map(|user| Mail::of(&binary, user, json!({"transports": ["websocket"]})));
    for (mut mail, messages) in [(alice, 4), (bob, 8), (carol, 9)] {
        mail.has(messages).await;
        assert_eq!(mail.numbers(), (0..messages as u64).collect::<Vec<_>>());
    }
    is_empty(&binary).await;
    wait_for("only the number of all is left", || redis.cli(&["hkeys", &key]) == "n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_numbers_are_right_after_redis_has_evicted_lists() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(1, &[]).await);
    let binary = start(&workers, &redis, "");
    let text = "x".repeat(20_000);
    for user in 0..40 {
        super::send(&binary, &format!("user {user}"), &json!({"event": "order", "args": [user, text]}));
    }
    assert_eq!(counts(&binary), (40, 40));
    // Lists have a time to live; the numbers and the list of users have none.
    assert_eq!(redis.cli(&["config", "set", "maxmemory-policy", "volatile-ttl"]), "OK");
    let info = redis.cli(&["info", "memory"]);
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    let less = used.trim().parse::<u64>().unwrap() - 400_000;
    assert_eq!(redis.cli(&["config", "set", "maxmemory", &less.to_string()]), "OK");
    let left = wait_for("some lists are evicted, and the numbers are right", || {
        let (left, seen) = (keys(&redis, "q").len() as u64, counts(&binary));
        if (1..40).contains(&left) && seen == (left, left) { Ok(left) } else { Err((left, seen)) }
    });
    assert_eq!(redis.cli(&["config", "set", "maxmemory", "0"]), "OK");
    order(&binary, "one more", 1);
    counts_become(&binary, left + 1, left + 1);
}
