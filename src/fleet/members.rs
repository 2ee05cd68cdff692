//! The members of the fleet: each stickyd shows a summary of itself in Redis, reads those of the others, and says what
//! differs. Left out: how a summary is made (`server::fleet`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::Ordering::Relaxed;

use redis::{Value, cmd};
use serde::{Deserialize, Serialize};

use super::Fleet;
use crate::locks::lock;

/// Seconds after which a stickyd that has not shown itself again is gone.
const LIFE_S: u64 = 15;

/// Seconds after which its number is removed from the list.
const LISTED_S: i64 = 60;

/// Maximum number of stickyds that are read.
const MOST_MEMBERS: i64 = 1_000;

/// Difference of clocks from which on it is a warning, in milliseconds.
const SKEW_MS: i64 = 2_000;

/// What a stickyd shows of itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Fingerprint of the affinity rules of each upstream.
    pub affinity: BTreeMap<String, String>,
    /// Whether it does what operators order over the fleet.
    #[serde(default = "obeys")]
    pub control: bool,
    /// Pins that were found in Redis.
    pub found: u64,
    /// Pins that were looked up in Redis.
    pub looked_up: u64,
    /// Name in the fleet.
    pub name: String,
    /// Latencies of Redis in milliseconds.
    pub redis_p50_ms: f64,
    /// Latency that 1 % of the batches exceeded.
    pub redis_p99_ms: f64,
    /// Number of live sessions.
    pub sessions: u64,
    /// Difference of its clock to that of the Redis, in milliseconds.
    pub skew_ms: i64,
    /// Number of live sockets.
    pub sockets: u64,
    /// Seconds since its start.
    pub uptime_s: u64,
    /// Version of this stickyd.
    pub version: String,
    /// State of its workers.
    pub workers: Vec<SeenWorker>,
    /// Changes of pins that it wrote to Redis.
    pub written: u64,
}

/// What a summary without this field means.
fn obeys() -> bool {
    true
}

/// A worker as one stickyd sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeenWorker {
    /// Word of its admin state.
    pub admin: String,
    /// Word of its health.
    pub health: String,
    /// Name of the worker.
    pub name: String,
    /// Sessions of this stickyd at the worker.
    pub sessions: u64,
    /// Name of its upstream.
    pub upstream: String,
}

/// A stickyd of the fleet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FleetMember {
    pub(crate) node: u64,
    pub(crate) name: String,
    /// `None` if it has another secret, so that it cannot be read.
    pub(crate) summary: Option<Summary>,
}

impl FleetMember {
    pub(crate) fn own(node: u64, summary: Summary) -> Self {
        Self { node, name: summary.name.clone(), summary: Some(summary) }
    }
}

impl Fleet {
    /// Sessions of each worker through the other stickyds, and the number of these, by upstream and worker.
    pub(crate) fn sessions_elsewhere(&self) -> HashMap<(String, String), (u64, u32)> {
        let mut found = HashMap::new();
        let members = lock(&self.members);
        for summary in members.iter().filter(|member| member.node != self.node).filter_map(|one| one.summary.as_ref()) {
            for worker in &summary.workers {
                let place = (worker.upstream.clone(), worker.name.clone());
                let (sessions, stickyds) = found.entry(place).or_insert((0_u64, 0_u32));
                *sessions = sessions.saturating_add(worker.sessions);
                *stickyds = stickyds.saturating_add(1);
            }
        }
        found
    }
}

/// Shows this stickyd, and reads all that have shown themselves; `None` if Redis does not answer.
pub(super) async fn exchange(fleet: &Fleet, summary: &Summary) -> Option<Vec<FleetMember>> {
    let now_s = redis_us(fleet).await? / 1_000_000;
    let summary = Summary { skew_ms: fleet.skew_ms(), ..summary.clone() };
    let list = fleet.control_name("members");
    let own = fleet.control_name(&format!("m:{:016x}", fleet.node));
    let mut show = cmd("SET");
    show.arg(&own).arg(envelope(fleet, &own, &summary)?).arg("EX").arg(LIFE_S);
    let mut add = cmd("ZADD");
    add.arg(&list).arg(now_s).arg(format!("{:016x}", fleet.node));
    let mut trim = cmd("ZREMRANGEBYSCORE");
    trim.arg(&list).arg("-inf").arg(now_s - LISTED_S);
    let mut range = cmd("ZRANGE");
    range.arg(&list).arg(-MOST_MEMBERS).arg(-1);
    let mut replies = fleet.ask(vec![show, add, trim, range]).await?;
    let Some(Value::Array(nodes)) = replies.pop() else { return None };
    let nodes: Vec<u64> = nodes.iter().filter_map(node).collect();
    let names: Vec<_> = nodes.iter().map(|node| fleet.control_name(&format!("m:{node:016x}"))).collect();
    let mut get = cmd("MGET");
    names.iter().for_each(|name| _ = get.arg(name));
    let Some(Value::Array(values)) = fleet.ask(vec![get]).await?.pop() else { return None };
    let mut members: Vec<_> = nodes
        .into_iter()
        .zip(names)
        .zip(values)
        .filter_map(|((node, name), value)| {
            let Value::BulkString(value) = value else { return None };
            read(fleet, node, &name, &value)
        })
        .collect();
    members.sort_by(|one, other| (&one.name, one.node).cmp(&(&other.name, other.node)));
    Some(members)
}

/// Asks Redis for its time in microseconds, and remembers how far this machine's clock is from it.
pub(super) async fn redis_us(fleet: &Fleet) -> Option<i64> {
    let Some(Value::Array(time)) = fleet.ask(vec![cmd("TIME")]).await?.pop() else { return None };
    let numbers: Vec<i64> = time.iter().filter_map(number).collect();
    let [seconds, micros] = *numbers.as_slice() else { return None };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let redis_us = seconds.saturating_mul(1_000_000).saturating_add(micros);
    fleet.skew_ms.store((redis_us / 1_000).saturating_sub(i64::try_from(now.as_millis()).unwrap_or(0)), Relaxed);
    Some(redis_us)
}

fn number(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        Value::BulkString(text) => std::str::from_utf8(text).ok()?.parse().ok(),
        _ => None,
    }
}

fn node(value: &Value) -> Option<u64> {
    match value {
        Value::BulkString(text) => u64::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok(),
        _ => None,
    }
}

/// What is stored: the fingerprint of the secret and the name in the clear, so that a stickyd with another secret can
/// be named; then the sealed summary.
fn envelope(fleet: &Fleet, key: &str, summary: &Summary) -> Option<Vec<u8>> {
    let sealed = fleet.seals.seal(key, &serde_json::to_vec(summary).ok()?)?;
    let length = u8::try_from(summary.name.len()).ok()?;
    Some([&fleet.seals.fingerprint()[..], &[length], summary.name.as_bytes(), &sealed].concat())
}

fn read(fleet: &Fleet, node: u64, key: &str, value: &[u8]) -> Option<FleetMember> {
    let (fingerprint, rest) = value.split_at_checked(8)?;
    let (length, rest) = rest.split_first()?;
    let (name, sealed) = rest.split_at_checked(usize::from(*length))?;
    let name: String = String::from_utf8_lossy(name).chars().filter(|c| !c.is_control()).take(64).collect();
    if fingerprint != fleet.seals.fingerprint() {
        return Some(FleetMember { node, name, summary: None });
    }
    let Some(plain) = fleet.seals.open(key, sealed) else {
        fleet.series.message("bad_seal");
        return None;
    };
    let summary: Summary = serde_json::from_slice(&plain).ok()?;
    Some(FleetMember { node, name: summary.name.clone(), summary: Some(summary) })
}

/// What differs among the stickyds, one sentence per difference.
pub(crate) fn differences(members: &[FleetMember]) -> Vec<String> {
    let mut found = Vec::new();
    for member in members.iter().filter(|member| member.summary.is_none()) {
        found.push(format!("{} has another secret", member.name));
    }
    let mut names = BTreeSet::new();
    for member in members {
        if !names.insert(&member.name) {
            found.push(format!("two stickyds are named {}", member.name));
        }
    }
    let known: Vec<_> = members.iter().filter_map(|member| member.summary.as_ref()).collect();
    for one in &known {
        if one.skew_ms.abs() > SKEW_MS {
            let seconds = one.skew_ms.abs() / 1_000;
            found.push(format!("the clock of {} differs from that of the Redis by {seconds} s", one.name));
        }
    }
    differing_workers(&known, &mut found);
    differing_affinity(&known, &mut found);
    found
}

fn differing_workers(known: &[&Summary], found: &mut Vec<String>) {
    let mut workers: BTreeMap<(&str, &str), Vec<(&str, &str)>> = BTreeMap::new();
    for one in known {
        for worker in &one.workers {
            let seen = workers.entry((worker.upstream.as_str(), worker.name.as_str())).or_default();
            seen.push((one.name.as_str(), worker.health.as_str()));
        }
    }
    for ((upstream, name), seen) in workers {
        for one in known.iter().filter(|one| !seen.iter().any(|(name, _)| *name == one.name)) {
            found.push(format!("{} does not know {upstream}/{name}", one.name));
        }
        let up = seen.iter().filter(|(_, health)| *health == "up").count();
        for (stickyd, health) in seen.iter().filter(|(_, health)| *health == "gone" && up > 0) {
            found.push(format!("{stickyd} sees {upstream}/{name} {health}, {up} others up"));
        }
    }
}

fn differing_affinity(known: &[&Summary], found: &mut Vec<String>) {
    let upstreams: BTreeSet<_> = known.iter().flat_map(|one| one.affinity.keys()).collect();
    for upstream in upstreams {
        let mut kinds: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for one in known {
            if let Some(kind) = one.affinity.get(upstream) {
                kinds.entry(kind).or_default().push(&one.name);
            }
        }
        let Some(most) = kinds.values().map(Vec::len).max().filter(|_| kinds.len() > 1) else { continue };
        // Of two equal halves, the second one is named.
        let usual = kinds.iter().find(|(_, names)| names.len() == most).map(|(kind, _)| *kind);
        for (_, names) in kinds.iter().filter(|(kind, _)| Some(**kind) != usual) {
            names.iter().for_each(|name| found.push(format!("{name} runs another `affinity` for {upstream}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, workers: &[(&str, &str)]) -> FleetMember {
        let seen = |(name, health): &(&str, &str)| SeenWorker {
            admin: "ready".to_owned(),
            health: (*health).to_owned(),
            name: (*name).to_owned(),
            sessions: 0,
            upstream: "app".to_owned(),
        };
        let affinity = BTreeMap::from([("app".to_owned(), "a".to_owned())]);
        let workers = workers.iter().map(seen).collect();
        FleetMember::own(0, Summary { name: name.to_owned(), workers, affinity, ..Summary::default() })
    }

    #[test]
    fn equal_stickyds_do_not_differ() {
        let all = ["a", "b"].map(|name| member(name, &[("w1", "up"), ("w2", "gone")]));
        assert_eq!(differences(&all), Vec::<String>::new(), "a worker that is gone for all is gone");
    }

    #[test]
    fn each_difference_is_named() {
        let mut all = vec![
            member("a", &[("w1", "up"), ("w2", "up")]),
            member("b", &[("w1", "up")]),
            member("c", &[("w1", "gone"), ("w2", "up")]),
        ];
        let odd = all[1].summary.as_mut().unwrap();
        odd.affinity.insert("app".to_owned(), "other".to_owned());
        odd.skew_ms = -3_500;
        all.push(FleetMember { node: 9, name: "d".to_owned(), summary: None });
        all.push(member("a", &[("w1", "up"), ("w2", "up")]));
        assert_eq!(
            differences(&all),
            [
                "d has another secret",
                "two stickyds are named a",
                "the clock of b differs from that of the Redis by 3 s",
                "c sees app/w1 gone, 3 others up",
                "b does not know app/w2",
                "b runs another `affinity` for app",
            ]
        );
    }
}
