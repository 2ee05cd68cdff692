//! A stickyd that starts workers, and what is asked about them.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::proxy::Binary;
use crate::support::raw::Raw;
use crate::support::wait::wait_for;

/// The configuration of an upstream that starts `tests/clients/spawned.js`, with further keys of `spawn`.
pub(crate) fn config(keys: &str) -> String {
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let command = if keys.contains("command") { "" } else { "command = [\"node\", \"spawned.js\"], " };
    let directory = if keys.contains("directory") { String::new() } else { format!("directory = {clients:?}, ") };
    // On a loaded machine an answer may take longer than the interval, which is the default of the time-out.
    let health = "health = { kind = \"http\", path = \"/health\", interval = \"400ms\", timeout = \"5s\" }";
    format!("state_dir = \".\"\n[upstream.app]\n{health}\nspawn = {{ {command}{directory}{keys} }}\n")
}

/// A stickyd with such workers, once `count` of them are ready.
pub(crate) fn started(count: usize, keys: &str) -> Binary {
    let binary = Binary::with(&config(keys));
    all_ready(&binary, count);
    binary
}

/// The upstream as `/api/v1/spawn` shows it.
pub(crate) fn pool(binary: &Binary) -> Value {
    let answer = Raw::connect_unix(&binary.admin()).get("/api/v1/spawn");
    let said: Value = serde_json::from_slice(&answer.body).unwrap();
    said["upstreams"][0].clone()
}

/// The workers of the upstream.
pub(crate) fn workers(binary: &Binary) -> Vec<Value> {
    pool(binary)["workers"].as_array().cloned().unwrap_or_default()
}

/// Waits until there are exactly this many workers, and all are ready.
pub(crate) fn all_ready(binary: &Binary, count: usize) {
    wait_for(&format!("{count} workers are ready"), || {
        let workers = workers(binary);
        let good = workers.iter().filter(|worker| worker["state"] == "ready").count();
        if (good, workers.len()) == (count, count) { Ok(()) } else { Err(workers) }
    });
}

/// The process ids of the workers.
pub(crate) fn pids(binary: &Binary) -> Vec<u32> {
    workers(binary).iter().filter_map(|worker| worker["pid"].as_u64()).map(|pid| pid.try_into().unwrap()).collect()
}

/// Whether a process runs; one that has ended and was not waited for does not.
pub(crate) fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

/// Waits until none of these processes runs.
pub(crate) fn none_runs(pids: &[u32]) {
    wait_for("the processes have ended", || {
        let left: Vec<_> = pids.iter().filter(|pid| runs(**pid)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

/// Sends a signal to a process that is not a child of this one.
pub(crate) fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success());
}

/// The child processes of a process.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let of = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
    tasks.map(of).flat_map(|all| all.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()).collect()
}

/// The spawner that a stickyd has started.
pub(crate) fn spawner(binary: &Binary) -> u32 {
    wait_for("there is a spawner", || {
        let children: Vec<_> = children(binary.pid()).into_iter().filter(|pid| runs(*pid)).collect();
        if children.len() == 1 { Ok(children[0]) } else { Err(children) }
    })
}

/// Runs a command of stickyd for this binary.
pub(crate) fn command(binary: &Binary, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stickyd"));
    command.args(arguments).args(["--config", "stickyd.toml"]).current_dir(&binary.directory).output().unwrap()
}

/// What the worker says about itself that answers a request.
pub(crate) fn who(binary: &Binary) -> Value {
    let answer = Raw::connect(binary.address).get("/who");
    serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("{}", answer.text()))
}

/// Lines of both outputs of a command.
pub(crate) fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}
