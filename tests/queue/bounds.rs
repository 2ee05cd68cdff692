//! Bounds per user and in all, expiry, and what Redis gets to see and has to allow.

use serde_json::json;

use super::{Mail, ask, config, counted, counts, is_empty, is_ready, metric, order, send, start, try_send};
use crate::support::node::NodeServer;
use crate::support::proxy::Binary;
use crate::support::redis::Redis;
use crate::support::wait::{wait_for, wait_for_async};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_messages_of_a_user_make_room() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(1, &[]).await);
    let binary = start(&workers, &redis, ", per_user = 10");
    for number in 0..25 {
        order(&binary, "alice", number);
    }
    order(&binary, "bob", 1);
    assert_eq!((counts(&binary), counted(&binary, "dropped_user")), ((11, 2), 15.0));
    binary.says(&["messages for users whose clients are away were dropped", "offline_queue"]);
    let mut alice = Mail::of(&binary, "alice", json!({"transports": ["websocket"]}));
    alice.has(10).await;
    assert_eq!(alice.numbers(), (15..25).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_messages_of_all_make_room() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(1, &[]).await);
    let binary = start(&workers, &redis, ", total = 20");
    for number in 0..10 {
        order(&binary, "alice", number);
    }
    for number in 0..15 {
        order(&binary, "bob", number);
    }
    assert_eq!((counts(&binary), counted(&binary, "dropped_total")), ((20, 2), 5.0));
    wait_for("the number is shown", || metric(&binary, "stickyd_queue_stored{upstream=\"app\"}") == 20.0);
    let mut alice = Mail::of(&binary, "alice", json!({"transports": ["websocket"]}));
    alice.has(5).await;
    assert_eq!(alice.numbers(), (5..10).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_expire() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(1, &[]).await);
    let binary = start(&workers, &redis, ", keep = \"1h\"");
    send(&binary, "alice", &json!({"event": "order", "args": [1], "keep": "1s"}));
    order(&binary, "alice", 2);
    send(&binary, "bob", &json!({"event": "order", "args": [3], "keep": "1s"}));
    let (status, answer) = try_send(&binary, "alice", &json!({"event": "order", "keep": "2h"}));
    assert!(status == 422 && answer["error"].as_str().unwrap().contains("1h"), "{answer}");
    wait_for_async("expired messages are removed without a client", async || {
        let left = tokio::task::block_in_place(|| counts(&binary));
        if left == (1, 1) { Ok(()) } else { Err(left) }
    })
    .await;
    assert_eq!(counted(&binary, "expired"), 2.0);
    let mut alice = Mail::of(&binary, "alice", json!({"transports": ["websocket"]}));
    alice.has(1).await;
    assert_eq!(alice.numbers(), [2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_sees_no_user_and_no_message_and_needs_few_rights() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(1, &[]).await);
    let binary = Binary::with(&config(&workers, "edge-1", &redis.url(), ""));
    let (code, line) = super::command(&binary.directory, &["fleet", "--acl"]);
    assert_eq!(code, Some(0), "{line}");
    drop(binary);
    let line = line.replace(">PASSWORD", ">pass").replace("user stickyd ", "user edge ");
    let set: Vec<&str> = ["acl", "setuser"].into_iter().chain(line.split_whitespace().skip(1)).collect();
    assert_eq!(redis.cli(&set), "OK");
    let monitor = redis.monitor();
    let url = format!("redis://edge:pass@{}", redis.address);
    let binary = Binary::with(&config(&workers, "edge-1", &url, ", per_user = 5, total = 6"));
    is_ready(&binary);
    for user in ["alice-in-wonderland", "mad-hatter"] {
        for number in 0..8 {
            send(&binary, user, &json!({"event": "order", "args": [number, "white-rabbit"]}));
        }
        send(&binary, user, &json!({"event": "order", "args": [8], "keep": "1s"}));
    }
    wait_for("one has expired", || counted(&binary, "expired") > 0.0);
    let mut alice = Mail::of(&binary, "mad-hatter", json!({"transports": ["websocket"]}));
    alice.has(1).await;
    send(&binary, "mad-hatter", &json!({"event": "order", "args": [9], "id": "last"}));
    while alice.ids().last() != Some(&"last") {
        alice.event("message").await;
    }
    let order = json!({"upstream": "app", "label": {"user": "alice-in-wonderland"}});
    let _ = ask(&binary, "POST", "/api/v1/queue/delete", &order);
    is_empty(&binary).await;
    let seen = monitor.text();
    assert!(seen.contains("\"RPUSH\""), "{seen}");
    for secret in ["alice", "hatter", "rabbit", "order", "user"] {
        assert!(!seen.contains(secret), "Redis has seen {secret}");
    }
    assert_eq!(redis.cli(&["acl", "log"]), "", "what Redis has refused");
    let of_queue = |key: &&String| key.contains("}:q");
    let left: Vec<_> = redis.keys("stickyd:").into_iter().filter(|key| of_queue(&key)).collect();
    assert!(left.iter().all(|key| key.contains(":qh:") || key.contains(":qc:")), "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_messages_are_shown_up_to_eight_megabytes() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(1, &[]).await);
    let binary = start(&workers, &redis, "");
    let text = "x".repeat(60_000);
    for _ in 0..200 {
        send(&binary, "alice", &json!({"text": text}));
    }
    let body = json!({"upstream": "app", "label": {"user": "alice"}, "limit": 10_000, "payload": true});
    let (status, answer) = ask(&binary, "POST", "/api/v1/queue/show", &body);
    let shown = answer["messages"].as_array().unwrap().len();
    // Pages have 64 messages: the third one ends beyond the bound.
    assert_eq!((status, shown), (200, 192));
}
