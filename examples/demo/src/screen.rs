//! The demo's screen. On a terminal it is one page of 80 columns and 24 rows, drawn again in place, so that nothing
//! wraps or scrolls away. Elsewhere (a pipe, a file) it is printed once at the end of each step.

use std::io::{IsTerminal, Write, stdout};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use stickyd::testing::server::Server;

use crate::tally::{Count, STEPS, Tally};
use crate::{POLLING, WEBSOCKET, WORKERS};

/// What happens in each step, in at most 75 columns.
const TEXTS: [&str; STEPS] = [
    "The clients connect.",
    "Worker w2 is killed. Its clients get new sessions on other workers.",
    "stickyd is restarted. It has forgotten all sessions, and asks the workers.",
];

/// One row of the closing figures: its name, and its value in a step.
type Row = (&'static str, fn(&Count) -> u64);

/// The rows of the closing figures.
const ROWS: [Row; 6] = [
    ("new sessions", |count| count.opened),
    ("sessions that went on", |count| count.before - count.ended_of_before),
    ("sessions that ended", Count::ended),
    ("  polling: \"Session ID unknown\"", |count| count.unknown),
    ("  polling: the request failed", |count| count.failed),
    ("  the WebSocket was closed", |count| count.closed),
];

pub(crate) struct Screen {
    address: SocketAddr,
    terminal: bool,
}

impl Screen {
    pub(crate) fn new(address: SocketAddr) -> Self {
        let terminal = stdout().is_terminal();
        if terminal {
            // Clears the screen: the page has no room for what cargo has printed.
            print!("\x1b[2J");
        }
        Self { address, terminal }
    }

    /// Shows the page for the duration `span`.
    pub(crate) fn watch(&self, server: &Server, tally: &Tally, span: Duration) {
        let end = Instant::now() + span;
        while Instant::now() < end {
            if self.terminal {
                self.draw(server, tally);
            }
            // This is the demo's own thread, not one of stickyd's.
            #[allow(clippy::disallowed_methods, reason = "only the page is drawn on this thread")]
            std::thread::sleep(Duration::from_millis(250));
        }
        self.draw(server, tally);
    }

    fn draw(&self, server: &Server, tally: &Tally) {
        // Home; then each line clears what was to its right, and the end clears what was below.
        let (home, line_end, end) = if self.terminal { ("\x1b[H", "\x1b[K\n", "\x1b[J") } else { ("", "\n", "\n") };
        let page = page(self.address, server, &tally.begun());
        print!("{home}{}{line_end}{end}", page.join(line_end));
        // With a closed pipe, the demo ends at the next page anyway.
        let _ = stdout().flush();
    }
}

fn page(address: SocketAddr, server: &Server, counts: &[Count]) -> Vec<String> {
    let clients = POLLING + WEBSOCKET;
    let mut lines = vec![
        format!("stickyd demo: {clients} clients, stickyd on {address}, {WORKERS} Socket.IO workers."),
        format!("{POLLING} use polling, {WEBSOCKET} use WebSockets. All have one address and send no cookies."),
        String::new(),
    ];
    for (i, text) in TEXTS.iter().enumerate() {
        let mark = if i + 1 == counts.len() { '>' } else { ' ' };
        // A step that has not begun is an empty line, so that the page does not move.
        lines.push(if i < counts.len() { format!("{mark} {}. {text}", i + 1) } else { String::new() });
    }
    lines.push(String::new());
    lines.extend(workers(server));
    lines.push(String::new());
    let (live, answers) = (counts.last().map_or(0, Count::live), counts.iter().map(|count| count.answers).sum::<u64>());
    lines.push(format!("clients with a session: {live} of {clients}; messages answered by workers: {answers}"));
    lines.push(String::new());
    lines.extend(figures(counts));
    lines
}

/// Returns the workers as stickyd sees them.
fn workers(server: &Server) -> Vec<String> {
    let snapshot = server.shared().snapshot.load();
    let mut lines = vec!["worker  health    sessions  WebSockets".to_owned()];
    for member in snapshot.upstreams.iter().flat_map(|upstream| &upstream.members) {
        let worker = &member.worker;
        let (health, sessions, tunnels) = (worker.health().word(), worker.sessions(), worker.tunnels());
        let bar = "▇".repeat((sessions as usize / 3).min(30));
        lines.push(format!("{:<6}  {health:<8}  {sessions:>8}  {tunnels:>10}  {bar}", worker.name));
    }
    lines
}

/// Returns the closing figures: one column for each step that has begun.
fn figures(counts: &[Count]) -> Vec<String> {
    let mut lines = vec![format!("{:<32}{:>9}{:>13}{:>21}", "", "connect", "w2 killed", "stickyd restarted")];
    for (name, value) in ROWS {
        let mut line = format!("{name:<32}");
        for (count, width) in counts.iter().zip([9, 13, 21]) {
            line.push_str(&format!("{:>width$}", value(count)));
        }
        lines.push(line);
    }
    lines
}
