//! The live table: redrawn in place on a terminal, printed every two seconds elsewhere.

use std::io::{IsTerminal, Write, stdout};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use stickyd::server::Server;

use crate::client::Tally;

pub(crate) struct Screen {
    address: SocketAddr,
    terminal: bool,
    /// Number of lines of the table on the screen that the next one replaces.
    drawn: usize,
}

impl Screen {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, terminal: stdout().is_terminal(), drawn: 0 }
    }

    /// Prints a line that is not replaced.
    pub(crate) fn say(&mut self, text: &str) {
        self.drawn = 0;
        println!("\n{text}");
    }

    /// Shows the table for the duration `span`.
    pub(crate) fn watch(&mut self, server: &Server, tally: &Tally, span: Duration) {
        let pause = Duration::from_millis(if self.terminal { 250 } else { 2_000 });
        let end = Instant::now() + span;
        while Instant::now() < end {
            self.draw(&table(self.address, server, tally));
            // This is the demo's own thread, not one of stickyd's.
            #[allow(clippy::disallowed_methods, reason = "only the table runs on this thread")]
            std::thread::sleep(pause);
        }
    }

    pub(crate) fn end(&mut self) {
        self.drawn = 0;
        println!();
    }

    fn draw(&mut self, lines: &[String]) {
        if self.terminal && self.drawn > 0 {
            print!("\x1b[{}A", self.drawn);
        }
        for line in lines {
            println!("{line}{}", if self.terminal { "\x1b[K" } else { "" });
        }
        self.drawn = lines.len();
        // With a closed pipe, the demo ends at the next line anyway.
        let _ = stdout().flush();
    }
}

fn table(address: SocketAddr, server: &Server, tally: &Tally) -> Vec<String> {
    let snapshot = server.shared().snapshot.load();
    let mut lines = vec![format!("  stickyd on {address:<18} worker  health    sessions  tunnels")];
    for member in snapshot.upstreams.iter().flat_map(|upstream| &upstream.members) {
        let worker = &member.worker;
        let (health, sessions, tunnels) = (worker.health().word(), worker.sessions(), worker.tunnels());
        let bar = "▇".repeat(sessions as usize / 2);
        lines.push(format!("  {:>35}  {health:<8} {sessions:>9}  {tunnels:>7}  {bar}", worker.name));
    }
    let healed = metric(server, "stickyd_refusals_total{fate=\"healed\",upstream=\"app\"}");
    let count = tally.now();
    lines.push(format!("  clients live: {:<4} {count}; healed: {healed:.0}", count.live));
    lines
}

/// Returns the value of one series, as a scraper would read it.
pub(crate) fn metric(server: &Server, series: &str) -> f64 {
    let shared = server.shared();
    let text = String::from_utf8_lossy(&stickyd::admin::scrape::scrape(shared)).into_owned();
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or(0.0)
}
