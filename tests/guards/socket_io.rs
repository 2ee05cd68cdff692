//! Guards in front of real Socket.IO: pages of other sites are refused, and clients over a limit connect later.

use serde_json::json;

use crate::support::cluster::{run_whole, upstream};
use crate::support::load::Load;
use crate::support::node::{NodeServer, Worker};
use crate::support::proxy::Proxy;

/// A proxy with guards: keys of the upstream, and keys of a route to it.
fn guarded(workers: &[Worker], of_upstream: &str, of_route: &str) -> Proxy {
    Proxy::with(&format!("{}{of_upstream}\n[[route]]\nupstream = \"app\"\n{of_route}\n", upstream(workers)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cross_site_hijacking_ends_before_the_worker() {
    for version in [4, 2] {
        let workers = NodeServer::start_many(2, &["--version", &version.to_string()]).await;
        let proxy = guarded(&workers, "", "origins = [\"https://app.example\"]");
        // A request of the attacker's page: it has the user's cookies, and an Origin that no script can change.
        let from = |origin: &str| json!({"origin": origin, "cookie": "session=the-victims"});
        for transports in [json!(["websocket"]), json!(["polling"]), json!(["polling", "websocket"])] {
            let options = json!({"urls": [proxy.url("")], "n": 3, "version": version, "transports": transports,
                "extraHeaders": from("https://evil.example"), "timeout": 60_000, "duration": 1_500});
            let result = Load::run(options).await;
            assert_eq!(result["ever_connected"], 0, "{result}");
            assert!(!result["connect_errors"].as_object().unwrap().is_empty(), "{result}");
        }
        for worker in &workers {
            assert_eq!(worker.stats().await["handshakes"], 0, "the worker has seen no handshake");
        }
        let honest = json!({"version": version, "extraHeaders": from("https://app.example")});
        assert_eq!(run_whole(&proxy.url(""), 6, honest).await["upgraded"], 6);
        run_whole(&proxy.url(""), 6, json!({"version": version})).await;
    }
}

/// More clients than the limit connect at once: those over it are refused, try again, and connect; no session is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_over_the_limit_come_back() {
    for version in [4, 2] {
        for (of_upstream, of_route) in
            [("", "rate = { handshakes = \"5/s\" }"), ("rate = { handshakes = \"5/s\" }", "")]
        {
            let workers = NodeServer::start_many(2, &["--version", &version.to_string()]).await;
            let proxy = guarded(&workers, of_upstream, of_route);
            for more in [json!({}), json!({"transports": ["polling"]}), json!({"transports": ["websocket"]})] {
                let mut options = json!({"urls": [proxy.url("")], "n": 20, "version": version, "messages": 3,
                    "timeout": 90_000});
                options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
                let result = Load::run(options).await;
                assert_eq!((&result["connected"], &result["timed_out"]), (&json!(20), &json!(false)), "{result}");
                assert_eq!(result["echoes"]["ok"], 60, "{result}");
                assert_eq!(result["disconnects"], json!({}), "{result}");
                let bad = result["bad_answers"].to_string();
                assert!(bad.contains("429"), "some clients were refused: {result}");
            }
        }
    }
}

/// JSONP shows a page no status, and raw clients do not try again, so only the refusal itself is checked here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jsonp_and_raw_clients_are_refused_in_engine_ios_words() {
    let workers = NodeServer::start_many(2, &["--version", "2"]).await;
    let proxy = guarded(&workers, "", "rate = { handshakes = \"4/h\" }");
    let result = Load::run(json!({"urls": [proxy.url("")], "n": 8, "version": 2, "kind": "raw", "transports": "jsonp",
        "messages": 2, "timeout": 60_000, "duration": 3_000}))
    .await;
    assert_eq!(result["ever_connected"], 4, "{result}");
    let told = result["bad_answers"].to_string();
    assert!(told.contains("429") && told.contains("Too many requests"), "{result}");
    assert_eq!(result["refusals"]["total"], 0, "{result}");
}
