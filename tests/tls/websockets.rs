//! Unmodified Socket.IO clients over TLS: https and then wss.

use serde_json::json;

use crate::support::load::Load;
use crate::support::node::NodeServer;
use crate::support::proxy::Proxy;
use crate::support::tls::Certificates;

#[tokio::test]
async fn real_clients_poll_upgrade_and_stay_connected() {
    let workers = NodeServer::start_many(3, &[]).await;
    let files = Certificates::new();
    files.issue("site", &["localhost"]);
    let list: Vec<_> = workers.iter().map(|worker| worker.address()).collect();
    let proxy = Proxy::with_files(
        &format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = {{ certificate = \"site.pem\", key = \"site.key\" }}\n\
             [upstream.app]\nworkers = {list:?}\n"
        ),
        &files.directory,
    );
    let ca = files.directory.join("ca.pem");
    let url = format!("https://localhost:{}", proxy.address.port());
    let result = Load::run(json!({ "urls": [url], "n": 12, "messages": 20, "ca": ca })).await;
    assert_eq!((&result["ever_connected"], &result["upgraded"]), (&json!(12), &json!(12)), "{result}");
    assert_eq!(result["echoes"], json!({ "sent": 240, "ok": 240, "lost": 0, "duplicated": 0, "reordered": 0 }));
    assert_eq!((&result["refusals"]["total"], &result["reconnects"]), (&json!(0), &json!(0)), "{result}");
}
