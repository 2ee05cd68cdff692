//! Progress display: a bar that is redrawn on a terminal, one line per change elsewhere. It goes to standard error,
//! since standard output is for the result.

use std::io::{IsTerminal, Write};

/// Width of the bar, in characters.
const BAR: u64 = 30;

/// Progress display of one operation.
pub(crate) struct Progress {
    terminal: bool,
    last: String,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), last: String::new() }
    }

    /// Whether the display is redrawn in place on a terminal.
    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Shows `done` of `all` as a bar, and `text` after it; nothing is printed if the text has not changed.
    pub(crate) fn show(&mut self, done: u64, all: u64, text: String) {
        if text == self.last {
            return;
        }
        let mut out = std::io::stderr();
        // A closed output does not affect the operation.
        let _ = if self.terminal {
            write!(out, "\r\x1b[K{} {text}", bar(done, all)).and_then(|()| out.flush())
        } else {
            writeln!(out, "{text}")
        };
        self.last = text;
    }

    pub(crate) fn end(&self) {
        if self.terminal {
            eprintln!();
        }
    }
}

/// Draws a bar such as `[##########--------------------]`.
fn bar(done: u64, all: u64) -> String {
    let full = (done.min(all) * BAR).checked_div(all).unwrap_or(BAR);
    let repeat = |what: &str, count| what.repeat(usize::try_from(count).unwrap_or(0));
    format!("[{}{}]", repeat("#", full), repeat("-", BAR - full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_filled_in_proportion() {
        assert_eq!(bar(0, 0), format!("[{}]", "#".repeat(30)));
        assert_eq!(bar(1, 3), format!("[{}{}]", "#".repeat(10), "-".repeat(20)));
        assert_eq!(bar(9, 3), format!("[{}]", "#".repeat(30)));
    }
}
