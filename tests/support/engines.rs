//! Workers of this process that speak just enough Engine.IO to have sessions, and clients of them over plain requests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::proxy::Binary;
use super::raw::{Leg, Message, Raw, RawWorker, ok};

/// The sid of every session of [`one_session`].
pub(crate) const SID: &str = "AAAAAAAAAAAAAAAAAAAA";

/// A worker that answers every handshake with [`SID`], knows only that session, and answers the rest with its name.
pub(crate) fn one_session(name: &'static str) -> RawWorker {
    RawWorker::answering(move |request| {
        let target = request.target();
        if target.contains(&format!("sid={SID}")) {
            return ok(&format!("4session at {name}"));
        }
        if target.contains("EIO=4") {
            return ok(&format!("0{{\"sid\":\"{SID}\",\"upgrades\":[],\"pingInterval\":25000,\"pingTimeout\":20000}}"));
        }
        ok(name)
    })
}

/// `[upstream.app]` with these workers, without a watch on the file; `more` follows.
pub(crate) fn config_of(workers: &[&RawWorker], more: &str) -> String {
    let list: Vec<_> = workers.iter().map(|worker| worker.address.to_string()).collect();
    format!("state_dir = \".\"\nwatch = false\n[upstream.app]\nworkers = {list:?}\n{more}")
}

/// A worker whose sessions have sids that begin with its name. It answers POSTs and ordinary requests, leaves polls
/// open, and grants WebSockets at `/ws`, on which it sends nothing.
pub(crate) fn many_sessions(name: &'static str) -> RawWorker {
    let made = Arc::new(AtomicU32::new(0));
    RawWorker::scripted(move |leg: &mut Leg| {
        while let Some(request) = leg.request() {
            let target = request.target();
            let answer = if let Some(key) = request.header("sec-websocket-key").filter(|_| target.starts_with("/ws")) {
                let accept = derive_accept_key(key.as_bytes());
                let grant = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: ";
                leg.send(format!("{grant}{accept}\r\n\r\n"));
                leg.until_closed();
                return;
            } else if target.contains("sid=") && request.start.starts_with("GET") {
                leg.until_closed();
                return;
            } else if target.contains("sid=") {
                ok("ok")
            } else if target.contains("EIO=4") {
                let sid = format!("{name}{:017}", made.fetch_add(1, Ordering::SeqCst));
                ok(&format!("0{{\"sid\":\"{sid}\",\"upgrades\":[],\"pingInterval\":25000,\"pingTimeout\":20000}}"))
            } else {
                ok(name)
            };
            if !leg.send(answer) {
                return;
            }
        }
    })
}

/// `[upstream.app]` with these workers under these names; `more` follows.
pub(crate) fn config_of_named(workers: &[(&str, &RawWorker)], more: &str) -> String {
    let one =
        |(name, worker): &(&str, &RawWorker)| format!("{{ address = \"{}\", name = \"{name}\" }}", worker.address);
    let list: Vec<_> = workers.iter().map(one).collect();
    format!("state_dir = \".\"\n[upstream.app]\nworkers = [{}]\n{more}", list.join(", "))
}

/// Opens sessions until `count` of them are at `name`; their sids.
pub(crate) fn sessions_at(binary: &Binary, name: &str, count: usize) -> Vec<String> {
    let mut found = Vec::new();
    for _ in 0..200 {
        if found.len() == count {
            return found;
        }
        let answer = Raw::connect(binary.address).get("/socket.io/?EIO=4&transport=polling");
        let open: Value = serde_json::from_str(&answer.text()[1..]).unwrap();
        let sid = open["sid"].as_str().unwrap();
        if sid.starts_with(name) {
            found.push(sid.to_owned());
        }
    }
    panic!("never {count} sessions at {name}");
}

/// The path of a poll of this session.
pub(crate) fn path(sid: &str) -> String {
    format!("/socket.io/?EIO=4&transport=polling&sid={sid}")
}

/// A POST of one message to `path`.
pub(crate) fn post_message(address: SocketAddr, path: &str) -> Message {
    let request = format!("POST {path} HTTP/1.1\r\nHost: a\r\nOrigin: http://o\r\nContent-Length: 2\r\n\r\n4x");
    Raw::connect(address).ask(&request)
}

/// Begins a session with `query` in its requests and sends one message, so that it is on the list of sockets.
pub(crate) fn begin_session(address: SocketAddr, query: &str) -> String {
    let answer = Raw::connect(address).get(&format!("/socket.io/?EIO=4&transport=polling{query}"));
    let open: Value = serde_json::from_str(&answer.text()[1..]).unwrap();
    let sid = open["sid"].as_str().unwrap();
    assert_eq!(post_message(address, &format!("{}{query}", path(sid))).status(), 200);
    sid.to_owned()
}
