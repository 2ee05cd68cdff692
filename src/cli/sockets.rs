//! `stickyd sockets`: a table of live sockets, or all details of one.

use clap::Args;

use super::fleet_wide::{self, FleetArgs};
use super::remote::RemoteArgs;
use super::table::{Column, TableArgs, bytes, cell, list, span, table};
use crate::admin::api::{LegView, SocketView, SocketsAnswer, WayView, paths};

/// Heading of the filters in the help of a command. It is set for each of them: a heading for all that follows would
/// also stand above the options that come after the filters.
const FILTERS: &str = "Filters";

/// Number of sockets to show, unless the command says it.
const USUAL: u32 = 100;

/// Filters that select sockets; a socket must match all that are given.
#[derive(Debug, Clone, Default, Args)]
pub struct Filters {
    /// Only sockets of this upstream
    #[arg(short, long, value_name = "NAME", help_heading = FILTERS)]
    pub upstream: Option<String>,
    /// Only sockets at this worker, given by name or address
    #[arg(short, long, value_name = "NAME", help_heading = FILTERS)]
    pub worker: Option<String>,
    /// Only sockets with this label; may be given several times
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = label, help_heading = FILTERS)]
    pub label: Vec<(String, String)>,
    /// Only sockets from this address or network, such as 203.0.113.7 or 10.0.0.0/8
    #[arg(long, value_name = "NETWORK", help_heading = FILTERS)]
    pub address: Option<String>,
    /// Only sockets in this state: open, quiet, suspect, draining or closing
    #[arg(long, value_name = "STATE", help_heading = FILTERS)]
    pub state: Option<String>,
    /// Only sockets with this transport: polling, websocket or websocket-h2
    #[arg(long, value_name = "TRANSPORT", help_heading = FILTERS)]
    pub transport: Option<String>,
    /// Only sockets with this protocol: engine.io or plain
    #[arg(long, value_name = "PROTOCOL", help_heading = FILTERS)]
    pub protocol: Option<String>,
    /// Only the socket of the session with this id
    #[arg(long, help_heading = FILTERS)]
    pub sid: Option<String>,
    /// Only sockets of this route, given by its host and path
    #[arg(long, value_name = "ROUTE", help_heading = FILTERS)]
    pub route: Option<String>,
    /// Only sockets at least this old, such as 90s or 2h
    #[arg(long, value_name = "TIME", help_heading = FILTERS)]
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
    /// Id of one socket to show in detail; with --fleet it may have the name of its stickyd, such as
    /// edge-1/k3v9q0d2m7xa
    #[arg(value_name = "ID")]
    pub id: Option<String>,
    /// Filters that select the sockets.
    #[command(flatten)]
    pub filters: Filters,
    /// Sort order: connected, idle, worker, id, messages, bytes, messages_up, …; a leading - reverses it
    #[arg(long, value_name = "ORDER", default_value = "connected", allow_hyphen_values = true)]
    pub sort: String,
    /// Maximum number of sockets to show [default: 100, or 1000 with --fleet]
    #[arg(long, value_name = "NUMBER")]
    pub limit: Option<u32>,
    /// Number of sockets to skip
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub offset: u64,
    /// Sockets of the whole fleet.
    #[command(flatten)]
    pub everywhere: FleetArgs,
    /// Form of the table.
    #[command(flatten)]
    pub tables: TableArgs,
    /// Connection to stickyd, and output format.
    #[command(flatten)]
    pub asking: RemoteArgs,
}

impl SocketsCommand {
    /// Runs the command and returns the exit code.
    pub fn run(&self) -> u8 {
        if self.everywhere.fleet {
            let said = self.asking.remote.find().and_then(|admin| match &self.id {
                Some(id) => fleet_wide::sockets::details(id, &admin),
                None => fleet_wide::sockets::list(self, &admin),
            });
            return self.asking.finish_fleet(said);
        }
        let limit = self.limit.unwrap_or(USUAL).into();
        match &self.id {
            Some(id) => self.asking.show(&paths::socket(id), one),
            None => self.asking.show(&self.path(limit, self.offset), |said| sockets(said, self.tables.width())),
        }
    }

    /// The path of the API for a page of the sockets that match.
    pub(crate) fn path(&self, limit: u64, offset: u64) -> String {
        let paging = [("sort", self.sort.clone()), ("limit", limit.to_string()), ("offset", offset.to_string())];
        let paging = paging.map(|(name, value)| (name.to_owned(), value));
        paths::with_query(paths::SOCKETS, self.filters.given().into_iter().chain(paging))
    }
}

fn sockets(said: &SocketsAnswer, width: Option<u16>) -> String {
    let mut text = rows(said.sockets.iter(), width);
    let (shown, SocketsAnswer { total, live, .. }) = (said.sockets.len(), said);
    text.push_str(&match shown == *total {
        true => format!("\n{total} of {live} live sockets\n"),
        false => format!("\n{shown} of {total} matching sockets (--limit, --offset), {live} live\n"),
    });
    text
}

/// Formats sockets as a table, one row per socket.
pub(crate) fn rows<'a>(all: impl Iterator<Item = &'a SocketView> + Clone, width: Option<u16>) -> String {
    table_of(all.map(|one| (None, one)), width)
}

/// Formats sockets of several stickyds as a table, one row per socket.
pub(crate) fn rows_at(all: &[(String, SocketView)], width: Option<u16>) -> String {
    table_of(all.iter().map(|(at, one)| (Some(at), one)), width)
}

/// Formats sockets, with the stickyd of each if it is given.
fn table_of<'a>(all: impl Iterator<Item = (Option<&'a String>, &'a SocketView)> + Clone, width: Option<u16>) -> String {
    const HEAD: [Column; 12] = [
        Column::text("ID", 0),
        Column::text("UPSTREAM", 5),
        Column::text("WORKER", 0),
        Column::text("TRANSPORT", 4),
        Column::text("STATE", 0),
        Column::text("ADDRESS", 1),
        Column::amount("AGE", 2),
        Column::amount("IDLE", 3),
        Column::amount("UP", 7),
        Column::amount("DOWN", 6),
        Column::amount("BYTES UP", 9),
        Column::amount("BYTES DOWN", 8),
    ];
    let labelled = all.clone().any(|(_, one)| !one.labels.is_empty());
    let is_of_fleet = all.clone().any(|(at, _)| at.is_some());
    let stickyd = is_of_fleet.then_some(Column::text("STICKYD", 0));
    let head = stickyd.into_iter().chain(HEAD).chain(labelled.then_some(Column::text("LABELS", 3)));
    let line = |(at, one): (Option<&String>, &SocketView)| {
        at.cloned().into_iter().chain(row(one)).chain(labelled.then(|| labels(one))).collect()
    };
    table(&head.collect::<Vec<_>>(), &all.map(line).collect::<Vec<_>>(), width)
}

fn row(one: &SocketView) -> Vec<String> {
    let (up, down) = (&one.up, &one.down);
    let idle = [up, down].into_iter().filter_map(|way| way.idle_s).min();
    vec![
        one.id.clone(),
        one.upstream.clone(),
        one.worker.clone(),
        one.transport.clone(),
        one.state.clone(),
        one.address.clone(),
        span(u64::from(one.age_s)),
        span(idle.map(u64::from)),
        up.messages.to_string(),
        down.messages.to_string(),
        bytes(up.bytes),
        bytes(down.bytes),
    ]
}

pub(crate) fn labels(one: &SocketView) -> String {
    one.labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

pub(crate) fn one(said: &SocketView) -> String {
    let tls = if said.tls { "yes" } else { "no" };
    list(&[
        ("id", said.id.clone()),
        ("session", cell(said.sid.as_ref())),
        ("worker", format!("{}/{}, generation {}", said.upstream, said.worker, said.generation)),
        ("route", cell(said.route.as_ref())),
        ("client", format!("{}, {}", said.address, cell(said.user_agent.as_ref()))),
        ("labels", cell(Some(labels(said)).filter(|labels| !labels.is_empty()))),
        ("transport", format!("{}, TLS: {tls}, protocol {}", said.transport, said.protocol)),
        ("state", said.state.clone()),
        ("connected", format!("{} ({} ago)", said.connected_at, span(u64::from(said.age_s)))),
        ("from client", way(&said.up)),
        ("to client", way(&said.down)),
        ("round-trips", trips(said)),
    ])
}

/// Formats the traffic in one direction.
fn way(way: &WayView) -> String {
    let last = way.idle_s.map_or(String::new(), |idle| format!(", last {} ago", span(u64::from(idle))));
    let code = way.close_code.map_or(String::new(), |code| format!(", close code {code}"));
    format!("{} messages, {}{last}{code}", way.messages, bytes(way.bytes))
}

/// Formats the round-trip times measured on each leg.
fn trips(one: &SocketView) -> String {
    let leg = |(name, leg): (&str, &Option<LegView>)| {
        let LegView { last_ms, longest_ms, smoothed_ms } = leg.as_ref()?;
        Some(format!("{name} {smoothed_ms:.1} ms (last {last_ms:.1} ms, longest {longest_ms:.1} ms)"))
    };
    let legs = [("client", &one.round_trip.client), ("worker", &one.round_trip.worker)];
    let legs: Vec<_> = legs.into_iter().filter_map(leg).collect();
    let quality = one.quality.as_ref().map(|quality| format!(": {quality}")).unwrap_or_default();
    if legs.is_empty() { "-".to_owned() } else { format!("{}{quality}", legs.join(", ")) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn socket(id: &str, labels: &Value) -> SocketView {
        let described = json!({"id": id, "sid": "abc", "upstream": "app", "worker": "w1", "generation": 1, "route": null, "address": "192.0.2.1",
            "user_agent": "Test/1", "labels": labels, "protocol": "engine.io", "transport": "websocket", "tls": true,
            "state": "open", "connected_at": "2026-11-20T11:00:00Z", "age_s": 65,
            "up": {"messages": 3, "bytes": 1500, "idle_s": 4, "close_code": null},
            "down": {"messages": 40, "bytes": 80_000_000, "idle_s": null, "close_code": 1001}, "quality": "good",
            "round_trip": {"client": {"last_ms": 90.1, "smoothed_ms": 100.25, "longest_ms": 400.0}, "worker": null}});
        serde_json::from_value(described).unwrap()
    }

    #[test]
    fn sockets_are_shown_as_a_table_or_in_detail() {
        let all = vec![socket("a1", &json!({"store": "7"})), socket("b", &json!({}))];
        let said = SocketsAnswer { live: 9, next_offset: None, offset: 0, sockets: all, total: 2 };
        insta::assert_snapshot!(sockets(&said, None), @r"
        ID  UPSTREAM  WORKER  TRANSPORT  STATE  ADDRESS      AGE  IDLE  UP  DOWN  BYTES UP  BYTES DOWN  LABELS
        a1  app       w1      websocket  open   192.0.2.1  1m 5s    4s   3    40    1.5 kB       80 MB  store=7
        b   app       w1      websocket  open   192.0.2.1  1m 5s    4s   3    40    1.5 kB       80 MB

        2 of 9 live sockets
        ");
        insta::assert_snapshot!(one(said.sockets.first().unwrap()), @r"
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
    fn the_table_fits_80_columns() {
        let all = [socket("k3v9q0d2m7xa", &json!({"store": "7"})), socket("123456789012", &json!({}))];
        let text = rows(all.iter(), Some(80));
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        insta::assert_snapshot!(text, @r"
        ID            WORKER  TRANSPORT  STATE  ADDRESS      AGE  IDLE  LABELS
        k3v9q0d2m7xa  w1      websocket  open   192.0.2.1  1m 5s    4s  store=7
        123456789012  w1      websocket  open   192.0.2.1  1m 5s    4s
        (5 columns do not fit: --wide)
        ");
    }

    #[test]
    fn the_heading_of_the_filters_is_for_them_alone() {
        use clap::CommandFactory as _;
        let mut all = crate::cli::Cli::command();
        let help = all.find_subcommand_mut("close").unwrap().render_long_help().to_string();
        let (options, filters) = help.split_once("\nFilters:\n").unwrap();
        assert!(options.contains("--yes") && options.contains("--json") && filters.contains("--min-age"), "{help}");
        assert!(!filters.contains("--json"), "{help}");
    }

    #[test]
    fn filters_become_parameters_of_the_api() {
        let filters = Filters {
            worker: Some("a/b".to_owned()),
            label: vec![label("store=a b=c").unwrap()],
            ..Filters::default()
        };
        let path = paths::with_query(paths::SOCKETS, filters.given());
        assert_eq!(path, "/api/v1/sockets?worker=a%2Fb&label.store=a%20b%3Dc");
        assert!(label("store").is_err());
    }
}
