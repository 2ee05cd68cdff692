//! Drains as an operator says them: by file, over the admin listener, over reloads; and what polling sessions see of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::support::proxy::Binary;
use crate::support::raw::{Leg, Message, Raw, RawWorker, eventually, ok};

const REFUSAL: &str = r#"{"code":1,"message":"Session ID unknown"}"#;

/// Makes sessions, each with a sid of its own and this name in it; answers POSTs and ordinary requests, lets polls wait
/// unless their sid ends in `!`, and grants WebSockets at
/// `/ws`, to say nothing on them.
pub(crate) fn engine(name: &'static str) -> RawWorker {
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

pub(super) fn text(workers: &[(&str, &RawWorker)], more: &str) -> String {
    let one =
        |(name, worker): &(&str, &RawWorker)| format!("{{ address = \"{}\", name = \"{name}\" }}", worker.address);
    let list: Vec<_> = workers.iter().map(one).collect();
    format!("state_dir = \".\"\n[upstream.app]\nworkers = [{}]\n{more}", list.join(", "))
}

/// Writes the file anew, with the listener it had, and reloads.
pub(super) fn reload(binary: &Binary, text: &str) {
    let listener = format!("[[listener]]\naddress = \"{}\"\n", binary.address);
    let (keys, tables) = text.split_at(text.find('[').unwrap());
    std::fs::write(binary.directory.join("stickyd.toml"), format!("threads = 2\n{keys}{listener}{tables}")).unwrap();
    let answer = post(binary, "/api/v1/reload", "");
    assert_eq!(answer.0, 200, "{answer:?}");
}

pub(super) fn post(binary: &Binary, path: &str, body: &str) -> (u16, Value) {
    let length = body.len();
    let request = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}");
    let answer = Raw::connect_unix(&binary.admin()).ask(&request);
    (answer.status(), serde_json::from_slice(&answer.body).unwrap_or_default())
}

pub(super) fn worker(binary: &Binary, name: &str) -> Value {
    let answer = Raw::connect_unix(&binary.admin()).get("/api/v1/workers");
    let all: Value = serde_json::from_slice(&answer.body).unwrap();
    all["workers"].as_array().unwrap().iter().find(|w| w["worker"] == name).cloned().unwrap_or_default()
}

fn metric(binary: &Binary, series: &str) -> Option<String> {
    let answer = Raw::connect_unix(&binary.admin()).get("/metrics");
    answer.text().lines().find_map(|line| Some(line.strip_prefix(series)?.strip_prefix(' ')?.to_owned()))
}

/// Opens sessions until `count` of them are at `name`; their sids.
pub(super) fn sessions_at(binary: &Binary, name: &str, count: usize) -> Vec<String> {
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

pub(crate) fn path(sid: &str) -> String {
    format!("/socket.io/?EIO=4&transport=polling&sid={sid}")
}

fn message(binary: &Binary, sid: &str) -> Message {
    say(binary.address, &path(sid))
}

fn say(address: SocketAddr, path: &str) -> Message {
    let request = format!("POST {path} HTTP/1.1\r\nHost: a\r\nOrigin: http://o\r\nContent-Length: 2\r\n\r\n4x");
    Raw::connect(address).ask(&request)
}

/// A session, with `query` in its requests; it has said something, so that it is on the list of sockets.
pub(crate) fn begin(address: SocketAddr, query: &str) -> String {
    let answer = Raw::connect(address).get(&format!("/socket.io/?EIO=4&transport=polling{query}"));
    let open: Value = serde_json::from_str(&answer.text()[1..]).unwrap();
    let sid = open["sid"].as_str().unwrap();
    assert_eq!(say(address, &format!("{}{query}", path(sid))).status(), 200);
    sid.to_owned()
}

fn opens_poll(binary: &Binary, sid: &str) -> Raw {
    let mut client = Raw::connect(binary.address);
    client.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", path(sid)));
    client
}

#[test]
fn without_a_grace_sessions_stay_and_new_ones_go_elsewhere() {
    let (one, two) = (engine("one"), engine("two"));
    let binary = Binary::with(&text(&[("one", &one), ("two", &two)], ""));
    let sids = sessions_at(&binary, "one", 2);
    let pair = cookie_of(&binary, "one");
    let at_start = worker(&binary, "one")["sessions"].as_u64().unwrap();
    let (status, said) = post(&binary, "/api/v1/workers/app/one/drain", "");
    assert_eq!((status, &said["admin"], &said["said_at_run_time"]), (200, &json!("drain"), &json!(true)));
    assert_eq!(
        said["drain"],
        json!({"since_s": 0, "grace_s": null, "ends_in_s": null, "sessions_at_start": at_start,
            "sessions_left": at_start, "tunnels_left": 0})
    );
    assert_eq!(message(&binary, &sids[0]).text(), "ok");
    for _ in 0..20 {
        let answer = Raw::connect(binary.address).get("/socket.io/?EIO=4&transport=polling");
        assert!(answer.text().contains("two0"), "{answer:?}");
    }
    let with_cookie = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {pair}\r\n\r\n");
    let answer = Raw::connect(binary.address).ask(&with_cookie);
    assert_eq!((answer.text(), answer.header("set-cookie")), ("one", None), "ordinary requests stay meanwhile");
    let upgrade = format!(
        "GET /elsewhere HTTP/1.1\r\nHost: a\r\nCookie: {pair}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let answer = Raw::connect(binary.address).ask(&upgrade);
    assert_eq!(answer.text(), "two", "a new WebSocket does not");
    assert!(answer.header("set-cookie").is_some());
    binary.says(&["draining: sessions end on their own", "worker=one"]);
    // A reload that says nothing new of it changes nothing; the API takes it back.
    reload(&binary, &text(&[("one", &one), ("two", &two)], "response_timeout = \"59s\""));
    assert_eq!(worker(&binary, "one")["admin"], "drain");
    binary.signal("HUP");
    eventually("a reload by signal", || metric(&binary, "stickyd_reloads_total{result=\"ok\"}").unwrap() == "2");
    assert_eq!(worker(&binary, "one")["admin"], "drain");
    let left = "stickyd_drain_sessions_left{upstream=\"app\",worker=\"one\"}";
    assert_eq!(metric(&binary, left), Some(at_start.to_string()));
    let (status, said) = post(&binary, "/api/v1/workers/app/one/ready", "{}");
    assert_eq!((status, &said["admin"], &said["drain"]), (200, &json!("ready"), &Value::Null));
    assert_eq!(metric(&binary, left), None);
    sessions_at(&binary, "one", 1);
    assert_eq!(message(&binary, &sids[0]).text(), "ok");
}

#[test]
fn with_a_grace_polling_sessions_are_refused_in_their_slots() {
    let (one, two) = (engine("one"), engine("two"));
    let mut both = text(&[("one", &one), ("two", &two)], "drain = { grace = \"2s\" }");
    let binary = Binary::with(&both);
    let sids = sessions_at(&binary, "one", 12);
    let others = sessions_at(&binary, "two", 1);
    let pair = cookie_of(&binary, "one");
    let at_start = worker(&binary, "one")["sessions"].as_u64().unwrap();
    let mut open: Vec<Raw> = sids[..8].iter().map(|sid| opens_poll(&binary, sid)).collect();
    eventually("all polls are open", || worker(&binary, "one")["in_flight"] == 8);
    both = both.replace("name = \"one\"", "name = \"one\", admin = \"drain\"");
    reload(&binary, &both);
    let drain = worker(&binary, "one")["drain"].clone();
    assert_eq!((&drain["grace_s"], &drain["sessions_at_start"]), (&json!(2), &json!(at_start)));
    let with_cookie = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {pair}\r\n\r\n");
    // A reload meanwhile neither begins it anew nor gives it another grace.
    reload(&binary, &both.replace("\"2s\"", "\"24h\""));
    assert_eq!(worker(&binary, "one")["drain"]["grace_s"], 2);
    for client in &mut open {
        let answer = client.answer();
        assert_eq!((answer.status(), answer.text()), (400, REFUSAL));
        assert_eq!(client.get("/").status(), 200, "its connection goes on");
    }
    eventually("nothing is left", || worker(&binary, "one")["drain"]["sessions_left"] == 0);
    binary.says(&["drained: no session is left", "worker=one"]);
    let closed = metric(&binary, "stickyd_drain_closed_total{kind=\"polling\",upstream=\"app\"}");
    assert_eq!(closed, Some(at_start.to_string()));
    // Those between two polls are refused, too, by stickyd: their worker still knows them.
    for sid in &sids {
        let answer = message(&binary, sid);
        assert_eq!((answer.status(), answer.text()), (400, REFUSAL));
        assert_eq!(answer.header("access-control-allow-origin"), Some("http://o"));
    }
    assert_eq!(message(&binary, &others[0]).text(), "ok", "the others' sessions are untouched");
    eventually("its time is up", || worker(&binary, "one")["serves"] == false);
    let answer = Raw::connect(binary.address).ask(&with_cookie);
    assert_eq!(answer.text(), "two", "nor is anything else left to it");
    assert!(answer.header("set-cookie").is_some());
    // Ready again, it takes new sessions; the ended ones stay ended.
    assert_eq!(post(&binary, "/api/v1/workers/app/one/ready", "").0, 200);
    sessions_at(&binary, "one", 1);
    assert_eq!(message(&binary, &sids[0]).text(), REFUSAL);
}

/// stickyd's cookie of this worker.
fn cookie_of(binary: &Binary, name: &str) -> String {
    for _ in 0..200 {
        let answer = Raw::connect(binary.address).get("/socket.io/?EIO=4&transport=polling");
        if answer.text().contains(&format!("{name}0")) {
            return answer.cookie("stickyd_app").unwrap();
        }
    }
    panic!("never a session at {name}");
}

#[test]
fn maint_ends_all_at_once_and_says_how_many() {
    let (one, two) = (engine("one"), engine("two"));
    let binary = Binary::with(&text(&[("one", &one), ("two", &two)], ""));
    let sids = sessions_at(&binary, "one", 3);
    let at_start = worker(&binary, "one")["sessions"].as_u64().unwrap();
    let mut open = opens_poll(&binary, &sids[0]);
    eventually("the poll is open", || worker(&binary, "one")["in_flight"] == 1);
    let (status, said) = post(&binary, "/api/v1/workers/app/one/maint", "");
    assert_eq!((status, &said["sessions"]), (200, &json!(0)), "at once");
    assert_eq!(message(&binary, &sids[1]).text(), REFUSAL, "at once");
    assert_eq!(open.answer().text(), REFUSAL);
    eventually("nothing is left", || worker(&binary, "one")["sessions"] == 0);
    binary.says(&["its sessions end at once", &format!("sessions={at_start}")]);
    assert_eq!(post(&binary, "/api/v1/workers/app/one/ready", "").0, 200);
    assert_eq!(message(&binary, &sids[2]).text(), REFUSAL, "ended is ended");
    sessions_at(&binary, "one", 1);
}

#[test]
fn a_removed_worker_ends_by_policy() {
    for (policy, grace) in [("close", "60s"), ("drain", "1s")] {
        let (one, two) = (engine("one"), engine("two"));
        let more = format!("removed = \"{policy}\"\ndrain = {{ grace = \"{grace}\" }}");
        let binary = Binary::with(&text(&[("one", &one), ("two", &two)], &more));
        let sids = sessions_at(&binary, "one", 2);
        let mut open = opens_poll(&binary, &sids[0]);
        eventually("the poll is open", || worker(&binary, "one")["in_flight"] == 1);
        reload(&binary, &text(&[("two", &two)], &more));
        if policy == "drain" {
            let (status, said) = post(&binary, "/api/v1/workers/app/one/ready", "");
            assert_eq!(status, 409, "{said}");
        }
        assert_eq!(open.answer().text(), REFUSAL, "{policy}");
        eventually("it is let go", || worker(&binary, "one").is_null());
        assert_eq!(message(&binary, &sids[1]).text(), REFUSAL, "{policy}");
    }
}

#[test]
fn what_cannot_be_said_is_answered_in_words() {
    let one = engine("one");
    let binary = Binary::with(&text(&[("/run/one.sock", &one)], ""));
    for (path, body, status, words) in [
        ("/api/v1/workers/ap/x/drain", "", 404, "no upstream `ap`"),
        ("/api/v1/workers/app/two/drain", "", 404, "no worker `two`"),
        ("/api/v1/workers/app/%2Frun%2Fone.sock/stop", "", 404, "drain, maint or ready"),
        ("/api/v1/workers/app/%2Frun%2Fone.sock/drain", "{\"grace\": 5}", 422, "needs a unit"),
        ("/api/v1/workers/app/%2Frun%2Fone.sock/drain", "{\"grase\": \"5s\"}", 422, "unknown field `grase`"),
        ("/api/v1/workers/app/%2Frun%2Fone.sock/maint", "{\"grace\": \"5s\"}", 422, "allowed only for drain"),
    ] {
        let (said, answer) = post(&binary, path, body);
        assert_eq!(said, status, "{answer}");
        assert!(answer["error"].as_str().unwrap().contains(words), "{answer}");
    }
    assert_eq!(worker(&binary, "/run/one.sock")["admin"], "ready");
    let (status, said) = post(&binary, "/api/v1/workers/app/%2Frun%2Fone.sock/drain", "{\"grace\": \"0s\"}");
    assert_eq!((status, &said["drain"]["grace_s"]), (200, &json!(0)));
    let (status, said) = post(&binary, &format!("/api/v1/workers/app/{}/ready", one.address), "");
    assert_eq!((status, &said["admin"]), (200, &json!("ready")), "by address as well");
}
