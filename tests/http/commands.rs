//! The commands that talk to a running stickyd, as somebody types them.

use std::process::{Command, Output};

use serde_json::Value;

use super::drains::{engine, sessions_at, text, worker};
use crate::support::proxy::Binary;
use crate::support::raw::Raw;

fn stickyd(binary: &Binary, line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stickyd"));
    command.args(line.split(' ')).args(["--config", "stickyd.toml"]).current_dir(&binary.directory).output().unwrap()
}

/// What a command that has to work prints.
fn says(binary: &Binary, line: &str) -> String {
    let output = stickyd(binary, line);
    assert_eq!(output.status.code(), Some(0), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What one that has to fail says.
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
fn looking() {
    let (one, two) = (engine("one"), engine("two"));
    let binary = Binary::with(&text(&[("one", &one), ("two", &two)], ""));
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
    assert!(fails(&binary, "pin nobodys", 1).starts_with("error: this stickyd has not pinned that session"));

    let explained = says(&binary, &format!("explain --sid {sid} --address 192.0.2.1"));
    let lines: Vec<&str> = explained.lines().collect();
    assert_eq!(lines[..2], ["upstream    app", "worker      one (up, ready)"]);
    assert!(
        lines[2].starts_with("why         the sid is pinned") && lines[3] == "if it died  two (up, ready)",
        "{explained}"
    );
    assert_eq!(json(&says(&binary, "explain --kind request --address 192.0.2.1 --json"))["now"]["why"], "hash");
    assert_eq!(fails(&binary, "explain --address x", 1), "error: `address` is no IP address\n");

    let stats = says(&binary, "stats");
    assert!(stats.starts_with("UPSTREAM  WORKER  REQUESTS") && stats.contains("\nhandshakes "), "{stats}");
}

#[test]
fn telling() {
    let (one, two) = (engine("one"), engine("two"));
    let binary = Binary::with(&text(&[("one", &one), ("two", &two)], ""));
    sessions_at(&binary, "one", 3);
    let left = worker(&binary, "one")["sessions"].as_u64().unwrap();
    assert_eq!(
        says(&binary, "drain app/one"),
        format!("app/one is in drain: {left} sessions stay until they end by themselves\n")
    );
    assert!(says(&binary, "workers").contains("\napp/one is in drain: said at run time\n"));
    assert_eq!(
        fails(&binary, "drain app/one --wait --timeout 50ms", 1).lines().last(),
        Some("error: there are still sessions; the drain goes on")
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
    assert!(fails(&binary, "drain app/one --grace soon", 1).contains("`grace` is no duration"));
    assert!(fails(&binary, "drain one", 2).contains("write UPSTREAM/WORKER"));

    assert_eq!(says(&binary, "log"), "level  info (from environment)\nfile   info\n");
    assert_eq!(says(&binary, "log debug"), "level  debug (from run time)\nfile   info\n");
    Raw::connect(binary.address).get("/");
    assert_eq!(says(&binary, "log --reset"), "level  info (from environment)\nfile   info\n");
    assert!(fails(&binary, "log inof", 1).contains("did you mean `info`?"));
}

#[test]
fn where_nobody_answers_and_how_to_be_helped() {
    let run = |line: &[&str]| Command::new(env!("CARGO_BIN_EXE_stickyd")).args(line).output().unwrap();
    for command in [&["status"][..], &["workers"], &["drain", "app/w"], &["log", "debug"], &["explain"]] {
        let output = run(&[command, &["--admin", "unix:/nonexistent/admin.sock"]].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        assert!(
            said.starts_with("error: no stickyd answers at unix:/nonexistent/admin.sock: is it running?"),
            "{said}"
        );
    }
    let help = run(&["--help"]);
    assert!(String::from_utf8(help.stdout).unwrap().contains("Exit codes: 0 done; 1 not done"));
    for shell in ["bash", "zsh", "fish"] {
        let script = String::from_utf8(run(&["completions", shell]).stdout).unwrap();
        assert!(["drain", "explain", "completions"].iter().all(|word| script.contains(word)), "{shell}");
    }
}
