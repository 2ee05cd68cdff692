//! The history of workers: what it holds, and that a restart keeps it.

use serde_json::{Value, json};

use crate::support::engines::{config_of_named, many_sessions, sessions_at};
use crate::support::proxy::Binary;
use crate::support::raw::Raw;
use crate::support::wait::wait_for;

fn history(binary: &Binary, query: &str) -> Value {
    let answer = Raw::connect_unix(&binary.admin()).get(&format!("/api/v1/history?{query}"));
    assert_eq!(answer.status(), 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

/// Times and values of a number of the first worker, without gaps.
fn known(history: &Value, number: &str) -> Vec<(u64, f64)> {
    let names = history["numbers"].as_array().unwrap();
    let at = names.iter().position(|name| name == number).unwrap();
    let (from, step) = (history["from"].as_u64().unwrap(), history["step_s"].as_u64().unwrap());
    let Some(column) = history["workers"][0]["columns"][at].as_array() else { return Vec::new() };
    assert_eq!(column.len() as u64, history["count"].as_u64().unwrap());
    (0..).zip(column).filter_map(|(i, value)| Some((from + i * step, value.as_f64()?))).collect()
}

#[test]
fn a_restart_keeps_the_history() {
    let one = many_sessions("one");
    let mut binary = Binary::with(&config_of_named(&[("one", &one)], ""));
    sessions_at(&binary, "one", 3);
    let before = wait_for("two samples with sessions", || {
        let known = known(&history(&binary, "range=5m"), "sessions");
        if known.iter().filter(|(_, sessions)| *sessions == 3.0).count() >= 2 { Ok(known) } else { Err(known) }
    });
    assert_eq!(binary.terminate().0, Some(0));
    binary.start_again();
    let after = wait_for("a sample after the restart", || {
        let known = known(&history(&binary, "range=5m"), "sessions");
        if known.last() > before.last() && known.last().is_some_and(|last| last.1 == 0.0) {
            Ok(known)
        } else {
            Err(known)
        }
    });
    assert!(before.iter().all(|sample| after.contains(sample)), "{before:?} is not in {after:?}");
    let minutes = history(&binary, "range=24h&upstream=app&worker=one");
    assert_eq!((&minutes["count"], &minutes["step_s"]), (&json!(1_440), &json!(60)));
    assert!(!known(&minutes, "sessions").is_empty());
    assert_eq!(history(&binary, "worker=none")["workers"], json!([]));

    // A damaged file is refused, and loses nothing else.
    assert_eq!(binary.terminate().0, Some(0));
    std::fs::write(binary.directory.join("history"), "rubbish").unwrap();
    binary.start_again();
    let fresh = wait_for("a sample of a new history", || {
        let known = known(&history(&binary, "range=5m"), "sessions");
        if known.is_empty() { Err(known) } else { Ok(known) }
    });
    assert!(fresh.first() > before.last());
    let answer = Raw::connect_unix(&binary.admin()).get("/api/v1/events?kind=advice");
    assert!(answer.text().contains("is not used and begins anew"), "{}", answer.text());
    assert_eq!(Raw::connect(binary.address).get("/").text(), "one");
}
