//! The commands that talk to a running stickyd, with their output as operators see it.

use std::process::{Command, Output};

use serde_json::Value;

use crate::support::admin::worker;
use crate::support::engines::{begin_session, config_of_named, many_sessions, sessions_at};
use crate::support::proxy::Binary;
use crate::support::raw::Raw;
use crate::support::wait::wait_for;

fn stickyd(binary: &Binary, line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stickyd"));
    command.args(line.split(' ')).args(["--config", "stickyd.toml"]).current_dir(&binary.directory).output().unwrap()
}

/// The output of a command that has to succeed.
fn says(binary: &Binary, line: &str) -> String {
    let output = stickyd(binary, line);
    assert_eq!(output.status.code(), Some(0), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The error of a command that has to fail.
fn fails(binary: &Binary, line: &str, code: i32) -> String {
    let output = stickyd(binary, line);
    assert_eq!(output.status.code(), Some(code), "{line}: {output:?}");
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr).unwrap()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn status_workers_pins_and_explain_are_shown() {
    let (one, two) = (many_sessions("one"), many_sessions("two"));
    let binary = Binary::with(&config_of_named(&[("one", &one), ("two", &two)], ""));
    let sid = sessions_at(&binary, "one", 1).remove(0);

    let status = says(&binary, "status");
    assert!(
        status.starts_with(&format!("version        {}, pid {}, up ", env!("CARGO_PKG_VERSION"), binary.pid())),
        "{status}"
    );
    assert!(status.contains(" of 1000000\n") && status.contains("stickyd.toml, loaded "), "{status}");
    assert_eq!(json(&says(&binary, "status --json"))["pid"], binary.pid());

    let workers = says(&binary, "workers");
    let mut lines = workers.lines();
    assert!(lines.next().unwrap().starts_with("UPSTREAM  WORKER  STATE      SESSIONS  TUNNELS"), "{workers}");
    assert!(lines.next().unwrap().starts_with("app       one     up, ready"), "{workers}");
    assert_eq!(json(&says(&binary, "workers --json"))["workers"].as_array().unwrap().len(), 2);
    assert_eq!(says(&binary, "workers other").lines().count(), 1);

    let pin = says(&binary, &format!("pin {sid}"));
    assert!(pin.starts_with("worker      one\n"), "{pin}");
    assert!(fails(&binary, "pin nobodys", 1).starts_with("error: this stickyd has no pin for that session"));

    let explained = says(&binary, &format!("explain --sid {sid} --address 192.0.2.1"));
    let lines: Vec<&str> = explained.lines().collect();
    assert_eq!(lines[..2], ["upstream    app", "worker      one (up, ready)"]);
    assert!(
        lines[2].starts_with("why         the sid is pinned") && lines[3] == "if it died  two (up, ready)",
        "{explained}"
    );
    assert_eq!(json(&says(&binary, "explain --kind request --address 192.0.2.1 --json"))["now"]["why"], "hash");
    assert_eq!(fails(&binary, "explain --address x", 1), "error: `address` is not an IP address\n");

    let stats = says(&binary, "stats");
    assert!(stats.starts_with("UPSTREAM  WORKER  REQUESTS") && stats.contains("\nhandshakes "), "{stats}");
}

#[test]
fn unused_ports_of_a_range_are_one_line_of_workers() {
    let worker = many_sessions("one");
    let workers =
        format!("\"{}\", \"127.0.0.1:1-8\", {{ address = \"127.0.0.1:9\", name = \"spare\" }}", worker.address);
    let binary = Binary::with(&format!("state_dir = \".\"\n[upstream.app]\nworkers = [{workers}]\n"));
    let line = "\napp: 8 unused ports (127.0.0.1:1-8)\n";
    wait_for("the empty ports are known", || says(&binary, "workers").contains(line));
    let said = wait_for("the single worker, too", || {
        let said = says(&binary, "workers");
        if said.contains("app/spare is gone: ") { Ok(said) } else { Err(said) }
    });
    assert_eq!(said.split("\n\n").next().map(|table| table.lines().count()), Some(3), "{said}");
    assert!(says(&binary, "top --once").contains(line));
    let wide = says(&binary, "workers --wide");
    assert!(wide.contains("app/127.0.0.1:8 is gone: ") && !wide.contains("unused"), "{wide}");
    assert_eq!(json(&says(&binary, "workers --json"))["workers"].as_array().unwrap().len(), 10);
}

#[test]
fn drain_ready_maint_and_log_levels_are_set() {
    let (one, two) = (many_sessions("one"), many_sessions("two"));
    let binary = Binary::with(&config_of_named(&[("one", &one), ("two", &two)], ""));
    sessions_at(&binary, "one", 3);
    let left = worker(&binary, "one")["sessions"].as_u64().unwrap();
    assert_eq!(
        says(&binary, "drain app/one"),
        format!("app/one is in drain: {left} sessions stay until they end on their own\n")
    );
    assert!(says(&binary, "workers").contains("\napp/one is in drain: set at run time\n"));
    assert_eq!(
        fails(&binary, "drain app/one --wait --timeout 50ms", 1).lines().last(),
        Some("error: timed out with sessions left; the drain continues")
    );
    let output = stickyd(&binary, "drain app/one --grace 1s --wait");
    let progress = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        (output.status.code(), &output.stdout[..]),
        (Some(0), &b"drained: no session is left\n"[..]),
        "{progress}"
    );
    assert_eq!(progress.lines().last(), Some(format!("0 of {left} sessions left, 0 tunnels").as_str()));
    assert!(progress.lines().count() >= 2, "{progress}");
    assert_eq!(says(&binary, "ready app/one"), "app/one is ready\n");
    assert_eq!(json(&says(&binary, "maint app/two --json"))["admin"], "maint");
    assert!(fails(&binary, "drain app/three", 1).starts_with("error: upstream `app` has no worker `three`"));
    assert!(fails(&binary, "drain app/one --grace soon", 1).contains("invalid `grace`"));
    assert!(fails(&binary, "drain one", 2).contains("expected UPSTREAM/WORKER"));

    assert_eq!(says(&binary, "log"), "level  info (from environment)\nfile   info\n");
    assert_eq!(says(&binary, "log debug"), "level  debug (from run time)\nfile   info\n");
    Raw::connect(binary.address).get("/");
    assert_eq!(says(&binary, "log --reset"), "level  info (from environment)\nfile   info\n");
    assert!(fails(&binary, "log inof", 1).contains("did you mean `info`?"));
}

#[test]
fn sockets_are_shown_and_closed() {
    let (one, two) = (many_sessions("one"), many_sessions("two"));
    let binary = Binary::with(&config_of_named(&[("one", &one), ("two", &two)], "labels = { room = \"query:room\" }"));
    for room in ["red", "red", "blue"] {
        begin_session(binary.address, &format!("&room={room}"));
    }
    let all = says(&binary, "sockets");
    let lines: Vec<&str> = all.lines().collect();
    assert!(lines[0].starts_with("ID  ") && lines[0].ends_with("LABELS"), "ids are always on the left: {all}");
    assert_eq!((lines.len(), lines[5]), (6, "3 of 3 live sockets"), "{all}");
    assert_eq!(lines.iter().filter(|line| line.ends_with("room=red")).count(), 2, "{all}");
    let red = json(&says(&binary, "sockets --label room=red --transport polling --sort -id --json"));
    assert_eq!(red["total"], 2);
    let id = red["sockets"][0]["id"].as_str().unwrap();
    assert!(says(&binary, "sockets --limit 1").ends_with("1 of 3 matching sockets (--limit, --offset), 3 live\n"));
    let one = says(&binary, &format!("sockets {id}"));
    assert!(one.starts_with(&format!("id           {id}\n")) && one.contains("\nlabels       room=red\n"), "{one}");
    assert!(fails(&binary, "sockets unknown", 1).starts_with("error: there is no live socket `unknown`"));
    assert!(fails(&binary, "sockets --state dead", 1).contains("open, quiet, suspect, draining, closing"));
    assert!(fails(&binary, "sockets --label red", 2).contains("expected NAME=VALUE"));

    let top = says(&binary, "top --once --rows 2");
    assert!(
        top.contains("\n3 live sockets, 3 matching; the busiest of them:\n") && top.contains("UPSTREAM  WORKER"),
        "{top}"
    );
    assert_eq!(top.matches("polling").count(), 2, "{top}");

    // Without a selection and `--yes` nothing is closed.
    assert!(fails(&binary, "close", 1).contains("no sockets selected"));
    assert!(fails(&binary, "close --all --label room=red", 1).contains("cannot be combined"));
    assert_eq!(fails(&binary, "close --label room=red", 1), "error: 2 sockets would be closed: add --yes\n");
    assert!(fails(&binary, "close --label room=green --yes", 1).contains("no live socket matches"));
    assert!(fails(&binary, &format!("close {id} --code 1006"), 1).contains("must never be sent"));
    assert_eq!(
        says(&binary, "close --label room=red --dry-run"),
        "2 sockets would be closed: 0 tunnels, 2 polling sessions\n"
    );
    assert_eq!(json(&says(&binary, "sockets --json"))["total"], 3);

    assert_eq!(says(&binary, &format!("close {id}")), format!("closing {id}\n"));
    let output = stickyd(&binary, "close --all --spread 1s --yes");
    let (said, progress) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(0), "{progress}");
    assert_eq!(said, "2 sockets closed (0 tunnels, 2 polling sessions); 0 had already ended\n");
    assert_eq!(progress.lines().last(), Some("0 of 2 sockets left"), "{progress}");
    assert_eq!(says(&binary, "sockets").lines().last(), Some("0 of 0 live sockets"));
}

/// What clients and workers write reaches the operator's terminal only as visible text (ECMA-48 §5.4, Unicode TR36).
#[test]
fn what_peers_wrote_is_printable_everywhere() {
    let (one, two) = (many_sessions("one"), many_sessions("two"));
    let binary = Binary::with(&config_of_named(&[("one", &one), ("two", &two)], "labels = { room = \"query:room\" }"));
    // ESC ] 0 ; BEL, a line break, CSI of C1, a bidi override, a zero-width space, DEL and U+2028.
    let room = "x%1b%5d0;owned%07%0a%c2%9b2J%e2%80%ae%e2%80%8b%7f%e2%80%a8y";
    begin_session(binary.address, &format!("&room={room}"));
    let id = json(&says(&binary, "sockets --json"))["sockets"][0]["id"].as_str().unwrap().to_owned();
    let is_hostile = |c: char| {
        (c.is_control() && c != '\n')
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
    };
    let one = format!("sockets {id}");
    for line in ["sockets", "sockets --wide", "sockets --json", "top --once", &one, &format!("{one} --json")] {
        let text = says(&binary, line);
        assert!(text.contains("owned") && !text.contains(is_hostile), "{line}: {text:?}");
    }
    // An error repeats what it was asked for.
    let error = fails(&binary, "sockets a\u{9b}2J\u{202e}b", 1);
    assert!(error.contains("no live socket `a") && !error.contains(is_hostile), "{error:?}");
    assert!(!binary.log().contains(is_hostile), "{:?}", binary.log());
}

#[test]
fn an_unknown_session_is_explained_without_a_worker() {
    let (one, two) = (many_sessions("one"), many_sessions("two"));
    let binary = Binary::with(&config_of_named(&[("one", &one), ("two", &two)], ""));
    let said = says(&binary, "explain --sid nosuch");
    assert!(said.contains("worker    none\n") && !said.contains("this one first"), "{said}");
    let said = says(&binary, "explain --sid nosuch --address 192.0.2.1");
    assert!(!said.contains("none\n") && said.contains("this one first"), "{said}");
}

#[test]
fn errors_without_a_stickyd_and_help() {
    let run = |line: &[&str]| Command::new(env!("CARGO_BIN_EXE_stickyd")).args(line).output().unwrap();
    for command in [
        &["status"][..],
        &["workers"],
        &["sockets"],
        &["top"],
        &["close", "--all", "--yes"],
        &["drain", "app/w"],
        &["log", "debug"],
        &["explain"],
    ] {
        let output = run(&[command, &["--admin", "unix:/nonexistent/admin.sock"]].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        assert!(
            said.starts_with("error: no stickyd answers at unix:/nonexistent/admin.sock: is it running?"),
            "{said}"
        );
    }
    let help = run(&["--help"]);
    assert!(String::from_utf8(help.stdout).unwrap().contains("Exit codes: 0 success; 1 failure"));
    for shell in ["bash", "zsh", "fish"] {
        let script = String::from_utf8(run(&["completions", shell]).stdout).unwrap();
        assert!(
            ["drain", "explain", "completions", "sockets", "close", "top"].iter().all(|word| script.contains(word)),
            "{shell}"
        );
    }
}
