//! Replacing workers one after the other, under real clients.

use serde_json::json;

use super::support::{all_ready, command, config, pids, pool, started, text, who};
use crate::support::admin::{metric, write};
use crate::support::load::Load;
use crate::support::wait::wait_for;

#[test]
fn a_restart_returns_when_all_workers_are_replaced() {
    let binary = started(3, "instances = 3, grace = \"1s\"");
    let before = pids(&binary);
    let said = command(&binary, &["workers", "restart", "app/2"]);
    assert!(said.status.success() && text(&said).contains("app: 1 of 1 workers replaced"), "{}", text(&said));
    let after = pids(&binary);
    assert_eq!((before[0], before[2]), (after[0], after[2]));
    assert_ne!(before[1], after[1]);
    let said = command(&binary, &["workers", "restart"]);
    assert!(said.status.success() && text(&said).contains("app: 3 of 3 workers replaced"), "{}", text(&said));
    assert!(pids(&binary).iter().all(|pid| !after.contains(pid)));
    assert!(command(&binary, &["workers", "restart", "--no-wait"]).status.success());
    wait_for("the second roll is over", || pool(&binary)["roll"]["state"] == "done");
}

#[test]
fn an_edit_of_command_or_environment_replaces_the_workers() {
    let binary = started(2, "instances = 2, grace = \"1s\"");
    let before = pids(&binary);
    write(&binary, &config("instances = 2, grace = \"2s\""));
    assert!(command(&binary, &["reload"]).status.success());
    assert_eq!(pids(&binary), before, "a changed grace replaces nothing");
    write(&binary, &config("instances = 2, grace = \"2s\", env = { APP_VERSION = \"2\" }"));
    assert!(command(&binary, &["reload"]).status.success());
    binary.says(&["all workers were replaced", "workers=2"]);
    assert_eq!(who(&binary)["version"], "2");
    assert!(pids(&binary).iter().all(|pid| !before.contains(pid)));
}

#[test]
fn an_environment_file_is_read_and_watched() {
    let file = std::env::temp_dir().join(format!("stickyd-env-{}", std::process::id()));
    std::fs::write(&file, "# the version\nAPP_VERSION='one'\n").unwrap();
    let binary = started(1, &format!("instances = 1, grace = \"1s\", env_file = {file:?}"));
    assert_eq!(who(&binary)["version"], "one");
    std::fs::write(&file, "APP_VERSION=\"two\"\n").unwrap();
    binary.says(&["all workers were replaced"]);
    assert_eq!(who(&binary)["version"], "two");
    std::fs::remove_file(file).unwrap();
}

#[test]
fn a_roll_stops_at_a_successor_that_is_not_healthy() {
    let file = std::env::temp_dir().join(format!("stickyd-broken-{}", std::process::id()));
    let keys = format!("instances = 3, grace = \"1s\", env = {{ BROKEN = {file:?} }}");
    let binary = started(3, &keys);
    let before = pids(&binary);
    std::fs::write(&file, "").unwrap();
    let said = command(&binary, &["workers", "restart"]);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(said.status.code(), Some(1));
    let words =
        ["0 of 3 workers were replaced", "exited with code 1 before it was healthy", "cannot find module ./nowhere"];
    assert!(words.iter().all(|words| text(&said).contains(words)), "{}", text(&said));
    assert_eq!(pids(&binary), before, "the workers stay");
    assert_eq!(pool(&binary)["roll"]["state"], "failed");
    assert!(command(&binary, &["workers", "restart"]).status.success(), "the next one is good");
}

/// Clients over rolls of three workers: `clients` describes them.
async fn rolled(clients: serde_json::Value) {
    let (n, workers, rolls) = (30, 3, 2);
    let command = "command = [\"node\", \"server.js\", \"--daemon\", \"--allow-eio3\"]";
    let binary = started(workers, &format!("instances = 3, grace = \"2s\", {command}"));
    let mut options = json!({"urls": [binary.url("")], "n": n, "messages": 2, "keep": true, "timeout": 120_000});
    options.as_object_mut().unwrap().extend(clients.as_object().unwrap().clone());
    let mut load = Load::start(options);
    load.event("all-echoed").await;
    for _ in 0..rolls {
        let said = tokio::task::block_in_place(|| super::support::command(&binary, &["workers", "restart", "app"]));
        assert!(said.status.success(), "{}", text(&said));
        load.echo(2).await;
        let of = |worker: usize| metric(&binary, &format!("stickyd_sessions{{upstream=\"app\",worker=\"{worker}\"}}"));
        let sessions: Vec<f64> = (1..=workers).map(of).collect();
        // At most 1.2 times the mean, which is 10.
        assert!(sessions.iter().all(|sessions| *sessions <= 12.0), "{sessions:?}");
    }
    let result = load.stop().await;
    assert!(result["reconnects"].as_u64().unwrap() <= n * rolls, "at most once per client and roll: {result}");
    assert_eq!(result["connect_errors"], json!({}), "{result}");
    assert_eq!(result["refusals"]["total"], 0, "{result}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websocket_clients_reconnect_once_per_roll() {
    rolled(json!({"transports": ["websocket"]})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrading_clients_of_both_protocols_reconnect_once() {
    rolled(json!({})).await;
    rolled(json!({"version": 2})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn polling_clients_reconnect_once_per_roll() {
    rolled(json!({"transports": ["polling"]})).await;
}

#[test]
fn a_restart_of_the_upstream_is_not_lost_while_one_is_under_way() {
    let binary = started(2, "instances = 2, grace = \"1s\"");
    let before = pids(&binary);
    assert!(command(&binary, &["workers", "restart", "app/1", "--no-wait"]).status.success());
    assert!(command(&binary, &["workers", "restart", "app"]).status.success());
    all_ready(&binary, 2);
    assert!(pids(&binary).iter().all(|pid| !before.contains(pid)));
}
