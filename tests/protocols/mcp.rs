//! The Model Context Protocol: Streamable HTTP with `Mcp-Session-Id`, without sessions, and the older HTTP+SSE.

use serde_json::{Value, json};

use super::{Trial, config};
use crate::support::proxy::Proxy;

fn mcp(args: &'static [&'static str], client: Value) -> Trial {
    Trial::new("mcp", args, client, "affinity = [\"mcp\"]")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_break_without_the_preset() {
    mcp(&[], json!({})).breaks_without().await;
    mcp(&[], json!({"transport": "sse"})).breaks_without().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streamable_http_through_two_stickyds() {
    mcp(&[], json!({"push": true})).is_found_by_two().await;
    mcp(&["--json"], json!({})).is_found_by_two().await;
}

/// The specification allows a JWT as an id, which has some hundred bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_that_are_tokens_through_two_stickyds() {
    mcp(&["--jwt"], json!({})).is_found_by_two().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_and_sse_through_two_stickyds() {
    mcp(&[], json!({"transport": "sse", "push": true})).is_found_by_two().await;
}

/// Their GET streams break when the stickyd that carries them is killed; the SDK opens them again, for the same
/// session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streamable_http_lives_on() {
    mcp(&[], json!({"push": true})).lives_on().await;
}

/// Clients of the dead worker get the protocol's own 404 and initialize again; other sessions go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_workers_sessions_begin_anew() {
    let trial = mcp(&[], json!({"renew": true}));
    let mut workers = trial.workers(1..=3).await;
    let proxy = Proxy::with(&config(&workers, trial.rules));
    let mut clients = trial.clients(&[proxy.url("")]);
    clients.open(12).await;
    let before = clients.ask().await;
    workers[1].kill().await;
    let after = clients.ask().await;
    assert_eq!((&after["held"], after["workers"].get("w2")), (&json!(12), None), "{after}");
    assert_eq!(after["moved"], before["workers"]["w2"], "no other session moved: {after}");
}

/// Servers without sessions are balanced like any other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_without_sessions_are_balanced() {
    let trial = mcp(&["--stateless"], json!({}));
    let workers = trial.workers(1..=3).await;
    let proxy = Proxy::with(&config(&workers, trial.rules));
    let mut clients = trial.clients(&[proxy.url("")]);
    clients.open(12).await;
    let end = clients.ask().await;
    assert_eq!((&end["held"], &end["set_cookies"]), (&json!(12), &json!(0)), "{end}");
    assert_eq!(proxy.metric("stickyd_pins"), 0.0, "nothing is pinned");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_of_one_address() {
    mcp(&[], json!({})).spreads_from_one_address().await;
}

/// A restarted process does not know its old sessions: it refuses them, and their clients initialize again on any
/// worker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_workers_sessions_begin_anew() {
    let trial = mcp(&[], json!({"renew": true}));
    let mut workers = trial.workers(1..=3).await;
    let proxy = Proxy::with(&config(&workers, trial.rules));
    let mut clients = trial.clients(&[proxy.url("")]);
    clients.open(12).await;
    let before = clients.ask().await;
    // As after a restart, except that the port stays: the worker forgets everything.
    workers[1].command("forget").await;
    workers[1].stats_when(|stats| stats["live"] == 0).await;
    let after = clients.ask().await;
    assert_eq!(after["held"], 12, "{after}");
    assert!(after["moved"].as_u64() <= before["workers"]["w2"].as_u64(), "no other session moved: {after}");
    assert_eq!(clients.ask().await["moved"], after["moved"], "the new sessions stay");
}

/// The default recognises the protocol by its header.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streamable_http_needs_no_configuration() {
    for push in [true, false] {
        Trial::new("mcp", &[], json!({"push": push}), "affinity = [\"auto\"]").is_found_by_two().await;
    }
    Trial { rules: "", ..mcp(&[], json!({"push": true})) }.keeps_with_cookies().await;
}
