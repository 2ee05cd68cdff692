//! The state of `stickyd top` on a terminal: what is shown, sorted, filtered and selected, and what each key does.
//! Pure: looks, keys and the size are arguments.

use std::cmp::Reverse;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::super::unused::is_unused;
use super::link::{BusySocket, TopOrder, TopSnapshot, messages};
use crate::admin::api::WorkerView;

/// Grace that is proposed for a drain.
const GRACE: &str = "60s";

/// Maximum number of characters that can be typed.
const TYPED: usize = 60;

/// One of the two tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pane {
    Workers,
    Sockets,
}

/// Sort orders of the workers, in the order of the key `s`.
pub(super) const WORKER_SORTS: [&str; 5] = ["attention", "name", "sessions", "cpu", "memory"];

/// Sort orders of the sockets.
pub(super) const SOCKET_SORTS: [&str; 6] = ["busiest", "oldest", "idle", "messages", "bytes", "worker"];

/// What stands in place of the list of keys or of the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TopMode {
    /// Both tables, and the list of keys.
    Tables,
    /// All about the selected row.
    Details,
    /// The list of keys.
    Help,
    /// The filter is being typed.
    Filter,
    /// The grace of a drain is being typed.
    Grace { upstream: String, worker: String, grace: String },
    /// An order waits for `y`.
    Confirm { question: String, order: TopOrder },
}

/// What the caller has to do after a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    None,
    Quit,
    Refresh,
    Do(TopOrder),
}

/// A table's selection, order and place.
#[derive(Debug, Clone, Default)]
pub(super) struct PaneState {
    /// Name or id of the selected row; the selection follows its row when rows move.
    pub(super) selected: Option<String>,
    pub(super) sort: usize,
    pub(super) is_reversed: bool,
}

/// Everything that is shown.
pub(super) struct Model {
    pub(super) look: Option<TopSnapshot>,
    /// Why there is no newer look.
    pub(super) error: Option<String>,
    pub(super) message: String,
    pub(super) mode: TopMode,
    pub(super) pane: Pane,
    pub(super) filter: String,
    pub(super) workers: PaneState,
    pub(super) sockets: PaneState,
}

impl Model {
    pub(super) fn new() -> Self {
        Self {
            look: None,
            error: None,
            message: String::new(),
            mode: TopMode::Tables,
            pane: Pane::Workers,
            filter: String::new(),
            workers: PaneState::default(),
            sockets: PaneState::default(),
        }
    }

    /// Takes a new look, or the reason why there is none; the look of before stays on the screen.
    pub(super) fn update(&mut self, look: Result<TopSnapshot, String>) {
        match look {
            Ok(look) => {
                self.look = Some(look);
                self.error = None;
            }
            Err(error) => self.error = Some(error),
        }
    }

    /// Takes the outcome of an order.
    pub(super) fn told(&mut self, outcome: Result<String, String>) {
        self.message = outcome.unwrap_or_else(|error| error);
    }

    /// Returns the workers that match the filter, in their order.
    pub(super) fn shown_workers(&self) -> Vec<&WorkerView> {
        let all = self.look.iter().flat_map(|look| &look.workers.workers);
        let mut all: Vec<_> = all.filter(|one| self.fits(&worker_text(one))).collect();
        match WORKER_SORTS.get(self.workers.sort).copied() {
            Some("name") => all.sort_by_cached_key(|one| name(one)),
            Some("sessions") => all.sort_by_key(|one| Reverse(one.sessions.max(one.tunnels))),
            Some("cpu") => all.sort_by(|one, other| cpu(other).total_cmp(&cpu(one))),
            Some("memory") => all.sort_by_key(|one| Reverse(one.process.as_ref().map(|process| process.memory_bytes))),
            _ => all.sort_by_key(|one| attention(one)),
        }
        if self.workers.is_reversed {
            all.reverse();
        }
        all
    }

    /// Returns the sockets that match the filter, in their order.
    pub(super) fn shown_sockets(&self) -> Vec<&BusySocket> {
        let all = self.look.iter().flat_map(|look| &look.sockets);
        let mut all: Vec<_> = all.filter(|one| self.fits(&socket_text(one))).collect();
        match SOCKET_SORTS.get(self.sockets.sort).copied() {
            Some("oldest") => all.sort_by_key(|one| Reverse(one.view.age_s)),
            Some("idle") => all.sort_by_key(|one| Reverse(idle(one))),
            Some("messages") => all.sort_by_key(|one| Reverse(messages(&one.view))),
            Some("bytes") => all.sort_by_key(|one| Reverse(one.view.up.bytes + one.view.down.bytes)),
            Some("worker") => all.sort_by_cached_key(|one| format!("{}/{}", one.view.upstream, one.view.worker)),
            _ => {}
        }
        if self.sockets.is_reversed {
            all.reverse();
        }
        all
    }

    fn fits(&self, text: &str) -> bool {
        self.filter.split_whitespace().all(|word| text.contains(&word.to_lowercase()))
    }

    /// Returns the selected worker; the first one if none was selected, or if it is not shown.
    pub(super) fn worker(&self) -> Option<&WorkerView> {
        let all = self.shown_workers();
        let found = all.iter().find(|one| Some(name(one)) == self.workers.selected);
        found.or_else(|| all.first()).copied()
    }

    /// Returns the selected socket, as [`Model::worker`] does.
    pub(super) fn socket(&self) -> Option<&BusySocket> {
        let all = self.shown_sockets();
        let found = all.iter().find(|one| Some(&one.view.id) == self.sockets.selected.as_ref());
        found.or_else(|| all.first()).copied()
    }

    /// Acts on a key; `page` is the number of rows that the tables show.
    pub(super) fn key(&mut self, key: KeyEvent, page: usize) -> Action {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if matches!(key.code, KeyCode::Char('c' | 'd')) { Action::Quit } else { Action::None };
        }
        self.message.clear();
        match &mut self.mode {
            TopMode::Filter => {
                if type_into(&mut self.filter, key.code) {
                    self.mode = TopMode::Tables;
                } else if key.code == KeyCode::Esc {
                    self.filter.clear();
                    self.mode = TopMode::Tables;
                }
                Action::None
            }
            TopMode::Grace { upstream, worker, grace } => {
                if type_into(grace, key.code) {
                    let grace = Some(grace.trim().to_owned()).filter(|grace| !grace.is_empty());
                    let (upstream, worker) = (std::mem::take(upstream), std::mem::take(worker));
                    self.mode = TopMode::Tables;
                    return Action::Do(TopOrder::Worker { upstream, worker, word: "drain", grace });
                }
                self.leave_on_escape(key.code)
            }
            TopMode::Confirm { order, .. } => {
                let order = order.clone();
                self.mode = TopMode::Tables;
                if key.code == KeyCode::Char('y') {
                    return Action::Do(order);
                }
                "nothing was done".clone_into(&mut self.message);
                Action::None
            }
            TopMode::Details | TopMode::Help
                if matches!(key.code, KeyCode::Esc | KeyCode::Char('q') | KeyCode::Enter) =>
            {
                self.mode = TopMode::Tables;
                Action::None
            }
            TopMode::Details | TopMode::Help | TopMode::Tables => self.command(key.code, page),
        }
    }

    fn leave_on_escape(&mut self, code: KeyCode) -> Action {
        if code == KeyCode::Esc {
            self.mode = TopMode::Tables;
            "nothing was done".clone_into(&mut self.message);
        }
        Action::None
    }

    fn command(&mut self, code: KeyCode, page: usize) -> Action {
        let page = isize::try_from(page).unwrap_or(1).max(1);
        match code {
            KeyCode::Char('q') => return Action::Quit,
            KeyCode::Char(' ') => return Action::Refresh,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('?' | 'h') => self.mode = TopMode::Help,
            KeyCode::Char('/') => self.mode = TopMode::Filter,
            KeyCode::Enter => self.mode = TopMode::Details,
            KeyCode::Tab | KeyCode::BackTab | KeyCode::Left | KeyCode::Right => {
                self.pane = if self.pane == Pane::Workers { Pane::Sockets } else { Pane::Workers };
            }
            KeyCode::Down | KeyCode::Char('j') => self.move_by(1),
            KeyCode::Up | KeyCode::Char('k') => self.move_by(-1),
            KeyCode::PageDown => self.move_by(page),
            KeyCode::PageUp => self.move_by(-page),
            KeyCode::Home => self.move_by(isize::MIN),
            KeyCode::End => self.move_by(isize::MAX),
            KeyCode::Char('s') => self.sort_next(),
            KeyCode::Char('S') => self.pane_state().is_reversed ^= true,
            KeyCode::Char(letter) => self.ask(letter),
            _ => {}
        }
        Action::None
    }

    fn pane_state(&mut self) -> &mut PaneState {
        match self.pane {
            Pane::Workers => &mut self.workers,
            Pane::Sockets => &mut self.sockets,
        }
    }

    fn sort_next(&mut self) {
        let count = if self.pane == Pane::Workers { WORKER_SORTS.len() } else { SOCKET_SORTS.len() };
        let pane = self.pane_state();
        pane.sort = (pane.sort + 1) % count;
    }

    fn move_by(&mut self, by: isize) {
        let names: Vec<String> = match self.pane {
            Pane::Workers => self.shown_workers().into_iter().map(name).collect(),
            Pane::Sockets => self.shown_sockets().into_iter().map(|one| one.view.id.clone()).collect(),
        };
        let pane = self.pane_state();
        let at = names.iter().position(|one| Some(one) == pane.selected.as_ref()).unwrap_or(0);
        let to = at.saturating_add_signed(by).min(names.len().saturating_sub(1));
        pane.selected = names.into_iter().nth(to);
    }

    /// Asks for what an order needs: a grace, or a yes.
    fn ask(&mut self, letter: char) {
        let worker = self.worker().map(|one| (one.upstream.clone(), one.worker.clone(), one.sessions.max(one.tunnels)));
        let socket = self.socket().map(|one| (one.view.id.clone(), one.view.address.clone()));
        match (self.pane, letter, worker, socket) {
            (Pane::Workers, 'd', Some((upstream, worker, _)), _) => {
                self.mode = TopMode::Grace { upstream, worker, grace: GRACE.to_owned() };
            }
            (Pane::Workers, 'm' | 'r', Some((upstream, worker, sessions)), _) => {
                let name = format!("{upstream}/{worker}");
                let (word, question) = match letter {
                    'm' => ("maint", format!("End all {sessions} sessions of {name} at once?")),
                    _ => ("ready", format!("Take {name} back into service?")),
                };
                let order = TopOrder::Worker { upstream, worker, word, grace: None };
                self.mode = TopMode::Confirm { question, order };
            }
            (Pane::Sockets, 'c' | 'd', _, Some((id, address))) => {
                let question = format!("Close socket {id} of {address}?");
                self.mode = TopMode::Confirm { question, order: TopOrder::Close(id) };
            }
            (Pane::Sockets, 'm' | 'r', ..) => "select a worker first: Tab".clone_into(&mut self.message),
            (Pane::Workers, 'c', ..) => "select a socket first: Tab".clone_into(&mut self.message),
            _ => {}
        }
    }
}

/// Types a key into a text; returns whether it was Enter.
fn type_into(text: &mut String, code: KeyCode) -> bool {
    match code {
        KeyCode::Enter => return true,
        KeyCode::Backspace => {
            text.pop();
        }
        KeyCode::Char(letter) if text.chars().count() < TYPED => text.push(letter),
        _ => {}
    }
    false
}

/// Returns the name of a worker as other commands take it.
pub(super) fn name(one: &WorkerView) -> String {
    format!("{}/{}", one.upstream, one.worker)
}

/// Returns the time since the last message of a socket, in seconds.
pub(super) fn idle(one: &BusySocket) -> u32 {
    let ways = [&one.view.up, &one.view.down];
    ways.into_iter().filter_map(|way| way.idle_s).min().unwrap_or(one.view.age_s)
}

fn cpu(one: &WorkerView) -> f64 {
    one.process.as_ref().and_then(|process| process.cpu_percent).unwrap_or(-1.0)
}

/// Returns the place of a worker among those that need attention; the lowest comes first.
pub(super) fn attention(one: &WorkerView) -> u8 {
    match (one.health.as_str(), one.admin.as_str()) {
        ("gone", _) if is_unused(one) => 5,
        ("hung" | "gone", "ready") => 0,
        ("up", _) if one.ejected || one.shares_address => 1,
        ("up", "ready") => 4,
        ("up", _) => 3,
        _ => 2,
    }
}

fn worker_text(one: &WorkerView) -> String {
    format!("{} {} {} {}", name(one), one.address, one.health, one.admin).to_lowercase()
}

fn socket_text(one: &BusySocket) -> String {
    let view = &one.view;
    let labels = view.labels.iter().map(|(name, value)| format!("{name}={value} ")).collect::<String>();
    let agent = view.user_agent.as_deref().unwrap_or_default();
    let sid = view.sid.as_deref().unwrap_or_default();
    format!(
        "{} {}/{} {} {} {} {sid} {labels}{agent}",
        view.id, view.upstream, view.worker, view.address, view.transport, view.state
    )
    .to_lowercase()
}
