//! A pool without a worker that could take a session: clients hear it in a way that makes them come again.

use serde_json::json;

use super::{assert_whole, upstream_of};
use crate::support::load::Load;
use crate::support::node::NodeServer;
use crate::support::proxy::{Proxy, free_address};
use crate::support::raw::Raw;

/// Real clients, polling first and WebSocket only, of today and of old: their first tries fail, and once a worker is there
/// they are connected without a reload.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_come_again_until_a_worker_is_there() {
    for (version, transports) in [(4, "polling"), (4, "websocket"), (2, "polling")] {
        let path =
            std::env::temp_dir().join(format!("stickyd-nobody-{}-{version}-{transports}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let (path, nowhere) = (path.to_str().unwrap(), free_address());
        let proxy = Proxy::with(&upstream_of([nowhere.to_string(), format!("unix:{path}")]));
        let answer = Raw::connect(proxy.address).get("/socket.io/?EIO=4&transport=polling");
        assert_eq!((answer.status(), answer.header("retry-after")), (503, Some("1")));
        let options = json!({"urls": [proxy.url("")], "n": 3, "messages": 2, "version": version, "timeout": 30_000,
            "transports": [transports]});
        let mut load = Load::start(options);
        while load.status().await["connect_errors"] == json!({}) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let _worker = NodeServer::start(&["--port", path, "--version", &version.to_string()]).await;
        let mut result = load.finish().await;
        assert_ne!(result["connect_errors"], json!({}), "{result}");
        // Both are what the wait looks like; all else is as it always is.
        (result["connect_errors"], result["bad_answers"]) = (json!({}), json!({}));
        assert_whole(&result, 3, 2);
    }
}
