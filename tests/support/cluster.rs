//! A Socket.IO cluster: its configuration, runs of clients that must stay whole, and how evenly it is used.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::load::Load;
use super::node::Worker;
use super::wait::wait_for_async;

/// `[upstream.app]` with these workers, under their own names w1, w2, …
pub(crate) fn upstream(workers: &[Worker]) -> String {
    upstream_of(workers.iter().map(Worker::address))
}

pub(crate) fn upstream_of(addresses: impl IntoIterator<Item = String>) -> String {
    let named = |(i, address)| format!("{{ address = {address:?}, name = \"w{}\" }}", i + 1);
    let workers: Vec<_> = addresses.into_iter().enumerate().map(named).collect();
    format!("[upstream.app]\nworkers = [{}]\n", workers.join(", "))
}

/// A common secret makes several stickyds one fleet; they share nothing else.
pub(crate) const SECRET: &str = "secret = \"0123456789abcdef0123456789abcdef\"\n";

/// Runs clients to their end: all connected, all messages back once and in order, without a refusal or another error.
pub(crate) async fn run_whole(url: &str, n: u64, more: Value) -> Value {
    let mut options = json!({"urls": [url], "n": n, "messages": 5, "timeout": 30_000});
    options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let result = Load::run(options).await;
    assert_whole(&result, n, 5);
    result
}

pub(crate) fn assert_whole(result: &Value, n: u64, messages: u64) {
    assert_eq!(result["connected"], n, "{result}");
    assert_eq!(
        result["echoes"],
        json!({"sent": n * messages, "ok": n * messages, "lost": 0, "duplicated": 0, "reordered": 0}),
        "{result}"
    );
    assert_eq!(result["refusals"]["total"], 0, "{result}");
    for none in ["bad_answers", "connect_errors", "upgrade_errors", "disconnects"] {
        assert_eq!(result[none], json!({}), "{none}: {result}");
    }
    assert_eq!(result["reconnects"], 0, "{result}");
}

/// The largest number of live sessions of a worker divided by the mean, from the workers' own counts.
pub(crate) async fn spread(workers: &[Worker]) -> f64 {
    let mut live = Vec::new();
    for worker in workers {
        live.push(worker.stats().await["live"].as_f64().unwrap());
    }
    live.iter().copied().fold(0.0, f64::max) * live.len() as f64 / live.iter().sum::<f64>()
}

/// Waits until all `n` clients are on WebSocket; the event of that name may have come before another one was waited
/// for.
pub(crate) async fn all_upgraded(load: &mut Load, n: u64) {
    wait_for_async("all clients are on WebSocket", async || {
        let status = load.status().await;
        if status["upgraded"] == n { Ok(()) } else { Err(status) }
    })
    .await;
}

pub(crate) fn loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}
