//! Which worker gets a request: the affinity cookie, rules, presets and `follow`, against workers made by hand.

mod bodies;
mod cookies;
mod cookies_socket_io;
mod custom_rules;
mod follow;
mod follow_in_fleet;
mod presets;
mod streams;

use std::sync::{Arc, Mutex};

use crate::support::proxy::Proxy;
use crate::support::raw::{Leg, Message, Raw, RawWorker};

/// The session ids that a worker knows, because it made or accepted them.
pub(crate) type Known = Arc<Mutex<Vec<String>>>;

/// An answer with this status, these fields and this body.
fn answer(status: &str, fields: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// Workers of one application that know their own sessions; their names are w1, w2, …
struct Pool {
    workers: Vec<RawWorker>,
}

impl Pool {
    fn of(count: usize, answer: impl Fn(usize, &Known, &Message) -> String + Send + Sync + Clone + 'static) -> Self {
        Self::scripted(count, move |number, known, leg| {
            while let Some(request) = leg.request() {
                if !leg.send(answer(number, known, &request)) {
                    return;
                }
            }
        })
    }

    fn scripted(count: usize, script: impl Fn(usize, &Known, &mut Leg) + Send + Sync + Clone + 'static) -> Self {
        let worker = |number: usize| {
            let (script, known) = (script.clone(), Known::default());
            RawWorker::scripted(move |leg| script(number, &known, leg))
        };
        Self { workers: (1..=count).map(worker).collect() }
    }

    /// `[upstream.app]` with these workers and a debug header that shows decisions.
    fn upstream(&self, affinity: &str) -> String {
        let workers = self.workers.iter().enumerate();
        let workers =
            workers.map(|(i, worker)| format!("{{ address = \"{}\", name = \"w{}\" }}", worker.address, i + 1));
        let workers = workers.collect::<Vec<_>>().join(", ");
        format!("[upstream.app]\ndebug_header = true\nworkers = [{workers}]\naffinity = {affinity}\n")
    }

    /// Two stickyds of one fleet that share only the configuration.
    fn behind_two(&self, config: &str) -> [Proxy; 2] {
        let text = format!("secret = \"0123456789abcdef0123456789abcdef\"\n{config}");
        [Proxy::with(&text), Proxy::with(&text)]
    }
}

/// One request on a connection of its own.
fn ask(proxy: &Proxy, method: &str, target: &str, fields: &str, body: &str) -> Message {
    let length =
        if body.is_empty() && method != "POST" { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let request = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n{fields}{length}Connection: close\r\n\r\n{body}");
    Raw::connect(proxy.address).ask(&request)
}

/// The debug header `worker=w1; why=sid; rule=jobs` as (w1, sid, jobs).
fn decision(answer: &Message) -> (String, String, String) {
    let told = answer.header("x-stickyd-decision").unwrap_or_default().to_owned();
    let part = |name: &str| {
        let value = told.split("; ").find_map(|part| part.strip_prefix(name));
        value.unwrap_or_default().to_owned()
    };
    (part("worker="), part("why="), part("rule="))
}
