//! Socket.IO over HTTP/2: one connection carries many sessions, each with its own worker.

use serde_json::{Value, json};

use crate::support::h2::Secured;
use crate::support::node::NodeServer;
use crate::support::process::Process;
use crate::support::wait::within;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_sids_poll_and_upgrade_on_one_connection() {
    let workers = NodeServer::start_many(3, &[]).await;
    let addresses: Vec<_> = workers.iter().map(|worker| worker.address().parse().unwrap()).collect();
    let stickyd = Secured::before(&addresses, "");
    let proxy = stickyd.proxy();
    let url = format!("https://localhost:{}", proxy.address.port());
    let options = json!({"url": url, "ca": stickyd.directory.join("cert.pem"), "n": 50, "fresh": 10, "messages": 5});
    let mut client = Process::start("node", ["h2.js", &options.to_string()]);
    let result: Value = within(client.line()).await.expect("a result");
    assert_eq!(result["errors"], json!({}), "{result}");
    assert_eq!(
        (&result["connected"], &result["upgraded"], &result["fresh"]),
        (&json!(50), &json!(50), &json!(10)),
        "{result}"
    );
    assert_eq!(result["echoes"], 50 * 10 + 10 * 5, "{result}");
    assert_eq!(result["workers"].as_object().unwrap().len(), 3, "every worker has its share: {result}");
    let metric = |series: &str| proxy.metric(series);
    assert_eq!(metric("stickyd_handshakes_total{result=\"learned\",upstream=\"app\"}"), 50.0);
    assert_eq!(metric("stickyd_upgrades_total{step=\"granted\",upstream=\"app\"}"), 60.0);
    for fate in ["own", "forwarded", "healed"] {
        assert_eq!(metric(&format!("stickyd_refusals_total{{fate=\"{fate}\",upstream=\"app\"}}")), 0.0, "{fate}");
    }
}

/// The refusal of a lost session has the form of its transport.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_sid_is_refused_on_its_stream() {
    let workers = NodeServer::start_many(2, &[]).await;
    let addresses: Vec<_> = workers.iter().map(|worker| worker.address().parse().unwrap()).collect();
    let stickyd = Secured::before(&addresses, "");
    let client = stickyd.client().await;
    let answer = client.get("/socket.io/?EIO=4&transport=polling&sid=unknown").await;
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("\"code\":1"), "{answer:?}");
    let upgrade = crate::support::h2::connect("websocket", "/socket.io/?EIO=4&transport=websocket&sid=unknown2");
    let Err(answer) = client.tunnel(upgrade).await else { panic!("opened") };
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("Session ID unknown"), "{answer:?}");
}
