//! Events: what is told, and `stickyd events`.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::support::admin::{metric, post, reload, write};
use crate::support::engines::{config_of_named, many_sessions};
use crate::support::proxy::Binary;
use crate::support::raw::{Raw, RawWorker, ok};
use crate::support::wait::wait_for;

fn events(binary: &Binary, query: &str) -> Vec<Value> {
    let answer = Raw::connect_unix(&binary.admin()).get(&format!("/api/v1/events?limit=1024{query}"));
    let said: Value = serde_json::from_slice(&answer.body).unwrap();
    said["events"].as_array().unwrap_or_else(|| panic!("{said}")).clone()
}

/// Waits for an event of this kind; returns the first.
fn told(binary: &Binary, kind: &str) -> Value {
    wait_for(&format!("an event {kind}"), || {
        let found = events(binary, &format!("&kind={kind}"));
        found.first().cloned().ok_or_else(|| events(binary, ""))
    })
}

/// Waits for a sample: what happens before the first look at workers and counters is not told.
fn seen_once(binary: &Binary) {
    wait_for("a sample", || {
        let said = Raw::connect_unix(&binary.admin()).get("/api/v1/history");
        !serde_json::from_slice::<Value>(&said.body).unwrap()["workers"].as_array().unwrap().is_empty()
    });
}

/// A command that is killed when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_happens_to_workers_is_told() {
    let (is_well, one) = (Arc::new(AtomicBool::new(true)), many_sessions("one"));
    let well = is_well.clone();
    let two = RawWorker::answering(move |_| match well.load(SeqCst) {
        true => ok("two"),
        false => "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n".to_owned(),
    });
    let fast = "health = { path = \"/health\", interval = \"100ms\", timeout = \"2s\", fall = 1 }";
    let binary = Binary::with(&config_of_named(&[("one", &one), ("two", &two)], fast));
    seen_once(&binary);
    assert!(told(&binary, "started")["text"].as_str().unwrap().starts_with("stickyd "));
    post(&binary, "/api/v1/workers/app/one/drain", "{\"grace\": \"1s\"}");
    let drain = told(&binary, "drain_begun");
    assert_eq!(
        (&drain["upstream"], &drain["worker"], &drain["severity"]),
        (&"app".into(), &"one".into(), &"info".into())
    );
    told(&binary, "drain_done");
    let operator = told(&binary, "operator");
    let text = operator["text"].as_str().unwrap();
    assert!(text.contains("POST /api/v1/workers/app/one/drain"), "{text}");
    assert!(text.starts_with("root asked") || text.starts_with("user id "), "{text}");
    post(&binary, "/api/v1/workers/app/one/ready", "");
    assert_eq!(told(&binary, "ready")["worker"], "one");
    post(&binary, "/api/v1/workers/app/one/maint", "");
    assert_eq!(told(&binary, "maint")["severity"], "warning");
    // A worker that is ill, and with it the last one that takes new sessions.
    is_well.store(false, SeqCst);
    assert_eq!(told(&binary, "worker_down")["worker"], "two");
    assert_eq!(told(&binary, "upstream_empty")["severity"], "error");
    post(&binary, "/api/v1/workers/app/one/ready", "");
    assert_eq!(told(&binary, "upstream_back")["upstream"], "app");
    // The file: workers that come and go, a setting that needs a restart, errors.
    reload(&binary, &config_of_named(&[("one", &one)], fast));
    assert_eq!(told(&binary, "worker_removed")["worker"], "two");
    told(&binary, "config_reloaded");
    let restart = config_of_named(&[("one", &one), ("three", &one)], fast);
    write(&binary, &restart.replace("\"three\"", "\"three\", weight = 2"));
    assert_eq!(post(&binary, "/api/v1/reload", "").0, 422, "two workers have one address");
    assert!(told(&binary, "config_refused")["text"].as_str().unwrap().contains("not reloaded"));
    let four = many_sessions("four");
    let restart = config_of_named(&[("one", &one), ("four", &four)], &format!("{fast}\n[history]\nmemory = \"64MiB\""));
    write(&binary, &restart);
    assert_eq!(post(&binary, "/api/v1/reload", "").0, 200);
    assert!(told(&binary, "config_needs_restart")["text"].as_str().unwrap().contains("[history] memory"));
    assert_eq!(told(&binary, "worker_added")["worker"], "four");
    let ids: Vec<_> = events(&binary, "").iter().map(|event| event["id"].as_u64().unwrap()).collect();
    assert!(ids.is_sorted() && ids.len() > 10);
    assert!(metric(&binary, "stickyd_events_total{kind=\"operator\"}") >= 4.0);
    assert_eq!(metric(&binary, "stickyd_events_dropped_total"), 0.0);
    assert_eq!(events(&binary, "&since=10m").len(), events(&binary, "").len());
    assert!(events(&binary, "&worker=two").iter().all(|event| event["worker"] == "two"));
}

#[test]
fn lost_sessions_and_limits_are_told_with_a_count() {
    let worker = RawWorker::answering(|request| match request.target().contains("sid=") {
        true => "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: 41\r\n\r\n\
                 {\"code\":1,\"message\":\"Session ID unknown\"}"
            .to_owned(),
        false => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned(),
    });
    let binary = Binary::with(&config_of_named(&[("one", &worker)], "max_body = \"1kB\""));
    seen_once(&binary);
    let ask = |head: &str| Raw::connect(binary.address).ask(head).status();
    for _ in 0..3 {
        let lost = "GET /socket.io/?EIO=4&transport=polling&sid=aaaaaaaaaaaaaaaaaaaa HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(ask(lost), 400);
        assert_eq!(ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n"), 413);
    }
    assert_eq!(told(&binary, "sessions_lost")["upstream"], "app");
    let limit = told(&binary, "limit_reached");
    assert!(limit["text"].as_str().unwrap().contains("`max_body`"), "{limit}");
}

#[test]
fn the_command_follows_events_over_a_restart() {
    let one = many_sessions("one");
    let mut binary = Binary::with(&config_of_named(&[("one", &one)], ""));
    let command = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stickyd"));
        command.args(["events", "--config", "stickyd.toml"]).args(more).current_dir(&binary.directory);
        command
    };
    let shown = command(&["--kind", "started", "--json"]).output().unwrap();
    let event: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!((shown.status.code(), &event["kind"]), (Some(0), &"started".into()));
    let wrong = command(&["--kind", "strated"]).output().unwrap();
    let error = String::from_utf8(wrong.stderr).unwrap();
    assert!(wrong.status.code() == Some(1) && error.contains("`strated` is not a kind of events"), "{error}");
    let mut follows = Running(command(&["--follow", "-n", "0"]).stdout(Stdio::piped()).spawn().unwrap());
    let (lines, out) = (Arc::new(Mutex::new(Vec::new())), follows.0.stdout.take().unwrap());
    let read = lines.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            read.lock().unwrap().push(line);
        }
    });
    let found = |words: &str| lines.lock().unwrap().iter().find(|line: &&String| line.contains(words)).cloned();
    // Events of before are not printed, so its first line shows that it follows.
    let line = wait_for("the command follows", || {
        assert_eq!(post(&binary, "/api/v1/workers/app/one/ready", "").0, 200);
        found(" ready app/one: ").ok_or_else(|| lines.lock().unwrap().clone())
    });
    assert!(line.starts_with("20") && line.contains(" info ") && found(" started: ").is_none(), "{line}");
    assert_eq!(binary.terminate().0, Some(0));
    binary.start_again();
    let line = wait_for("the event of the new stickyd", || found(" started: ").ok_or(()));
    assert!(line.contains(" has started"), "{line}");
}
