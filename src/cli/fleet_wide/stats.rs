//! `stickyd stats --fleet`: the counters of all stickyds added up, and each stickyd's share.

use std::collections::BTreeMap;

use super::super::remote::{AdminClient, RemoteError};
use super::super::stats::stats;
use super::super::table::{Column, amount, table};
use super::{FleetSaid, FleetText, FromStickyd};
use crate::admin::api::stats::CounterRates;
use crate::admin::api::{
    LabelCount, LabelCounts, LiveCounts, SocketCounts, StatsAnswer, UpstreamStats, WorkerStats, paths,
};

const HEAD: [Column; 7] = [
    Column::text("STICKYD", 0),
    Column::amount("REQUESTS", 0),
    Column::amount("PER SECOND", 0),
    Column::amount("FAILURES", 1),
    Column::amount("SESSIONS", 0),
    Column::amount("TUNNELS", 2),
    Column::amount("SOCKETS", 0),
];

/// Shows the counters of the whole fleet.
pub(crate) fn show(admin: &AdminClient, width: Option<u16>) -> Result<FleetText, RemoteError> {
    let said = FleetSaid::get(admin, paths::STATS)?;
    let answers = said.answers::<StatsAnswer>()?;
    let rows: Vec<_> = answers.iter().map(row).collect();
    let all = answers.into_iter().map(|one| one.answer).reduce(add);
    let text = all.map_or_else(String::new, |all| format!("{}\n{}\n", stats(&all, width), table(&HEAD, &rows, width)));
    Ok(FleetText { said, text })
}

fn row(one: &FromStickyd<StatsAnswer>) -> Vec<String> {
    let FromStickyd { stickyd, answer, .. } = one;
    let total = |name: &str| answer.totals.get(name).copied().unwrap_or(0).to_string();
    let rate = answer.rates.get("requests_per_s").copied().flatten();
    let live = [answer.live.sessions, answer.live.tunnels, answer.sockets.live].map(|count| count.to_string());
    [stickyd.clone(), total("requests"), amount(rate), total("failures")].into_iter().chain(live).collect()
}

/// Adds the counters of two stickyds.
fn add(mut one: StatsAnswer, other: StatsAnswer) -> StatsAnswer {
    one.live = live(&one.live, &other.live);
    one.sockets = sockets(&one.sockets, &other.sockets);
    one.rates_over_s = one.rates_over_s.max(other.rates_over_s);
    other.totals.into_iter().for_each(|(name, count)| *one.totals.entry(name).or_default() += count);
    rates(&mut one.rates, other.rates);
    for more in other.upstreams {
        match one.upstreams.iter_mut().find(|known| known.upstream == more.upstream) {
            Some(known) => add_upstream(known, more),
            None => one.upstreams.push(more),
        }
    }
    for more in other.workers {
        let is_it = |known: &&mut WorkerStats| known.upstream == more.upstream && known.worker == more.worker;
        match one.workers.iter_mut().find(is_it) {
            Some(known) => {
                known.failures += more.failures;
                known.live = live(&known.live, &more.live);
                known.requests += more.requests;
                known.requests_per_s = both(known.requests_per_s, more.requests_per_s);
                known.sockets = sockets(&known.sockets, &more.sockets);
            }
            None => one.workers.push(more),
        }
    }
    one
}

fn add_upstream(known: &mut UpstreamStats, more: UpstreamStats) {
    known.live = live(&known.live, &more.live);
    known.sockets = sockets(&known.sockets, &more.sockets);
    more.totals.into_iter().for_each(|(name, count)| *known.totals.entry(name).or_default() += count);
    rates(&mut known.rates, more.rates);
    for (name, counts) in more.labels {
        let entry = known.labels.entry(name).or_insert(LabelCounts { others: 0, values: Vec::new() });
        let mut values: BTreeMap<String, u64> = BTreeMap::new();
        let all = std::mem::take(&mut entry.values).into_iter().chain(counts.values);
        all.for_each(|LabelCount { sockets, value }| *values.entry(value).or_default() += sockets);
        entry.values = values.into_iter().map(|(value, sockets)| LabelCount { sockets, value }).collect();
        entry.values.sort_by_key(|one| std::cmp::Reverse(one.sockets));
        entry.others += counts.others;
    }
}

fn rates(known: &mut CounterRates, more: CounterRates) {
    for (name, rate) in more {
        let entry = known.entry(name).or_insert(None);
        *entry = both(*entry, rate);
    }
}

/// Adds two rates, of which one may not be known yet.
fn both(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one + other),
        (known, None) | (None, known) => known,
    }
}

fn live(one: &LiveCounts, other: &LiveCounts) -> LiveCounts {
    LiveCounts {
        average_age_s: average((one.average_age_s, one.sessions), (other.average_age_s, other.sessions)),
        in_flight: one.in_flight + other.in_flight,
        sessions: one.sessions + other.sessions,
        tunnels: one.tunnels + other.tunnels,
    }
}

fn sockets(one: &SocketCounts, other: &SocketCounts) -> SocketCounts {
    SocketCounts {
        average_age_s: average((one.average_age_s, one.live), (other.average_age_s, other.live)),
        live: one.live + other.live,
        polling: one.polling + other.polling,
        websocket: one.websocket + other.websocket,
        websocket_h2: one.websocket_h2 + other.websocket_h2,
    }
}

/// The average of two averages, each with the number that it is of.
fn average(one: (Option<u64>, u64), other: (Option<u64>, u64)) -> Option<u64> {
    match (one, other) {
        ((Some(age), count), (Some(other), others)) => {
            (age.saturating_mul(count).saturating_add(other.saturating_mul(others))).checked_div(count + others)
        }
        ((known, _), (None, _)) | ((None, _), (known, _)) => known,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(requests: u64, rate: Option<f64>, sessions: u64, age: Option<u64>, store: &str) -> StatsAnswer {
        let live = json!({"average_age_s": age, "in_flight": 0, "sessions": sessions, "tunnels": 0});
        let sockets =
            json!({"average_age_s": age, "live": sessions, "polling": sessions, "websocket": 0, "websocket-h2": 0});
        let labels = json!({"store": {"others": 1, "values": [{"sockets": sessions, "value": store}]}});
        let worker = json!({"failures": 1, "live": live, "requests": requests, "requests_per_s": rate,
            "sockets": sockets, "upstream": "app", "worker": "w1"});
        let (totals, rates) = (json!({"requests": requests}), json!({"requests_per_s": rate}));
        let upstream = json!({"labels": labels, "live": live, "rates": rates, "sockets": sockets, "totals": totals,
            "upstream": "app"});
        let all = json!({"live": live, "rates": rates, "rates_over_s": 60, "sockets": sockets, "totals": totals,
            "upstreams": [upstream], "workers": [worker]});
        serde_json::from_value(all).unwrap()
    }

    #[test]
    fn counters_of_two_stickyds_are_added() {
        let all = add(said(10, Some(1.5), 1, Some(30), "7"), said(5, None, 2, Some(60), "7"));
        assert_eq!((all.totals["requests"], all.rates["requests_per_s"]), (15, Some(1.5)));
        assert_eq!((all.live.sessions, all.live.average_age_s), (3, Some(50)));
        assert_eq!((all.workers.len(), all.workers[0].requests, all.workers[0].failures), (1, 15, 2));
        let store = &all.upstreams[0].labels["store"];
        assert_eq!((store.others, store.values.len(), store.values[0].sockets), (2, 1, 3));
        let all = add(all, said(1, Some(2.0), 9, None, "8"));
        assert_eq!((all.rates["requests_per_s"], all.live.average_age_s), (Some(3.5), Some(50)));
        let values: Vec<_> = all.upstreams[0].labels["store"].values.iter().map(|one| one.value.as_str()).collect();
        assert_eq!(values, ["8", "7"], "the value with the most sockets is first");
    }
}
