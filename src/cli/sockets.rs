//! `stickyd sockets`: a table of live sockets, or all details of one.

#![allow(clippy::indexing_slicing, reason = "a field that a JSON value lacks is null: nothing panics")]

use clap::Args;
use serde_json::Value;

use super::remote::{RemoteArgs, encoded};
use super::table::{bytes, cell, list, span, table};

/// Filters that select sockets; a socket must match all that are given.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Filters and options")]
pub struct Filters {
    /// Only sockets of this upstream
    #[arg(short, long, value_name = "NAME")]
    pub upstream: Option<String>,
    /// Only sockets at this worker, given by name or address
    #[arg(short, long, value_name = "NAME")]
    pub worker: Option<String>,
    /// Only sockets with this label; may be given several times
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = label)]
    pub label: Vec<(String, String)>,
    /// Only sockets from this address or network, such as 203.0.113.7 or 10.0.0.0/8
    #[arg(long, value_name = "NETWORK")]
    pub address: Option<String>,
    /// Only sockets in this state: open, quiet, suspect, draining or closing
    #[arg(long, value_name = "STATE")]
    pub state: Option<String>,
    /// Only sockets with this transport: polling, websocket or websocket-h2
    #[arg(long, value_name = "TRANSPORT")]
    pub transport: Option<String>,
    /// Only sockets with this protocol: engine.io or plain
    #[arg(long, value_name = "PROTOCOL")]
    pub protocol: Option<String>,
    /// Only the socket of the session with this id
    #[arg(long)]
    pub sid: Option<String>,
    /// Only sockets of this route, given by its host and path
    #[arg(long, value_name = "ROUTE")]
    pub route: Option<String>,
    /// Only sockets at least this old, such as 90s or 2h
    #[arg(long, value_name = "TIME")]
    pub min_age: Option<String>,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE, such as store=7")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Filters {
    /// Returns the filters that were given, by their names in the API.
    pub(crate) fn given(&self) -> Vec<(String, String)> {
        let texts = [
            ("upstream", &self.upstream),
            ("worker", &self.worker),
            ("address", &self.address),
            ("state", &self.state),
            ("transport", &self.transport),
            ("protocol", &self.protocol),
            ("sid", &self.sid),
            ("route", &self.route),
            ("min_age", &self.min_age),
        ];
        let texts = texts.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?)));
        texts.chain(self.label.iter().map(|(name, value)| (format!("label.{name}"), value.clone()))).collect()
    }
}

/// Arguments of `stickyd sockets`.
#[derive(Debug, Args)]
pub struct SocketsCommand {
    /// Id of one socket to show in detail
    #[arg(value_name = "ID")]
    pub id: Option<String>,
    /// Filters that select the sockets.
    #[command(flatten)]
    pub filters: Filters,
    /// Sort order: connected, idle, worker, id, messages, bytes, messages_up, …; a leading - reverses it
    #[arg(long, value_name = "ORDER", default_value = "connected", allow_hyphen_values = true)]
    pub sort: String,
    /// Maximum number of sockets to show
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    pub limit: u32,
    /// Number of sockets to skip
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub offset: u64,
    /// Connection to stickyd, and output format.
    #[command(flatten)]
    pub asking: RemoteArgs,
}

impl SocketsCommand {
    /// Runs the command and returns the exit code.
    pub fn run(&self) -> u8 {
        match &self.id {
            Some(id) => self.asking.show(&format!("/api/v1/sockets/{}", encoded(id)), one),
            None => self.asking.show(&self.path(), sockets),
        }
    }

    fn path(&self) -> String {
        let paging =
            [("sort", self.sort.clone()), ("limit", self.limit.to_string()), ("offset", self.offset.to_string())];
        let paging = paging.map(|(name, value)| (name.to_owned(), value));
        path(self.filters.given().into_iter().chain(paging))
    }
}

/// Returns the path of the list with these parameters.
pub(crate) fn path(parameters: impl Iterator<Item = (String, String)>) -> String {
    let given: Vec<_> = parameters.map(|(name, value)| format!("{}={}", encoded(&name), encoded(&value))).collect();
    format!("/api/v1/sockets?{}", given.join("&"))
}

fn sockets(said: &Value) -> String {
    let all: Vec<&Value> = said["sockets"].as_array().into_iter().flatten().collect();
    let mut text = rows(&all);
    let (shown, total) = (all.len() as u64, said["total"].as_u64().unwrap_or(0));
    text.push_str(&match shown == total {
        true => format!("\n{total} of {} live sockets\n", cell(&said["live"])),
        false => format!("\n{shown} of {total} matching sockets (--limit, --offset), {} live\n", cell(&said["live"])),
    });
    text
}

/// Formats sockets as a table, one row per socket.
pub(crate) fn rows(all: &[&Value]) -> String {
    const HEAD: [&str; 12] = [
        "ID",
        "UPSTREAM",
        "WORKER",
        "TRANSPORT",
        "STATE",
        "ADDRESS",
        "AGE",
        "IDLE",
        "UP",
        "DOWN",
        "BYTES UP",
        "BYTES DOWN",
    ];
    let labelled = all.iter().any(|one| one["labels"].as_object().is_some_and(|labels| !labels.is_empty()));
    let row = |one: &&Value| {
        let (up, down) = (&one["up"], &one["down"]);
        let plain = ["id", "upstream", "worker", "transport", "state", "address"].map(|key| cell(&one[key]));
        let idle = [up, down].into_iter().filter_map(|way| way["idle_s"].as_u64()).min();
        let times = [span(&one["age_s"]), span(&idle.into())];
        let counts = [cell(&up["messages"]), cell(&down["messages"]), bytes(&up["bytes"]), bytes(&down["bytes"])];
        plain.into_iter().chain(times).chain(counts).chain(labelled.then(|| labels(one))).collect::<Vec<_>>()
    };
    let head: Vec<_> = HEAD.into_iter().chain(labelled.then_some("LABELS")).collect();
    table(&head, &all.iter().map(row).collect::<Vec<_>>())
}

fn labels(one: &Value) -> String {
    let all = one["labels"].as_object().into_iter().flatten();
    all.map(|(name, value)| format!("{name}={}", cell(value))).collect::<Vec<_>>().join(" ")
}

fn one(said: &Value) -> String {
    let way = |way: &Value| {
        let last = way["idle_s"].as_u64().map_or(String::new(), |_| format!(", last {} ago", span(&way["idle_s"])));
        let code = way["close_code"].as_u64().map_or(String::new(), |code| format!(", close code {code}"));
        format!("{} messages, {}{last}{code}", cell(&way["messages"]), bytes(&way["bytes"]))
    };
    list(&[
        ("id", cell(&said["id"])),
        ("session", cell(&said["sid"])),
        (
            "worker",
            format!("{}/{}, generation {}", cell(&said["upstream"]), cell(&said["worker"]), cell(&said["generation"])),
        ),
        ("route", cell(&said["route"])),
        ("client", format!("{}, {}", cell(&said["address"]), cell(&said["user_agent"]))),
        ("labels", Some(labels(said)).filter(|labels| !labels.is_empty()).unwrap_or_else(|| "-".to_owned())),
        (
            "transport",
            format!("{}, TLS: {}, protocol {}", cell(&said["transport"]), cell(&said["tls"]), cell(&said["protocol"])),
        ),
        ("state", cell(&said["state"])),
        ("connected", format!("{} ({} ago)", cell(&said["connected_at"]), span(&said["age_s"]))),
        ("from client", way(&said["up"])),
        ("to client", way(&said["down"])),
        ("round-trips", trips(said)),
    ])
}

/// Formats the round-trip times measured on each leg.
fn trips(one: &Value) -> String {
    let leg = |name: &str| {
        let leg = &one["round_trip"][name];
        let ms = |key: &str| leg[key].as_f64().map(|ms| format!("{ms:.1} ms"));
        let (last, smoothed, longest) = (ms("last_ms")?, ms("smoothed_ms")?, ms("longest_ms")?);
        Some(format!("{name} {smoothed} (last {last}, longest {longest})"))
    };
    let legs: Vec<_> = ["client", "worker"].into_iter().filter_map(leg).collect();
    let quality = one["quality"].as_str().map(|quality| format!(": {quality}")).unwrap_or_default();
    if legs.is_empty() { "-".to_owned() } else { format!("{}{quality}", legs.join(", ")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn socket(id: &str, labels: &Value) -> Value {
        json!({"id": id, "sid": "abc", "upstream": "app", "worker": "w1", "generation": 1, "route": null, "address": "192.0.2.1",
            "user_agent": "Test/1", "labels": labels, "protocol": "engine.io", "transport": "websocket", "tls": true,
            "state": "open", "connected_at": "2026-11-20T11:00:00Z", "age_s": 65,
            "up": {"messages": 3, "bytes": 1500, "idle_s": 4, "close_code": null},
            "down": {"messages": 40, "bytes": 80_000_000, "idle_s": null, "close_code": 1001}, "quality": "good",
            "round_trip": {"client": {"last_ms": 90.1, "smoothed_ms": 100.25, "longest_ms": 400.0}, "worker": null}})
    }

    #[test]
    fn sockets_are_shown_as_a_table_or_in_detail() {
        let said =
            json!({"live": 9, "total": 2, "sockets": [socket("a1", &json!({"store": "7"})), socket("b", &json!({}))]});
        insta::assert_snapshot!(sockets(&said), @r"
        ID  UPSTREAM  WORKER  TRANSPORT  STATE  ADDRESS      AGE  IDLE  UP  DOWN  BYTES UP  BYTES DOWN  LABELS
        a1  app       w1      websocket  open   192.0.2.1  1m 5s    4s   3    40    1.5 kB       80 MB  store=7
        b   app       w1      websocket  open   192.0.2.1  1m 5s    4s   3    40    1.5 kB       80 MB

        2 of 9 live sockets
        ");
        insta::assert_snapshot!(one(&said["sockets"][0]), @r"
        id           a1
        session      abc
        worker       app/w1, generation 1
        route        -
        client       192.0.2.1, Test/1
        labels       store=7
        transport    websocket, TLS: yes, protocol engine.io
        state        open
        connected    2026-11-20T11:00:00Z (1m 5s ago)
        from client  3 messages, 1.5 kB, last 4s ago
        to client    40 messages, 80 MB, close code 1001
        round-trips  client 100.2 ms (last 90.1 ms, longest 400.0 ms): good
        ");
    }

    #[test]
    fn filters_become_parameters_of_the_api() {
        let filters = Filters {
            worker: Some("a/b".to_owned()),
            label: vec![label("store=a b=c").unwrap()],
            ..Filters::default()
        };
        assert_eq!(path(filters.given().into_iter()), "/api/v1/sockets?worker=a%2Fb&label.store=a%20b%3Dc");
        assert!(label("store").is_err());
    }
}
