//! Applications in other languages: whatever reads PORT.

use std::path::Path;

use serde_json::json;

use super::support::{command, started, text, workers};
use crate::support::load::Load;
use crate::support::raw::Raw;

fn python(script: &str) -> String {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/.venv/bin/python");
    format!("instances = 2, grace = \"1s\", command = [{python:?}, \"kinds/{script}\"]")
}

#[test]
fn a_python_application_is_started_and_replaced() {
    let binary = started(2, &python("spawned_server.py"));
    assert!(Raw::connect(binary.address).get("/health").text().starts_with("ok "));
    let said = command(&binary, &["workers", "restart"]);
    assert!(said.status.success(), "{}", text(&said));
    assert!(workers(&binary).iter().all(|worker| worker["state"] == "ready"));
}

/// python-socketio on uvicorn, with real clients on both transports.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_uvicorn_reconnect_once_per_roll() {
    let binary = started(2, &python("uvicorn_server.py"));
    assert!(Raw::connect(binary.address).get("/health").text().starts_with("ok "));
    for transports in [json!(["polling"]), json!(["polling", "websocket"]), json!(["websocket"])] {
        let options = json!({"urls": [binary.url("")], "n": 8, "messages": 2, "keep": true, "timeout": 120_000,
            "transports": transports});
        let mut load = Load::start(options);
        load.event("all-echoed").await;
        let said = tokio::task::block_in_place(|| command(&binary, &["workers", "restart"]));
        assert!(said.status.success(), "{}", text(&said));
        load.echo(2).await;
        let result = load.stop().await;
        assert!(result["reconnects"].as_u64().unwrap() <= 8, "at most once per client: {result}");
        assert_eq!((&result["refusals"]["total"], &result["connect_errors"]), (&json!(0), &json!({})), "{result}");
    }
}
