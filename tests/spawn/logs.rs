//! What workers write.

use std::time::Duration;

use super::support::{command, config, spawner, started, text, who};
use crate::support::admin::metric;
use crate::support::proxy::Binary;
use crate::support::wait::{at_most, wait_for};

#[test]
fn lines_of_all_workers_are_kept_with_their_names() {
    let binary = started(2, "instances = 2");
    let said = wait_for("both workers have written", || {
        let said = text(&command(&binary, &["logs"]));
        if said.contains("app/1 | worker 1 listens") && said.contains("app/2 | worker 2 listens") {
            Ok(said)
        } else {
            Err(said)
        }
    });
    assert_eq!(said.lines().count(), 2, "{said}");
    let said = text(&command(&binary, &["logs", "app/2"]));
    assert!(said.contains("app/2 | ") && !said.contains("app/1 | "), "{said}");
    let said = text(&command(&binary, &["logs", "--worker", "1", "--json"]));
    let line: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&line["worker"], &line["text"]), (&"1".into(), &"worker 1 listens".into()));
}

#[test]
fn a_loud_worker_is_not_held_up_and_costs_little_memory() {
    let binary = Binary::with(&config("instances = 1, env = { LOUD = \"1\" }"));
    binary.says(&["worker is ready"]);
    let spawner = spawner(&binary);
    let memory = || {
        let status = std::fs::read_to_string(format!("/proc/{spawner}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1_000
    };
    let dropped = "stickyd_worker_log_lines_dropped_total{upstream=\"app\",worker=\"1\"}";
    wait_for("lines are dropped", || metric(&binary, dropped) > 100_000.0);
    let before = memory();
    wait_for("many more lines are dropped", || metric(&binary, dropped) > 1_000_000.0);
    assert!(memory() <= before + 8, "{before} MB, then {} MB", memory());
    let began = std::time::Instant::now();
    who(&binary);
    assert!(began.elapsed() < at_most(Duration::from_secs(2)), "{:?}", began.elapsed());
}
