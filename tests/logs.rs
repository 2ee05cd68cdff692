//! Logs, and the headers that show stickyd's decision: JSON lines, a log reader that does not read, `Forwarded`, and
//! the debug header.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::proxy::{Binary, Proxy, free_address};
use crate::support::raw::{Raw, RawWorker};
use crate::support::wait::wait_for;

#[test]
fn json_lines_include_the_access_log() {
    let worker = RawWorker::named("a");
    let text = format!(
        "[upstream.app]\nworkers = [{{ address = \"{}\", name = \"w\\\"7\" }}]\n[log]\nformat = \"json\"\naccess = true",
        worker.address
    );
    let binary = Binary::with(&text);
    Raw::connect(binary.address).get("/a\"b?secret=1");
    let line: Value = serde_json::from_str(&binary.says(&["\"target\":\"access\""])).unwrap();
    assert_eq!(
        (&line["level"], &line["client"], &line["method"]),
        (&"INFO".into(), &"127.0.0.1".into(), &"GET".into())
    );
    assert_eq!((&line["path"], &line["status"], &line["worker"]), (&"/a%22b".into(), &200.into(), &"w\"7".into()));
    assert_eq!((&line["why"], &line["upstream"], &line["bytes"]), (&"address".into(), &"app".into(), &1.into()));
    assert!(line["timestamp"].as_str().unwrap().ends_with('Z') && line["ms"].is_u64());
    for line in binary.log().lines() {
        assert!(serde_json::from_str::<Value>(line).unwrap().is_object(), "{line}");
    }
}

/// A key that a line has twice means two things to two readers (RFC 8259 §4).
#[test]
fn json_lines_have_each_key_once() {
    let worker = RawWorker::named("a");
    let text =
        format!("state_dir = \".\"\n[upstream.app]\nworkers = [\"{}\"]\n[log]\nformat = \"json\"", worker.address);
    let binary = Binary::with(&text);
    for body in ["{\"level\": \"debug\"}", "{\"level\": null}"] {
        let request = format!(
            "PUT /api/v1/log HTTP/1.1\r\nHost: localhost\r\nX-Stickyd: 1\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        assert_eq!(Raw::connect_unix(&binary.admin()).ask(&request).status(), 200);
    }
    binary.says(&["log level changed", "\"from\":\"environment\""]);
    for line in binary.log().lines() {
        let value: Value = serde_json::from_str(line).unwrap();
        for key in value.as_object().unwrap().keys() {
            assert_eq!(line.matches(&format!("\"{key}\":")).count(), 1, "{key}: {line}");
        }
    }
    // No event has a field of a name that each line has anyway.
    for (file, text) in crate::support::sources::below("src", "rs") {
        for event in text.split("tracing::").skip(1) {
            let Some((_, fields)) = event.split_once("!(").filter(|(level, _)| level.len() < 6) else { continue };
            let fields = fields.split(");").next().unwrap();
            for name in ["timestamp", "level", "fields", "span", "spans"] {
                let taken = [format!("({name} ="), format!(" {name} ="), format!("%{name},"), format!(" {name},")];
                assert!(!taken.iter().any(|taken| fields.contains(taken)), "{}: {name}: {fields}", file.display());
            }
        }
    }
}

#[test]
fn a_log_reader_that_stops_delays_no_request() {
    let (worker, address, admin) = (RawWorker::named("a"), free_address(), free_address());
    let directory = std::env::temp_dir().join(format!("stickyd-logs-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let text = format!(
        "threads = 2\n[[listener]]\naddress = \"{address}\"\n[upstream.app]\nworkers = [\"{}\"]\n[admin]\naddress = \"{admin}\"\n[log]\naccess = true\n",
        worker.address
    );
    std::fs::write(directory.join("stickyd.toml"), text).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_stickyd"))
        .args(["run", "--config", "stickyd.toml"])
        .current_dir(&directory)
        .env("RUST_LOG", "info")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    while !lines.next().unwrap().unwrap().contains(": ready ") {}
    // From here on the log is not read: the pipe takes 64 KiB, and the queue 8,192 lines.
    let mut client = Raw::connect(address);
    let path = format!("/{}", "x".repeat(2_000));
    let dropped = || {
        let answer = Raw::connect(admin).ask("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
        let line = answer
            .text()
            .lines()
            .find_map(|line| line.strip_prefix("stickyd_log_lines_dropped_total "))
            .map(str::to_owned);
        line.unwrap().parse::<u64>().unwrap()
    };
    wait_for("the queue is full", || {
        for _ in 0..500 {
            assert_eq!(client.get(&path).text(), "a");
        }
        dropped() > 0
    });
    // When the log is read again, it reports that lines are missing.
    let said = lines.map_while(Result::ok).find(|line| line.contains("log lines were dropped"));
    assert!(said.is_some());
    child.kill().unwrap();
    child.wait().unwrap();
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn forwarded_is_sent_where_an_upstream_wants_it() {
    let mut worker = RawWorker::named("a");
    let trusting = |more: &str| {
        Proxy::with(&format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n{more}[upstream.app]\nforwarded = true\nworkers = [\"{}\"]",
            worker.address
        ))
    };
    let (stranger, friend) = (trusting(""), trusting("trusted_proxies = [\"127.0.0.1\"]\n"));
    let plain = Proxy::before(&[worker.address]);
    let mut arrives = |proxy: &Proxy, fields: &str| {
        Raw::connect(proxy.address).ask(&format!("GET / HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n"));
        worker.request().1.header("forwarded").map(str::to_owned)
    };
    let forged = "Forwarded: for=1.2.3.4\r\n";
    assert_eq!(arrives(&stranger, forged).unwrap(), "for=127.0.0.1;host=\"a.example\";proto=http");
    assert_eq!(arrives(&friend, forged).unwrap(), "for=1.2.3.4, for=127.0.0.1;host=\"a.example\";proto=http");
    let chain = "X-Forwarded-For: 192.0.2.9\r\nX-Forwarded-Proto: https\r\n";
    assert_eq!(arrives(&friend, chain).unwrap(), "for=192.0.2.9;host=\"a.example\";proto=https, for=127.0.0.1");
    assert_eq!(arrives(&plain, ""), None);
}

#[test]
fn the_decision_is_shown_only_where_an_upstream_wants_it() {
    let worker =
        RawWorker::answering(|_| "HTTP/1.1 200 OK\r\nX-Stickyd-Decision: mine\r\nContent-Length: 0\r\n\r\n".to_owned());
    let proxy = |more: &str, name: &str| {
        Proxy::with(&format!("[upstream.app]\n{more}workers = [{{ address = \"{}\", name = {name} }}]", worker.address))
    };
    let (on, odd, off) =
        (proxy("debug_header = true\n", "\"w7\""), proxy("debug_header = true\n", "'w \"7'"), proxy("", "\"w7\""));
    let decision = |proxy: &Proxy, request: &str| {
        let answer = Raw::connect(proxy.address).ask(request);
        let all: Vec<String> = answer.all("x-stickyd-decision").map(str::to_owned).collect();
        (all, answer.cookie("stickyd_app"))
    };
    let plain = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let (first, pair) = decision(&on, plain);
    assert_eq!(first, ["worker=w7; why=address"]);
    let again = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {}\r\n\r\n", pair.unwrap());
    assert_eq!(decision(&on, &again).0, ["worker=w7; why=cookie"]);
    assert_eq!(decision(&odd, plain).0, ["worker=\"w \\\"7\"; why=address"]);
    assert_eq!(decision(&off, plain).0, ["mine"], "the worker's own field passes");
    on.worker("w7").change(
        stickyd::testing::upstream::AdminChange::Say(stickyd::testing::config::AdminState::Maint, None),
        &on.server().shared().snapshot.load().upstream("app").unwrap().config,
    );
    assert_eq!(decision(&on, plain).0, ["worker=-; why=-"]);
}
