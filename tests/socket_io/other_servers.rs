//! Servers other than Node: python-socketio and socketioxide, whose probes do not tell and whose refusals differ.

use serde_json::{Value, json};

use crate::support::cluster::{SECRET, all_upgraded, assert_whole, upstream};
use crate::support::engine_io::{Ask, Session};
use crate::support::load::Load;
use crate::support::node::{OxideServer, PythonServer, Worker};
use crate::support::proxy::Proxy;
use crate::support::wait::wait_for_async;

async fn python() -> Vec<Worker> {
    let mut workers = Vec::new();
    for name in ["w1", "w2", "w3"] {
        workers.push(PythonServer::start(&["--name", name]).await);
    }
    workers
}

async fn oxide() -> Vec<Worker> {
    let mut workers = Vec::new();
    for name in ["w1", "w2", "w3"] {
        workers.push(OxideServer::start(&["--name", name]).await);
    }
    workers
}

/// Runs clients whose sessions are all known until they leave. After that one may be discovered: its last poll may come
/// after its goodbye, on another connection.
async fn nothing_is_discovered(proxy: &Proxy, kind: Value) -> Value {
    let found = || proxy.metric("stickyd_discoveries_total{result=\"found\",upstream=\"app\"}");
    let before = found();
    let mut options = json!({"urls": [proxy.url("")], "n": 15, "messages": 5, "keep": true});
    options.as_object_mut().unwrap().extend(kind.as_object().unwrap().clone());
    let mut load = Load::start(options);
    load.event("all-echoed").await;
    if kind == json!({}) {
        all_upgraded(&mut load, 15).await;
    }
    assert_eq!(found(), before, "{kind}");
    let result = load.stop().await;
    assert_whole(&result, 15, 5);
    wait_for_async("all clients have left", async || proxy.metric("stickyd_client_connections") == 0.0).await;
    result
}

async fn serve_every_kind_of_client(workers: Vec<Worker>) {
    let config = format!("{SECRET}{}", upstream(&workers));
    let proxy = Proxy::with(&config);
    let result = nothing_is_discovered(&proxy, json!({})).await;
    assert_eq!(result["transports"], json!({"websocket": 15}), "{result}");
    assert_eq!(result["workers"].as_object().unwrap().len(), 3, "{result}");
    for kind in [json!({"transports": ["polling"]}), json!({"transports": ["websocket"]}), json!({"kind": "raw"})] {
        nothing_is_discovered(&proxy, kind).await;
    }
    assert_eq!(proxy.metric("stickyd_handshakes_total{result=\"unlearned\",upstream=\"app\"}"), 0.0);

    // Two stickyds in turn without common state: every upgrade and half of all polls have to be discovered.
    let other = Proxy::with(&config);
    for transports in [json!(null), json!(["polling"])] {
        let result = Load::run(json!({"urls": [proxy.url(""), other.url("")], "alternate": "request", "n": 15,
            "messages": 10, "interval": 10, "transports": transports}))
        .await;
        assert_whole(&result, 15, 10);
        assert!(!transports.is_null() || result["upgraded"] == 15, "{result}");
    }
    assert!(proxy.metric("stickyd_discoveries_total{result=\"found\",upstream=\"app\"}") > 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_serves_every_kind_of_client() {
    serve_every_kind_of_client(python().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn socketioxide_serves_every_kind_of_client() {
    serve_every_kind_of_client(oxide().await).await;
}

/// socketioxide answers 101 to the upgrade of an unknown session and closes the connection: that is its refusal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_granted_upgrade_that_ends_at_once_is_a_refusal() {
    let workers = oxide().await;
    let proxy = Proxy::with(&upstream(&workers));
    for worker in &workers {
        // The upgrade is the first request of the session at this stickyd.
        let session = Session::open(Ask::new(([127, 0, 0, 1], worker.port).into())).await.through(proxy.address);
        use futures_util::{SinkExt as _, StreamExt as _};
        let mut socket = session.upgrade().await.expect("the owner grants the upgrade");
        socket.send("2probe".into()).await.unwrap();
        let answer = socket.next().await.unwrap().unwrap();
        assert_eq!(answer, "3probe".into(), "the owner's own answer");
    }
    assert_eq!(proxy.metric("stickyd_discoveries_total{result=\"found\",upstream=\"app\"}"), 3.0);

    // A sid that no worker knows is refused as Engine.IO does, and is not pinned.
    let pins = proxy.metric("stickyd_pins");
    let refused = Session::made_up(Ask::new(proxy.address), "AAAAAAAAAAAAAAAA").upgrade().await.unwrap_err();
    assert_eq!((refused.status, refused.body.as_str()), (400, "Session ID unknown"), "{refused:?}");
    assert_eq!(proxy.metric("stickyd_pins"), pins);
    assert_eq!(proxy.metric("stickyd_discoveries_total{result=\"unknown\",upstream=\"app\"}"), 1.0);
}
