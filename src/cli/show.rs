//! Commands that only read: status, workers, stats, pin, explain.

#![allow(clippy::indexing_slicing, reason = "a field that a JSON value lacks is null: nothing panics")]

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::remote::{RemoteArgs, encoded};
use super::table::{bytes, cell, list, span, table};

/// Arguments of `stickyd status`.
#[derive(Debug, Args)]
pub struct Status {
    /// Connection to stickyd, and output format.
    #[command(flatten)]
    pub asking: RemoteArgs,
}

impl Status {
    /// Runs the command and returns the exit code.
    pub fn run(&self) -> u8 {
        self.asking.show("/api/v1/status", status)
    }
}

fn status(said: &Value) -> String {
    let (config, process) = (&said["config"], &said["process"]);
    let held = |of: &Value| format!("{} of {}", cell(&of["held"]), cell(&of["limit"]));
    let texts = |of: &Value| of.as_array().into_iter().flatten().map(cell).collect::<Vec<_>>().join(", ");
    let stopping = if said["stopping"] == true { ", stopping" } else { "" };
    let replay = &said["replay_bytes"];
    let mut rows = vec![
        (
            "version",
            format!("{}, pid {}, up {}{stopping}", cell(&said["version"]), cell(&said["pid"]), span(&said["uptime_s"])),
        ),
        ("listeners", texts(&said["listeners"])),
        (
            "configuration",
            format!(
                "{}, loaded {} (number {})",
                cell(&config["file"]),
                cell(&config["loaded_at"]),
                cell(&config["generation"])
            ),
        ),
        ("clients", cell(&said["client_connections"])),
        ("pins", held(&said["pins"])),
        ("sockets", held(&said["sockets"])),
        ("descriptors", held(&said["descriptors"])),
        ("replay", format!("{} of {}", bytes(&replay["held"]), bytes(&replay["limit"]))),
        ("memory, CPU", format!("{}, {} s", bytes(&process["memory_bytes"]), cell(&process["cpu_s"]))),
    ];
    if !texts(&config["needs_restart"]).is_empty() {
        rows.push(("needs a restart", texts(&config["needs_restart"])));
    }
    if !config["error"].is_null() {
        rows.push(("NOT LOADED", format!("the file is not in use: {}", cell(&config["error"]))));
    }
    if said["log_lines_dropped"].as_u64().is_some_and(|lines| lines > 0) {
        rows.push(("log lines dropped", cell(&said["log_lines_dropped"])));
    }
    list(&rows)
}

/// Arguments of `stickyd workers`.
#[derive(Debug, Args)]
pub struct Workers {
    /// Only workers of this upstream
    #[arg(value_name = "UPSTREAM")]
    pub upstream: Option<String>,
    /// Connection to stickyd, and output format.
    #[command(flatten)]
    pub asking: RemoteArgs,
}

impl Workers {
    /// Runs the command and returns the exit code.
    pub fn run(&self) -> u8 {
        self.asking.show("/api/v1/workers", |said| workers(said, self.upstream.as_deref()))
    }
}

pub(crate) fn workers(said: &Value, only: Option<&str>) -> String {
    const HEAD: [&str; 10] =
        ["UPSTREAM", "WORKER", "STATE", "SESSIONS", "TUNNELS", "IN FLIGHT", "RESTARTS", "PID", "CPU", "MEMORY"];
    let wanted = |one: &&Value| only.is_none_or(|only| one["upstream"] == only);
    let all: Vec<&Value> = said["workers"].as_array().into_iter().flatten().filter(wanted).collect();
    let row = |one: &&Value| {
        let process = &one["process"];
        let cpu = process["cpu_percent"].as_f64().map_or_else(|| "-".to_owned(), |percent| format!("{percent}%"));
        let plain = ["upstream", "worker"].map(|key| cell(&one[key])).into_iter().chain([state(one)]);
        let counts = ["sessions", "tunnels", "in_flight", "restarts"].map(|key| cell(&one[key]));
        plain.chain(counts).chain([cell(&process["pid"]), cpu, bytes(&process["memory_bytes"])]).collect::<Vec<_>>()
    };
    let mut text = table(&HEAD, &all.iter().map(row).collect::<Vec<_>>());
    let mut notes = all.iter().flat_map(|one| reasons(one)).collect::<Vec<_>>();
    let names = said["names"].as_array().into_iter().flatten().filter(wanted);
    notes.extend(names.filter(|name| name["state"] != "resolved").map(|name| {
        format!(
            "{}: the DNS name {} is {}: {}",
            cell(&name["upstream"]),
            cell(&name["name"]),
            cell(&name["state"]),
            cell(&name["error"])
        )
    }));
    if !notes.is_empty() {
        text.push_str(&format!("\n{}\n", notes.join("\n")));
    }
    text
}

fn state(worker: &Value) -> String {
    let ejected = if worker["ejected"] == true { ", ejected" } else { "" };
    format!("{}, {}{ejected}", cell(&worker["health"]), cell(&worker["admin"]))
}

/// Returns the reasons why a worker is not up, not ready or ejected.
fn reasons(worker: &Value) -> Vec<String> {
    let (why, at) = (&worker["why"], format!("{}/{}", cell(&worker["upstream"]), cell(&worker["worker"])));
    let mut all = Vec::new();
    if worker["health"] != "up" || worker["check"]["failed_in_a_row"].as_u64().is_some_and(|row| row > 0) {
        all.push(format!("{at} is {}: {}", cell(&worker["health"]), cell(&why["health"])));
    }
    if worker["admin"] != "ready" {
        all.push(format!("{at} is in {}: {}", cell(&worker["admin"]), cell(&why["admin"])));
    }
    if worker["ejected"] == true {
        all.push(format!("{at} is ejected: {}", cell(&why["ejection"])));
    }
    all
}

/// Arguments of `stickyd stats`.
#[derive(Debug, Args)]
pub struct Stats {
    /// Connection to stickyd, and output format.
    #[command(flatten)]
    pub asking: RemoteArgs,
}

impl Stats {
    /// Runs the command and returns the exit code.
    pub fn run(&self) -> u8 {
        self.asking.show("/api/v1/stats", stats)
    }
}

fn stats(said: &Value) -> String {
    const HEAD: [&str; 8] = ["UPSTREAM", "WORKER", "REQUESTS", "PER SECOND", "FAILURES", "SESSIONS", "TUNNELS", "AGE"];
    let workers = said["workers"].as_array().into_iter().flatten();
    let row = |one: &Value| {
        let keys = ["upstream", "worker", "requests", "requests_per_s", "failures"].map(|key| cell(&one[key]));
        let live = &one["live"];
        let live = [cell(&live["sessions"]), cell(&live["tunnels"]), span(&live["average_age_s"])];
        keys.into_iter().chain(live).collect::<Vec<_>>()
    };
    let mut text = table(&HEAD, &workers.map(row).collect::<Vec<_>>());
    let counts = said["totals"].as_object().into_iter().flatten().map(|(name, count)| {
        let amount = if name.starts_with("bytes") { bytes(count) } else { cell(count) };
        vec![name.clone(), amount, cell(&said["rates"][format!("{name}_per_s")])]
    });
    text.push('\n');
    text.push_str(&table(&["ALL WORKERS", "TOTAL", "PER SECOND"], &counts.collect::<Vec<_>>()));
    text.push_str(&format!("\nrates are averages over the last {} s\n", cell(&said["rates_over_s"])));
    text
}

/// Arguments of `stickyd pin`.
#[derive(Debug, Args)]
pub struct PinCommand {
    /// Id of the session, as in the query of its requests
    #[arg(value_name = "SID")]
    pub sid: String,
    /// Upstream of the session; may be left out if there is only one
    #[arg(short, long, value_name = "NAME")]
    pub upstream: Option<String>,
    /// Affinity rule that the id belongs to [default: socket.io, or else the first rule]
    #[arg(short, long, value_name = "NAME")]
    pub rule: Option<String>,
    /// Connection to stickyd, and output format.
    #[command(flatten)]
    pub asking: RemoteArgs,
}

impl PinCommand {
    /// Runs the command and returns the exit code.
    pub fn run(&self) -> u8 {
        let given = [("sid", Some(&self.sid)), ("upstream", self.upstream.as_ref()), ("rule", self.rule.as_ref())];
        let path = query("/api/v1/pins", &given);
        self.asking.show(&path, |said| {
            let ends = &said["drain_ends_in_s"];
            let mut rows = vec![
                (
                    "worker",
                    if said["ended"] == true {
                        "none: an operator ended the session".to_owned()
                    } else {
                        cell(&said["worker"])
                    },
                ),
                ("pinned for", span(&said["age_s"])),
                (
                    "held by",
                    format!(
                        "{} polls and tunnels{}",
                        cell(&said["holds"]),
                        if said["tunnel"] == true { ", including a tunnel" } else { "" }
                    ),
                ),
                ("idle for", span(&said["idle_s"])),
                ("expires in", span(&said["expires_in_s"])),
            ];
            if !ends.is_null() {
                rows.push(("ended by drain in", span(ends)));
            }
            list(&rows)
        })
    }
}

/// Kinds of requests without a sid.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ExplainKind {
    /// A new Socket.IO session
    Session,
    /// An ordinary HTTP request
    Request,
}

/// Arguments of `stickyd explain`.
#[derive(Debug, Args)]
pub struct Explain {
    /// Upstream of the request; may be left out if there is only one
    #[arg(short, long, value_name = "NAME")]
    pub upstream: Option<String>,
    /// Id of the session that the request belongs to
    #[arg(short, long)]
    pub sid: Option<String>,
    /// Affinity rule that the id belongs to [default: socket.io, or else the first rule]
    #[arg(short, long, value_name = "NAME")]
    pub rule: Option<String>,
    /// Affinity cookie of stickyd in the request, as its value or as name=value
    #[arg(long, value_name = "COOKIE")]
    pub cookie: Option<String>,
    /// Address of the client
    #[arg(long, value_name = "IP")]
    pub address: Option<String>,
    /// Kind of request, if it has no sid [default: session]
    #[arg(short, long)]
    pub kind: Option<ExplainKind>,
    /// Connection to stickyd, and output format.
    #[command(flatten)]
    pub asking: RemoteArgs,
}

impl Explain {
    /// Runs the command and returns the exit code.
    pub fn run(&self) -> u8 {
        let kind = self.kind.map(|kind| match kind {
            ExplainKind::Session => "session".to_owned(),
            ExplainKind::Request => "request".to_owned(),
        });
        let given = [
            ("upstream", self.upstream.as_ref()),
            ("sid", self.sid.as_ref()),
            ("rule", self.rule.as_ref()),
            ("cookie", self.cookie.as_ref()),
            ("address", self.address.as_ref()),
            ("kind", kind.as_ref()),
        ];
        self.asking.show(&query("/api/v1/explain", &given), explain)
    }
}

fn explain(said: &Value) -> String {
    let worker = |answer: &Value| match answer["state"].is_null() {
        true => "none".to_owned(),
        false => format!("{} ({})", cell(&answer["worker"]), state(&answer["state"])),
    };
    let (now, then) = (&said["now"], &said["if_it_died"]);
    let mut rows = vec![("upstream", cell(&said["upstream"])), ("worker", worker(now)), ("why", cell(&now["words"]))];
    if !said["rule"].is_null() && said["rule"] != "socket.io" {
        rows.push(("rule", cell(&said["rule"])));
    }
    if said["cookie"] == "not ours" {
        rows.push(("cookie", "foreign or forged: treated as absent".to_owned()));
    }
    if !then.is_null() {
        let title = if now["worker"].is_null() { "its next session" } else { "if it died" };
        rows.extend([(title, worker(then)), ("why", cell(&then["words"]))]);
    }
    list(&rows)
}

/// Returns a path with those parameters that are given.
fn query(path: &str, parameters: &[(&str, Option<&String>)]) -> String {
    let given = parameters.iter().filter_map(|(name, value)| Some(format!("{name}={}", encoded(value.as_ref()?))));
    let given = given.collect::<Vec<_>>().join("&");
    if given.is_empty() { path.to_owned() } else { format!("{path}?{given}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn workers_are_a_table_with_reasons_below() {
        let worker = |name: &str, health: &str, why: &str| {
            json!({"upstream": "app", "worker": name, "health": health, "admin": "ready", "ejected": false, "sessions": 12,
                "tunnels": 3, "in_flight": 0, "restarts": 1, "why": {"health": why},
                "process": {"pid": 4242, "cpu_percent": 1.5, "memory_bytes": 80_000_000}})
        };
        let said = json!({"workers": [worker("w1", "up", "-"), worker("w2", "starting", "3 checks in a row did not pass")],
            "names": [{"upstream": "app", "name": "x.test", "state": "unresolved", "error": "no such name"}]});
        insta::assert_snapshot!(workers(&said, None), @r"
        UPSTREAM  WORKER  STATE            SESSIONS  TUNNELS  IN FLIGHT  RESTARTS   PID   CPU  MEMORY
        app       w1      up, ready              12        3          0         1  4242  1.5%   80 MB
        app       w2      starting, ready        12        3          0         1  4242  1.5%   80 MB

        app/w2 is starting: 3 checks in a row did not pass
        app: the DNS name x.test is unresolved: no such name
        ");
        assert_eq!(workers(&said, Some("other")).lines().count(), 1);
    }

    #[test]
    fn parameters_are_encoded() {
        let (sid, none) = ("a b&c".to_owned(), None);
        assert_eq!(query("/p", &[("sid", Some(&sid)), ("upstream", none)]), "/p?sid=a%20b%26c");
        assert_eq!(query("/p", &[]), "/p");
    }
}
