//! The chat of README's first command: two real clients talk, on any of the workers, and go on talking when these are
//! replaced.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::support::{all_ready, command, config, started, text};
use crate::support::process::Process;
use crate::support::proxy::Binary;
use crate::support::raw::Raw;

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(here(path)).unwrap()
}

/// The packages that tests/run installs, which are those of the example.
fn packages() -> String {
    here("tests/clients/node_modules").display().to_string()
}

/// The keys of `spawn` for the example, on this many workers.
fn chat(instances: u32) -> String {
    let (folder, packages) = (here("examples/chat"), packages());
    format!(
        "instances = {instances}, grace = \"1s\", command = [\"node\", \"server.js\"], directory = {folder:?}, \
         env = {{ NODE_PATH = {packages:?} }}"
    )
}

/// Reads what the clients print until all of these events have come, in any order; fails at a refused connection.
async fn sees(clients: &mut Process, mut wanted: Vec<Value>) {
    while !wanted.is_empty() {
        let line = clients.line().await.expect("the clients go on");
        assert_ne!(line["event"], "connect_error", "{line}");
        wanted.retain(|event| *event != line);
    }
}

fn both(event: impl Fn(&str) -> Value) -> Vec<Value> {
    vec![event("ann"), event("bob")]
}

async fn talk(clients: &mut Process, said: &str) {
    clients.command(said).await;
    let mut wanted = both(|name| json!({ "event": "message", "name": name, "from": "ann", "text": said }));
    wanted.push(json!({ "event": "typing", "name": "bob", "from": "ann" }));
    sees(clients, wanted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn people_in_the_chat_talk_before_and_after_a_deploy() {
    let binary = started(2, &chat(2));
    let mut clients = Process::start("node", ["chat_people.js", &binary.url("")]);
    let present = || both(|name| json!({ "event": "present", "name": name, "names": ["ann", "bob"] }));
    sees(&mut clients, present()).await;
    talk(&mut clients, "hello").await;
    let said = command(&binary, &["workers", "restart"]);
    assert!(said.status.success(), "{}", text(&said));
    // Both were moved to successors, each once, and found each other there.
    let mut wanted = present();
    let ended = |name: &str| json!({ "event": "disconnect", "name": name });
    let mut ends = both(ended);
    while !(wanted.is_empty() && ends.is_empty()) {
        let mut line = clients.line().await.expect("the clients go on");
        assert_ne!(line["event"], "connect_error", "{line}");
        if line["event"] == "disconnect" {
            line.as_object_mut().unwrap().remove("reason");
            assert!(ends.contains(&line), "ended twice: {line}");
            ends.retain(|event| *event != line);
        }
        // The list of names counts only once both have left the old worker.
        wanted.retain(|event| *event != line || !ends.is_empty());
    }
    talk(&mut clients, "again").await;
    assert_eq!(clients.end().await, Some(0));
}

/// Two windows of a real browser, which are served by different workers, see each other, type and talk; also after a
/// deploy, in which their pages connect again.
#[tokio::test(flavor = "multi_thread")]
async fn two_browsers_on_two_workers_talk() {
    // Both have one address. With cookies, the page itself would tie both to the worker of that address.
    let binary =
        Binary::with(&config(&chat(4)).replace("[upstream.app]", "[upstream.app]\naffinity = [\"socket.io\"]"));
    all_ready(&binary, 4);
    let mut browsers = Process::start("node", ["chat_browsers.mjs", &binary.url("")]);
    let present = browsers.line().await.expect("both pages show both names");
    assert_eq!(present["event"], "present", "{present}");
    let workers = || {
        let listed = Raw::connect_unix(&binary.admin()).get("/api/v1/sockets").body;
        let listed: Value = serde_json::from_slice(&listed).unwrap();
        let of = |socket: &Value| socket["worker"].as_str().unwrap().to_owned();
        listed["sockets"].as_array().unwrap().iter().map(of).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(workers().len(), 2, "each browser has a worker of its own");
    browsers.command("hello").await;
    let said = browsers.line().await.expect("both pages show the message");
    let lines = json!([["ann: hello"], ["ann: hello"]]);
    assert_eq!((&said["lines"], &said["typing"], &said["errors"]), (&lines, &json!(""), &json!([])), "{said}");
    let said = command(&binary, &["workers", "restart"]);
    assert!(said.status.success(), "{}", text(&said));
    browsers.command("moved").await;
    let moved = browsers.line().await.expect("both pages have a new session");
    assert_eq!(moved, json!({ "event": "moved" }));
    browsers.command("again").await;
    let said = browsers.line().await.expect("both pages show the message");
    let both = json!(["ann: hello", "ann: again"]);
    assert_eq!((&said["lines"], &said["errors"]), (&json!([both, both]), &json!([])), "{said}");
    assert_eq!(browsers.end().await, Some(0));
}

/// The commands of README's first block.
fn first_commands() -> Vec<String> {
    let readme = read("README.md");
    let block = readme.split("```console\n").nth(1).unwrap().split("```").next().unwrap();
    block.lines().filter_map(|line| line.strip_prefix("$ ")).map(str::to_owned).collect()
}

#[test]
fn readmes_first_command_serves_the_chat() {
    let commands = first_commands();
    assert!(commands[0].contains("npm install --prefix examples/chat"), "{commands:?}");
    assert!(commands[0].ends_with("cd examples/chat"), "{commands:?}");
    let run = commands[1].strip_prefix("../../target/release/stickyd ").unwrap().to_owned();
    assert!(run.starts_with("run --spawn max -- node server.js"), "{run}");
    let run = run.split(" #").next().unwrap().trim_end().to_owned();
    let binary = Binary::started_by("", move |address| {
        // The same command, on an address of the test.
        let run = run.replacen("run ", &format!("run --listen {address} "), 1);
        let mut shell = Command::new("sh");
        let script = format!("cd {:?} && exec {} {run}", here("examples/chat"), env!("CARGO_BIN_EXE_stickyd"));
        shell.args(["-c", &script]).env("NODE_PATH", packages());
        shell
    });
    crate::support::wait::wait_for("the page is there", || {
        let answer = Raw::connect(binary.address).get("/");
        let text = answer.text().to_owned();
        if text.contains("<title>Chat</title>") { Ok(()) } else { Err(text) }
    });
    let script = Raw::connect(binary.address).get("/socket.io/socket.io.js");
    assert_eq!(script.status(), 200);
}

#[test]
fn the_chat_is_short_and_has_tested_packages() {
    let lines = read("examples/chat/server.js").lines().count() + read("examples/chat/index.html").lines().count();
    assert!(lines <= 30, "{lines} lines");
    let version = |path: &str| serde_json::from_str::<Value>(&read(path)).unwrap()["dependencies"]["socket.io"].clone();
    assert_eq!(version("examples/chat/package.json"), version("tests/clients/package.json"));
}
