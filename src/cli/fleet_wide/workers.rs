//! `stickyd workers --fleet`: every worker as each stickyd sees it, with the sums.

use std::collections::BTreeMap;

use super::super::remote::{AdminClient, RemoteError};
use super::super::table::{Column, table};
use super::super::workers::{reasons, state};
use super::{FleetSaid, FleetText, FromStickyd};
use crate::admin::api::{WorkerView, WorkersAnswer, paths};
use crate::printable::printable;

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
pub(crate) fn list(admin: &AdminClient, only: Option<&str>, width: Option<u16>) -> Result<FleetText, RemoteError> {
    let said = FleetSaid::get(admin, paths::WORKERS)?;
    let answers = said.answers::<WorkersAnswer>()?;
    let text = words(&answers, only, width);
    Ok(FleetText { said, text })
}

fn words(answers: &[FromStickyd<WorkersAnswer>], only: Option<&str>, width: Option<u16>) -> String {
    let mut workers: BTreeMap<(&str, &str), Vec<(&str, &WorkerView)>> = BTreeMap::new();
    let mut notes = String::new();
    for FromStickyd { stickyd, answer, .. } in answers {
        for one in answer.workers.iter().filter(|one| only.is_none_or(|only| one.upstream == only)) {
            workers.entry((&one.upstream, &one.worker)).or_default().push((stickyd, one));
            reasons(one).iter().for_each(|why| notes.push_str(&format!("{stickyd}: {}\n", printable(why))));
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

fn row(stickyd: &str, one: &WorkerView) -> Vec<String> {
    let counts = [one.sessions, one.tunnels, one.in_flight, one.restarts].map(|count| count.to_string());
    let state = state(&one.health, &one.admin, one.ejected);
    [one.upstream.clone(), one.worker.clone(), stickyd.to_owned(), state].into_iter().chain(counts).collect()
}
