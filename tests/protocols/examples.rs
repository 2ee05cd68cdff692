//! The shipped examples with other addresses: real workers of all their protocols, with requests to two stickyds in
//! turn.

use serde_json::{Value, json};

use super::{SECRET, Trial};
use crate::support::kind::Kind;
use crate::support::load::Load;
use crate::support::node::{KindServer, Worker};
use crate::support::proxy::Proxy;

/// The example `conf/examples/NAME` on a free port, with these workers in its upstreams.
fn example(name: &str, upstreams: &[&[Worker]]) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/examples").join(name);
    let text = std::fs::read_to_string(path).unwrap();
    let mut upstreams = upstreams.iter();
    let mut lines = vec![SECRET.to_owned()];
    for line in text.lines() {
        lines.push(match line.split(" = ").next().unwrap() {
            "workers" => {
                let named =
                    |worker: &Worker| format!("{{ address = {:?}, name = {:?} }}", worker.address(), worker.name);
                let named: Vec<_> = upstreams.next().expect("workers for each").iter().map(named).collect();
                format!("workers = [{}]", named.join(", "))
            }
            "address" => "address = \"127.0.0.1:0\"".to_owned(),
            "state_dir" | "tls" => String::new(),
            _ => line.to_owned(),
        });
    }
    assert!(upstreams.next().is_none(), "{name} has fewer upstreams than expected");
    lines.join("\n")
}

/// Sessions of one kind through both proxies: all stay alive, on at least as many workers.
async fn all_live(kind: &'static str, proxies: &[Proxy], more: Value, workers: usize) {
    for proxy in proxies {
        proxy.all_take_new().await;
    }
    let trial = Trial::new(kind, &[], more, "");
    let urls: Vec<_> = proxies.iter().map(|proxy| proxy.url("")).collect();
    let mut clients: Kind = trial.clients(&urls);
    clients.open(super::SESSIONS).await;
    for _ in 0..2 {
        clients.ask().await;
    }
    trial.assert_live(&clients.stop().await, super::SESSIONS, workers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mcp_example() {
    let workers = KindServer::start_many("mcp", 1..=3, &[]).await;
    let proxies = [0, 1].map(|_| Proxy::with(&example("mcp.toml", &[&workers])));
    all_live("mcp", &proxies, json!({"push": true}), 3).await;
}

/// Socket.IO, SockJS and tus of one application, and SignalR of another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_with_several_protocols() {
    let app = KindServer::start_many("app", 1..=3, &[]).await;
    let hubs = KindServer::start_many("signalr", 1..=3, &[]).await;
    let proxies = [0, 1].map(|_| Proxy::with(&example("protocols.toml", &[&app, &hubs])));
    let urls: Vec<_> = proxies.iter().map(|proxy| proxy.url("")).collect();
    let sockets = Load::start(json!({"urls": urls, "alternate": "request", "n": 12, "messages": 10, "interval": 10}));
    all_live("sockjs", &proxies, json!({}), 3).await;
    // The sessions of the other protocols count as well, so that one worker may be full of them.
    all_live("tus", &proxies, json!({}), 2).await;
    all_live("signalr", &proxies, json!({"hub": "/hubs/hub"}), 3).await;
    let sockets = sockets.finish().await;
    assert_eq!(
        sockets["echoes"],
        json!({"sent": 120, "ok": 120, "lost": 0, "duplicated": 0, "reordered": 0}),
        "{sockets}"
    );
    assert_eq!((&sockets["refusals"]["total"], &sockets["upgraded"]), (&json!(0), &json!(12)), "{sockets}");
}
