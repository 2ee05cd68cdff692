//! What linked workers say about themselves: in the API, the metrics and the commands.

use std::process::Command;

use serde_json::Value;

use crate::support::wait::wait_for;

use super::Fleet;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_show_their_loop_heap_sockets_and_version() {
    let fleet = Fleet::start(2, &[]).await;
    let _clients = fleet.clients(6).await;
    let facts = || -> Vec<Value> {
        let answer: Value = serde_json::from_str(&fleet.admin("/api/v1/workers")).unwrap();
        answer["workers"].as_array().unwrap().iter().map(|worker| worker["bus"].clone()).collect()
    };
    wait_for("both report their clients", || {
        let all = facts();
        if all.iter().filter_map(|one| one["clients"].as_u64()).sum::<u64>() == 6 { Ok(()) } else { Err(all) }
    });
    for (one, worker) in facts().iter().zip(&fleet.workers) {
        assert_eq!((one["pid"].as_u64(), &one["socketio"]), (Some(worker.pid), &Value::from("4.8.4")), "{one}");
        assert!(one["heap_used_bytes"].as_u64() > Some(1_000_000) && one["lag_ms"].is_f64(), "{one}");
        let at = format!("{{upstream=\"app\",worker=\"{}\"}}", worker.address);
        assert!(fleet.metric(&format!("stickyd_worker_event_loop_lag_seconds{at}")) >= 0.0);
        assert!(fleet.metric(&format!("stickyd_worker_heap_used_bytes{at}")) > 1e6);
    }
    assert_eq!(fleet.metric("stickyd_worker_engine_clients{"), 6.0);
    let mut workers = Command::new(env!("CARGO_BIN_EXE_stickyd"));
    workers.args(["workers", "--wide", "-c", "stickyd.toml"]).current_dir(&fleet.stickyd.directory);
    let shown = String::from_utf8(workers.output().unwrap().stdout).unwrap();
    assert!(shown.contains("SOCKET.IO") && shown.matches("4.8.4").count() == 2, "{shown}");
}

/// Labels are upstreams of the configuration, whatever a process calls itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_process_says_is_no_label() {
    let fleet = Fleet::start(1, &[("STICKYD_BUS_UPSTREAM", "made-up"), ("STICKYD_INSTANCE", "invented")]).await;
    let mut asked = 0;
    wait_for("the process is linked", || {
        asked = fleet.workers[0].ask("/count")["rejections"].as_u64().unwrap();
        fleet.workers[0].ask("/emit?text=x");
        if fleet.metric("stickyd_bus_messages_total") > 0.0 { Ok(()) } else { Err(()) }
    });
    let text = fleet.admin("/metrics");
    assert!(text.contains("stickyd_bus_workers{upstream=\"app\"} 0"), "{text}");
    assert!(!text.contains("made-up") && !text.contains("invented"), "{text}");
    assert_eq!(asked, 0);
}
