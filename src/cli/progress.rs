//! How far something is: a bar that is drawn over on a terminal, lines elsewhere. On standard error: the outcome is on the
//! other.

use std::io::{IsTerminal, Write};

/// Characters of a bar.
const BAR: u64 = 30;

/// One thing under way.
pub(super) struct Progress {
    terminal: bool,
    last: String,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), last: String::new() }
    }

    /// Whether it is drawn over.
    pub(super) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// `done` of `all`, and in words; said once where nothing has changed.
    pub(super) fn show(&mut self, done: u64, all: u64, text: String) {
        if text == self.last {
            return;
        }
        let mut out = std::io::stderr();
        // A closed output changes nothing about what is under way.
        let _ = if self.terminal {
            write!(out, "\r\x1b[K{} {text}", bar(done, all)).and_then(|()| out.flush())
        } else {
            writeln!(out, "{text}")
        };
        self.last = text;
    }

    pub(super) fn end(&self) {
        if self.terminal {
            eprintln!();
        }
    }
}

/// `[##########--------------------]`
fn bar(done: u64, all: u64) -> String {
    let full = (done.min(all) * BAR).checked_div(all).unwrap_or(BAR);
    let repeat = |what: &str, count| what.repeat(usize::try_from(count).unwrap_or(0));
    format!("[{}{}]", repeat("#", full), repeat("-", BAR - full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars() {
        assert_eq!(bar(0, 0), format!("[{}]", "#".repeat(30)));
        assert_eq!(bar(1, 3), format!("[{}{}]", "#".repeat(10), "-".repeat(20)));
        assert_eq!(bar(9, 3), format!("[{}]", "#".repeat(30)));
    }
}
