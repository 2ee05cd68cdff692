//! Processes of workers, of the spawner and of stickyd: which of them starts or ends which.

use std::time::{Duration, Instant};

use super::support::{
    all_ready, children, command, config, none_runs, pids, runs, signal, spawner, started, text, who, workers,
};
use crate::support::admin::{metric, write};
use crate::support::proxy::Binary;
use crate::support::raw::Raw;
use crate::support::wait::{at_most, wait_for};

#[test]
fn every_worker_has_a_port_and_a_number_of_its_own() {
    let keys = "instances = 3, env = { NODE_OPTIONS = \"--max-old-space-size=333\", PORT = \"1\" }";
    let binary = started(3, keys);
    let mut seen = std::collections::BTreeSet::new();
    for worker in workers(&binary) {
        let address = worker["address"].as_str().unwrap().parse().unwrap();
        let one: serde_json::Value = serde_json::from_slice(&Raw::connect(address).get("/who").body).unwrap();
        assert!(one["options"].as_str().unwrap().starts_with("--max-old-space-size=333"), "{one}");
        assert!(one["heap"].as_u64().unwrap() < 450_000_000, "{one}");
        let slot: u32 = one["slot"].as_str().unwrap().parse().unwrap();
        assert_eq!(one["instance"], (slot - 1).to_string());
        seen.insert((slot, one["port"].as_str().unwrap().to_owned()));
    }
    assert_eq!(seen.iter().map(|(slot, _)| *slot).collect::<Vec<_>>(), [1, 2, 3]);
    let ports: std::collections::BTreeSet<_> = seen.iter().map(|(_, port)| port.as_str()).collect();
    assert!(ports.len() == 3 && !ports.contains("1"), "{ports:?}");
}

#[test]
fn a_killed_worker_is_started_again_at_once() {
    let binary = started(2, "instances = 2");
    let before = pids(&binary);
    let began = Instant::now();
    signal(before[0], "KILL");
    let after = wait_for("there is a successor", || {
        let pids = pids(&binary);
        if pids.len() == 2 && pids[0] != before[0] { Ok(pids) } else { Err(pids) }
    });
    // By hand: 60 ms. The limit is for two busy cores.
    assert!(began.elapsed() < at_most(Duration::from_secs(3)), "{:?}", began.elapsed());
    assert_eq!(after[1], before[1], "the other worker is untouched");
    all_ready(&binary, 2);
    let restarts = |reason: &str| {
        metric(&binary, &format!("stickyd_worker_restarts_total{{reason=\"{reason}\",upstream=\"app\",worker=\"1\"}}"))
    };
    assert_eq!((restarts("signal"), restarts("exit"), restarts("roll")), (1.0, 0.0, 0.0));
    assert!(metric(&binary, "stickyd_worker_start_seconds_count{upstream=\"app\"}") >= 3.0);
}

#[test]
fn nothing_is_left_when_the_spawner_or_stickyd_is_killed() {
    let file = std::env::temp_dir().join(format!("stickyd-children-{}", std::process::id()));
    let keys = format!("instances = 2, env = {{ STUBBORN = \"1\", CHILD = {file:?} }}");
    let grandchildren = || -> Vec<u32> {
        std::fs::read_to_string(&file).unwrap_or_default().lines().map(|pid| pid.parse().unwrap()).collect()
    };
    let mut binary = started(2, &keys);
    let all = [pids(&binary), grandchildren()].concat();
    assert!(all.len() == 4 && all.iter().all(|pid| runs(*pid)), "{all:?}");
    signal(spawner(&binary), "KILL");
    let began = Instant::now();
    none_runs(&all);
    assert!(began.elapsed() < at_most(Duration::from_secs(1)), "{:?}", began.elapsed());
    binary.says(&["the spawner has died"]);
    wait_for("there are new workers", || {
        let new = pids(&binary);
        new.len() == 2 && new.iter().all(|pid| !all.contains(pid))
    });
    all_ready(&binary, 2);
    let all = [pids(&binary), grandchildren(), vec![spawner(&binary)]].concat();
    binary.kill();
    let began = Instant::now();
    none_runs(&all);
    assert!(began.elapsed() < at_most(Duration::from_secs(1)), "{:?}", began.elapsed());
    std::fs::remove_file(file).unwrap();
}

#[test]
fn a_stop_ends_the_workers_within_their_time() {
    let mut binary = started(2, "instances = 2, stop = \"20s\"");
    let all = [pids(&binary), vec![spawner(&binary)]].concat();
    let (code, took) = binary.terminate();
    assert_eq!(code, Some(0));
    assert!(took < at_most(Duration::from_secs(5)), "{took:?}");
    none_runs(&all);
    let mut binary = started(1, "instances = 1, stop = \"1s\", env = { STUBBORN = \"1\" }");
    let all = pids(&binary);
    let (code, took) = binary.terminate();
    assert_eq!(code, Some(0));
    assert!(took >= Duration::from_secs(1) && took < at_most(Duration::from_secs(6)), "{took:?}");
    none_runs(&all);
}

#[test]
fn workers_are_scaled_stopped_and_started() {
    let binary = started(2, "instances = 2, grace = \"1s\"");
    let said = command(&binary, &["scale", "app", "4"]);
    assert!(said.status.success() && text(&said).contains("4 workers"), "{}", text(&said));
    all_ready(&binary, 4);
    assert!(command(&binary, &["scale", "app", "1"]).status.success());
    all_ready(&binary, 1);
    let before = pids(&binary);
    assert!(command(&binary, &["stop", "app"]).status.success());
    none_runs(&before);
    wait_for("the worker is shown as stopped", || workers(&binary).iter().all(|worker| worker["state"] == "stopped"));
    assert!(!command(&binary, &["workers", "restart", "app"]).status.success(), "there is nothing to replace");
    assert!(command(&binary, &["start", "app/1"]).status.success());
    all_ready(&binary, 1);
    for wrong in [&["scale", "app", "0"][..], &["stop", "web"], &["stop", "app/9"], &["start", "app/x"]] {
        let said = command(&binary, wrong);
        assert!(!said.status.success() && !text(&said).is_empty(), "{wrong:?}");
    }
    // The number in the file counts again once it changes.
    write(&binary, &config("instances = 3, grace = \"1s\""));
    binary.signal("HUP");
    all_ready(&binary, 3);
}

#[test]
fn a_worker_over_its_memory_is_replaced_and_not_killed() {
    // Every Node process is over this limit; it is replaced after three looks.
    let binary = started(1, "instances = 1, max_memory = \"16MB\", grace = \"1s\"");
    let before = pids(&binary);
    binary.says(&["worker uses more memory than `max_memory`"]);
    wait_for("the worker was replaced", || pids(&binary) != before);
    assert_eq!(metric(&binary, "stickyd_worker_restarts_total{reason=\"memory\",upstream=\"app\",worker=\"1\"}"), 1.0);
    assert!(metric(&binary, "stickyd_worker_memory_bytes{upstream=\"app\",worker=\"1\"}") > 16_000_000.0);
    assert!(!binary.log().contains("worker has ended"), "{}", binary.log());
}

#[test]
fn quick_mode_starts_workers_without_a_file() {
    let clients = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let mut binary = Binary::started_by("[upstream.app]\nworkers = []\nallow_empty = true", move |address| {
        let mut command = std::process::Command::new("sh");
        let stickyd = env!("CARGO_BIN_EXE_stickyd");
        // The folder of the application is the current one.
        command.args(["-c", "cd \"$1\" && exec \"$2\" run --listen \"$3\" --spawn 2 -- node spawned.js", "sh"]);
        command.arg(&clients).arg(stickyd).arg(address.to_string());
        command
    });
    for _ in 0..2 {
        binary.says(&["worker is ready", "address=", "pid=", "ready_after_ms="]);
    }
    let first = who(&binary);
    let spawner = children(binary.pid())[0];
    binary.signal("HUP");
    binary.says(&["all workers were replaced", "workers=2"]);
    assert_ne!(first["pid"], who(&binary)["pid"]);
    assert_eq!(binary.terminate().0, Some(0));
    none_runs(&[spawner]);
}
