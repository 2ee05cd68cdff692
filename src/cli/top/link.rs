//! What `stickyd top` asks the running stickyd: a look at all, and orders.

use std::cmp::Reverse;
use std::collections::HashMap;

use hyper::Method;

use super::super::remote::{AdminClient, NO_BODY, RemoteError};
use super::super::sockets::Filters;
use crate::admin::api::{
    CloseOneOrder, ClosedSocket, GraceOrder, SocketView, SocketsAnswer, StatusAnswer, WorkerView, WorkersAnswer, paths,
};

/// Number of most recently active sockets that the busiest are selected from.
const RECENT: u32 = 1_000;

/// Everything at one moment.
pub(super) struct TopSnapshot {
    pub(super) status: StatusAnswer,
    pub(super) workers: WorkersAnswer,
    /// The busiest sockets first.
    pub(super) sockets: Vec<BusySocket>,
    pub(super) live: usize,
    pub(super) matching: usize,
}

/// A socket, and the number of its messages since the look before; at the first look, of all its messages.
pub(super) struct BusySocket {
    pub(super) view: SocketView,
    pub(super) recent: u64,
}

/// An order that a user has confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TopOrder {
    /// Sets a worker's admin state, with a grace for drain.
    Worker { upstream: String, worker: String, word: &'static str, grace: Option<String> },
    /// Closes the socket with this id.
    Close(String),
}

/// The running stickyd, and what is remembered of the look before.
pub(super) struct TopLink {
    admin: AdminClient,
    filters: Filters,
    /// Number of messages of each socket at the last look, by id; as many as one answer has.
    before: HashMap<String, u64>,
}

impl TopLink {
    pub(super) fn new(admin: AdminClient, filters: Filters) -> Self {
        Self { admin, filters, before: HashMap::new() }
    }

    /// Looks at stickyd, its workers and its sockets.
    pub(super) fn look(&mut self) -> Result<TopSnapshot, RemoteError> {
        let status = self.admin.done(Method::GET, paths::STATUS, NO_BODY)?;
        let WorkersAnswer { names, workers } = self.admin.done(Method::GET, paths::WORKERS, NO_BODY)?;
        let is_wanted = |one: &WorkerView| self.filters.upstream.as_ref().is_none_or(|name| one.upstream == *name);
        let workers = WorkersAnswer { names, workers: workers.into_iter().filter(is_wanted).collect() };
        let recent = [("sort", "idle".to_owned()), ("limit", RECENT.to_string())];
        let recent = recent.map(|(name, value)| (name.to_owned(), value));
        let path = paths::with_query(paths::SOCKETS, self.filters.given().into_iter().chain(recent));
        let SocketsAnswer { sockets, live, total, .. } = self.admin.done(Method::GET, &path, NO_BODY)?;
        let known = std::mem::take(&mut self.before);
        self.before = sockets.iter().map(|one| (one.id.clone(), messages(one))).collect();
        let busy = |view: SocketView| {
            let all = messages(&view);
            BusySocket { recent: all - known.get(&view.id).copied().unwrap_or(0).min(all), view }
        };
        let mut sockets: Vec<_> = sockets.into_iter().map(busy).collect();
        sockets.sort_by_key(|one| Reverse((one.recent, messages(&one.view))));
        Ok(TopSnapshot { status, workers, sockets, live, matching: total })
    }

    /// Carries an order out, and returns what was done.
    pub(super) fn order(&self, order: &TopOrder) -> Result<String, RemoteError> {
        match order {
            TopOrder::Worker { upstream, worker, word, grace } => {
                let path = paths::worker_state(upstream, worker, word);
                let body = GraceOrder { grace: grace.clone() };
                let said: WorkerView = self.admin.done(Method::POST, &path, Some(&body))?;
                Ok(format!("{upstream}/{worker} is in {}", said.admin))
            }
            TopOrder::Close(id) => {
                let body = CloseOneOrder::default();
                let said: ClosedSocket = self.admin.done(Method::POST, &paths::socket_close(id), Some(&body))?;
                Ok(format!("socket {} is closed", said.id))
            }
        }
    }
}

pub(super) fn messages(one: &SocketView) -> u64 {
    one.up.messages + one.down.messages
}
