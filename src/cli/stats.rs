//! `stickyd stats`: counters, and rates over the last minute.

use clap::Args;

use super::fleet_wide::{self, FleetArgs};
use super::remote::RemoteArgs;
use super::table::{Column, TableArgs, amount, bytes, span, table};
use crate::admin::api::{StatsAnswer, WorkerStats, paths};

/// Arguments of `stickyd stats`.
#[derive(Debug, Args)]
pub struct StatsCommand {
    /// Numbers of the whole fleet.
    #[command(flatten)]
    pub everywhere: FleetArgs,
    /// Form of the tables.
    #[command(flatten)]
    pub tables: TableArgs,
    /// Connection to stickyd, and output format.
    #[command(flatten)]
    pub asking: RemoteArgs,
}

impl StatsCommand {
    /// Runs the command and returns the exit code.
    pub fn run(&self) -> u8 {
        if self.everywhere.fleet {
            let said = self.asking.remote.find();
            let said = said.and_then(|admin| fleet_wide::stats::show(&admin, self.tables.width()));
            return self.asking.finish_fleet(said);
        }
        self.asking.show(paths::STATS, |said| stats(said, self.tables.width()))
    }
}

pub(crate) fn stats(said: &StatsAnswer, width: Option<u16>) -> String {
    const HEAD: [Column; 8] = [
        Column::text("UPSTREAM", 1),
        Column::text("WORKER", 0),
        Column::amount("REQUESTS", 0),
        Column::amount("PER SECOND", 0),
        Column::amount("FAILURES", 0),
        Column::amount("SESSIONS", 2),
        Column::amount("TUNNELS", 3),
        Column::amount("AGE", 4),
    ];
    const TOTALS: [Column; 3] =
        [Column::text("ALL WORKERS", 0), Column::amount("TOTAL", 0), Column::amount("PER SECOND", 0)];
    const LABELS: [Column; 4] =
        [Column::text("UPSTREAM", 1), Column::text("LABEL", 0), Column::text("VALUE", 0), Column::amount("SOCKETS", 0)];
    let mut text = table(&HEAD, &said.workers.iter().map(row).collect::<Vec<_>>(), width);
    let counts = said.totals.iter().map(|(name, count)| {
        let rate = said.rates.get(&format!("{name}_per_s")).copied().flatten();
        counter(name, *count, rate)
    });
    text.push('\n');
    text.push_str(&table(&TOTALS, &counts.collect::<Vec<_>>(), width));
    let labels = labels(said);
    if !labels.is_empty() {
        text.push('\n');
        text.push_str(&table(&LABELS, &labels, width));
    }
    text.push_str(&format!("\nrates are averages over the last {} s\n", said.rates_over_s));
    text
}

/// One row per value of a label, those with the most sockets first.
fn labels(said: &StatsAnswer) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for upstream in &said.upstreams {
        for (label, counts) in &upstream.labels {
            let values = counts.values.iter().map(|one| (one.value.clone(), one.sockets));
            let others = (counts.others > 0).then(|| ("(others)".to_owned(), counts.others));
            let row = |(value, sockets): (String, u64)| {
                vec![upstream.upstream.clone(), label.clone(), value, sockets.to_string()]
            };
            rows.extend(values.chain(others).map(row));
        }
    }
    rows
}

fn counter(name: &str, count: u64, rate: Option<f64>) -> Vec<String> {
    let (count, rate) = if name.starts_with("bytes") {
        (bytes(count), bytes(rate.and_then(|rate| format!("{rate:.0}").parse::<u64>().ok())))
    } else {
        (count.to_string(), amount(rate))
    };
    vec![name.replace('_', " "), count, rate]
}

fn row(one: &WorkerStats) -> Vec<String> {
    vec![
        one.upstream.clone(),
        one.worker.clone(),
        one.requests.to_string(),
        amount(one.requests_per_s),
        one.failures.to_string(),
        one.live.sessions.to_string(),
        one.live.tunnels.to_string(),
        span(one.live.average_age_s),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_their_unit_in_both_columns() {
        assert_eq!(counter("bytes_up", 3_200, Some(542.4)), ["bytes up", "3.2 kB", "542 B"]);
        assert_eq!(counter("requests", 7, Some(1.5)), ["requests", "7", "1.50"]);
        assert_eq!(counter("bytes_down", 0, None), ["bytes down", "0 B", "-"]);
    }
}
