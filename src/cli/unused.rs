//! Ports of a range at which no process has ever listened: one line for those of an upstream, instead of a row each.
//!
//! The API does not tell which workers are ports of a range, so a neighbour at the next port stands for one. Left out:
//! a single such port, which keeps its row, and those that an operator has drained.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;

use crate::admin::api::WorkerView;

/// Maximum number of ranges that a line names.
const RANGES: usize = 4;

/// Workers that have a row each, and the lines about the others.
pub(super) struct FoldedWorkers<'w> {
    /// Workers with a row each, in their order.
    pub(super) shown: Vec<&'w WorkerView>,
    /// One line per upstream with unused ports.
    pub(super) lines: Vec<String>,
}

/// Whether no process has ever listened at the address: a spare port of a range.
pub(super) fn is_unused(one: &WorkerView) -> bool {
    one.health == "unused" || (one.health == "gone" && one.why.health == "no process has listened there")
}

/// Whether the port is unused, and no operator has drained it.
pub(super) fn is_spare(one: &WorkerView) -> bool {
    is_unused(one) && one.admin == "ready"
}

/// Separates the unused ports of ranges from the workers that are shown one by one.
pub(super) fn fold<'w>(all: &[&'w WorkerView]) -> FoldedWorkers<'w> {
    let ports: HashSet<_> = all.iter().filter_map(|one| Some((one.upstream.as_str(), port(one)?))).collect();
    let spare = |one: &WorkerView| {
        let at = port(one).filter(|_| is_spare(one))?;
        let next = [at.port().checked_sub(1), at.port().checked_add(1)].into_iter().flatten();
        next.map(|next| SocketAddr::new(at.ip(), next))
            .any(|next| ports.contains(&(one.upstream.as_str(), next)))
            .then_some(at)
    };
    let mut unused: BTreeMap<&str, Vec<SocketAddr>> = BTreeMap::new();
    for one in all {
        if let Some(at) = spare(one) {
            unused.entry(&one.upstream).or_default().push(at);
        }
    }
    unused.retain(|_, ports| ports.len() > 1);
    let has_row = |one: &&WorkerView| spare(one).is_none() || !unused.contains_key(one.upstream.as_str());
    let shown = all.iter().copied().filter(has_row).collect();
    let line = |(upstream, ports): (&&str, &Vec<SocketAddr>)| {
        format!("{upstream}: {} unused ports ({})", ports.len(), ranges(ports.clone()))
    };
    FoldedWorkers { shown, lines: unused.iter().map(line).collect() }
}

/// The address of a worker that may be a port of a range, by its name. One with a name of its own is not.
fn port(one: &WorkerView) -> Option<SocketAddr> {
    let at: SocketAddr = one.address.parse().ok()?;
    (one.worker == one.address || one.worker.ends_with(&format!("-{}", at.port()))).then_some(at)
}

/// Formats ports as ranges: `127.0.0.1:3001, 127.0.0.1:3005-3032`.
fn ranges(mut ports: Vec<SocketAddr>) -> String {
    ports.sort();
    let mut all: Vec<(SocketAddr, u16)> = Vec::new();
    for at in ports {
        match all.last_mut() {
            Some((first, last)) if first.ip() == at.ip() && last.checked_add(1) == Some(at.port()) => *last = at.port(),
            _ => all.push((at, at.port())),
        }
    }
    let range = |&(first, last): &(SocketAddr, u16)| match first.port() == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    let named: Vec<_> = all.iter().take(RANGES).map(range).collect();
    format!("{}{}", named.join(", "), if all.len() > RANGES { ", …" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::ranges;

    #[test]
    fn ports_are_shown_as_ranges() {
        let said = |ports: &[&str]| ranges(ports.iter().map(|at| at.parse().unwrap()).collect());
        let of = ["10.0.0.2:3001", "10.0.0.1:3003", "10.0.0.1:3001", "10.0.0.1:3002", "10.0.0.1:65535"];
        assert_eq!(said(&of), "10.0.0.1:3001-3003, 10.0.0.1:65535, 10.0.0.2:3001");
        assert_eq!(said(&["[::1]:3001", "[::1]:3002"]), "[::1]:3001-3002");
        let odd = ["10.0.0.1:1", "10.0.0.1:3", "10.0.0.1:5", "10.0.0.1:7", "10.0.0.1:9"];
        assert!(said(&odd).ends_with(", 10.0.0.1:7, …"));
    }
}
