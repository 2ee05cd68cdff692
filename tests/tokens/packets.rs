//! Tokens in CONNECT packets: real clients get in with a good one, and nothing of a client without one reaches the
//! application, whatever it tries.

use serde_json::json;

use super::{guarded, routed, turned};
use crate::support::node::NodeServer;
use crate::support::proxy::Proxy;
use crate::support::raw::{Message, Raw, RawWorker, ok};
use crate::support::tokens::{Guarded, all, expired, token};
use crate::support::wait::wait_for;

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

const SID: &str = "AAAAAAAAAAAAAAAAAAAA";
const SECOND: &str = "BBBBBBBBBBBBBBBBBBBB";

/// A worker that opens a session, takes every POST, grants every upgrade, and keeps what it gets.
fn worker() -> RawWorker {
    RawWorker::scripted(|leg| {
        while let Some(request) = leg.request() {
            let sid = if request.target().contains("second") { SECOND } else { SID };
            let open = format!("0{{\"sid\":\"{sid}\",\"pingInterval\":25000,\"pingTimeout\":20000}}");
            let answer = match () {
                () if request.header("upgrade").is_some() => {
                    leg.send(crate::support::tunnels::GRANT);
                    leg.until_closed();
                    return;
                }
                () if request.start.starts_with("POST") => ok("ok"),
                () if request.target().contains("sid=") => ok("6"),
                () => ok(&open),
            };
            if !leg.send(answer) {
                return;
            }
        }
    })
}

fn behind(worker: &RawWorker, jwt: &str) -> Proxy {
    let toml = format!("secret = \"the secret of the fleet\"\n[upstream.app]\nworkers = [\"{}\"]\n", worker.address);
    Proxy::with(&format!("{toml}{}", routed("", jwt)))
}

const OPEN: &str = "/socket.io/?EIO=4&transport=polling";

fn post(proxy: &Proxy, target: &str, fields: &str, body: &str) -> Message {
    let length = body.len();
    let head = format!("POST {target} HTTP/1.1\r\nHost: a\r\n{fields}Content-Length: {length}\r\n\r\n{body}");
    Raw::connect(proxy.address).ask(&head)
}

/// A masked frame of a client.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).ok().filter(|length| *length < 126);
    let mut bytes = vec![first];
    match length {
        Some(short) => bytes.push(0x80 | short),
        None => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

/// Whether any byte of `what` has reached the worker.
fn reached(worker: &RawWorker, what: &str) -> bool {
    String::from_utf8_lossy(&worker.bytes()).contains(what)
}

#[test]
fn no_body_passes_without_a_token() {
    let good = format!("40{{\"token\":\"{}\"}}", token(json!({"sub": "u"})));
    let session = format!("{OPEN}&sid={SID}");
    for (target, fields, body) in [
        (session.clone(), "", "42[\"SECRET\"]".to_owned()),
        (session.clone(), "", "40SECRET".to_owned()),
        (session.clone(), "", "40/SECRET,".to_owned()),
        (session.clone(), "", "4 /SECRET,".to_owned()),
        (session.clone(), "", "4".to_owned() + "\u{1e}SECRET"),
        (session.clone(), "", "bSECRET".to_owned()),
        (session.clone(), "", "2\u{1e}42[\"SECRET\"]".to_owned()),
        (session.clone(), "", "451-[\"SECRET\"]".to_owned()),
        (session.clone(), "", "٤٠SECRET".to_owned()),
        // One good packet does not cover the others of its body.
        (session.clone(), "", format!("{good}\u{1e}40/SECRET,")),
        (session.clone(), "", format!("{good}\u{1e}40/SECRET,{{\"token\":\"{}\"}}", expired("u"))),
        // Coded bodies, scripts, and requests that some servers read as the session's.
        (session.clone(), "Content-Encoding: gzip\r\n", format!("{good}SECRET")),
        (format!("{session}&j=0"), "", "d=40SECRET".to_owned()),
        (format!("/socket.io/?transport=polling&sid={SID}"), "", "42[\"SECRET\"]".to_owned()),
        (format!("/socket.io/?EIO=4;transport=polling;sid={SID}"), "", "42[\"SECRET\"]".to_owned()),
        (format!("{session}&sid=x"), "", "42[\"SECRET\"]".to_owned()),
        (format!("{OPEN}&sid=&sid={SID}"), "", "42[\"SECRET\"]".to_owned()),
    ] {
        let worker = worker();
        let proxy = behind(&worker, "from = [\"auth:token\"]");
        assert!(Raw::connect(proxy.address).get(OPEN).text().contains(SID));
        let _ = post(&proxy, &target, fields, &body);
        assert!(!reached(&worker, "SECRET"), "{target} {fields} {body}");
    }
}

#[test]
fn handshakes_that_cannot_be_judged_need_another_token() {
    for target in [
        "/socket.io/?EIO=3&transport=polling",
        "/socket.io/?transport=polling",
        "/socket.io/?EIO=4&transport=polling&j=0",
        "/socket.io/?EIO=3&EIO=4&transport=polling",
        "/socket.io/?EIO=4&transport=polling&%6a=0",
        "/socket.io/?EIO=4;EIO=3&transport=polling",
    ] {
        let worker = worker();
        let proxy = behind(&worker, "from = [\"auth:token\", \"query:token\"]\nrefuse = \"http\"");
        assert_eq!(Raw::connect(proxy.address).get(target).status(), 401, "{target}");
        assert_eq!(worker.connections(), 0);
        let good = format!("{target}&token={}", token(json!({"sub": "u"})));
        assert_eq!(Raw::connect(proxy.address).get(&good).status(), 200, "{target}");
    }
}

#[test]
fn no_frame_passes_without_a_token() {
    let good = format!("40{{\"token\":\"{}\"}}", token(json!({"sub": "u"})));
    let good = good.as_bytes();
    let bad = format!("40/SECRET,{{\"token\":\"{}\"}}", expired("u"));
    for (frames, why) in [
        (vec![frame(0x81, b"42[\"SECRET\"]")], "an event"),
        (vec![frame(0x81, b"40SECRET")], "no token"),
        (vec![frame(0x81, bad.as_bytes())], "an expired token"),
        (vec![frame(0x01, b"4"), frame(0x80, b"2[\"SECRET\"]")], "fragments"),
        (vec![frame(0x01, b""), frame(0x00, b"4"), frame(0x89, b""), frame(0x80, b"0/SECRET,")], "fragments"),
        (vec![frame(0xc1, b"SECRET")], "compressed"),
        (vec![frame(0x82, b"SECRET")], "a binary parser"),
        (vec![frame(0x81, b"5"), frame(0x81, b"42[\"SECRET\"]")], "after the upgrade"),
        (vec![frame(0x81, good), frame(0x81, b"40/SECRET,")], "a second namespace"),
        (vec![frame(0x81, good), frame(0x81, bad.as_bytes())], "a second namespace"),
        (vec![frame(0x81, good), frame(0x81, b"4 /SECRET,")], "a second namespace for JavaScript"),
        (vec![[&[0x81, 12][..], b"42[\"SECRET\"]"].concat()], "not masked"),
    ] {
        for first in ["/socket.io/?EIO=4&transport=websocket", "after polling"] {
            let worker = worker();
            let proxy = behind(&worker, "from = [\"auth:token\"]");
            let target = match first {
                "after polling" => {
                    assert!(Raw::connect(proxy.address).get(OPEN).text().contains(SID));
                    format!("/socket.io/?EIO=4&transport=websocket&sid={SID}")
                }
                first => first.to_owned(),
            };
            let mut client = Raw::connect(proxy.address);
            client.send(format!(
                "GET {target} HTTP/1.1\r\nHost: app\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Extensions: permessage-deflate\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            ));
            assert_eq!(client.head().unwrap().status(), 101);
            client.send(frames.concat());
            let told = client.rest();
            assert!(String::from_utf8_lossy(&told).contains("44"), "{why}: {}", String::from_utf8_lossy(&told));
            assert!(told.windows(2).any(|code| code == 1008_u16.to_be_bytes()), "{why}");
            assert!(!reached(&worker, "SECRET"), "{why}");
            assert!(!reached(&worker, "permessage-deflate"), "compression is not negotiated");
        }
    }
}

#[test]
fn a_session_found_on_another_stickyd_is_admitted_there_anew() {
    let worker = worker();
    let (one, two) = (behind(&worker, "from = [\"auth:token\"]"), behind(&worker, "from = [\"auth:token\"]"));
    assert!(Raw::connect(one.address).get(OPEN).text().contains(SID));
    let session = format!("{OPEN}&sid={SID}");
    let good = format!("40{{\"token\":\"{}\"}}", token(json!({"sub": "u"})));
    assert_eq!(post(&one, &session, "", &good).text(), "ok");
    assert_eq!(post(&one, &session, "", "42[\"first\"]").text(), "ok");
    assert!(reached(&worker, "first"));
    // The other stickyd does not know whether the client was admitted: the client has to begin again.
    let answer = post(&two, &session, "", "42[\"SECRET\"]");
    assert!(answer.status() == 400 && answer.text().contains("Session ID unknown"), "{answer:?}");
    assert!(!reached(&worker, "SECRET"));
    assert_eq!(post(&two, &session, "", &good).text(), "ok");
    assert_eq!(post(&two, &session, "", "42[\"second\"]").text(), "ok");
    assert!(reached(&worker, "second"));
}

#[test]
fn unreadable_packets_pass_where_the_route_says_so() {
    let worker = worker();
    let proxy = behind(&worker, "from = [\"auth:token\"]\nunreadable = \"pass\"");
    let mut client = Raw::connect(proxy.address);
    client.send(
        "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: app\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    assert_eq!(client.head().unwrap().status(), 101);
    client.send(frame(0x82, b"MSGPACK"));
    wait_for("the binary packet has passed", || reached(&worker, "MSGPACK"));
    client.send(frame(0x81, b"42[\"SECRET\"]"));
    let _ = client.rest();
    assert!(!reached(&worker, "SECRET"));
}
