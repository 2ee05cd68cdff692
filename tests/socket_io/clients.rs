//! Every kind of client of every version, with three and with sixteen workers.

use serde_json::{Value, json};

use crate::support::cluster::{SECRET, all_upgraded, assert_whole, run_whole, spread, upstream};
use crate::support::load::Load;
use crate::support::node::NodeServer;
use crate::support::proxy::Proxy;

/// Clients with the default transports, polling only, WebSocket only, raw, JSONP, and all on one connection.
async fn every_kind_of_client(url: &str, version: u8) {
    let result = run_whole(url, 12, json!({"version": version})).await;
    assert_eq!(result["transports"], json!({"websocket": 12}), "{result}");
    let result = run_whole(url, 12, json!({"version": version, "transports": ["polling"]})).await;
    assert_eq!(result["transports"], json!({"polling": 12}), "{result}");
    let result = run_whole(url, 12, json!({"version": version, "transports": ["websocket"]})).await;
    assert_eq!(result["answers"], json!({"WS 101": 12}), "{result}");
    for kind in [
        json!({"kind": "raw"}),
        json!({"kind": "raw", "mode": "step"}),
        json!({"transports": "jsonp"}),
        json!({"transports": ["polling"], "keepAlive": true}),
    ] {
        let mut options = kind;
        options["version"] = json!(version);
        let result = run_whole(url, 12, options).await;
        assert_eq!(result["transports"], json!({"polling": 12}), "{result}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_version_4_client() {
    let workers = NodeServer::start_many(3, &[]).await;
    let proxy = Proxy::with(&upstream(&workers));
    every_kind_of_client(&proxy.url(""), 4).await;
    // A learned session is never discovered.
    assert_eq!(proxy.metric("stickyd_discoveries_total{result=\"found\",upstream=\"app\"}"), 0.0);
    assert_eq!(proxy.metric("stickyd_handshakes_total{result=\"unlearned\",upstream=\"app\"}"), 0.0);
    assert_eq!(proxy.metric("stickyd_handshakes_total{result=\"learned\",upstream=\"app\"}"), 72.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_version_2_client() {
    let workers = NodeServer::start_many(3, &["--version", "2"]).await;
    let proxy = Proxy::with(&upstream(&workers));
    every_kind_of_client(&proxy.url(""), 2).await;
    run_whole(&proxy.url(""), 12, json!({"version": 2, "kind": "raw", "binary": true})).await;
    assert_eq!(proxy.metric("stickyd_handshakes_total{result=\"unlearned\",upstream=\"app\"}"), 0.0);
    assert_eq!(proxy.metric("stickyd_discoveries_total{result=\"found\",upstream=\"app\"}"), 0.0);
}

/// Serves six clients with two workers, for each of these arguments of the workers.
async fn serves_with(settings: &[(&[&str], Value)]) {
    for (args, client) in settings {
        let workers = NodeServer::start_many(2, args).await;
        let proxy = Proxy::with(&upstream(&workers));
        let result = run_whole(&proxy.url(""), 6, client.clone()).await;
        assert!(client["kind"] == "raw" || result["upgraded"] == 6, "{args:?}: {result}");
        // The sessions are learned, not discovered, which shows that custom ids are read alike in answers and in
        // requests.
        assert_eq!(proxy.metric("stickyd_discoveries_total{result=\"found\",upstream=\"app\"}"), 0.0, "{args:?}");
        assert_eq!(proxy.metric("stickyd_handshakes_total{result=\"learned\",upstream=\"app\"}"), 6.0, "{args:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_of_other_versions() {
    serves_with(&[
        (&["--version", "4.5", "--permessage-deflate"], json!({})),
        (&["--version", "3"], json!({})),
        (&["--version", "1.7"], json!({"version": 2})),
        (&["--version", "1.7"], json!({"version": 2, "kind": "raw", "binary": true})),
        (&["--allow-eio3"], json!({"version": 2})),
        (&["--version", "2", "--no-cookie"], json!({"version": 2})),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_with_odd_paths_ids_and_encodings() {
    serves_with(&[
        // Polling in the Node clients cannot decompress; the raw client can.
        (&["--compress-handshake"], json!({"kind": "raw", "extraHeaders": {"accept-encoding": "gzip"}})),
        (&["--path", "/deep/io/"], json!({"path": "/deep/io/"})),
        (&["--path", "/io", "--no-trailing-slash"], json!({"path": "/io", "io": {"addTrailingSlash": false}})),
        (&["--generate-id", "custom"], json!({})),
        (&["--generate-id", "long"], json!({})),
        (&["--generate-id", "unicode"], json!({})),
        (&["--version", "2", "--generate-id", "unicode"], json!({"version": 2})),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_in_single_bytes_and_late() {
    for version in ["4", "2"] {
        for how in ["bytes", "late"] {
            let workers = NodeServer::start_many(2, &["--handshake", how, "--version", version]).await;
            let proxy = Proxy::with(&upstream(&workers));
            let version: u8 = version.parse().unwrap();
            let result = run_whole(&proxy.url(""), 10, json!({"version": version})).await;
            assert_eq!(result["upgraded"], 10, "{result}");
            let result = run_whole(&proxy.url(""), 4, json!({"version": version, "transports": "jsonp"})).await;
            assert_eq!(result["transports"]["polling"], 4, "{result}");
            assert_eq!(proxy.metric("stickyd_handshakes_total{result=\"learned\",upstream=\"app\"}"), 14.0);
        }
    }
}

/// 200 clients connect at the same moment from one address; the workers' own counts show the spread.
async fn two_hundred_at_once(workers: usize) {
    let workers = NodeServer::start_many(workers, &[]).await;
    let proxy = Proxy::with(&upstream(&workers));
    let mut load = Load::start(json!({"urls": [proxy.url("")], "n": 200, "messages": 5, "keep": true}));
    load.event("all-echoed").await;
    all_upgraded(&mut load, 200).await;
    let spread = spread(&workers).await;
    println!("{} workers: most/mean = {spread:.3}", workers.len());
    assert!(spread <= 1.1, "{spread}");
    let mut tunnels = 0.0;
    for worker in &workers {
        let live = worker.stats().await["live"].as_f64().unwrap();
        let series = |name| format!("{name}{{upstream=\"app\",worker=\"{}\"}}", worker.name);
        assert_eq!(proxy.metric(&series("stickyd_sessions")), live, "{}", worker.name);
        assert_eq!(proxy.metric(&series("stickyd_tunnels")), live, "{}", worker.name);
        tunnels += live;
    }
    assert_eq!(tunnels, 200.0);
    assert_whole(&load.stop().await, 200, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_clients_on_three_workers() {
    two_hundred_at_once(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_clients_on_sixteen_workers() {
    two_hundred_at_once(16).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_address_may_change_with_every_request() {
    let workers = NodeServer::start_many(3, &[]).await;
    let proxy = Proxy::with(&upstream(&workers));
    let addresses: Vec<_> = (2..12).map(|last| format!("127.0.0.{last}")).collect();
    let mobile = json!({"localAddresses": addresses, "addressPer": "request"});
    let result = run_whole(&proxy.url(""), 20, mobile.clone()).await;
    assert_eq!(result["upgraded"], 20, "{result}");
    let mut polling = mobile;
    polling["transports"] = json!(["polling"]);
    run_whole(&proxy.url(""), 20, polling).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_carries_fifty_sessions() {
    let workers = NodeServer::start_many(3, &[]).await;
    let proxy = Proxy::with(&upstream(&workers));
    let result = run_whole(&proxy.url(""), 50, json!({"sharedAgent": true})).await;
    // All workers have sessions, so the one connection led to each of them.
    assert_eq!(result["workers"].as_object().unwrap().len(), 3, "{result}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_stickyds_take_turns() {
    for version in ["4", "2"] {
        let workers = NodeServer::start_many(3, &["--version", version]).await;
        let config = format!("{SECRET}{}", upstream(&workers));
        let (one, two) = (Proxy::with(&config), Proxy::with(&config));
        let version: u8 = version.parse().unwrap();
        let mut loads = Vec::new();
        for transports in [json!(null), json!(["polling"])] {
            let mut load = Load::start(json!({"urls": [one.url(""), two.url("")], "alternate": "request", "n": 20,
                "messages": 10, "interval": 10, "version": version, "transports": transports, "keep": true}));
            load.event("all-echoed").await;
            if transports.is_null() {
                all_upgraded(&mut load, 20).await;
            }
            loads.push(load);
        }
        // Counted while all clients are connected, because clients that leave break their own polls.
        let broken = stats_sum(&workers, "broken_polls").await + stats_sum(&workers, "broken_posts").await;
        assert_eq!(broken, 0, "no poll was cancelled and sent to another worker");
        for load in loads {
            assert_whole(&load.stop().await, 20, 10);
        }
        let found = |proxy: &Proxy| proxy.metric("stickyd_discoveries_total{result=\"found\",upstream=\"app\"}");
        assert!(found(&one) > 0.0 && found(&two) > 0.0, "each stickyd had to discover sessions of the other");
    }
}

async fn stats_sum(workers: &[crate::support::node::Worker], field: &str) -> u64 {
    let mut sum = 0;
    for worker in workers {
        sum += worker.stats().await[field].as_u64().unwrap();
    }
    sum
}
