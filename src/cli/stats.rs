//! `stickyd stats`: counters, and rates over the last minute.

use clap::Args;

use super::remote::RemoteArgs;
use super::table::{amount, bytes, span, table};
use crate::admin::api::{StatsAnswer, WorkerStats, paths};

/// Arguments of `stickyd stats`.
#[derive(Debug, Args)]
pub struct StatsCommand {
    /// Connection to stickyd, and output format.
    #[command(flatten)]
    pub asking: RemoteArgs,
}

impl StatsCommand {
    /// Runs the command and returns the exit code.
    pub fn run(&self) -> u8 {
        self.asking.show(paths::STATS, stats)
    }
}

fn stats(said: &StatsAnswer) -> String {
    const HEAD: [&str; 8] = ["UPSTREAM", "WORKER", "REQUESTS", "PER SECOND", "FAILURES", "SESSIONS", "TUNNELS", "AGE"];
    let mut text = table(&HEAD, &said.workers.iter().map(row).collect::<Vec<_>>());
    let counts = said.totals.iter().map(|(name, count)| {
        let total = if name.starts_with("bytes") { bytes(*count) } else { count.to_string() };
        let rate = said.rates.get(&format!("{name}_per_s")).copied().flatten();
        vec![name.clone(), total, amount(rate)]
    });
    text.push('\n');
    text.push_str(&table(&["ALL WORKERS", "TOTAL", "PER SECOND"], &counts.collect::<Vec<_>>()));
    text.push_str(&format!("\nrates are averages over the last {} s\n", said.rates_over_s));
    text
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
