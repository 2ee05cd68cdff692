//! The main job: an unmodified Socket.IO cluster behind stickyd behaves as one server.

use serde_json::json;

use crate::support::load::Load;
use crate::support::node::NodeServer;
use crate::support::proxy::Proxy;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn default_clients_all_end_up_on_websocket() {
    let workers = NodeServer::start_many(3, &[]).await;
    let addresses: Vec<_> = workers.iter().map(|w| ([127, 0, 0, 1], w.port).into()).collect();
    let proxy = Proxy::before(&addresses);
    let result = Load::run(json!({"urls": [proxy.url("")], "n": 30, "messages": 5})).await;
    assert_eq!(result["upgraded"], 30, "{result}");
    assert_eq!(result["refusals"]["total"], 0, "{result}");
    assert_eq!(result["echoes"]["ok"], 150, "{result}");
}
