//! Messages wait for the next socket of their user, and come in order, with their ids, to nothing else.

use serde_json::json;

use super::{Mail, config, counted, counts, emit, is_empty, is_ready, order, send, start, try_send};
use crate::support::node::{NodeServer, WsEcho};
use crate::support::proxy::Binary;
use crate::support::redis::Redis;
use crate::support::redis_cluster::RedisCluster;
use crate::support::wait::wait_for;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_wait_for_clients_of_every_version_and_transport() {
    let redis = Redis::start();
    for (version, server) in [(4, "4"), (2, "2")] {
        let workers = NodeServer::start_many(2, &["--version", server]).await;
        let binary = start(&workers, &redis, "");
        for transports in [json!(["polling"]), json!(["websocket"]), json!(["polling", "websocket"])] {
            // Other users each time: the clients before may not have been noticed to be gone.
            let [name, other] = ["alice", "bob"].map(|user| format!("{user}-{transports}"));
            for number in 0..40 {
                assert_eq!(order(&binary, &name, number)["result"], "stored");
            }
            order(&binary, &other, 99);
            assert_eq!(counts(&binary), (41, 2));
            // Whatever the others are called, they get nothing.
            let mut eve = Mail::of(&binary, &format!("{name}2"), json!({"version": version, "transports": transports}));
            eve.event("connect").await;
            let mut alice =
                Mail::of(&binary, &name, json!({"version": version, "transports": transports, "pings": 50}));
            alice.has(40).await;
            assert_eq!(alice.numbers(), (0..40).collect::<Vec<_>>(), "{version} {transports}");
            let mut ids = alice.ids();
            ids.dedup();
            assert_eq!(ids.len(), 40, "each message has an id");
            let mut bob = Mail::of(&binary, &other, json!({"version": version, "transports": transports, "pings": 50}));
            bob.has(1).await;
            assert_eq!(bob.numbers(), [99]);
            is_empty(&binary).await;
            assert!(eve.got.is_empty() && alice.got.len() == 40);
        }
        wait_for("all are counted", || counted(&binary, "delivered") == 3.0 * 41.0);
        assert_eq!(counted(&binary, "unconfirmed"), 0.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_websockets_get_texts_as_they_were_sent() {
    let (redis, workers) = (Redis::start(), [WsEcho::start(&[]).await]);
    let binary = start(&workers, &redis, "");
    for number in 0..30 {
        send(&binary, "alice", &json!({"text": number.to_string(), "id": format!("n{number}")}));
    }
    // An event is for another kind of client, and stays.
    order(&binary, "alice", 7);
    let mut alice = Mail::of(&binary, "alice", json!({"kind": "ws"}));
    alice.has(30).await;
    assert_eq!(alice.numbers(), (0..30).collect::<Vec<_>>());
    // With a client there, a text is delivered before the answer.
    let answer = send(&binary, "alice", &json!({"text": "30"}));
    assert_eq!(answer["result"], "delivered", "{answer}");
    alice.has(31).await;
    assert_eq!(counts(&binary), (1, 1), "the event waits");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_gets_its_messages_once_it_is_connected() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(1, &[]).await);
    let binary = start(&workers, &redis, "");
    for transports in [json!(["websocket"]), json!(["polling"])] {
        send(&binary, "alice", &json!({"event": "order", "args": [1], "namespace": "/other"}));
        send(&binary, "alice", &json!({"event": "order", "args": [2]}));
        let options = json!({"transports": transports, "pings": 50});
        let mut root = Mail::of(&binary, "alice", options.clone());
        root.has(1).await;
        assert_eq!(root.numbers(), [2], "only its own namespace");
        let mut options = options;
        options["namespaces"] = json!(["/", "/other"]);
        let mut both = Mail::of(&binary, "alice", options);
        both.has(1).await;
        assert_eq!((both.numbers(), both.got[0]["ns"].as_str()), (vec![1], Some("/other")));
        is_empty(&binary).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_is_kept_over_reconnects_and_while_messages_come() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(2, &[]).await);
    let binary = start(&workers, &redis, "");
    let (mut got, mut sent) = (Vec::new(), 0);
    for round in 0..6 {
        for _ in 0..20 {
            order(&binary, "alice", sent);
            sent += 1;
        }
        let transports = if round % 2 == 0 { json!(["websocket"]) } else { json!(["polling", "websocket"]) };
        let mut alice = Mail::of(&binary, "alice", json!({"transports": transports}));
        alice.event("connect").await;
        order(&binary, "alice", sent);
        sent += 1;
        alice.has(21).await;
        got.extend(alice.numbers());
        is_empty(&binary).await;
    }
    assert_eq!(got, (0..sent as u64).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_wait_in_a_cluster() {
    let (cluster, workers) = (RedisCluster::start(), NodeServer::start_many(2, &[]).await);
    let binary = Binary::with(&config(&workers, "edge-1", &format!("redis+cluster://{}", cluster.addresses("")), ""));
    is_ready(&binary);
    for user in ["alice", "bob"] {
        for number in 0..20 {
            assert_eq!(order(&binary, user, number)["result"], "stored");
        }
    }
    assert_eq!(counts(&binary), (40, 2));
    for (user, transports, left) in [("alice", json!(["websocket"]), 1), ("bob", json!(["polling"]), 0)] {
        let mut mail = Mail::of(&binary, user, json!({"transports": transports, "pings": 50}));
        mail.has(20).await;
        assert_eq!(mail.numbers(), (0..20).collect::<Vec<_>>(), "{user}");
        wait_for("this user's messages are confirmed", || counts(&binary) == (20 * left, left));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_whose_names_begin_alike_get_only_their_own() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(1, &[]).await);
    // With messages as frames, which go by the labels of sockets.
    let binary = start(&workers, &redis, " }\nemit = { via = \"frames\"");
    for (letter, transports) in [("n", json!(["websocket"])), ("m", json!(["polling"]))] {
        // Labels show 64 bytes of a name: there, these cannot be told apart.
        let shown = letter.repeat(64);
        let users = [format!("{shown}-alice"), format!("{shown}-bob"), shown];
        for (number, user) in users.iter().enumerate() {
            order(&binary, user, number);
        }
        assert_eq!(counts(&binary), (3, 3));
        let options = json!({"transports": transports, "pings": 50});
        let [mut alice, mut bob] = [0, 1].map(|at: usize| Mail::of(&binary, &users[at], options.clone()));
        for (number, mail) in [(0, &mut alice), (1, &mut bob)] {
            mail.has(1).await;
            assert_eq!(mail.numbers(), [number], "{transports}");
        }
        wait_for("theirs are confirmed", || counts(&binary) == (1, 1));
        // Both labels show the name of a third user, which is away.
        let answer = emit(&binary, &json!({"rooms": [format!("user:{}", users[2])], "event": "order", "args": [3]}));
        assert_eq!((&answer["reached"], &answer["queued"]), (&json!(0), &json!(1)), "{answer}");
        // What is not theirs would come before these.
        for (user, mail, numbers) in [(&users[0], &mut alice, [0, 10]), (&users[1], &mut bob, [1, 10])] {
            order(&binary, user, 10);
            mail.has(2).await;
            assert_eq!(mail.numbers(), numbers, "{transports}");
        }
        let mut other = Mail::of(&binary, &users[2], options);
        other.has(2).await;
        assert_eq!(other.numbers(), [2, 3], "{transports}");
        is_empty(&binary).await;
    }
    // The longest name, and one that is too long.
    let longest = "l".repeat(1_024);
    assert_eq!(order(&binary, &longest, 9)["result"], "stored");
    let (status, answer) = try_send(&binary, &format!("{longest}l"), &json!({"event": "order"}));
    assert!(status == 422 && answer["error"].as_str().unwrap().contains("1,024"), "{status} {answer}");
}
