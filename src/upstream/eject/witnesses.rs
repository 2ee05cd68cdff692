//! Which client addresses saw the failures of a worker: a page that fails for one client must not eject its worker.
//!
//! Bounded: at most [`MOST`] addresses are counted. When there are more, the one with the fewest failures is forgotten,
//! so that an address which causes many is always known. Pure: time is an argument. Failures to connect have no
//! witness, because no client causes them.

use super::{EjectionRules, Window};

/// Part of a client address that identifies one client ([`crate::client::Client::key`]).
pub(crate) type ClientKey = [u8; 16];

/// Number of client addresses that must have seen failures. A single client easily has two: IPv4 and IPv6.
const SEVERAL: u32 = 3;

/// Maximum number of client addresses that are counted per worker.
const MOST: usize = 16;

/// The client addresses that saw failures of one worker, in the row and in the window.
#[derive(Debug, Default)]
pub(super) struct Witnesses {
    /// Number of failed connects in the row.
    connects: u32,
    /// The first different addresses in the row.
    row: Vec<ClientKey>,
    /// Failed connects in the window.
    unseen: Window,
    /// Failures in the window, by client address.
    seen: Vec<(ClientKey, Window)>,
}

impl Witnesses {
    /// Adds a failure to the row; `first` begins a new row. `None`: the failure was not a client's doing.
    pub(super) fn add_to_row(&mut self, client: Option<ClientKey>, first: bool) {
        if first {
            self.connects = 0;
            self.row.clear();
        }
        match client {
            None => self.connects = self.connects.saturating_add(1),
            Some(client) if self.row.len() < SEVERAL as usize && !self.row.contains(&client) => self.row.push(client),
            Some(_) => {}
        }
    }

    /// Whether the failures in the row are the worker's own: several clients saw them, or connects alone suffice. A
    /// failed connect says as much as one more client.
    pub(super) fn confirm_row(&self, failures: u32) -> bool {
        self.connects >= failures || self.connects as usize + self.row.len() >= several(failures)
    }

    /// Adds a failure to the window.
    pub(super) fn add_to_window(&mut self, client: Option<ClientKey>, slot: u32) {
        let Some(client) = client else { return self.unseen.note(slot) };
        if let Some((_, window)) = self.seen.iter().find(|(known, _)| *known == client) {
            return window.note(slot);
        }
        if self.seen.len() >= MOST {
            let fewest = self.seen.iter().enumerate().min_by_key(|(_, (_, window))| window.count(slot));
            let Some((index, _)) = fewest else { return };
            self.seen.swap_remove(index);
        }
        let window = Window::default();
        window.note(slot);
        self.seen.push((client, window));
    }

    /// Whether the failures in the window are the worker's own: several clients saw them, and without those of the
    /// client that saw most, their share is still half of the limit; or failed connects alone suffice.
    pub(super) fn confirm_window(&self, requests: u64, errors: u64, slot: u32, rules: &EjectionRules) -> bool {
        let share = u64::from(rules.errors);
        let unseen = self.unseen.count(slot);
        if unseen * 100 >= requests * share {
            return true;
        }
        let counts = || self.seen.iter().map(|(_, window)| window.count(slot)).filter(|count| *count > 0);
        let most = counts().max().unwrap_or(0);
        let (rest, of) = (errors.saturating_sub(most), requests.saturating_sub(most));
        counts().count() as u64 + unseen >= several(rules.volume) as u64 && rest * 200 >= of * share
    }

    /// Forgets all failures and their clients.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Number of addresses that must have seen one of `failures`.
fn several(failures: u32) -> usize {
    failures.clamp(2, SEVERAL) as usize
}
