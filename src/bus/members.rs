//! The processes that are linked to the hub, and what they report, for the API and the commands.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use super::emit::EmitSender;
use super::frame::{LinkHello, MemberId, ProcessFacts};
use crate::locks::lock;
use crate::metrics::Metrics;

/// One Socket.IO server that is linked to the hub.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BusMember {
    /// Upstream that its environment names; empty if it names none.
    pub upstream: String,
    /// Path of the Socket.IO server.
    pub path: String,
    /// Id of the process.
    pub pid: u32,
    /// Slot of a worker that stickyd started; empty otherwise.
    pub worker: String,
    /// Version of Node.js there.
    pub node: String,
    /// Version of socket.io there.
    pub socketio: String,
    /// What the process reported last.
    pub facts: ProcessFacts,
}

/// All linked members. The hub's thread writes it, the control thread reads it.
pub(crate) struct BusMembers {
    members: Mutex<HashMap<MemberId, BusMember>>,
    pub(crate) metrics: Arc<Metrics>,
    socket: OnceLock<PathBuf>,
    emits: OnceLock<EmitSender>,
}

impl BusMembers {
    /// Creates the list without members; the hub's counters are those of `metrics`.
    pub(crate) fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { members: Mutex::default(), metrics, socket: OnceLock::new(), emits: OnceLock::new() })
    }

    /// Number of linked members of an upstream.
    pub(crate) fn linked(&self, upstream: &str) -> usize {
        lock(&self.members).values().filter(|member| member.upstream == upstream).count()
    }

    /// The hub's socket, once the hub serves it; `None` without a bus.
    pub(crate) fn socket(&self) -> Option<&Path> {
        self.socket.get().map(PathBuf::as_path)
    }

    /// The way of messages of the backend to the hub; `None` without a bus.
    pub(crate) fn emits(&self) -> Option<&EmitSender> {
        self.emits.get()
    }

    /// Tells that the hub takes messages of the backend.
    pub(super) fn takes_emits(&self, way: EmitSender) {
        let _ = self.emits.set(way);
    }

    /// Tells where the hub serves its socket.
    pub(crate) fn serves(&self, socket: PathBuf) {
        let _ = self.socket.set(socket);
    }

    /// All linked members, by upstream, path and process.
    pub(crate) fn list(&self) -> Vec<BusMember> {
        let mut all: Vec<_> = lock(&self.members).values().cloned().collect();
        all.sort_by(|a, b| (&a.upstream, &a.path, a.pid).cmp(&(&b.upstream, &b.path, b.pid)));
        all
    }

    pub(super) fn join(&self, hello: LinkHello) {
        let LinkHello { member, upstream, path, pid, worker, node, socketio, .. } = hello;
        let facts = ProcessFacts::default();
        let info = BusMember { upstream, path, pid, worker, node, socketio, facts };
        lock(&self.members).insert(member, info);
    }

    /// Removes a member whose link ended.
    pub(super) fn leave(&self, id: MemberId) {
        lock(&self.members).remove(&id);
    }

    pub(super) fn facts(&self, id: MemberId, facts: ProcessFacts) {
        if let Some(member) = lock(&self.members).get_mut(&id) {
            member.facts = facts;
        }
    }
}
