//! Messages for users whose clients are away: with real clients of all kinds, a real Redis, and real stickyds.

mod bounds;
mod certificates;
mod delivery;
mod emits;
mod evicted;
mod faults;
mod operators;
mod slow;

use std::path::Path;

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::cluster::{SECRET, upstream};
use crate::support::node::Worker;
use crate::support::process::{PATIENCE, Process};
use crate::support::proxy::Binary;
use crate::support::raw::Raw;
use crate::support::redis::Redis;
use crate::support::tokens::{self, token};
use crate::support::wait::{wait_for, wait_for_async};

/// Configuration of a stickyd with a queue; `queue` are more keys of `offline_queue`.
fn config(workers: &[Worker], name: &str, redis: &str, queue: &str) -> String {
    format!(
        "state_dir = \".\"\n{SECRET}{}labels = {{ user = \"jwt:sub\" }}\n\
         offline_queue = {{ label = \"user\"{queue} }}\n\
         [fleet]\nredis = {redis:?}\nname = \"{name}\"\nlookup_timeout = \"1s\"\n\
         [[route]]\nupstream = \"app\"\n[route.jwt]\nsecret = \"{}\"\nfrom = [\"auth:token\", \"query:token\"]\n",
        upstream(workers),
        tokens::SECRET,
    )
}

/// A stickyd with a queue in this Redis, once it can be used.
fn start(workers: &[Worker], redis: &Redis, queue: &str) -> Binary {
    let binary = Binary::with(&config(workers, "edge-1", &redis.url(), queue));
    is_ready(&binary);
    binary
}

/// As `config`, with a label that the application sets, and messages of the backend as frames.
fn of_backend(workers: &[Worker], name: &str, redis: &str) -> String {
    format!(
        "state_dir = \".\"\n{SECRET}{}labels = {{ user = \"backend\" }}\nemit = {{ via = \"frames\" }}\n\
         offline_queue = {{ label = \"user\" }}\n[fleet]\nredis = {redis:?}\nname = \"{name}\"\n\
         lookup_timeout = \"1s\"\n",
        upstream(workers),
    )
}

/// Sends a message of the backend; the answer.
fn emit(binary: &Binary, body: &Value) -> Value {
    let (status, answer) = ask(binary, "POST", "/api/v1/emit", body);
    assert_eq!(status, 200, "{answer}");
    answer
}

/// Sets the user of a Socket.IO session, as the application does.
fn label(binary: &Binary, connected: &Value, user: Option<&str>) {
    let path = format!("/api/v1/sockets/by-sid/{}", connected["sid"].as_str().unwrap());
    let (status, answer) = ask(binary, "PUT", &path, &json!({"labels": {"user": user}}));
    assert_eq!(status, 200, "{answer}");
}

/// Waits until the queue can be used.
fn is_ready(binary: &Binary) {
    wait_for("the queue can be used", || {
        let (status, answer) = ask(binary, "GET", "/api/v1/queue", &json!({}));
        if status == 200 { Ok(()) } else { Err(answer) }
    });
}

/// Asks the API; the status and the answer.
fn ask(binary: &Binary, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let body = if method == "GET" { String::new() } else { body.to_string() };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nX-Stickyd: 1\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = Raw::connect_unix(&binary.admin()).ask(&request);
    let said = serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("{}", answer.text()));
    is_as_described(method, path, answer.status(), &said);
    (answer.status(), said)
}

/// Checks an answer against the OpenAPI document.
fn is_as_described(method: &str, path: &str, status: u16, said: &Value) {
    let document: Value = serde_json::from_str(include_str!("../conf/openapi.json")).unwrap();
    let path = path.split('?').next().unwrap();
    let path = if path.starts_with("/api/v1/sockets/by-sid/") { "/api/v1/sockets/by-sid/{sid}" } else { path };
    let described = &document["paths"][path][method.to_lowercase()]["responses"][status.to_string()];
    let mut schema = described["content"]["application/json"]["schema"].clone();
    assert!(schema.is_object(), "{method} {path}: {status} is not described: {said}");
    schema["components"] = document["components"].clone();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<_> = validator.iter_errors(said).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:#?}\n{said:#}");
}

/// Queues an event `order` with one number for a user; the answer.
fn order(binary: &Binary, user: &str, number: usize) -> Value {
    send(binary, user, &json!({"event": "order", "args": [number]}))
}

/// Queues a message for a user; the answer.
fn send(binary: &Binary, user: &str, more: &Value) -> Value {
    let (status, answer) = try_send(binary, user, more);
    assert_eq!(status, 200, "{answer}");
    answer
}

fn try_send(binary: &Binary, user: &str, more: &Value) -> (u16, Value) {
    let mut body = json!({"upstream": "app", "label": {"user": user}});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    ask(binary, "POST", "/api/v1/queue", &body)
}

/// The numbers of messages and users of the queue.
fn counts(binary: &Binary) -> (u64, u64) {
    let (_, answer) = ask(binary, "GET", "/api/v1/queue", &json!({}));
    let app = &answer["upstreams"][0];
    (app["messages"].as_u64().unwrap(), app["users"].as_u64().unwrap())
}

/// Waits until no message is left.
async fn is_empty(binary: &Binary) {
    wait_for_async("every message is confirmed and removed", async || {
        let left = tokio::task::block_in_place(|| counts(binary));
        if left == (0, 0) { Ok(()) } else { Err(left) }
    })
    .await;
}

/// The value of one series.
fn metric(binary: &Binary, series: &str) -> f64 {
    let text = Raw::connect_unix(&binary.admin()).get("/metrics");
    let value = text.text().lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or(0.0)
}

fn counted(binary: &Binary, result: &str) -> f64 {
    metric(binary, &format!("stickyd_queue_messages_total{{result=\"{result}\"}}"))
}

/// A client that prints the messages it gets (`tests/clients/mail.js`).
struct Mail {
    process: Process,
    got: Vec<Value>,
    /// All that it has said, for the case of a failure.
    said: Vec<Value>,
    admin: std::path::PathBuf,
}

impl Mail {
    /// A client of this user.
    fn of(binary: &Binary, user: &str, more: Value) -> Self {
        let token = token(json!({"sub": user}));
        let is_ws = more["kind"] == "ws";
        let url = match is_ws {
            true => format!("ws://{}/ws?token={token}", binary.address),
            false => binary.url(""),
        };
        let mut options = json!({"url": url});
        // Version 2 has no payload in CONNECT.
        options[if more["version"] == 2 { "query" } else { "auth" }] = json!({"token": token});
        options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let process = Process::start("node", ["mail.js", &options.to_string()]);
        Self { process, got: Vec::new(), said: Vec::new(), admin: binary.admin() }
    }

    /// Waits for the next event of this name; messages are kept.
    async fn event(&mut self, name: &str) -> Value {
        let found = timeout(PATIENCE, async {
            while let Some(line) = self.process.line().await {
                if line["event"] == "message" {
                    self.got.push(line.clone());
                }
                self.said.push(line.clone());
                if line["event"] == name {
                    return line;
                }
            }
            panic!("the client ended without {name}: {:?}", self.said)
        });
        found.await.unwrap_or_else(|_| {
            let seen = |path: &str| Raw::connect_unix(&self.admin).get(path).text().to_owned();
            let numbers = seen("/metrics");
            let numbers: Vec<_> = numbers.lines().filter(|line| line.starts_with("stickyd_queue")).collect();
            panic!("no {name}: {:?}\n{}\n{numbers:#?}", self.said, seen("/api/v1/sockets"))
        })
    }

    /// Waits until `count` messages have come.
    async fn has(&mut self, count: usize) {
        while self.got.len() < count {
            self.event("message").await;
        }
    }

    /// The first arguments of all events, or the texts.
    fn numbers(&self) -> Vec<u64> {
        let number = |one: &Value| one["args"][0].as_u64().or_else(|| one["text"].as_str()?.parse().ok());
        self.got.iter().filter_map(number).collect()
    }

    /// The ids of all events.
    fn ids(&self) -> Vec<&str> {
        self.got.iter().filter_map(|one| one["args"].as_array()?.last()?.as_str()).collect()
    }
}

/// Runs the command line; its exit code and its output.
fn command(directory: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_stickyd"));
    let said = command.args(arguments).args(["--config", "stickyd.toml"]).current_dir(directory).output().unwrap();
    (said.status.code(), String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned())
}
