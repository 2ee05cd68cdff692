//! Broadcasts: which sockets get them, exactly once and whole, and which do not and why.

mod emit;
mod insert;
mod real_clients;
mod routes;
mod together;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::support::proxy::Proxy;
use crate::support::raw::Raw;

/// The socket of an admin listener.
pub(crate) struct Said(PathBuf);

impl Said {
    /// A new socket path, and the `[admin]` table that makes stickyd listen there.
    fn new() -> (Self, String) {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("stickyd-broadcast-{}-{number}.sock", std::process::id()));
        let table = format!("\n[admin]\naddress = \"unix:{}\"\n", path.display());
        (Self(path), table)
    }

    /// Sends this broadcast; the status and the answer.
    fn broadcast(&self, body: &Value) -> (u16, Value) {
        let body = body.to_string();
        let length = body.len();
        let request = format!(
            "POST /api/v1/broadcast HTTP/1.1\r\nHost: localhost\r\nX-Stickyd: 1\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let answer = Raw::connect_unix(&self.0).ask(&request);
        let said = serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("{}", answer.text()));
        is_as_described(answer.status(), &said);
        (answer.status(), said)
    }

    /// Sends a broadcast on another thread, because the test's runtime has to read meanwhile.
    async fn broadcasting(&self, body: Value) -> (u16, Value) {
        let said = Self(self.0.clone());
        tokio::task::spawn_blocking(move || said.broadcast(&body)).await.unwrap()
    }
}

/// Checks an answer against the OpenAPI document.
fn is_as_described(status: u16, said: &Value) {
    let document: Value = serde_json::from_str(include_str!("../conf/openapi.json")).unwrap();
    let described = &document["paths"]["/api/v1/broadcast"]["post"]["responses"][status.to_string()];
    let mut schema = described["content"]["application/json"]["schema"].clone();
    assert!(schema.is_object(), "{status} is not described: {said}");
    schema["components"] = document["components"].clone();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<_> = validator.iter_errors(said).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:#?}\n{said:#}");
}

/// A proxy of these workers that allows broadcasts, and its admin listener.
fn allowing(workers: &[String]) -> (Proxy, Said) {
    let (said, admin) = Said::new();
    (Proxy::with(&format!("[upstream.app]\nworkers = {workers:?}\nbroadcast = true{admin}")), said)
}

/// The counts of an answer that are not 0.
fn fates(said: &Value) -> Value {
    let mut fates: serde_json::Map<_, _> = said["not_reached"]
        .as_object()
        .unwrap_or_else(|| panic!("{said}"))
        .clone()
        .into_iter()
        .filter(|(_, n)| *n != 0)
        .collect();
    fates.insert("reached".to_owned(), said["reached"].clone());
    Value::Object(fates)
}

#[test]
fn wrong_broadcasts_are_refused_and_nothing_is_sent() {
    let (proxy, said) = allowing(&["127.0.0.1:1".to_owned()]);
    let long = "x".repeat(65 * 1024);
    for (body, status, words) in [
        (json!("no object"), 422, "and text, event, args, namespace"),
        (json!({"all": true}), 422, "nothing to send"),
        (json!({"text": "hi"}), 422, "no recipients given"),
        (json!({"text": "hi", "all": true, "upstream": "app"}), 422, "cannot be combined"),
        (json!({"text": 7, "all": true}), 422, "`text` must be a string"),
        (json!({"text": "hi", "al": "l"}), 422, "unknown field `al`"),
        (json!({"text": "hi", "args": [1], "all": true}), 422, "need an `event`"),
        (json!({"event": "e", "args": 1, "all": true}), 422, "`args` must be a list"),
        (json!({"event": "", "all": true}), 422, "not empty"),
        (json!({"event": "disconnect", "all": true}), 422, "none of connect"),
        (json!({"event": "e", "namespace": "chat", "all": true}), 422, "must begin with /"),
        (json!({"event": "e", "namespace": "/a,b", "all": true}), 422, "not contain a comma"),
        (json!({"text": long, "all": true}), 413, "the limit is 65536"),
        (json!({"event": "e", "args": [long], "all": true}), 413, "the limit is 65536"),
        (json!({"text": "hi", "upstream": "none"}), 404, "no upstream `none`"),
        (json!({"text": "hi", "all": true}), 404, "no live socket matches"),
        (json!({"text": "hi", "state": "open"}), 404, "no live socket matches"),
    ] {
        let (got, answer) = said.broadcast(&body);
        assert_eq!(got, status, "{answer}");
        assert!(answer["error"].as_str().unwrap().contains(words), "{answer}");
    }
    assert_eq!(proxy.metric("stickyd_broadcast_sockets_total{result=\"reached\"}"), 0.0);
}
