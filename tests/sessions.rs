//! The main job: an unmodified Socket.IO cluster behind stickyd behaves as one server.

mod abuse;
mod affinity_cookie;
mod bodies;
mod by_hand;
mod clients;
mod come_and_go;
mod drains;
mod foreign;
mod guards;
mod h2;
mod hostile;
mod hung;
mod nobody;
mod preflights;
mod process_managers;
mod refusals;
mod restarts;
mod scripted;
mod seen;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::load::Load;
use crate::support::node::Worker;

/// `[upstream.app]` with these workers, w1, w2, … as they call themselves.
fn upstream(workers: &[Worker]) -> String {
    upstream_of(workers.iter().map(Worker::address))
}

fn upstream_of(addresses: impl IntoIterator<Item = String>) -> String {
    let named = |(i, address)| format!("{{ address = {address:?}, name = \"w{}\" }}", i + 1);
    let workers: Vec<_> = addresses.into_iter().enumerate().map(named).collect();
    format!("[upstream.app]\nworkers = [{}]\n", workers.join(", "))
}

/// The same secret makes several stickyds one fleet: nothing else is shared.
const SECRET: &str = "secret = \"0123456789abcdef0123456789abcdef\"\n";

/// A run of clients to its end: all connected, all messages back once and in order, no refusal, no error of any kind.
async fn run_whole(url: &str, n: u64, more: Value) -> Value {
    let mut options = json!({"urls": [url], "n": n, "messages": 5, "timeout": 30_000});
    options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let result = Load::run(options).await;
    assert_whole(&result, n, 5);
    result
}

fn assert_whole(result: &Value, n: u64, messages: u64) {
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

/// The largest of the workers' live sessions over their mean, as the workers themselves count them.
async fn spread(workers: &[Worker]) -> f64 {
    let mut live = Vec::new();
    for worker in workers {
        live.push(worker.stats().await["live"].as_f64().unwrap());
    }
    live.iter().copied().fold(0.0, f64::max) * live.len() as f64 / live.iter().sum::<f64>()
}

/// Waits until all `n` are on WebSocket; the event of that name may have come before another one was waited for.
async fn all_upgraded(load: &mut Load, n: u64) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while load.status().await["upgraded"] != n {
        assert!(Instant::now() < deadline, "never all upgraded: {}", load.status().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}
