//! A running binary over its admin socket, and its configuration file.

use serde_json::Value;

use super::proxy::Binary;
use super::raw::Raw;

/// Writes the configuration file again, with the listener that the binary already has.
pub(crate) fn write(binary: &Binary, text: &str) {
    let listener = format!("[[listener]]\naddress = \"{}\"\n", binary.address);
    let (keys, tables) = text.split_at(text.find('[').unwrap());
    std::fs::write(binary.directory.join("stickyd.toml"), format!("threads = 2\n{keys}{listener}{tables}")).unwrap();
}

/// Writes the configuration file again and reloads it, which has to succeed.
pub(crate) fn reload(binary: &Binary, text: &str) {
    write(binary, text);
    let answer = post_reload(binary);
    assert_eq!(answer.0, 200, "{answer:?}");
}

/// A reload over the API: its status and the answer.
pub(crate) fn post_reload(binary: &Binary) -> (u16, Value) {
    post(binary, "/api/v1/reload", "")
}

/// A POST to the admin listener: its status, and the answer if that is JSON.
pub(crate) fn post(binary: &Binary, path: &str, body: &str) -> (u16, Value) {
    let length = body.len();
    let request =
        format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nX-Stickyd: 1\r\nContent-Length: {length}\r\n\r\n{body}");
    let answer = Raw::connect_unix(&binary.admin()).ask(&request);
    (answer.status(), serde_json::from_slice(&answer.body).unwrap_or_default())
}

/// The value of one series in `/metrics`; 0 if it is not there.
pub(crate) fn metric(binary: &Binary, series: &str) -> f64 {
    let answer = Raw::connect_unix(&binary.admin()).get("/metrics");
    let line = answer.text().lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

/// The entry of one worker in the API's list; null if it is not there.
pub(crate) fn worker(binary: &Binary, name: &str) -> Value {
    let answer = Raw::connect_unix(&binary.admin()).get("/api/v1/workers");
    let all: Value = serde_json::from_slice(&answer.body).unwrap();
    all["workers"].as_array().unwrap().iter().find(|w| w["worker"] == name).cloned().unwrap_or_default()
}

/// The addresses of all workers.
pub(crate) fn workers(binary: &Binary) -> Vec<String> {
    let answer = Raw::connect_unix(&binary.admin()).get("/api/v1/workers");
    let all: Value = serde_json::from_slice(&answer.body).unwrap();
    all["workers"].as_array().unwrap().iter().map(|w| w["address"].as_str().unwrap().to_owned()).collect()
}

/// The address and the health of each worker.
pub(crate) fn healths(binary: &Binary) -> Vec<(String, String)> {
    told(binary, "health")
}

/// The address and the admin state of each worker.
pub(crate) fn states(binary: &Binary) -> Vec<(String, String)> {
    told(binary, "admin")
}

/// The address of each worker, and what the API says of it under a key.
fn told(binary: &Binary, key: &str) -> Vec<(String, String)> {
    let answer = Raw::connect_unix(&binary.admin()).get("/api/v1/workers");
    let all: Value = serde_json::from_slice(&answer.body).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    all["workers"].as_array().unwrap().iter().map(|w| (text(&w["address"]), text(&w[key]))).collect()
}
