//! `stickyd workers --fleet`: every worker as each stickyd sees it, with the sums.

use std::collections::{BTreeMap, HashSet};

use super::super::remote::{AdminClient, RemoteError};
use super::super::table::{Column, TableArgs, table};
use super::super::unused::{fold, is_spare};
use super::super::workers::{reasons, state};
use super::{FleetSaid, FleetText, FromStickyd};
use crate::admin::api::{WorkerView, WorkersAnswer, paths};
use crate::printable::printable;

/// Every worker by upstream and name, as each stickyd sees it.
type SeenWorkers<'a> = BTreeMap<(&'a str, &'a str), Vec<(&'a str, &'a WorkerView)>>;

const HEAD: [Column; 8] = [
    Column::text("UPSTREAM", 2),
    Column::text("WORKER", 0),
    Column::text("STICKYD", 0),
    Column::text("STATE", 0),
    Column::amount("SESSIONS", 0),
    Column::amount("TUNNELS", 1),
    Column::amount("IN FLIGHT", 4),
    Column::amount("RESTARTS", 3),
];

/// Lists the workers of one upstream or of all, as each stickyd sees them.
pub(crate) fn list(admin: &AdminClient, only: Option<&str>, tables: TableArgs) -> Result<FleetText, RemoteError> {
    let said = FleetSaid::get(admin, paths::WORKERS)?;
    let answers = said.answers::<WorkersAnswer>()?;
    let text = words(&answers, only, tables.width(), tables.wide);
    Ok(FleetText { said, text })
}

fn words(answers: &[FromStickyd<WorkersAnswer>], only: Option<&str>, width: Option<u16>, with_unused: bool) -> String {
    let mut workers: SeenWorkers<'_> = BTreeMap::new();
    for FromStickyd { stickyd, answer, .. } in answers {
        for one in answer.workers.iter().filter(|one| only.is_none_or(|only| one.upstream == only)) {
            workers.entry((&one.upstream, &one.worker)).or_default().push((stickyd, one));
        }
    }
    let mut notes = if with_unused { String::new() } else { fold_unused(&mut workers) };
    for FromStickyd { stickyd, answer, .. } in answers {
        let has_row = |one: &&WorkerView| workers.contains_key(&(one.upstream.as_str(), one.worker.as_str()));
        for why in answer.workers.iter().filter(has_row).flat_map(reasons) {
            notes.push_str(&format!("{stickyd}: {}\n", printable(&why)));
        }
    }
    let mut rows = Vec::new();
    for seen in workers.values() {
        rows.extend(seen.iter().map(|(stickyd, one)| row(stickyd, one)));
        if let [(_, first), _, ..] = seen.as_slice() {
            let of = |count: fn(&WorkerView) -> u32| seen.iter().map(|(_, one)| u64::from(count(one))).sum::<u64>();
            let sums = [of(|one| one.sessions), of(|one| one.tunnels), of(|one| one.in_flight)];
            let names = [first.upstream.clone(), first.worker.clone(), "(all)".to_owned(), String::new()];
            rows.push(names.into_iter().chain(sums.map(|sum| sum.to_string())).chain([String::new()]).collect());
        }
    }
    let notes = if notes.is_empty() { notes } else { format!("\n{notes}") };
    format!("{}{notes}\n", table(&HEAD, &rows, width))
}

/// Removes the ports of ranges that no stickyd has ever seen used, and returns lines about them.
fn fold_unused(workers: &mut SeenWorkers<'_>) -> String {
    // What one stickyd has seen there counts for all.
    let all = workers.values().filter_map(|seen| seen.iter().map(|(_, one)| *one).min_by_key(|one| is_spare(one)));
    let all: Vec<&WorkerView> = all.collect();
    let folded = fold(&all);
    let shown: HashSet<_> = folded.shown.iter().map(|one| (one.upstream.as_str(), one.worker.as_str())).collect();
    workers.retain(|name, _| shown.contains(name));
    folded.lines.iter().map(|line| format!("{}\n", printable(line))).collect()
}

fn row(stickyd: &str, one: &WorkerView) -> Vec<String> {
    let counts = [one.sessions, one.tunnels, one.in_flight, one.restarts].map(|count| count.to_string());
    let state = state(&one.health, &one.admin, one.ejected);
    [one.upstream.clone(), one.worker.clone(), stickyd.to_owned(), state].into_iter().chain(counts).collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::workers::tests::worker;
    use super::*;

    #[test]
    fn ports_that_no_stickyd_has_seen_used_are_one_line() {
        let at = |port: u16, health: &str| WorkerView {
            address: format!("10.0.0.1:{port}"),
            process: None,
            ..worker(&format!("10.0.0.1:{port}"), health, "no process has listened there")
        };
        let from = |name: &str, used: &[u16]| {
            let workers = (1..=8).map(|port| at(port, if used.contains(&port) { "up" } else { "gone" })).collect();
            let answer = WorkersAnswer { names: Vec::new(), workers };
            FromStickyd { stickyd: name.to_owned(), node: name.to_owned(), answer }
        };
        let answers = [from("edge-1", &[1]), from("edge-2", &[1, 4])];
        let text = words(&answers, None, None, false);
        assert!(text.contains("\napp: 6 unused ports (10.0.0.1:2-3, 10.0.0.1:5-8)\nedge-1: "), "{text}");
        // Each of two workers at both, and their sums.
        assert_eq!(text.split("\n\n").next().map(|table| table.lines().count()), Some(7), "{text}");
        assert_eq!(text.matches(" is gone: ").count(), 1, "edge-1 has not seen port 4 used: {text}");
        assert_eq!(words(&answers, None, None, true).matches(" is gone: ").count(), 13);
    }
}
