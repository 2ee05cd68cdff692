//! `stickyd workers`: every worker with its state, sessions, restarts and process, and the reasons below.

use clap::{Args, Subcommand};
use hyper::Method;

use super::fleet_wide::{self, FleetArgs};
use super::remote::{NO_BODY, RemoteArgs};
use super::spawned::RestartCommand;
use super::table::{Column, TableArgs, bytes, cell, span, table};
use super::unused::{FoldedWorkers, fold};
use crate::admin::api::{NameView, SpawnAnswer, WorkerView, WorkersAnswer, paths};
use crate::printable::printable;

/// Arguments of `stickyd workers`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct WorkersCommand {
    /// What to do with them, instead of showing them.
    #[command(subcommand)]
    pub action: Option<WorkersAction>,
    /// Only workers of this upstream
    #[arg(value_name = "UPSTREAM")]
    pub upstream: Option<String>,
    /// Workers as all stickyds of the fleet see them.
    #[command(flatten)]
    pub everywhere: FleetArgs,
    /// Form of the table.
    #[command(flatten)]
    pub tables: TableArgs,
    /// Connection to stickyd, and output format.
    #[command(flatten)]
    pub asking: RemoteArgs,
}

/// What can be done with workers.
#[derive(Debug, Subcommand)]
pub enum WorkersAction {
    /// Replace workers that stickyd starts, one after the other, and wait until that is over
    ///
    /// Exit code 1 if a successor does not become healthy: then the workers that are left stay.
    ///
    /// Example: stickyd workers restart app/1
    Restart(RestartCommand),
}

impl WorkersCommand {
    /// Runs the command and returns the exit code.
    pub fn run(&self) -> u8 {
        if let Some(WorkersAction::Restart(restart)) = &self.action {
            return restart.run();
        }
        let only = self.upstream.as_deref();
        if self.everywhere.fleet {
            let said = self.asking.remote.find();
            let said = said.and_then(|admin| fleet_wide::workers::list(&admin, only, self.tables));
            return self.asking.finish_fleet(said);
        }
        self.asking.show(paths::WORKERS, |said| {
            // A stickyd of an earlier version does not know this path; it starts no workers.
            let admin = self.asking.remote.find();
            let spawned = admin.and_then(|admin| admin.done::<SpawnAnswer>(Method::GET, paths::SPAWN, NO_BODY));
            let starts = spawned.map_or(String::new(), |spawned| starts(&spawned, only));
            workers(said, only, self.tables.width(), self.tables.wide) + &starts
        })
    }
}

/// Formats workers as a table, with the reasons for states that are not the usual ones below.
fn workers(said: &WorkersAnswer, only: Option<&str>, width: Option<u16>, all: bool) -> String {
    let WorkersText { table, notes } = texts(said, only, width, all);
    if notes.is_empty() { table } else { format!("{table}\n{}\n", notes.join("\n")) }
}

/// The workers as text: a table with one row per worker, and sentences about those that need attention.
pub(crate) struct WorkersText {
    pub(crate) table: String,
    pub(crate) notes: Vec<String>,
}

/// Formats the workers of one upstream or of all; without `with_unused`, the unused ports of ranges have no rows.
pub(crate) fn texts(said: &WorkersAnswer, only: Option<&str>, width: Option<u16>, with_unused: bool) -> WorkersText {
    const HEAD: [Column; 10] = [
        Column::text("UPSTREAM", 4),
        Column::text("WORKER", 0),
        Column::text("STATE", 0),
        Column::amount("SESSIONS", 0),
        Column::amount("TUNNELS", 1),
        Column::amount("IN FLIGHT", 5),
        Column::amount("RESTARTS", 2),
        Column::amount("PID", 6),
        Column::amount("CPU", 3),
        Column::amount("MEMORY", 3),
    ];
    let wanted = |upstream: &str| only.is_none_or(|only| upstream == only);
    let all: Vec<&WorkerView> = said.workers.iter().filter(|one| wanted(&one.upstream)).collect();
    let FoldedWorkers { shown: all, lines } = match with_unused {
        true => FoldedWorkers { shown: all, lines: Vec::new() },
        false => fold(&all),
    };
    let mut rows: Vec<_> = all.iter().map(|one| row(one)).collect();
    let mut head = HEAD.to_vec();
    // Only Node.js workers that are linked to the bus tell these.
    if all.iter().any(|one| one.bus.is_some()) {
        head.extend([Column::amount("LAG", 3), Column::amount("HEAP", 4), Column::text("SOCKET.IO", 7)]);
        rows.iter_mut().zip(&all).for_each(|(row, one)| row.extend(facts(one)));
    }
    let table = table(&head, &rows, width);
    let names = said.names.iter().filter(|name| wanted(&name.upstream) && name.state != "resolved");
    let notes = lines.into_iter().chain(all.iter().flat_map(|one| reasons(one))).chain(names.map(unresolved));
    WorkersText { table, notes: notes.map(|note| printable(&note).into_owned()).collect() }
}

/// Formats why workers that stickyd starts are not ready, with the last lines that they wrote.
fn starts(said: &SpawnAnswer, only: Option<&str>) -> String {
    let mut text = String::new();
    for pool in said.upstreams.iter().filter(|pool| only.is_none_or(|only| pool.upstream == only)) {
        for one in pool.workers.iter().filter(|one| one.state != "ready") {
            let next = one.starts_in_ms.map(|ms| format!("; next start in {}", span(ms.div_ceil(1_000))));
            let next = next.unwrap_or_default();
            let why = one.why.as_ref().map_or(String::new(), |why| format!(": {why}"));
            text.push_str(&format!("{}/{} ({}){why}{next}\n", pool.upstream, one.worker, one.state));
            one.last_lines.iter().for_each(|line| text.push_str(&format!("    {}\n", printable(line))));
        }
    }
    if text.is_empty() { text } else { format!("\n{text}") }
}

fn row(one: &WorkerView) -> Vec<String> {
    let process = one.process.as_ref();
    let cpu = process.and_then(|process| process.cpu_percent).map(|percent| format!("{percent}%"));
    let mut figures =
        [cell(process.map(|process| process.pid)), cell(cpu), bytes(process.map(|process| process.memory_bytes))];
    if process.is_some_and(|process| process.shared) {
        figures = ["shared"; 3].map(str::to_owned);
    }
    let counts = [one.sessions, one.tunnels, one.in_flight, one.restarts].map(|count| count.to_string());
    let names = [one.upstream.clone(), one.worker.clone(), state(&one.health, &one.admin, one.ejected)];
    names.into_iter().chain(counts).chain(figures).collect()
}

/// Formats what a worker's process says about itself.
fn facts(one: &WorkerView) -> [String; 3] {
    let lag = one.bus.as_ref().map(|facts| format!("{} ms", facts.lag_ms));
    let version = one.bus.as_ref().map(|facts| facts.socketio.clone());
    [cell(lag), bytes(one.bus.as_ref().map(|facts| facts.heap_used_bytes)), cell(version)]
}

/// Formats the state of a worker on its three axes.
pub(crate) fn state(health: &str, admin: &str, ejected: bool) -> String {
    format!("{health}, {admin}{}", if ejected { ", ejected" } else { "" })
}

fn unresolved(name: &NameView) -> String {
    let NameView { upstream, name, state, error, .. } = name;
    format!("{upstream}: the DNS name {name} is {state}: {}", cell(error.as_ref()))
}

/// Returns the reasons why a worker is not up, not ready or ejected.
pub(crate) fn reasons(worker: &WorkerView) -> Vec<String> {
    let at = format!("{}/{}", worker.upstream, worker.worker);
    let mut all = Vec::new();
    if worker.health != "up" || worker.check.as_ref().is_some_and(|check| check.failed_in_a_row > 0) {
        all.push(format!("{at} is {}: {}", worker.health, worker.why.health));
    }
    if worker.admin != "ready" {
        all.push(format!("{at} is in {}: {}", worker.admin, worker.why.admin));
    }
    if worker.ejected {
        all.push(format!("{at} is ejected: {}", worker.why.ejection));
    }
    if worker.shares_address {
        all.push(format!(
            "{at} refuses sessions of its own: several processes share its address; give each its own port"
        ));
    }
    all
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::admin::api::{BusFactsView, ProcessView, ReasonsView};

    /// A worker of the upstream app, for other tests as well.
    pub(in crate::cli) fn worker(name: &str, health: &str, why: &str) -> WorkerView {
        let process = ProcessView {
            command: "node".to_owned(),
            cpu_percent: Some(1.5),
            cpu_s: 2.0,
            memory_bytes: 80_000_000,
            pid: 4242,
            shared: false,
            threads: 4,
        };
        WorkerView {
            address: "127.0.0.1:3001".to_owned(),
            admin: "ready".to_owned(),
            bus: None,
            check: None,
            drain: None,
            ejected: false,
            ejected_for_ms: None,
            generation: 2,
            health: health.to_owned(),
            in_flight: 0,
            last_ejection: None,
            process: Some(process),
            restarts: 1,
            said_at_run_time: false,
            seen_for_s: 9,
            serves: true,
            sessions: 12,
            shares_address: false,
            takes_new: true,
            tunnels: 3,
            upstream: "app".to_owned(),
            waiting: 0,
            weight: 1,
            why: ReasonsView { admin: "-".to_owned(), ejection: "-".to_owned(), health: why.to_owned() },
            worker: name.to_owned(),
        }
    }

    #[test]
    fn workers_are_a_table_with_reasons_below() {
        let name = NameView {
            addresses: Vec::new(),
            error: Some("no such name".to_owned()),
            name: "x.test".to_owned(),
            state: "unresolved".to_owned(),
            upstream: "app".to_owned(),
        };
        let workers_of_app = vec![worker("w1", "up", "-"), worker("w2", "starting", "3 checks in a row did not pass")];
        let said = WorkersAnswer { names: vec![name], workers: workers_of_app };
        insta::assert_snapshot!(workers(&said, None, None, false), @r"
        UPSTREAM  WORKER  STATE            SESSIONS  TUNNELS  IN FLIGHT  RESTARTS   PID   CPU  MEMORY
        app       w1      up, ready              12        3          0         1  4242  1.5%   80 MB
        app       w2      starting, ready        12        3          0         1  4242  1.5%   80 MB

        app/w2 is starting: 3 checks in a row did not pass
        app: the DNS name x.test is unresolved: no such name
        ");
        assert_eq!(workers(&said, Some("other"), None, false).lines().count(), 1);
    }

    #[test]
    fn linked_workers_show_lag_heap_and_version() {
        let facts = BusFactsView {
            clients: 12,
            heap_total_bytes: 40_000_000,
            heap_used_bytes: 25_000_000,
            lag_ms: 1.2,
            lag_p99_ms: 9.0,
            node: "20.20.2".to_owned(),
            pid: 4242,
            socketio: "4.8.4".to_owned(),
            sockets: 12,
        };
        let workers_of_app = vec![WorkerView { bus: Some(facts), ..worker("w1", "up", "-") }, worker("w2", "up", "-")];
        let said = WorkersAnswer { names: Vec::new(), workers: workers_of_app };
        insta::assert_snapshot!(workers(&said, None, None, false), @r"
        UPSTREAM  WORKER  STATE      SESSIONS  TUNNELS  IN FLIGHT  RESTARTS   PID   CPU  MEMORY     LAG   HEAP  SOCKET.IO
        app       w1      up, ready        12        3          0         1  4242  1.5%   80 MB  1.2 ms  25 MB  4.8.4
        app       w2      up, ready        12        3          0         1  4242  1.5%   80 MB       -      -  -
        ");
    }

    #[test]
    fn shared_processes_and_addresses_are_named() {
        let mut one = worker("w1", "up", "-");
        one.shares_address = true;
        one.process = one.process.map(|process| ProcessView { shared: true, ..process });
        let said = WorkersAnswer { names: Vec::new(), workers: vec![one] };
        insta::assert_snapshot!(workers(&said, None, Some(80), false), @r"
        UPSTREAM  WORKER  STATE      SESSIONS  TUNNELS  RESTARTS     CPU  MEMORY
        app       w1      up, ready        12        3         1  shared  shared
        (2 columns do not fit: --wide)

        app/w1 refuses sessions of its own: several processes share its address; give each its own port
        ");
    }

    #[test]
    fn unused_ports_of_a_range_are_one_line() {
        let at = |address: &str, name: &str, health: &str| WorkerView {
            address: address.to_owned(),
            process: None,
            ..worker(name, health, if health == "gone" { "no process has listened there" } else { "-" })
        };
        let range = (3001..=3032).map(|port| {
            let address = format!("127.0.0.1:{port}");
            at(&address, &address, if port == 3001 || port == 3004 { "up" } else { "gone" })
        });
        let single = ["127.0.0.1:4001", "127.0.0.1:4002"].map(|address| at(address, &format!("w{address}"), "gone"));
        let drained = WorkerView { admin: "drain".to_owned(), ..at("127.0.0.1:3033", "127.0.0.1:3033", "gone") };
        let all = range.chain(single).chain([drained]).collect();
        let said = WorkersAnswer { names: Vec::new(), workers: all };
        let text = workers(&said, None, None, false);
        let line = "\n\napp: 30 unused ports (127.0.0.1:3002-3003, 127.0.0.1:3005-3032)\n";
        assert!(text.contains(line), "{text}");
        // The head; two processes, two workers with names of their own, and the drained port.
        assert_eq!(text.split("\n\n").next().map(|table| table.lines().count()), Some(6), "{text}");
        assert_eq!(text.matches("is gone: no process has listened there").count(), 3, "{text}");
        let wide = workers(&said, None, None, true);
        assert!(!wide.contains("unused") && wide.matches("gone, ").count() == 33, "{wide}");
    }
}
