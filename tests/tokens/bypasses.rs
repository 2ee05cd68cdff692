//! What clients try to get past a token in a CONNECT packet: nothing of it reaches the application.

use std::net::SocketAddr;

use bytes::Bytes;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::routed;
use crate::support::h2::{Secured, ask, connect};
use crate::support::proxy::Proxy;
use crate::support::raw::{Message, Raw, RawWorker, ok};
use crate::support::tokens::{expired, token};
use crate::support::wait::{wait_for, wait_for_async, within};

/// The fields of an upgrade.
pub(super) const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

pub(super) const SID: &str = "AAAAAAAAAAAAAAAAAAAA";
const SECOND: &str = "BBBBBBBBBBBBBBBBBBBB";

/// A worker that opens a session, takes every POST, grants every upgrade, and keeps what it gets. It never answers a
/// poll with `wait` in its query.
pub(super) fn worker() -> RawWorker {
    RawWorker::scripted(|leg| {
        while let Some(request) = leg.request() {
            let sid = if request.target().contains("second") { SECOND } else { SID };
            let open = format!("0{{\"sid\":\"{sid}\",\"pingInterval\":25000,\"pingTimeout\":20000}}");
            let answer = match () {
                () if request.header("upgrade").is_some() => {
                    let accept = derive_accept_key(request.header("sec-websocket-key").unwrap().as_bytes());
                    leg.send(format!(
                        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Accept: {accept}\r\n\r\n"
                    ));
                    leg.until_closed();
                    return;
                }
                () if request.target().contains("wait") => {
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

pub(super) fn behind(worker: &RawWorker, jwt: &str) -> Proxy {
    let toml = format!("secret = \"the secret of the fleet\"\n[upstream.app]\nworkers = [\"{}\"]\n", worker.address);
    Proxy::with(&format!("{toml}{}", routed("", jwt)))
}

pub(super) const OPEN: &str = "/socket.io/?EIO=4&transport=polling";

pub(super) fn post(proxy: &Proxy, target: &str, fields: &str, body: &str) -> Message {
    let length = body.len();
    let head = format!("POST {target} HTTP/1.1\r\nHost: a\r\n{fields}Content-Length: {length}\r\n\r\n{body}");
    Raw::connect(proxy.address).ask(&head)
}

/// A masked frame of a client.
pub(super) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
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

/// A client's Close, so that the tunnel ends without waiting for one.
pub(super) fn close() -> Vec<u8> {
    frame(0x88, &1000_u16.to_be_bytes())
}

/// Whether any byte of `what` has reached the worker.
pub(super) fn reached(worker: &RawWorker, what: &str) -> bool {
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
        // CONNECT with attachments, with an id, of a list, and with two tokens of which a server takes the last.
        (session.clone(), "", "401-{\"token\":\"SECRET\"}".to_owned()),
        (session.clone(), "", good.replace("40{", "400-/SECRET,{")),
        (session.clone(), "", good.replace("40{", "407{\"SECRET\":1,")),
        (session.clone(), "", good.replace("40{", "40[{") + "]SECRET"),
        (session.clone(), "", good.replace('}', ",\"t\\u006fken\":\"SECRET\"}")),
        (session.clone(), "", good.replace('}', "}SECRET")),
        // Python's engine reads a message in quotes, and a body that begins with `d=`.
        (session.clone(), "", "4\"0{\\\"SECRET\\\":1}\"".to_owned()),
        (session.clone(), "", "d=40SECRET".to_owned()),
        (session.clone(), "", "\u{feff}40SECRET".to_owned()),
        (session.clone(), "Content-Type: application/octet-stream\r\n", "\u{4}40SECRET".to_owned()),
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
        (vec![frame(0x81, b"401-{\"token\":\"SECRET\"}")], "attachments"),
        (vec![frame(0x81, b"bU0VDUkVU"), frame(0x81, b"SECRET")], "base64"),
        (vec![frame(0x81, b""), frame(0x81, b"40SECRET")], "an empty message"),
        (vec![frame(0x01, b"40{"), frame(0x81, b"42SECRET")], "a message inside another one"),
        (vec![frame(0x09, b""), frame(0x81, b"40SECRET")], "a control frame in pieces"),
        (vec![frame(0x80, b"40SECRET")], "a continuation of nothing"),
        (vec![frame(0x81, b"2probe"), frame(0x01, b"5"), frame(0x81, b"40SECRET")], "a probe that does not end"),
        (vec![frame(0x81, good), frame(0xc1, b"40/SECRET,")], "compressed after a token"),
        (vec![[&[0x81, 0xfe, 0, 8, 0, 0, 0, 0][..], b"40SECRET"].concat()], "a length that is too long"),
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
            client.send([frames.concat(), close()].concat());
            let told = client.rest();
            assert!(String::from_utf8_lossy(&told).contains("44"), "{why}: {}", String::from_utf8_lossy(&told));
            assert!(told.windows(2).any(|code| code == 1008_u16.to_be_bytes()), "{why}");
            assert!(!reached(&worker, "SECRET"), "{why}");
            assert!(!reached(&worker, "permessage-deflate"), "compression is not negotiated");
        }
    }
}

/// Asks for an upgrade and sends frames with it, before any answer; returns what comes back after the 101.
pub(super) fn send_at_once(address: SocketAddr, target: &str, frames: &[u8]) -> Vec<u8> {
    let mut client = Raw::connect(address);
    let head = format!("GET {target} HTTP/1.1\r\nHost: app\r\n{UPGRADE}\r\n");
    client.send([head.as_bytes(), frames].concat());
    assert_eq!(client.head().unwrap().status(), 101);
    client.rest()
}

#[test]
fn frames_that_come_with_the_upgrade_are_judged() {
    let worker = worker();
    let proxy = behind(&worker, "from = [\"auth:token\"]");
    let target = "/socket.io/?EIO=4&transport=websocket";
    for frames in [frame(0x81, b"42[\"SECRET\"]"), [frame(0x81, b"2probe"), frame(0x81, b"40SECRET")].concat()] {
        let told = send_at_once(proxy.address, target, &[frames, close()].concat());
        assert!(String::from_utf8_lossy(&told).contains("\"code\":\"token_m"), "{}", String::from_utf8_lossy(&told));
    }
    wait_for("what may pass has passed", || reached(&worker, "2probe"));
    assert!(!reached(&worker, "SECRET"));
}

#[test]
fn two_posts_at_once_are_each_judged() {
    let good = format!("40{{\"token\":\"{}\"}}", token(json!({"sub": "u"})));
    for _ in 0..3 {
        let worker = worker();
        let proxy = behind(&worker, "from = [\"auth:token\"]");
        assert!(Raw::connect(proxy.address).get(OPEN).text().contains(SID));
        let session = format!("{OPEN}&sid={SID}");
        // The first body stays incomplete until the second one was judged.
        let mut first = Raw::connect(proxy.address);
        let head = format!("POST {session} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", good.len());
        first.send(head.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n") + &good[..good.len() - 1]);
        let second = post(&proxy, &session, "", "42[\"SECRET\"]");
        assert_eq!(second.text(), "ok", "the refusal is told by a poll");
        let told = Raw::connect(proxy.address).get(&session);
        assert!(told.text().contains("token_missing"), "{told:?}");
        let _ = first.try_send("}");
        let _ = first.rest();
        assert!(!reached(&worker, "SECRET"));
    }
}

/// Bodies in chunks, and with trailers, are bodies like others.
#[test]
fn bodies_in_chunks_are_judged() {
    let worker = worker();
    let proxy = behind(&worker, "from = [\"auth:token\"]");
    assert!(Raw::connect(proxy.address).get(OPEN).text().contains(SID));
    let target = format!("{OPEN}&sid={SID}");
    let send = |parts: &[&str]| {
        let chunks: String = parts.iter().map(|part| format!("{:x}\r\n{part}\r\n", part.len())).collect();
        let head = "Host: a\r\nTransfer-Encoding: chunked\r\nTrailer: x-end\r\n";
        Raw::connect(proxy.address)
            .ask(&format!("POST {target} HTTP/1.1\r\n{head}\r\n{chunks}0\r\nx-end: 42[SECRET]\r\n\r\n"))
    };
    let good = format!("40{{\"token\":\"{}\"}}", token(json!({"sub": "u"})));
    assert_eq!(send(&["4", "0", &good[2..]]).text(), "ok");
    assert_eq!(send(&["42[\"first\"]"]).text(), "ok");
    assert!(reached(&worker, "first"));
    assert_eq!(send(&["42[\"second\"]\u{1e}", "4", "0/SECRET,"]).text(), "ok");
    assert!(!reached(&worker, "SECRET") && !reached(&worker, "second"));
}

/// A stickyd with HTTP/2 in front of this worker.
fn behind_h2(worker: &RawWorker, jwt: &str) -> Secured {
    Secured::with("", &format!("[upstream.app]\nworkers = [\"{}\"]\n{}", worker.address, routed("", jwt)))
}

#[tokio::test]
async fn no_frame_passes_over_http_2_without_a_token() {
    let good = format!("40{{\"token\":\"{}\"}}", token(json!({"sub": "u"})));
    for (frames, why) in [
        (vec![frame(0x81, b"42[\"SECRET\"]")], "an event"),
        (vec![frame(0x01, b"4"), frame(0x80, b"0SECRET")], "fragments"),
        (vec![frame(0xc1, b"SECRET")], "compressed"),
        (vec![frame(0x82, b"SECRET")], "a binary parser"),
        (vec![frame(0x81, b"2probe"), frame(0x81, b"5"), frame(0x81, b"40/SECRET,")], "after the upgrade"),
        (vec![frame(0x81, good.as_bytes()), frame(0x81, b"40/SECRET,")], "a second namespace"),
    ] {
        for first in ["websocket", "polling"] {
            let worker = worker();
            let stickyd = behind_h2(&worker, "from = [\"auth:token\"]");
            let client = stickyd.client().await;
            let is_announced = async || client.send.is_extended_connect_protocol_enabled();
            wait_for_async("the extended CONNECT is announced", is_announced).await;
            let target = match first {
                "polling" => {
                    assert!(client.get(OPEN).await.text().contains(SID));
                    format!("/socket.io/?EIO=4&transport=websocket&sid={SID}")
                }
                _ => "/socket.io/?EIO=4&transport=websocket".to_owned(),
            };
            let mut request = connect("websocket", &target);
            request.headers_mut().insert("sec-websocket-extensions", "permessage-deflate".parse().unwrap());
            let (mut near, headers) = client.tunnel(request).await.unwrap();
            assert!(!headers.contains_key("sec-websocket-extensions"), "{headers:?}");
            near.write_all(&[frames.concat(), close()].concat()).await.unwrap();
            near.flush().await.unwrap();
            let mut told = Vec::new();
            within(near.read_to_end(&mut told)).await.unwrap();
            assert!(String::from_utf8_lossy(&told).contains("44"), "{why}: {}", String::from_utf8_lossy(&told));
            assert!(told.windows(2).any(|code| code == 1008_u16.to_be_bytes()), "{why}");
            assert!(!reached(&worker, "SECRET") && !reached(&worker, "permessage-deflate"), "{why}");
        }
    }
}

#[tokio::test]
async fn no_body_passes_over_http_2_without_a_token() {
    let worker = worker();
    let stickyd = behind_h2(&worker, "from = [\"auth:token\"]");
    let client = stickyd.client().await;
    assert!(client.get(OPEN).await.text().contains(SID));
    let (answer, mut body) = client.begin(ask("POST", &format!("{OPEN}&sid={SID}"))).await;
    for part in ["2\u{1e}4", "0/SECRET", ","] {
        body.send_data(Bytes::from_static(part.as_bytes()), false).unwrap();
    }
    let mut trailers = hyper::HeaderMap::new();
    trailers.insert("x-more", "40/SECRET,".parse().unwrap());
    body.send_trailers(trailers).unwrap();
    let answer = crate::support::h2::whole(answer).await.unwrap();
    assert_eq!((answer.status, answer.text()), (200, "ok"));
    let told = client.get(&format!("{OPEN}&sid={SID}")).await;
    assert!(told.text().contains("44/SECRET,{\"message\":\"token missing\""), "{told:?}");
    assert!(!reached(&worker, "SECRET"));
}

/// Without a token, a client has ten seconds: with one WebSocket, with a second one of the same session, and polling.
#[test]
fn a_client_that_sends_no_token_is_cut_after_ten_seconds() {
    let worker = worker();
    let proxy = behind(&worker, "from = [\"auth:token\"]");
    let (began, address) = (std::time::Instant::now(), proxy.address);
    let first = || send_at_once(address, "/socket.io/?EIO=4&transport=websocket", &frame(0x81, b"3"));
    let polls = || {
        let open = Raw::connect(address).get(&format!("{OPEN}&second"));
        assert!(open.text().contains(SECOND), "{open:?}");
        Raw::connect(address).get(&format!("{OPEN}&sid={SECOND}&wait"))
    };
    assert!(Raw::connect(address).get(OPEN).text().contains(SID));
    let target = format!("/socket.io/?EIO=4&transport=websocket&sid={SID}");
    let moved = || send_at_once(address, &target, &frame(0x81, b"2probe"));
    std::thread::scope(|scope| {
        let sockets = [scope.spawn(first), scope.spawn(moved), scope.spawn(moved)];
        let poll = scope.spawn(polls).join().unwrap();
        assert!(poll.status() == 400 && poll.text().contains("Session ID unknown"), "{poll:?}");
        for socket in sockets {
            let closed = socket.join().unwrap();
            assert!(closed.windows(2).any(|code| code == 1008_u16.to_be_bytes()), "{closed:?}");
            assert!(String::from_utf8_lossy(&closed).contains("token_missing"), "{closed:?}");
        }
    });
    assert!((9..25).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}
