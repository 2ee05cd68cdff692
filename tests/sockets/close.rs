//! Closing sockets over the API: one, many, many over a time, and requests that close none.

use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::Watched;
use crate::support::engines::{begin_session, many_sessions, path};
use crate::support::node::{Worker, WsEcho};
use crate::support::raw::Raw;
use crate::support::wait::{wait_for, wait_for_async, within};

type Client = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn echo() -> (Worker, Watched) {
    let worker = WsEcho::start(&[]).await;
    let watched = Watched::with(&format!(
        "[upstream.app]\nworkers = [{:?}]\nlabels = {{ room = \"query:room\" }}\n",
        worker.address()
    ));
    (worker, watched)
}

/// A connected client whose tunnel has carried a message.
async fn client(watched: &Watched, room: &str) -> Client {
    let url = format!("ws://{}/?room={room}", watched.proxy.address);
    let (mut client, _) = within(tokio_tungstenite::connect_async(url)).await.unwrap();
    client.send(Message::text("x")).await.unwrap();
    within(client.next()).await.unwrap().unwrap();
    client
}

/// The Close frame that the client gets.
async fn told(client: &mut Client) -> CloseFrame {
    loop {
        if let Message::Close(frame) = within(client.next()).await.expect("a close").expect("a frame") {
            return frame.expect("a code");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_socket_is_closed_with_a_code_and_a_reason() {
    let (worker, watched) = echo().await;
    let (mut mine, mut other) = (client(&watched, "mine").await, client(&watched, "other").await);
    let id = watched.sockets("label.room=mine")[0]["id"].as_str().unwrap().to_owned();
    let at = format!("/api/v1/sockets/{id}/close");
    let (status, said) = watched.close(&at, &json!({"code": 4001, "reason": "so long"}));
    assert_eq!((status, &said["id"], &said["code"]), (200, &json!(id), &json!(4001)), "{said}");
    let frame = told(&mut mine).await;
    assert_eq!((u16::from(frame.code), frame.reason.as_str()), (4001, "so long"));
    while within(mine.next()).await.is_some() {}
    wait_for_async("the socket is no longer listed", async || {
        watched.ask("GET", &format!("/api/v1/sockets/{id}"), "").0 == 404
    })
    .await;
    assert_eq!(watched.close(&at, &json!({})).0, 404, "the socket is gone");
    assert_eq!(watched.proxy.metric("stickyd_sockets_closed_total{reason=\"operator\",upstream=\"app\"}"), 1.0);
    // Its worker saw the client's echo; the other socket is not affected.
    worker.stats_when(|stats| stats["closes"] == json!({"4001": 1})).await;
    other.send(Message::text("y")).await.unwrap();
    assert_eq!(within(other.next()).await.unwrap().unwrap(), Message::text("y"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_are_closed_by_a_filter_at_once_and_over_a_time() {
    let (_worker, watched) = echo().await;
    let (mut red, mut blue) = (Vec::new(), Vec::new());
    for _ in 0..12 {
        red.push(client(&watched, "red").await);
        blue.push(client(&watched, "blue").await);
    }
    let close = |body: Value| watched.close("/api/v1/sockets/close", &body);
    let (status, said) = close(json!({"label.room": "red", "dry_run": true}));
    assert_eq!((status, &said["matched"], &said["closing"]), (200, &json!(12), &Value::Null), "{said}");
    assert_eq!(watched.count(""), 24, "a dry run closes nothing");
    let (status, said) = close(json!({"label.room": "red"}));
    assert_eq!(
        (status, &said["matched"], &said["tunnels"], &said["closing"]["told"]),
        (200, &json!(12), &json!(12), &json!(12))
    );
    for client in &mut red {
        assert_eq!(u16::from(told(client).await.code), 1012);
    }
    // Over two seconds: all are closed, and some later than others.
    let began = Instant::now();
    let (status, said) = close(json!({"label.room": "blue", "spread": "2s", "code": 1001}));
    let number = said["closing"]["number"].clone();
    assert_eq!((status, &said["closing"]["matched"], &said["spread_s"]), (200, &json!(12), &json!(2.0)), "{said}");
    for client in &mut blue {
        assert_eq!(u16::from(told(client).await.code), 1001);
    }
    assert!(began.elapsed() > Duration::from_secs(1), "the last one's turn is in the last of twelve parts");
    let closings = watched.ask("GET", "/api/v1/sockets/close", "").1;
    let mine = closings["closings"].as_array().unwrap().iter().find(|one| one["number"] == number).unwrap();
    assert_eq!((&mine["told"], &mine["left"], &mine["ends_in_s"]), (&json!(12), &json!(0), &json!(0)), "{mine}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_requests_close_nothing() {
    let (_worker, watched) = echo().await;
    let mut client = client(&watched, "red").await;
    let id = watched.sockets("")[0]["id"].as_str().unwrap().to_owned();
    let one = format!("/api/v1/sockets/{id}/close");
    let long = "x".repeat(124);
    for (path, body, status, words) in [
        (one.as_str(), json!("no object"), 422, "the body must be a JSON object with code and reason"),
        (&one, json!({"code": 1005}), 422, "must never be sent"),
        (&one, json!({"code": 1006}), 422, "must never be sent"),
        (&one, json!({"code": 1015}), 422, "must never be sent"),
        (&one, json!({"code": 1004}), 422, "reserved"),
        (&one, json!({"code": 2000}), 422, "reserved"),
        (&one, json!({"code": 999}), 422, "outside"),
        (&one, json!({"code": 5000}), 422, "outside"),
        (&one, json!({"code": 70_000}), 422, "number from 1000"),
        (&one, json!({"code": "1000"}), 422, "number from 1000"),
        (&one, json!({"reason": long}), 422, "the limit is 123"),
        (&one, json!({"reason": 1}), 422, "`reason` must be a string"),
        (&one, json!({"spread": "1s"}), 422, "unknown field `spread`"),
        (&one, json!([]), 422, "JSON object"),
        ("/api/v1/sockets/unknown/close", json!({}), 404, "no live socket `unknown`"),
        ("/api/v1/sockets/close", json!({}), 422, "no sockets selected"),
        ("/api/v1/sockets/close", json!({"all": true, "label.room": "red"}), 422, "cannot be combined"),
        ("/api/v1/sockets/close", json!({"label.room": "green"}), 404, "no live socket matches"),
        ("/api/v1/sockets/close", json!({"label.rom": "red"}), 404, "no upstream has a label"),
        ("/api/v1/sockets/close", json!({"worker": "none"}), 404, "no worker `none`"),
        ("/api/v1/sockets/close", json!({"label.room": "red", "code": 1006}), 422, "must never be sent"),
        ("/api/v1/sockets/close", json!({"label.room": "red", "spread": 5}), 422, "with a unit"),
        ("/api/v1/sockets/close", json!({"label.room": "red", "spread": "25h"}), 422, "0s to 24h"),
        ("/api/v1/sockets/close", json!({"label.room": "red", "dry_run": "yes"}), 422, "true or false"),
        ("/api/v1/sockets/close", json!({"label.room": ["red"]}), 422, "must be a string"),
        ("/api/v1/sockets/close", json!({"rooom": "red"}), 422, "unknown field `rooom`"),
    ] {
        let (answered, said) = watched.close(path, &body);
        assert_eq!(answered, status, "{body}: {said}");
        assert!(said["error"].as_str().unwrap().contains(words), "{body}: {said}");
    }
    client.send(Message::text("alive")).await.unwrap();
    assert_eq!(within(client.next()).await.unwrap().unwrap(), Message::text("alive"));
    assert_eq!(watched.sockets("")[0]["state"], "open");
}

/// A closed polling session is refused from then on as Engine.IO does; its entry is gone at once.
#[test]
fn a_polling_session_is_closed_by_refusal() {
    let worker = many_sessions("one");
    let watched = Watched::with(&format!("[upstream.app]\nworkers = [{:?}]\n", worker.address.to_string()));
    // A handshake alone is not listed as a socket.
    assert_eq!(Raw::connect(watched.proxy.address).get("/socket.io/?EIO=4&transport=polling").status(), 200);
    for _ in 0..3 {
        begin_session(watched.proxy.address, "");
    }
    let sockets = watched.sockets("transport=polling");
    assert_eq!(sockets.len(), 3);
    let sid = sockets[0]["sid"].as_str().unwrap();
    // The worker sends nothing to this session.
    let mut open = Raw::connect(watched.proxy.address);
    open.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", path(sid)));
    let held = format!("/api/v1/pins?sid={sid}");
    wait_for("the poll of the session is open", || watched.ask("GET", &held, "").1["holds"] == 1);
    let id = sockets[0]["id"].as_str().unwrap();
    let (status, said) = watched.close(&format!("/api/v1/sockets/{id}/close"), &json!({}));
    assert_eq!((status, &said["transport"]), (200, &json!("polling")), "{said}");
    assert_eq!(watched.count(""), 2);
    let ended = open.answer();
    assert_eq!((ended.status(), ended.text().contains("Session ID unknown")), (400, true), "the open poll is refused");
    let refused = Raw::connect(watched.proxy.address).get(&path(sid));
    assert_eq!(refused.status(), 400);
    assert!(refused.text().contains("Session ID unknown"), "{}", refused.text());
    assert_eq!(watched.count(""), 2, "requests for an ended session are not listed");
    let (status, said) = watched.close("/api/v1/sockets/close", &json!({"all": true}));
    assert_eq!((status, &said["polling"], &said["closing"]["told"]), (200, &json!(2), &json!(2)), "{said}");
    assert_eq!(watched.count(""), 0);
    assert_eq!(watched.proxy.metric("stickyd_sockets_closed_total{reason=\"operator\",upstream=\"app\"}"), 3.0);
    assert_eq!(watched.proxy.worker(&worker.address.to_string()).sessions(), 1, "the handshake");
}
