//! Tokens in CONNECT packets: real clients get in with a good one, and others are told once. What clients try to get
//! in without one is in `bypasses`.

use serde_json::json;

use super::bypasses::{OPEN, SID, UPGRADE, behind, frame, reached, worker};
use super::{guarded, turned};
use crate::support::node::NodeServer;
use crate::support::raw::Raw;
use crate::support::tokens::{Guarded, all, expired, token};
use crate::support::wait::{at_most, wait_for};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_clients_with_a_good_token_connect() {
    let workers = NodeServer::start_many(2, &["--permessage-deflate"]).await;
    let proxy = guarded(&workers, "", "from = [\"auth:token\"]");
    let good = json!({"token": token(json!({"sub": "u1"}))});
    for transports in [json!(["polling"]), json!(["websocket"]), json!(["polling", "websocket"])] {
        let options = json!({"url": proxy.url(""), "transports": transports, "auth": good,
            "namespaces": ["/", "/other"], "stays": true});
        let mut client = Guarded::start(&options);
        client.events(&["connect", "connect", "echo"]).await;
        // After the upgrade, too.
        client.command("emit /").await;
        client.event("echo").await;
        let mut python = Guarded::start_python(&json!({"url": proxy.url(""), "auth": good, "settle": 100}));
        python.event("echo").await;
    }
    assert_eq!(turned(&proxy, "jwt_missing"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_clients_with_a_bad_token_are_told_once() {
    let workers = NodeServer::start_many(1, &["--allow-eio3"]).await;
    let proxy = guarded(&workers, "", "from = [\"auth:token\"]");
    for (auth, code, label) in [
        (json!({"token": expired("u")}), "token_expired", "jwt_expired"),
        (json!({"token": "nonsense"}), "token_malformed", "jwt_malformed"),
        (json!({}), "token_missing", "jwt_missing"),
    ] {
        for transports in [json!(["polling"]), json!(["websocket"]), json!(["polling", "websocket"])] {
            for namespace in ["/", "/other"] {
                let before = turned(&proxy, label);
                let options = json!({"url": proxy.url(""), "transports": transports, "auth": auth,
                    "namespaces": [namespace]});
                let said = Guarded::start(&options).end().await;
                assert_eq!(all(&said, "end")[0]["attempts"], 1, "{transports} {said:?}");
                let errors = all(&said, "error");
                assert_eq!((errors.len(), &errors[0]["code"]), (1, &json!(code)), "{transports} {said:?}");
                assert_eq!(turned(&proxy, label) - before, 1.0, "{transports} {said:?}");
            }
        }
    }
    // Clients of protocol 3 have no payload in CONNECT: they are told at their handshake.
    let said = Guarded::start(&json!({"url": proxy.url(""), "version": 2})).end().await;
    assert_eq!(
        (&all(&said, "end")[0]["attempts"], &all(&said, "error")[0]["message"]),
        (&json!(1), &json!("token missing"))
    );
    assert_eq!(workers[0].stats().await["connections"], 0, "the application saw none of them");
}

/// A namespace after a good CONNECT packet needs a token of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_namespace_without_a_token_is_refused() {
    let workers = NodeServer::start_many(1, &[]).await;
    let proxy = guarded(&workers, "", "from = [\"auth:token\"]");
    for transports in [json!(["polling"]), json!(["websocket"])] {
        let tokens = json!({"/": token(json!({"sub": "u"})), "/other": expired("u")});
        let options = json!({"url": proxy.url(""), "transports": transports, "namespaces": ["/", "/other"],
            "tokens": tokens, "settle": 300});
        let said = Guarded::start(&options).end().await;
        assert!(all(&said, "error").iter().any(|error| error["ns"] == "/other" && error["code"] == "token_expired"));
        assert!(all(&said, "connect").iter().all(|connect| connect["ns"] != "/other"), "{said:?}");
    }
}

/// A client that uses several namespaces names each in a packet of its own, and is told about each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refused_namespace_is_told_in_one_attempt() {
    let workers = NodeServer::start_many(1, &[]).await;
    let proxy = guarded(&workers, "", "from = [\"auth:token\"]");
    for transports in [json!(["polling"]), json!(["websocket"]), json!(["polling", "websocket"])] {
        let tokens = json!({"/": "nonsense", "/other": expired("u")});
        let options = json!({"url": proxy.url(""), "transports": transports, "namespaces": ["/", "/other"],
            "tokens": tokens});
        let said = Guarded::start(&options).end().await;
        assert_eq!(all(&said, "end")[0]["attempts"], 1, "{transports} {said:?}");
        let mut errors: Vec<_> =
            all(&said, "error").iter().map(|one| (one["ns"].clone(), one["code"].clone())).collect();
        errors.sort_by_key(|(namespace, _)| namespace.to_string());
        let expected = [(json!("/"), json!("token_malformed")), (json!("/other"), json!("token_expired"))];
        assert_eq!(errors, expected, "{transports} {said:?}");
    }
}

/// A token in `auth` counts before one in a later place; without it, the fault of the later one is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_place_that_has_a_token_counts() {
    let workers = NodeServer::start_many(1, &[]).await;
    let good = || token(json!({"sub": "u"}));
    for (from, auth, query, code) in [
        ("\"auth:token\", \"query:token\"", Some(good()), expired("u"), None),
        ("\"auth:token\", \"query:token\"", None, expired("u"), Some("token_expired")),
        ("\"auth:token\", \"query:token\"", Some("nonsense".to_owned()), good(), Some("token_malformed")),
        ("\"auth:token\", \"query:token\"", None, good(), None),
        ("\"query:token\", \"auth:token\"", Some(good()), expired("u"), Some("token_expired")),
        ("\"query:token\", \"auth:token\"", Some(good()), String::new(), None),
    ] {
        let proxy = guarded(&workers, "", &format!("from = [{from}]"));
        for transports in [json!(["polling"]), json!(["websocket"])] {
            let mut options = json!({"url": proxy.url(""), "query": {"token": query}, "transports": transports});
            if let Some(auth) = &auth {
                options["auth"] = json!({"token": auth});
            }
            let mut client = Guarded::start(&options);
            match code {
                None => _ = client.event("echo").await,
                Some(code) => {
                    let said = client.end().await;
                    assert_eq!(all(&said, "error")[0]["code"], code, "{from} {options} {said:?}");
                    assert_eq!(all(&said, "end")[0]["attempts"], 1, "{from} {options} {said:?}");
                }
            }
        }
    }
}

/// Many clients at once, so that refusals meet every moment of the move to a WebSocket.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_told_once_at_any_moment_of_an_upgrade() {
    let workers = NodeServer::start_many(1, &[]).await;
    let proxy = guarded(&workers, "", "from = [\"auth:token\"]");
    let options = json!({"url": proxy.url(""), "auth": {"token": expired("u")}, "clients": 60, "settle": 3_000});
    let said = Guarded::start(&options).end().await;
    assert_eq!(all(&said, "end")[0]["attempts"], 1, "{said:?}");
    let errors = all(&said, "error");
    assert_eq!(errors.len(), 60, "{said:?}");
    assert!(errors.iter().all(|error| error["code"] == "token_expired"), "{errors:?}");
}

/// Clients such as python-socketio send their CONNECT packet only after they have moved to the WebSocket.
#[test]
fn an_upgrade_does_not_wait_for_a_token() {
    let worker = worker();
    let proxy = behind(&worker, "from = [\"auth:token\"]");
    let mut shortest = std::time::Duration::MAX;
    for _ in 0..5 {
        assert!(Raw::connect(proxy.address).get(OPEN).text().contains(SID));
        let began = std::time::Instant::now();
        let mut client = Raw::connect(proxy.address);
        client
            .send(format!("GET /socket.io/?EIO=4&transport=websocket&sid={SID} HTTP/1.1\r\nHost: a\r\n{UPGRADE}\r\n"));
        assert_eq!(client.head().unwrap().status(), 101);
        shortest = shortest.min(began.elapsed());
    }
    assert!(shortest < at_most(std::time::Duration::from_millis(500)), "{shortest:?}");
}

/// Clients of protocol 3 write each packet after its length: with a good token in their handshake, all of them pass.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_protocol_3_work_with_a_token_in_another_place() {
    let workers = NodeServer::start_many(1, &["--allow-eio3"]).await;
    let proxy = guarded(&workers, "", "from = [\"auth:token\", \"query:token\"]");
    let query = json!({"token": token(json!({"sub": "u"}))});
    for transports in [json!(["polling"]), json!(["websocket"]), json!(["polling", "websocket"])] {
        let options = json!({"url": proxy.url(""), "version": 2, "query": query, "transports": transports,
            "namespaces": ["/", "/other"], "stays": true});
        let mut client = Guarded::start(&options);
        client.events(&["connect", "connect", "echo"]).await;
        // The length of a packet is its first characters.
        for length in [1, 10, 20, 25, 30, 35, 60, 70, 80, 90, 400] {
            client.command(&format!("emit / {length}")).await;
            assert_eq!(client.event("echo").await["value"].as_str().unwrap().len(), length, "{transports}");
        }
    }
    assert_eq!(turned(&proxy, "jwt_malformed"), 0.0);
}

/// What a worker could take for packets of protocol 3 passes where the handshake itself had a token.
#[test]
fn bodies_of_protocol_3_pass_after_a_handshake_with_a_token() {
    let worker = worker();
    let proxy = behind(&worker, "from = [\"auth:token\", \"query:token\"]");
    let open = format!("/socket.io/?EIO=3&transport=polling&token={}", token(json!({"sub": "u"})));
    assert!(Raw::connect(proxy.address).get(&open).text().contains(SID));
    let session = format!("/socket.io/?EIO=3&transport=polling&sid={SID}");
    for body in ["7:42[\"a\"]", "40:42[\"................................\"]", "9:42[\"abc\"]", "\u{1}\u{5}\u{7f}42[]"]
    {
        assert_eq!(super::bypasses::post(&proxy, &session, "", body).text(), "ok", "{body}");
        assert!(reached(&worker, body), "{body}");
    }
}

#[test]
fn unreadable_packets_pass_where_the_route_says_so() {
    let worker = worker();
    let proxy = behind(&worker, "from = [\"auth:token\"]\nunreadable = \"pass\"");
    let mut client = Raw::connect(proxy.address);
    client.send(format!("GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: app\r\n{UPGRADE}\r\n"));
    assert_eq!(client.head().unwrap().status(), 101);
    client.send(frame(0x82, b"MSGPACK"));
    wait_for("the binary packet has passed", || reached(&worker, "MSGPACK"));
    client.send(frame(0x81, b"42[\"SECRET\"]"));
    let _ = client.rest();
    assert!(!reached(&worker, "SECRET"));
}
