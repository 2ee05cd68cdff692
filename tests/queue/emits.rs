//! Messages of the backend (`POST /api/v1/emit`) to users: sent to their sockets, or stored for the next one.

use serde_json::{Value, json};

use super::{Mail, ask, command, config, counts, emit, is_empty, is_ready, label, of_backend, send, start};
use crate::support::node::{NodeServer, Worker, WsEcho};
use crate::support::proxy::Binary;
use crate::support::redis::Redis;
use crate::support::wait::wait_for;

fn order(rooms: &[&str], number: u64) -> Value {
    json!({"rooms": rooms, "event": "order", "args": [number]})
}

fn started(workers: &[Worker], redis: &Redis) -> Binary {
    let binary = Binary::with(&of_backend(workers, "edge-1", &redis.url()));
    is_ready(&binary);
    binary
}

/// The numbers of an answer: sockets reached, users that it was stored for.
fn sent(answer: &Value) -> (u64, u64) {
    (answer["reached"].as_u64().unwrap(), answer["queued"].as_u64().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_that_are_away_get_messages_of_the_backend_later() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(1, &[]).await);
    let binary = started(&workers, &redis);
    for (user, transports) in [("7", json!(["websocket"])), ("8", json!(["polling"]))] {
        let room = format!("user:{user}");
        let answer = emit(&binary, &order(&[&room], 1));
        assert_eq!((sent(&answer), &answer["matched"]), ((0, 1), &json!(0)), "{answer}");
        let first = answer["id"].as_str().unwrap().to_owned();
        let named = json!({"rooms": [room], "event": "order", "args": [2], "id": "n2", "queue": "1h"});
        assert_eq!(emit(&binary, &named)["id"], "n2");
        let mut mail = Mail::of(&binary, "-", json!({"transports": transports, "pings": 50}));
        let connected = mail.event("connect").await;
        assert!(mail.got.is_empty(), "it belongs to no user yet");
        label(&binary, &connected, Some(user));
        mail.has(2).await;
        assert_eq!((mail.numbers(), mail.ids()), (vec![1, 2], vec![first.as_str(), "n2"]));
        is_empty(&binary).await;
        // While the user is there: at once over a WebSocket, with an answer to a poll otherwise.
        let is_polling = transports == json!(["polling"]);
        wait_for("all is looked after, and goes the direct way", || {
            let answer = emit(&binary, &order(&[&room], 3));
            if sent(&answer) == if is_polling { (0, 1) } else { (1, 0) } { Ok(()) } else { Err(answer) }
        });
        while mail.numbers().last() != Some(&3) {
            mail.event("message").await;
        }
        is_empty(&binary).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_changes_hands_gets_nothing_of_the_user_before() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(1, &[]).await);
    let binary = started(&workers, &redis);
    let mut mail = Mail::of(&binary, "-", json!({"transports": ["websocket"]}));
    let connected = mail.event("connect").await;
    label(&binary, &connected, Some("7"));
    label(&binary, &connected, Some("8"));
    assert_eq!(sent(&emit(&binary, &order(&["user:7"], 7))), (0, 1));
    send(&binary, "8", &json!({"event": "order", "args": [8]}));
    mail.has(1).await;
    assert_eq!(mail.numbers(), [8]);
    label(&binary, &connected, None);
    assert_eq!(sent(&emit(&binary, &order(&["user:8"], 9))), (0, 1));
    assert_eq!(counts(&binary), (2, 2));
    label(&binary, &connected, Some("7"));
    mail.has(2).await;
    assert_eq!(mail.numbers(), [8, 7], "the message of user 8 waits");
    wait_for("one message is left", || counts(&binary) == (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_users_only_those_without_a_socket_have_to_wait() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(1, &[]).await);
    let binary = started(&workers, &redis);
    let mut here = Mail::of(&binary, "-", json!({"transports": ["websocket"]}));
    let connected = here.event("connect").await;
    label(&binary, &connected, Some("1"));
    wait_for("the user is looked after", || sent(&emit(&binary, &order(&["user:1"], 0))) == (1, 0));
    let rooms = ["user:1", "user:2", "user:3", "user=3", "store:4"];
    assert_eq!(sent(&emit(&binary, &order(&rooms, 5))), (1, 2));
    let but = json!({"rooms": rooms, "except": ["user:2"], "event": "order", "args": [6]});
    assert_eq!(sent(&emit(&binary, &but)), (1, 1));
    let unwanted = json!({"rooms": ["user:2"], "event": "order", "queue": false});
    assert_eq!(emit(&binary, &unwanted).get("queued"), None);
    assert_eq!(counts(&binary), (3, 2));
    while here.numbers().last() != Some(&6) {
        here.event("message").await;
    }
    // The command line says the same.
    for (more, expected) in [
        (["--id", "n7"], "0 of 0 sockets were reached\nstored for 1 user, with the id n7\n"),
        (["--queue", "no"], "0 of 0 sockets were reached\n"),
    ] {
        let arguments = [&["emit", "order", "7", "--room", "user:2"][..], &more].concat();
        // A Redis that answers late is told, too.
        wait_for("the command says it", || {
            let said = command(&binary.directory, &arguments);
            if said == (Some(0), expected.to_owned()) { Ok(()) } else { Err(said) }
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_at_another_stickyd_is_not_away() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(1, &[]).await);
    let one = started(&workers, &redis);
    let two = Binary::with(&of_backend(&workers, "edge-2", &redis.url()));
    is_ready(&two);
    let mut here = Mail::of(&two, "-", json!({"transports": ["websocket"]}));
    let connected = here.event("connect").await;
    label(&two, &connected, Some("1"));
    wait_for("both stickyds send it", || {
        let answer = emit(&one, &order(&["user:1"], 0));
        let all = answer["stickyds"].as_array().is_some_and(|all| all.len() == 2);
        if all && sent(&answer) == (1, 0) { Ok(()) } else { Err(answer) }
    });
    // One user is there, the other is stored for, once.
    let both = json!({"rooms": ["user:1", "user:2"], "event": "order", "args": [5], "id": "n5"});
    let answer = emit(&one, &both);
    assert_eq!((sent(&answer), &answer["id"], answer.get("present")), ((1, 1), &json!("n5"), None), "{answer}");
    assert_eq!(counts(&two), (1, 1));
    while here.numbers().last() != Some(&5) {
        here.event("message").await;
    }
    assert_eq!(here.ids().last(), Some(&"n5"), "a copy that is sent at once has the id, too");
    let mut there = Mail::of(&two, "-", json!({"transports": ["websocket"]}));
    let connected = there.event("connect").await;
    label(&two, &connected, Some("2"));
    there.has(1).await;
    assert_eq!((there.numbers(), there.ids()), (vec![5], vec!["n5"]));
    is_empty(&one).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_websockets_get_events_as_objects_with_their_id() {
    let (redis, workers) = (Redis::start(), [WsEcho::start(&[]).await]);
    let text = config(&workers, "edge-1", &redis.url(), "").replace("labels", "emit = { via = \"frames\" }\nlabels");
    let binary = Binary::with(&text);
    is_ready(&binary);
    let event = json!({"rooms": ["user:alice"], "event": "order", "args": [{"n": 1}], "id": "n1"});
    assert_eq!(sent(&emit(&binary, &event)), (0, 1));
    let text = json!({"rooms": ["user:alice"], "event": "order", "text": "a text"});
    assert_eq!(sent(&emit(&binary, &text)), (0, 1));
    let mut alice = Mail::of(&binary, "alice", json!({"kind": "ws"}));
    alice.has(2).await;
    let texts: Vec<_> = alice.got.iter().map(|one| one["text"].as_str().unwrap()).collect();
    assert_eq!(texts, [r#"{"args":[{"n":1}],"event":"order","id":"n1"}"#, "a text"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_users_that_are_there_get_their_messages() {
    let (mut redis, workers) = (Redis::start(), NodeServer::start_many(1, &[]).await);
    let binary = started(&workers, &redis);
    let mut here = Mail::of(&binary, "-", json!({"transports": ["websocket"]}));
    let connected = here.event("connect").await;
    label(&binary, &connected, Some("1"));
    redis.stop();
    wait_for("those that are away have to be sent to again, by name", || {
        let (status, answer) = ask(&binary, "POST", "/api/v1/emit", &order(&["user:1", "user:2"], 5));
        let why = answer["error"].as_str().unwrap_or_default();
        let is_said = why.contains("1 of 2 users (user:2)") && why.contains("sent to 1 sockets");
        if status == 503 && is_said { Ok(()) } else { Err(answer) }
    });
    assert_eq!(sent(&emit(&binary, &order(&["user:1"], 6))), (1, 0));
    while here.numbers().last() != Some(&6) {
        here.event("message").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_wishes_for_the_queue_are_refused() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(1, &[]).await);
    let binary = started(&workers, &redis);
    for (more, why) in [
        (json!({"queue": 5}), "true, false or a duration"),
        (json!({"queue": "8d"}), "7days"),
        (json!({"id": "no spaces"}), "`id`"),
        (json!({"id": "n1", "queue": false}), "no \"queue\": false"),
        (json!({"queue": true, "rooms": ["store:1"]}), "a room of a user such as user:7"),
    ] {
        let mut body = order(&["user:7"], 1);
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, answer) = ask(&binary, "POST", "/api/v1/emit", &body);
        assert!(status == 422 && answer["error"].as_str().unwrap().contains(why), "{status} {answer}");
    }
    assert_eq!(counts(&binary), (0, 0));
    let without = of_backend(&workers, "edge-1", &redis.url()).replace("offline_queue = { label = \"user\" }\n", "");
    let queued = json!({"rooms": ["user:7"], "event": "order", "queue": true});
    for (text, why) in [
        (without, "need an `offline_queue`"),
        (
            of_backend(&workers, "edge-1", &redis.url())
                .replace("via = \"frames\"", &format!("via = \"redis-adapter\", redis = {:?}", redis.url())),
            "POST /api/v1/queue",
        ),
    ] {
        let (status, answer) = ask(&Binary::with(&text), "POST", "/api/v1/emit", &queued);
        assert!(status == 422 && answer["error"].as_str().unwrap().contains(why), "{status} {answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_gets_and_loses_its_queue_by_a_reload() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(1, &[]).await);
    let with = config(&workers, "edge-1", &redis.url(), "");
    let line = "offline_queue = { label = \"user\" }\n";
    let binary = Binary::with(&with.replace(line, ""));
    let (status, _) = super::try_send(&binary, "alice", &json!({"event": "order"}));
    assert_eq!(status, 404);
    crate::support::admin::reload(&binary, &with);
    is_ready(&binary);
    wait_for("messages are stored", || {
        super::try_send(&binary, "alice", &json!({"event": "order", "args": [1], "id": "same"})).0 == 200
    });
    let mut alice = Mail::of(&binary, "alice", json!({"transports": ["websocket"]}));
    alice.has(1).await;
    crate::support::admin::reload(&binary, &with.replace(line, ""));
    let (status, _) = super::try_send(&binary, "alice", &json!({"event": "order"}));
    assert_eq!(status, 404);
    drop(start(&workers, &redis, ""));
}
