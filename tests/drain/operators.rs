//! Drains set by the file, over the admin listener and by reloads, and what polling sessions get.

use serde_json::{Value, json};

use crate::support::admin::{post, reload, worker};
use crate::support::engines::{config_of_named, many_sessions, path, post_message, sessions_at};
use crate::support::proxy::Binary;
use crate::support::raw::{Message, Raw};
use crate::support::wait::wait_for;

const REFUSAL: &str = r#"{"code":1,"message":"Session ID unknown"}"#;

/// The text of one series in `/metrics`.
fn metric(binary: &Binary, series: &str) -> Option<String> {
    let answer = Raw::connect_unix(&binary.admin()).get("/metrics");
    answer.text().lines().find_map(|line| Some(line.strip_prefix(series)?.strip_prefix(' ')?.to_owned()))
}

fn message(binary: &Binary, sid: &str) -> Message {
    post_message(binary.address, &path(sid))
}

fn opens_poll(binary: &Binary, sid: &str) -> Raw {
    let mut client = Raw::connect(binary.address);
    client.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", path(sid)));
    client
}

#[test]
fn without_a_grace_sessions_stay_and_new_ones_go_elsewhere() {
    let (one, two) = (many_sessions("one"), many_sessions("two"));
    let binary = Binary::with(&config_of_named(&[("one", &one), ("two", &two)], ""));
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
    assert_eq!(answer.text(), "two", "a new WebSocket goes elsewhere");
    assert!(answer.header("set-cookie").is_some());
    binary.says(&["draining: sessions end on their own", "worker=one"]);
    // A reload that does not change the state keeps the drain; the API ends it.
    reload(&binary, &config_of_named(&[("one", &one), ("two", &two)], "response_timeout = \"59s\""));
    assert_eq!(worker(&binary, "one")["admin"], "drain");
    binary.signal("HUP");
    wait_for("a reload by signal", || metric(&binary, "stickyd_reloads_total{result=\"ok\"}") == Some("2".to_owned()));
    assert_eq!(worker(&binary, "one")["admin"], "drain");
    let left = "stickyd_drain_sessions_left{upstream=\"app\",worker=\"one\"}";
    assert_eq!(metric(&binary, left), Some(at_start.to_string()));
    let (status, said) = post(&binary, "/api/v1/workers/app/one/ready", "{}");
    assert_eq!((status, &said["admin"], &said["drain"]), (200, &json!("ready"), &Value::Null));
    assert_eq!(metric(&binary, left), Some("0".to_owned()));
    sessions_at(&binary, "one", 1);
    assert_eq!(message(&binary, &sids[0]).text(), "ok");
}

#[test]
fn with_a_grace_polling_sessions_are_refused_in_their_slots() {
    let (one, two) = (many_sessions("one"), many_sessions("two"));
    let mut both = config_of_named(&[("one", &one), ("two", &two)], "drain = { grace = \"2s\" }");
    let binary = Binary::with(&both);
    let sids = sessions_at(&binary, "one", 12);
    let others = sessions_at(&binary, "two", 1);
    let pair = cookie_of(&binary, "one");
    let at_start = worker(&binary, "one")["sessions"].as_u64().unwrap();
    let mut open: Vec<Raw> = sids[..8].iter().map(|sid| opens_poll(&binary, sid)).collect();
    wait_for("all polls are open", || worker(&binary, "one")["in_flight"] == 8);
    both = both.replace("name = \"one\"", "name = \"one\", admin = \"drain\"");
    reload(&binary, &both);
    let drain = worker(&binary, "one")["drain"].clone();
    assert_eq!((&drain["grace_s"], &drain["sessions_at_start"]), (&json!(2), &json!(at_start)));
    let with_cookie = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {pair}\r\n\r\n");
    // A reload in between neither restarts the drain nor changes its grace.
    reload(&binary, &both.replace("\"2s\"", "\"24h\""));
    assert_eq!(worker(&binary, "one")["drain"]["grace_s"], 2);
    for client in &mut open {
        let answer = client.answer();
        assert_eq!((answer.status(), answer.text()), (400, REFUSAL));
        assert_eq!(client.get("/").status(), 200, "its connection stays open");
    }
    wait_for("no session of the drained worker is left", || worker(&binary, "one")["drain"]["sessions_left"] == 0);
    binary.says(&["drained: no session is left", "worker=one"]);
    let closed = metric(&binary, "stickyd_drain_closed_total{kind=\"polling\",upstream=\"app\"}");
    assert_eq!(closed, Some(at_start.to_string()));
    // Sessions between two polls are refused as well, by stickyd: their worker still knows them.
    for sid in &sids {
        let answer = message(&binary, sid);
        assert_eq!((answer.status(), answer.text()), (400, REFUSAL));
        assert_eq!(answer.header("access-control-allow-origin"), Some("http://o"));
    }
    assert_eq!(message(&binary, &others[0]).text(), "ok", "the others' sessions are untouched");
    wait_for("the grace is over", || worker(&binary, "one")["serves"] == false);
    let answer = Raw::connect(binary.address).ask(&with_cookie);
    assert_eq!(answer.text(), "two", "ordinary requests go elsewhere as well");
    assert!(answer.header("set-cookie").is_some());
    // The worker is ready again and takes new sessions; the ended ones stay ended.
    assert_eq!(post(&binary, "/api/v1/workers/app/one/ready", "").0, 200);
    sessions_at(&binary, "one", 1);
    assert_eq!(message(&binary, &sids[0]).text(), REFUSAL);
}

/// A cookie of stickyd that leads to this worker.
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
fn maint_ends_all_sessions_at_once_and_reports_how_many() {
    let (one, two) = (many_sessions("one"), many_sessions("two"));
    let binary = Binary::with(&config_of_named(&[("one", &one), ("two", &two)], ""));
    let sids = sessions_at(&binary, "one", 3);
    let at_start = worker(&binary, "one")["sessions"].as_u64().unwrap();
    let mut open = opens_poll(&binary, &sids[0]);
    wait_for("the poll is open", || worker(&binary, "one")["in_flight"] == 1);
    let (status, said) = post(&binary, "/api/v1/workers/app/one/maint", "");
    assert_eq!((status, &said["sessions"]), (200, &json!(0)), "at once");
    assert_eq!(message(&binary, &sids[1]).text(), REFUSAL, "at once");
    assert_eq!(open.answer().text(), REFUSAL);
    wait_for("no session is left", || worker(&binary, "one")["sessions"] == 0);
    binary.says(&["its sessions end at once", &format!("sessions={at_start}")]);
    assert_eq!(post(&binary, "/api/v1/workers/app/one/ready", "").0, 200);
    assert_eq!(message(&binary, &sids[2]).text(), REFUSAL, "an ended session stays ended");
    sessions_at(&binary, "one", 1);
}

#[test]
fn a_removed_worker_ends_by_policy() {
    for (policy, grace) in [("close", "60s"), ("drain", "1s")] {
        let (one, two) = (many_sessions("one"), many_sessions("two"));
        let more = format!("removed = \"{policy}\"\ndrain = {{ grace = \"{grace}\" }}");
        let binary = Binary::with(&config_of_named(&[("one", &one), ("two", &two)], &more));
        let sids = sessions_at(&binary, "one", 2);
        let mut open = opens_poll(&binary, &sids[0]);
        wait_for("the poll is open", || worker(&binary, "one")["in_flight"] == 1);
        reload(&binary, &config_of_named(&[("two", &two)], &more));
        if policy == "drain" {
            let (status, said) = post(&binary, "/api/v1/workers/app/one/ready", "");
            assert_eq!(status, 409, "{said}");
        }
        assert_eq!(open.answer().text(), REFUSAL, "{policy}");
        wait_for("the removed worker is no longer listed", || worker(&binary, "one").is_null());
        assert_eq!(message(&binary, &sids[1]).text(), REFUSAL, "{policy}");
    }
}

#[test]
fn requests_that_cannot_be_done_are_explained() {
    let one = many_sessions("one");
    let binary = Binary::with(&config_of_named(&[("/run/one.sock", &one)], ""));
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
    assert_eq!((status, &said["admin"]), (200, &json!("ready")), "a worker is found by its address as well");
}
