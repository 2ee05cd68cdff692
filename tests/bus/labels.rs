//! Labels that the application sets: found by session and by `socket.id`, kept over the upgrade, and used by lists,
//! statistics, messages as frames, and closings. `bus_worker.cjs` sets them as `docs/backend.md` says.

use serde_json::{Value, json};

use super::emit::is_as_described;
use super::{Clients, Fleet};
use crate::support::proxy::free_address;
use crate::support::raw::Raw;
use crate::support::temp::TempDirectory;
use crate::support::wait::wait_for;

const TOKEN: &str = "token-of-the-application-0123456789";

/// An application that labels its sockets over the API, and its clients.
async fn labelled(by: &str) -> (Fleet, Clients, TempDirectory) {
    let directory = TempDirectory::new("labels");
    let token = directory.root().join("token");
    std::fs::write(&token, TOKEN).unwrap();
    let admin = free_address();
    let more = format!(
        "emit = {{ via = \"frames\" }}\nlabels = {{ store = \"query:store\" }}\n\
        [admin]\naddress = \"{admin}\"\ntoken_file = {token:?}\n"
    );
    let url = format!("http://{admin}");
    let variables = [("LABELS", url.as_str()), ("TOKEN", TOKEN), ("LABEL_BY", by)];
    let fleet = Fleet::configured(2, &more, &variables).await;
    fleet.wait_linked(2.0);
    let clients = fleet.clients(12).await;
    (fleet, clients, directory)
}

impl Fleet {
    pub(super) fn sockets(&self, query: &str) -> Vec<Value> {
        let all: Value = serde_json::from_str(&self.admin(&format!("/api/v1/sockets?{query}"))).unwrap();
        all["sockets"].as_array().unwrap_or_else(|| panic!("{all}")).clone()
    }

    pub(super) fn label(&self, sid: &str, body: &Value) -> (u16, Value) {
        let body = body.to_string();
        let length = body.len();
        let request = format!(
            "PUT /api/v1/sockets/by-sid/{sid} HTTP/1.1\r\nHost: localhost\r\nX-Stickyd: 1\r\nContent-Length: {length}\
             \r\n\r\n{body}"
        );
        let answer = Raw::connect_unix(&self.stickyd.admin()).ask(&request);
        let said = serde_json::from_slice(&answer.body).unwrap();
        is_as_described("/api/v1/sockets/by-sid/{sid}", "put", answer.status(), &said);
        (answer.status(), said)
    }
}

async fn are_used_everywhere(by: &str) {
    let (fleet, mut clients, _directory) = labelled(by).await;
    assert_eq!(fleet.sockets("label.store=red").len(), 6);
    // Upgrades are done, and the labels are still there.
    wait_for("eight of twelve are WebSockets", || {
        let count = fleet.sockets("transport=websocket").len();
        if count == 8 { Ok(()) } else { Err(count) }
    });
    let red = fleet.sockets("label.store=red");
    assert_eq!(red.len(), 6);
    assert_eq!(red.iter().filter(|socket| socket["transport"] == "polling").count(), 2);
    let stats: Value = serde_json::from_str(&fleet.admin("/api/v1/stats")).unwrap();
    let values = &stats["upstreams"][0]["labels"]["store"]["values"];
    assert_eq!(*values, json!([{"sockets": 6, "value": "blue"}, {"sockets": 6, "value": "red"}]), "{stats}");
    // One store: its WebSockets are reached, and no other client.
    let (status, answer) = fleet.emit(&json!({"rooms": ["store:red"], "event": "news", "args": ["to-red"]}));
    assert_eq!((status, &answer["matched"], &answer["reached"]), (200, &json!(6), &json!(4)), "{answer}");
    assert_eq!(answer["not_reached"]["polling"], 2);
    assert_eq!(clients.ask("got to-red 4").await, json!({"once": 4, "total": 4, "red": 4}));
    let (status, answer) = fleet.emit(&json!({"except": ["store:red"], "event": "news", "args": ["to-others"]}));
    assert_eq!((status, &answer["matched"], &answer["reached"]), (200, &json!(6), &json!(4)), "{answer}");
    assert_eq!(clients.ask("got to-others 4").await, json!({"once": 4, "total": 4, "red": 0}));
    let unheard = fleet.emit(&json!({"rooms": ["store:none"], "event": "news"}));
    assert_eq!((unheard.0, &unheard.1["matched"]), (200, &json!(0)));
    assert_eq!(fleet.emit(&json!({"rooms": ["red"], "event": "news"})).0, 422, "not a label with its value");
    let (said, is_fine) = fleet.command(&["close", "--label", "store=blue", "--yes"]);
    assert!(is_fine, "{said}");
    assert_eq!(clients.ask("connected 12").await["connected"], 12, "closed clients come back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn labels_by_session_are_used_everywhere() {
    are_used_everywhere("conn").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn labels_by_socket_id_are_used_everywhere() {
    are_used_everywhere("id").await;
}

/// Neither a query parameter nor a reconnection with it changes what the backend has said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn labels_of_the_backend_are_checked_and_removable() {
    let (fleet, _clients, _directory) = labelled("conn").await;
    let socket = fleet.sockets("label.store=red").remove(0);
    let sid = socket["sid"].as_str().unwrap();
    let (status, said) = fleet.label(sid, &json!({"labels": {"store": null, "user": 7}}));
    assert_eq!((status, &said["labels"]), (200, &json!({"user": "7"})));
    assert_eq!(said["id"], socket["id"]);
    assert_eq!(fleet.sockets("label.user=7").len(), 1);
    assert_eq!(fleet.sockets("label.store=red").len(), 5);
    for (sid, body, status, words) in [
        ("unknown-session", json!({"labels": {"user": "7"}}), 404, "no live socket"),
        (sid, json!({"labels": {"user": "7"}, "upstream": "none"}), 404, "no upstream `none`"),
        (sid, json!({}), 422, "labels"),
        (sid, json!({"labels": {}}), 422, "no labels given"),
        (sid, json!({"labels": {"User": "7"}}), 422, "not a valid label name"),
        (sid, json!({"labels": {"user": "x".repeat(65)}}), 422, "1 to 64 bytes"),
        (sid, json!({"labels": {"user": ["7"]}}), 422, "must be a string"),
        (sid, json!({"label": {"user": "7"}}), 422, "unknown field `label`"),
        (sid, json!({"labels": {"user": "7"}, "namespace": "chat"}), 422, "must begin with /"),
    ] {
        let (got, answer) = fleet.label(sid, &body);
        assert_eq!(got, status, "{answer}");
        assert!(answer["error"].as_str().unwrap().contains(words), "{answer}");
    }
    // Failures are events, without the session that they name; what the application does all the time is not.
    let events = fleet.admin("/api/v1/events?kind=operator");
    assert!(events.contains("PUT /api/v1/sockets/by-sid/{sid} (status 422)"), "{events}");
    assert!(!events.contains(sid) && !events.contains("(status 200)"), "{events}");
    assert!(!fleet.stickyd.log().contains(sid), "{}", fleet.stickyd.log());
    let many: serde_json::Map<_, _> = (0..8).map(|n| (format!("n{n}"), json!("1"))).collect();
    let (status, answer) = fleet.label(sid, &json!({"labels": many}));
    assert_eq!(status, 422, "{answer}");
    assert_eq!(fleet.sockets("label.user=7").len(), 1, "nothing was changed");
}
