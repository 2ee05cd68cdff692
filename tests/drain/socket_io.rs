//! A worker drained under real clients: each of its sessions ends once and starts again elsewhere; the others go on.

use std::time::Duration;

use serde_json::{Value, json};
use stickyd::testing::config::{AdminState, Upstream};
use stickyd::testing::upstream::AdminChange;

use crate::support::cluster::{all_upgraded, upstream};
use crate::support::load::Load;
use crate::support::node::NodeServer;
use crate::support::proxy::Proxy;
use crate::support::wait::wait_for_async;

/// Sets the admin state of a worker, as the admin listener does.
fn say(proxy: &Proxy, worker: &str, state: AdminState, grace: Option<Duration>) {
    let config: Upstream = proxy.server().shared().snapshot.load().upstreams[0].config.clone();
    proxy.worker(worker).change(AdminChange::Say(state, grace), &config);
}

/// Drains one of three workers with 30 clients: how many sessions it had, and the result of the run.
async fn drained(state: AdminState, grace: Option<Duration>, client: Value) -> (u64, Value) {
    let version = client.get("version").map_or_else(|| "4".to_owned(), Value::to_string);
    let workers =
        NodeServer::start_many(3, &["--version", &version, "--ping-interval", "3000", "--ping-timeout", "4000"]).await;
    let proxy = Proxy::with(&upstream(&workers));
    let mut options = json!({"urls": [proxy.url("")], "n": 30, "messages": 3, "keep": true, "timeout": 120_000});
    options.as_object_mut().unwrap().extend(client.as_object().unwrap().clone());
    let mut load = Load::start(options);
    load.event("all-echoed").await;
    let tunnels = client.get("transports").is_none() && client.get("kind").is_none();
    if tunnels {
        all_upgraded(&mut load, 30).await;
    }
    let had = u64::from(proxy.worker("w1").sessions());
    assert!((5..=15).contains(&had), "{had}");
    say(&proxy, "w1", state, grace);
    wait_for_async("the drained worker has no session", async || {
        proxy.worker("w1").sessions() == 0 && proxy.worker("w1").tunnels() == 0
    })
    .await;
    wait_for_async("all sessions are at the other workers", async || {
        proxy.worker("w2").sessions() + proxy.worker("w3").sessions() == 30
    })
    .await;
    // The worker sees the end at once, or by its own time-outs if the session was between two polls.
    assert_eq!(
        workers[0].stats_when(|stats| stats["live"] == 0).await["live"],
        0,
        "the application has ended them, too"
    );
    if tunnels {
        all_upgraded(&mut load, 30).await;
    }
    load.echo(3).await;
    let result = load.stop().await;
    assert_eq!(result["reconnects"], had, "{result}");
    assert_eq!(result["workers"].get("w1"), None, "{result}");
    let kind = if tunnels { "tunnel" } else { "polling" };
    let closed = proxy.metric(&format!("stickyd_drain_closed_total{{kind=\"{kind}\",upstream=\"app\"}}"));
    assert_eq!(closed, had as f64, "{kind}");
    (had, result)
}

const GRACE: Option<Duration> = Some(Duration::from_secs(3));

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_on_websocket_move_once_without_a_refusal() {
    for version in [4, 2] {
        let (had, result) = drained(AdminState::Drain, GRACE, json!({"version": version})).await;
        assert_eq!(result["refusals"]["total"], 0, "{result}");
        assert_eq!((&result["bad_answers"], &result["connect_errors"]), (&json!({}), &json!({})), "{result}");
        let reasons: u64 = result["disconnects"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
        assert_eq!(reasons, had, "{result}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn polling_clients_are_refused_once_and_move() {
    for client in [json!({"transports": ["polling"]}), json!({"kind": "raw"})] {
        let (had, result) = drained(AdminState::Drain, GRACE, client).await;
        // A poll is always open and is refused, and so may be a POST at that moment and the goodbye that some clients
        // send.
        let refused = result["refusals"]["polling"].as_u64().unwrap();
        assert!((had..=3 * had).contains(&refused), "{result}");
        let bad = result["bad_answers"].as_object().unwrap();
        assert!(bad.keys().all(|answer| answer.ends_with("Session ID unknown\"}")), "{result}");
        assert_eq!(result["connect_errors"], json!({}), "{result}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maint_moves_all_clients_at_once() {
    let (_, result) = drained(AdminState::Maint, None, json!({})).await;
    assert_eq!(result["refusals"]["total"], 0, "{result}");
    drained(AdminState::Maint, None, json!({"transports": ["polling"]})).await;
}
