//! An upstream without a worker that can take sessions: clients get answers after which they try again.

use serde_json::json;

use crate::support::cluster::{assert_whole, upstream, upstream_of};
use crate::support::load::Load;
use crate::support::node::NodeServer;
use crate::support::proxy::{Proxy, free_address};
use crate::support::raw::Raw;
use crate::support::wait::wait_for_async;

/// Real clients of both generations, polling first and WebSocket only: their first tries fail, and they connect without
/// a reload as soon as there is a worker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_try_again_until_a_worker_is_there() {
    for (version, transports) in [(4, "polling"), (4, "websocket"), (2, "polling")] {
        let path =
            std::env::temp_dir().join(format!("stickyd-no-worker-{}-{version}-{transports}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let (path, nowhere) = (path.to_str().unwrap(), free_address());
        let proxy = Proxy::with(&upstream_of([nowhere.to_string(), format!("unix:{path}")]));
        let answer = Raw::connect(proxy.address).get("/socket.io/?EIO=4&transport=polling");
        assert_eq!((answer.status(), answer.header("retry-after")), (503, Some("1")));
        let options = json!({"urls": [proxy.url("")], "n": 3, "messages": 2, "version": version, "timeout": 30_000,
            "transports": [transports]});
        let mut load = Load::start(options);
        wait_for_async("a client has met an error", async || load.status().await["connect_errors"] != json!({})).await;
        let _worker = NodeServer::start(&["--port", path, "--version", &version.to_string()]).await;
        let mut result = load.finish().await;
        assert_ne!(result["connect_errors"], json!({}), "{result}");
        // These two show the wait; everything else is as in any other run.
        (result["connect_errors"], result["bad_answers"]) = (json!({}), json!({}));
        assert_whole(&result, 3, 2);
    }
}

/// A worker that accepts connections and never answers, without health checks: its silence ejects it, and clients that
/// try again get another worker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_never_answers_is_ejected_by_its_silence() {
    let workers = NodeServer::start_many(2, &[]).await;
    workers[0].stop().await;
    let proxy = Proxy::with(&format!(
        "{}response_timeout = \"300ms\"\nhealth = {{ kind = \"tcp\" }}\neject = {{ failures = 3, time = \"1h\", max_time = \"1h\" }}\n",
        upstream(&workers)
    ));
    // Failures that only one address sees do not count.
    let addresses: Vec<_> = (1..=6).map(|last| format!("127.0.2.{last}")).collect();
    let options = json!({"urls": [proxy.url("")], "n": 12, "messages": 2, "timeout": 30_000,
        "transports": ["polling"], "localAddresses": addresses});
    let result = Load::run(options).await;
    assert_eq!((&result["connected"], &result["workers"]["w2"]), (&json!(12), &json!(12)), "{result}");
    let reason = "stickyd_ejections_total{reason=\"timeout\",upstream=\"app\",worker=\"w1\"}";
    assert_eq!(proxy.metric(reason), 1.0);
    assert!(!proxy.worker("w2").is_ejected());
    for _ in 0..10 {
        let handshake = Raw::connect(proxy.address).get("/socket.io/?EIO=4&transport=polling");
        assert_eq!(handshake.status(), 200, "no client waits for the silent worker any more");
    }
    workers[0].cont().await;
}
