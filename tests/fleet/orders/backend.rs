//! What the backend asks for reaches the sockets of all stickyds: messages as frames, and labels by session.

use serde_json::{Value, json};

use super::{cli, command, edge_text, text_of, wait_until_all_obey};
use crate::bus::emit::is_as_described;
use crate::support::admin;
use crate::support::engines::{begin_session, many_sessions};
use crate::support::node::WsEcho;
use crate::support::proxy::Binary;
use crate::support::raw::Raw;
use crate::support::redis::Redis;
use crate::support::tunnels::connect;
use crate::support::wait::wait_for;

/// Stickyds that may send messages of the backend as frames.
fn emitting(count: usize, address: &str, redis: &Redis) -> Vec<Binary> {
    let frames = "broadcast = false\nemit = { via = \"frames\" }";
    let text =
        |i: usize| edge_text(address, &format!("edge-{i}"), &redis.url(), "").replace("broadcast = true", frames);
    let all: Vec<_> = (1..=count).map(|i| Binary::with(&text(i))).collect();
    wait_until_all_obey(&all[0], count);
    // Messages go to the members as last read.
    for edge in &all {
        wait_until_all_obey(edge, count);
    }
    all
}

fn emit(edge: &Binary, order: &Value) -> (u16, Value) {
    let (status, said) = admin::post(edge, "/api/v1/emit", &order.to_string());
    is_as_described("/api/v1/emit", "post", status, &said);
    (status, said)
}

/// Sets labels of the backend on the socket of a session.
fn label(edge: &Binary, sid: &str, body: &Value) -> (u16, Value) {
    let body = body.to_string();
    let length = body.len();
    let request = format!(
        "PUT /api/v1/sockets/by-sid/{sid} HTTP/1.1\r\nHost: localhost\r\nX-Stickyd: 1\r\nContent-Length: {length}\
         \r\n\r\n{body}"
    );
    let answer = Raw::connect_unix(&edge.admin()).ask(&request);
    let said = serde_json::from_slice(&answer.body).unwrap();
    is_as_described("/api/v1/sockets/by-sid/{sid}", "put", answer.status(), &said);
    (answer.status(), said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_as_frames_reach_the_sockets_of_all_stickyds() {
    let (mut redis, worker) = (Redis::start(), WsEcho::start(&[]).await);
    let all = tokio::task::block_in_place(|| emitting(3, &worker.address(), &redis));
    let mut clients = Vec::new();
    for edge in &all {
        clients.push(connect(edge.address, "/?store=7").await);
    }
    clients.push(connect(all[2].address, "/?store=8").await);
    tokio::task::block_in_place(|| {
        let (status, said) = emit(&all[0], &json!({"rooms": ["store:7"], "event": "news", "text": "to 7"}));
        assert_eq!((status, &said["matched"], &said["reached"]), (200, &json!(3), &json!(3)), "{said}");
        let names: Vec<_> = said["stickyds"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
        assert_eq!((names, &said["missing"]), (vec![json!("edge-1"), json!("edge-2"), json!("edge-3")], &Value::Null));
        assert_eq!(emit(&all[1], &json!({"rooms": ["7"], "event": "news"})).0, 422, "no label with its value");
        let said = command(&all[1], &["emit", "news", "--except", "store:7", "--text", "not to 7"]);
        said.is(0, &["1 of 1 sockets were reached"]);
        // A message counts once, also at the stickyd that has passed it on.
        let count = admin::metric(&all[0], "stickyd_emits_total{result=\"published\",via=\"frames\"}");
        assert_eq!(count, 2.0);
    });
    for client in clients.iter_mut().take(3) {
        assert_eq!(text_of(client).await, "to 7");
    }
    assert_eq!(text_of(&mut clients[3]).await, "not to 7");
    tokio::task::block_in_place(|| {
        all[2].signal("STOP");
        for member in redis.keys("stickyd:{ctl}:m:") {
            redis.cli(&["persist", &member]);
        }
        let said = command(&all[0], &["emit", "news", "--room", "store:7", "--text", "once"]);
        said.is(1, &["2 of 2 sockets were reached", "edge-3 was silent for 5 s"]);
        // The next message does not wait for it.
        let said = command(&all[0], &["emit", "news", "--room", "store:9", "--text", "unheard"]);
        said.is(1, &["0 of 0 sockets were reached", "edge-3 was silent a moment ago"]);
        all[2].signal("CONT");
    });
    // It gets what was sent meanwhile.
    assert_eq!(text_of(&mut clients[2]).await, "once");
    tokio::task::block_in_place(|| {
        redis.stop();
        let alone = "the other stickyds were not asked: the fleet's Redis does not answer";
        let said = command(&all[0], &["emit", "news", "--room", "store:7", "--text", "alone"]);
        said.is(1, &["1 of 1 sockets were reached", alone]);
    });
    for text in ["once", "alone"] {
        assert_eq!(text_of(&mut clients[0]).await, text);
    }
}

#[test]
fn labels_reach_a_socket_of_another_stickyd() {
    let (mut redis, worker) = (Redis::start(), many_sessions("one"));
    let all = emitting(3, &worker.address.to_string(), &redis);
    let sids: Vec<String> = all.iter().map(|edge| begin_session(edge.address, "&store=7")).collect();
    for (i, sid) in sids.iter().enumerate() {
        let (status, said) = label(&all[0], sid, &json!({"labels": {"user": i}}));
        assert_eq!((status, &said["labels"]["user"], &said["upstream"]), (200, &json!(i.to_string()), &json!("app")));
    }
    cli(&all[1], &["sockets", "--label", "user=2", "--wide"]).is(0, &["edge-3", "user=2", "1 of 3 live sockets"]);
    command(&all[2], &["label", &sids[0], "user=ann"]).is(0, &["user=ann"]);
    cli(&all[1], &["close", "--label", "user=ann", "--yes"]).is(0, &["1 socket closed"]);
    let (status, said) = label(&all[0], "nobodys", &json!({"labels": {"user": "7"}}));
    assert_eq!(
        (status, &said["error"]),
        (404, &json!("the fleet has no live socket with that session: its client may have just left"))
    );
    let many: serde_json::Map<_, _> = (0..9).map(|i| (format!("l{i}"), json!("x"))).collect();
    assert_eq!(label(&all[0], &sids[1], &json!({"labels": many})).0, 422);
    let (once, then) =
        (json!({"labels": {"a": 1, "b": 1, "c": 1, "d": 1, "e": 1}}), json!({"labels": {"f": 1, "g": 1, "h": 1}}));
    assert_eq!(label(&all[0], &sids[1], &once).0, 200);
    assert_eq!(label(&all[0], &sids[1], &then).0, 422, "too many on that socket, which its own stickyd knows");
    // A reader without the socket is told whether all were asked.
    all[2].signal("STOP");
    for member in redis.keys("stickyd:{ctl}:m:") {
        redis.cli(&["persist", &member]);
    }
    let (status, said) = label(&all[0], &sids[1], &json!({"labels": {"user": "bob"}}));
    assert_eq!((status, &said["labels"]["user"]), (200, &json!("bob")), "it does not wait for the silent one");
    let (status, said) = label(&all[0], &sids[2], &json!({"labels": {"user": "eve"}}));
    assert!(status == 503 && said["error"].as_str().unwrap().contains("edge-3 was silent"), "{said}");
    all[2].signal("CONT");
    wait_for("it was done there later", || cli(&all[0], &["sockets", "--label", "user=eve"]).all().contains("1 of"));
    redis.stop();
    let (status, said) = label(&all[0], &sids[1], &json!({"labels": {"user": "7"}}));
    assert!(status == 503 && said["error"].as_str().unwrap().contains("Redis does not answer"), "{said}");
    let own = begin_session(all[0].address, "");
    assert_eq!(label(&all[0], &own, &json!({"labels": {"user": "7"}})).0, 200, "own sockets need no Redis");
}
