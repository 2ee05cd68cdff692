//! Messages arrive once or more over the end of clients, stickyds and Redis, and go to one socket of their user.

use std::collections::BTreeSet;

use serde_json::json;

use super::{Mail, config, counts, is_empty, is_ready, order, send, start, try_send};
use crate::support::node::{NodeServer, WsEcho};
use crate::support::proxy::Binary;
use crate::support::redis::Redis;
use crate::support::wait::wait_for;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_a_killed_client_come_again() {
    let (redis, workers) = (Redis::start(), [WsEcho::start(&[]).await]);
    let binary = start(&workers, &redis, "");
    let sent = 400;
    for number in 0..sent {
        send(&binary, "alice", &json!({"text": number.to_string()}));
    }
    let mut seen = BTreeSet::new();
    for at_least in [1, 50, 120] {
        let mut alice = Mail::of(&binary, "alice", json!({"kind": "ws"}));
        alice.has(at_least).await;
        alice.process.kill().await;
        // What it has printed before it was killed.
        while let Some(line) = alice.process.line().await {
            alice.got.push(line);
        }
        let numbers = alice.numbers();
        assert!(numbers.is_sorted(), "{numbers:?}");
        seen.extend(numbers);
    }
    let mut alice = Mail::of(&binary, "alice", json!({"kind": "ws"}));
    while alice.numbers().last() != Some(&(sent - 1)) {
        alice.event("message").await;
    }
    assert!(alice.numbers().is_sorted());
    seen.extend(alice.numbers());
    assert_eq!(seen.len() as u64, sent, "every message has come");
    is_empty(&binary).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_outlive_a_killed_stickyd() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(1, &[]).await);
    let mut one = start(&workers, &redis, "");
    let two = Binary::with(&config(&workers, "edge-2", &redis.url(), ""));
    is_ready(&two);
    // So many bytes that the delivery takes a while.
    for number in 0..200 {
        send(&one, "alice", &json!({"event": "order", "args": [number, "x".repeat(8_000)]}));
    }
    let mut alice = Mail::of(&one, "alice", json!({"transports": ["websocket"]}));
    alice.has(1).await;
    one.kill();
    alice.event("disconnect").await;
    let mut again = Mail::of(&two, "alice", json!({"transports": ["websocket"]}));
    order(&two, "alice", 200);
    while again.numbers().last() != Some(&200) {
        again.event("message").await;
    }
    assert!(alice.numbers().is_sorted() && again.numbers().is_sorted());
    let all: BTreeSet<_> = alice.numbers().into_iter().chain(again.numbers()).collect();
    assert_eq!(all.len(), 201);
    is_empty(&two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_sockets_on_two_stickyds_one_gets_all() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(1, &[]).await);
    let one = start(&workers, &redis, "");
    let two = Binary::with(&config(&workers, "edge-2", &redis.url(), ""));
    is_ready(&two);
    for number in 0..100 {
        order(&one, "alice", number);
    }
    let both = [&one, &two].map(|binary| Mail::of(binary, "alice", json!({"transports": ["websocket"]})));
    let [mut first, mut second] = both;
    first.event("connect").await;
    second.event("connect").await;
    is_empty(&one).await;
    // A last message that both get by themselves shows that nothing else is on its way.
    order(&one, "alice", 100);
    order(&two, "alice", 101);
    wait_for("the last two have come", || counts(&one) == (0, 0));
    for mail in [&mut first, &mut second] {
        mail.process.kill().await;
        while let Some(line) = mail.process.line().await {
            if line["event"] == "message" {
                mail.got.push(line);
            }
        }
    }
    let (first, second) = (first.numbers(), second.numbers());
    assert_eq!(first.len() + second.len(), 102, "each came once: {first:?} {second:?}");
    assert!(first.is_sorted() && second.is_sorted());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_stored_elsewhere_reaches_a_socket_that_is_here() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(1, &[]).await);
    let one = start(&workers, &redis, "");
    let two = Binary::with(&config(&workers, "edge-2", &redis.url(), ""));
    is_ready(&two);
    let mut alice = Mail::of(&one, "alice", json!({"transports": ["websocket"]}));
    alice.event("connect").await;
    assert_eq!(order(&two, "alice", 5)["result"], "stored");
    alice.has(1).await;
    assert_eq!(alice.numbers(), [5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_nothing_is_taken_and_delivery_goes_on_after_it() {
    let (mut redis, workers) = (
        Redis::with(&["--save", "", "--appendonly", "yes", "--appendfsync", "always"]),
        NodeServer::start_many(1, &[]).await,
    );
    let binary = start(&workers, &redis, "");
    order(&binary, "alice", 1);
    redis.stop();
    wait_for("the queue says that Redis is away", || {
        let (status, answer) = try_send(&binary, "alice", &json!({"event": "order"}));
        let error = answer["error"].as_str().unwrap_or_default().to_owned();
        if status == 503 && error.contains("Redis") { Ok(()) } else { Err((status, answer)) }
    });
    // The client works without it.
    let mut alice = Mail::of(&binary, "alice", json!({"transports": ["websocket"]}));
    alice.event("connect").await;
    assert!(alice.got.is_empty());
    redis.start_again();
    alice.has(1).await;
    assert_eq!(alice.numbers()[0], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_without_memory_takes_nothing_and_still_delivers() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(1, &[]).await);
    let binary = start(&workers, &redis, "");
    for number in 0..300 {
        order(&binary, "alice", number);
    }
    assert_eq!(redis.cli(&["config", "set", "maxmemory", "1"]), "OK");
    let (status, answer) = try_send(&binary, "alice", &json!({"event": "order"}));
    assert!(status == 503 && answer["error"].as_str().unwrap().contains("OOM"), "{status} {answer}");
    let mut alice = Mail::of(&binary, "alice", json!({"transports": ["websocket"]}));
    alice.has(300).await;
    assert_eq!(alice.numbers(), (0..300).collect::<Vec<_>>());
    wait_for("what was delivered is removed", || redis.keys("stickyd:{ctl}:q:").is_empty());
    assert_eq!(redis.cli(&["config", "set", "maxmemory", "0"]), "OK");
    assert_eq!(order(&binary, "alice", 300)["result"], "delivered");
    order(&binary, "bob", 1);
    wait_for("the count is right again", || counts(&binary) == (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_redis_loses_nothing_that_was_stored() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(1, &[]).await);
    let binary = start(&workers, &redis, "");
    for number in 0..50 {
        order(&binary, "alice", number);
    }
    redis.signal("STOP");
    let mut alice = Mail::of(&binary, "alice", json!({"transports": ["websocket"]}));
    alice.event("connect").await;
    let (status, _) = try_send(&binary, "alice", &json!({"event": "order", "args": [50]}));
    assert_eq!(status, 503, "it is not stored for certain");
    redis.signal("CONT");
    while alice.numbers().last() < Some(&49) {
        alice.event("message").await;
    }
    let numbers: BTreeSet<_> = alice.numbers().into_iter().collect();
    assert!(numbers.is_superset(&(0..50).collect()), "{numbers:?}");
    is_empty(&binary).await;
}
