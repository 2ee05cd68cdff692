//! The processes of workers on this machine, and stickyd's own: pid, CPU, memory, descriptors, read from /proc.
//!
//! The rule "only `config` reads files" (ARCHITECTURE.md, invariant 11) is about configuration, and none is read here.
//! /proc is searched only on request, on a thread of its own since that may take long, at most once in [`FRESH`], and
//! within bounds. Who holds a listening socket is searched for once: while the socket and its process stay, only the
//! process is read again, and a socket whose process was not found is searched for again after [`SEARCH_AGAIN`]. A
//! worker's process is the one that holds its listening socket; if several do (a master and its children), it is the
//! one with the lowest pid. One that holds the sockets of several workers is marked. Left out: sockets on `0.0.0.0` for
//! a worker whose address is not loopback (it may be another machine), processes of other users that stickyd may not
//! inspect, other network namespaces: such workers are shown without a process.

mod listening_sockets;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::config::Address;
use crate::descriptors;
use crate::printable::is_unprintable;
use listening_sockets::{holders_of, inodes};

/// Age up to which a result is reused.
const FRESH: Duration = Duration::from_secs(3);

/// Time after which reading /proc stops, with the results so far.
const LONGEST: Duration = Duration::from_secs(1);

/// Time after which the process of a listening socket that was not found is searched for again.
const SEARCH_AGAIN: Duration = Duration::from_secs(60);

/// Time after which a search that ran out of time is made again.
const CUT_SEARCH_AGAIN: Duration = Duration::from_secs(10);

/// Clock ticks per second in /proc: Linux shows this value to user space on every platform that stickyd is built for.
const TICKS_PER_SECOND: f64 = 100.0;

/// One process, as read from /proc.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) command: String,
    /// CPU time since the start of the process, user and system, in seconds.
    pub(crate) cpu_s: f64,
    /// CPU usage since the previous result, in percent of one core; `None` the first time.
    pub(crate) cpu_percent: Option<f64>,
    pub(crate) memory_bytes: u64,
    pub(crate) virtual_bytes: u64,
    /// Time from the start of the machine to that of the process, in clock ticks.
    started_ticks: u64,
    pub(crate) threads: u32,
    /// Whether the process stands for several workers: it holds the sockets of more than one, or it is PM2's own.
    pub(crate) shared: bool,
}

impl Process {
    /// Returns the Unix time at which the process was started, in seconds.
    pub(crate) fn started_s(&self) -> Option<f64> {
        static BOOT_S: OnceLock<Option<f64>> = OnceLock::new();
        // Read once, so that the start of a process does not change with corrections of the clock.
        let boot_s = BOOT_S
            .get_or_init(|| lines("/proc/stat").find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok()));
        #[allow(clippy::cast_precision_loss, reason = "ticks since the start of a machine have far less than 53 bits")]
        let after_s = self.started_ticks as f64 / TICKS_PER_SECOND;
        boot_s.map(|boot_s| boot_s + after_s)
    }
}

/// What was found out about a listening socket.
#[derive(Debug, Clone, Copy)]
enum Holder {
    /// The process with this pid, started at this time, holds it.
    Process(u32, u64),
    /// No process was found at this time.
    Unknown(Instant),
}

/// Result of one reading of /proc.
#[derive(Debug, Default)]
pub(crate) struct ProcessTable {
    at: Option<Instant>,
    pub(crate) workers: HashMap<Address, Process>,
    /// The process of stickyd itself.
    pub(crate) own: Option<Process>,
    /// Number of open descriptors of stickyd.
    pub(crate) descriptors: Option<u64>,
    /// Who holds the listening sockets of workers, by inode.
    holders: HashMap<u64, Holder>,
}

/// Reads /proc on request, and keeps the last result.
#[derive(Default)]
pub(crate) struct Processes {
    last: Mutex<Arc<ProcessTable>>,
    busy: AtomicBool,
}

impl Processes {
    /// Returns the last result, however old it is.
    pub(crate) fn last(&self) -> Arc<ProcessTable> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns a result at most [`FRESH`] old for these workers; the previous one while another reading runs or takes
    /// too long.
    pub(crate) async fn look(self: &Arc<Self>, addresses: Vec<Address>) -> Arc<ProcessTable> {
        let last = self.last();
        if last.at.is_some_and(|at| at.elapsed() < FRESH) || self.busy.swap(true, Relaxed) {
            return last;
        }
        let (done, waits) = oneshot::channel();
        let all = self.clone();
        let thread = std::thread::Builder::new().name("processes".to_owned());
        let started = thread.spawn(move || {
            let before = all.last();
            *all.last.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(look(&addresses, &before));
            all.busy.store(false, Relaxed);
            // The requester may have gone away.
            let _ = done.send(());
        });
        if started.is_err() {
            self.busy.store(false, Relaxed);
        }
        let _ = tokio::time::timeout(LONGEST * 2, waits).await;
        self.last()
    }
}

fn look(addresses: &[Address], before: &ProcessTable) -> ProcessTable {
    let (at, until) = (Instant::now(), Instant::now() + LONGEST);
    let wanted = inodes(addresses);
    let mut holders: HashMap<u64, Holder> =
        before.holders.iter().filter(|(inode, _)| wanted.contains_key(inode)).map(|(k, v)| (*k, *v)).collect();
    let mut found = HashMap::new();
    for (inode, holder) in &holders {
        if let Holder::Process(pid, started) = holder
            && let Some(process) = read(&pid.to_string()).filter(|process| process.started_ticks == *started)
        {
            found.insert(*inode, process);
        }
    }
    let is_missing = |inode: &u64| match holders.get(inode) {
        Some(Holder::Unknown(since)) => at.saturating_duration_since(*since) >= SEARCH_AGAIN,
        _ => !found.contains_key(inode),
    };
    let missing: Vec<u64> = wanted.keys().copied().filter(is_missing).collect();
    for inode in &missing {
        holders.insert(*inode, Holder::Unknown(at));
    }
    for (inode, pid) in holders_of(missing, until) {
        let Some(process) = read(&pid.to_string()) else { continue };
        holders.insert(inode, Holder::Process(pid, process.started_ticks));
        found.insert(inode, process);
    }
    if Instant::now() >= until
        && let Some(earlier) = at.checked_sub(SEARCH_AGAIN.saturating_sub(CUT_SEARCH_AGAIN))
    {
        let unknown = holders.values_mut().filter(|holder| matches!(holder, Holder::Unknown(since) if *since == at));
        unknown.for_each(|holder| *holder = Holder::Unknown(earlier));
    }
    let mut workers = HashMap::new();
    let pids: Vec<(u64, u32)> = found.iter().map(|(inode, process)| (*inode, process.pid)).collect();
    for (inode, mut process) in found {
        let own = pids.iter().filter(|(_, pid)| *pid == process.pid).filter_map(|(inode, _)| wanted.get(inode));
        process.shared = is_shared(own.flatten().collect::<HashSet<_>>().len(), &process.command);
        for address in wanted.get(&inode).into_iter().flatten() {
            process.cpu_percent = before.at.and_then(|then| share(before.workers.get(*address)?, &process, then, at));
            workers.insert((*address).clone(), process.clone());
        }
    }
    let mut own = own();
    if let (Some(now), Some(then), Some(old)) = (&mut own, before.at, &before.own) {
        now.cpu_percent = share(old, now, then, at);
    }
    ProcessTable { at: Some(at), workers, own, descriptors: Some(descriptors::open() as u64), holders }
}

/// What a process uses, read in one look at a single file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ProcessUsage {
    /// CPU time since the start of the process, user and system, in seconds.
    pub(crate) cpu_s: f64,
    pub(crate) memory_bytes: u64,
}

/// Returns what a process uses now, if it is still the one that was found. This takes some 10 µs, so that it may be
/// done once per second on the control thread.
pub(crate) fn usage(process: &Process) -> Option<ProcessUsage> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid)).ok()?;
    usage_of(&stat, process.started_ticks)
}

fn usage_of(stat: &str, started_ticks: u64) -> Option<ProcessUsage> {
    let (_, after) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = after.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    #[allow(clippy::cast_precision_loss, reason = "ticks of a process have far less than 53 bits")]
    let cpu_s = (number(11)? + number(12)?) as f64 / TICKS_PER_SECOND;
    // The resident set is field 24, in pages.
    let memory_bytes = number(21)?.saturating_mul(rustix::param::page_size() as u64);
    (number(19)? == started_ticks).then_some(ProcessUsage { cpu_s, memory_bytes })
}

/// Reads the process of stickyd itself.
pub(crate) fn own() -> Option<Process> {
    read("self")
}

/// Whether a process stands for several workers. A cluster's master holds the listening sockets of all its children
/// (Node's cluster module, PM2's cluster mode); PM2's daemon is one even if it holds a single one ("PM2 v5.3.0: God
/// Daemon", of which the kernel keeps 15 bytes).
fn is_shared(workers: usize, command: &str) -> bool {
    workers > 1 || command.starts_with("PM2 v")
}

/// Returns the CPU usage between two readings, in percent of one core.
fn share(old: &Process, new: &Process, then: Instant, now: Instant) -> Option<f64> {
    let span = now.saturating_duration_since(then).as_secs_f64();
    let percent = (new.cpu_s - old.cpu_s) / span * 100.0;
    (old.pid == new.pid && span > 0.0).then(|| (percent.max(0.0) * 10.0).round() / 10.0)
}

fn lines(path: &str) -> impl Iterator<Item = String> {
    let file = fs::File::open(path).ok().map(|file| BufReader::new(file).lines().map_while(Result::ok));
    file.into_iter().flatten()
}

fn read(pid: &str) -> Option<Process> {
    process(
        &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?,
        &fs::read_to_string(format!("/proc/{pid}/status")).ok()?,
    )
}

/// Parses `/proc/PID/stat` and `/proc/PID/status` (proc(5)); the command may contain anything, including `)`.
fn process(stat: &str, status: &str) -> Option<Process> {
    let (before, after) = stat.rsplit_once(") ")?;
    let (pid, command) = before.split_once(" (")?;
    let fields: Vec<&str> = after.split_ascii_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
    let said = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)?.split_ascii_whitespace().next());
    let memory = |key: &str| said(key).and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0).saturating_mul(1024);
    Some(Process {
        pid: pid.parse().ok()?,
        command: command.chars().filter(|c| !is_unprintable(*c)).collect(),
        // utime, stime and starttime are fields 14, 15 and 22; the first field after the command is number 3.
        cpu_s: (ticks(11)? + ticks(12)?) / TICKS_PER_SECOND,
        cpu_percent: None,
        memory_bytes: memory("VmRSS:"),
        virtual_bytes: memory("VmSize:"),
        started_ticks: fields.get(19)?.parse().ok()?,
        threads: said("Threads:").and_then(|count| count.parse().ok()).unwrap_or(1),
        shared: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_parsed_whatever_its_command() {
        let stat = "12 (a) (b c)) S 1 12 12 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 4 0 100 1 1";
        let read = process(stat, "Name:\ta\nVmSize:\t 4096 kB\nVmRSS:\t  2048 kB\nThreads:\t4\n").unwrap();
        assert_eq!((read.pid, read.command.as_str(), read.cpu_s), (12, "a) (b c)", 2.0));
        assert_eq!((read.memory_bytes, read.virtual_bytes, read.threads), (2 << 20, 4 << 20, 4));
        assert_eq!(read.started_ticks, 100);
        assert_eq!(process("", ""), None);
        let page = rustix::param::page_size() as u64;
        let stat = "12 (a) (b c)) S 1 12 12 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 4 0 100 4096 3";
        assert_eq!(usage_of(stat, 100), Some(ProcessUsage { cpu_s: 2.0, memory_bytes: 3 * page }));
        assert_eq!((usage_of(stat, 101), usage_of("", 0)), (None, None), "another process has its pid");
        assert!(is_shared(2, "node") && is_shared(1, "PM2 v5.3.0: God") && !is_shared(1, "node"));
    }

    #[test]
    fn the_own_process_can_be_read() {
        let own = read("self").unwrap();
        assert!(own.pid == std::process::id() && own.memory_bytes > 0 && own.threads > 0);
        let started_s = own.started_s().unwrap();
        let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(started_s <= now_s + 1.0 && now_s - started_s < 3_600.0, "{started_s} at {now_s}");
    }
}
