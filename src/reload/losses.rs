//! Warnings about live sessions that a reload would lose. Such a reload is never refused: whether an upstream may be
//! empty is decided by the configuration (`allow_empty`).

use crate::config::{self, Config};
use crate::state::Snapshot;
use crate::upstream::Upstream;

/// Returns one sentence per upstream that loses all its workers while they have sessions.
pub(crate) fn all(old: &Snapshot, new: &Config) -> Vec<String> {
    old.upstreams
        .iter()
        .filter_map(|old| of(old, new.upstreams.iter().find(|new| new.name == old.config.name)))
        .collect()
}

fn of(old: &Upstream, new: Option<&config::Upstream>) -> Option<String> {
    let workers = || old.members.iter().map(|member| &member.worker);
    let had: Vec<_> = workers().filter(|worker| !worker.admin.is_removed()).collect();
    let sessions: u64 = workers().map(|worker| u64::from(worker.sessions())).sum();
    let tunnels: u64 = workers().map(|worker| u64::from(worker.tunnels())).sum();
    let name = &old.config.name;
    let what = match new {
        _ if had.is_empty() || sessions + tunnels == 0 => return None,
        None => format!("upstream `{name}` is no longer configured"),
        // These workers are replaced one after the other.
        Some(new) if new.spawn.is_some() => return None,
        Some(new) if new.workers.is_empty() => format!("upstream `{name}` no longer has any workers"),
        Some(new) if had.iter().any(|old| new.workers.iter().any(|new| new.address == old.address)) => return None,
        Some(_) => format!("every worker of upstream `{name}` was replaced"),
    };
    Some(format!("{what} while it has live sessions: {sessions}, tunnels: {tunnels}"))
}
