//! Process groups: signals to all processes of a worker, and the memory that they use.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};

use super::super::protocol::ProcessId;

/// Time from SIGTERM to SIGKILL if stickyd or the spawner has died.
pub(crate) const PATIENCE: Duration = Duration::from_millis(700);

/// The process group of a worker. Its number is the id of the worker's first process, and the kernel does not give it
/// to another process while the group has members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ProcessGroup(Pid);

impl ProcessGroup {
    /// The group that a process leads.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        i32::try_from(pid).ok().and_then(Pid::from_raw).map(Self)
    }

    /// The process that leads the group.
    pub(crate) fn leader(self) -> u32 {
        u32::try_from(self.0.as_raw_pid()).unwrap_or_default()
    }

    /// Asks all processes of the group to end. A group without processes is not an error.
    pub(crate) fn terminate(self) {
        let _ = kill_process_group(self.0, Signal::TERM);
    }

    /// Ends all processes of the group.
    pub(crate) fn kill(self) {
        let _ = kill_process_group(self.0, Signal::KILL);
    }

    /// Whether the group has a process.
    pub(crate) fn lives(self) -> bool {
        test_kill_process_group(self.0).is_ok()
    }

    /// Ends what is left of a group whose first process has ended; `false` once nothing is. Processes that handle
    /// SIGTERM get [`PATIENCE`].
    pub(crate) fn ends_within(self, since: Duration, at_once: bool) -> bool {
        // What is left after that long cannot be killed: a zombie whose parent does not wait for it.
        let limit = if at_once { PATIENCE / 7 } else { 4 * PATIENCE };
        if !self.lives() || since > limit {
            return false;
        }
        if since.is_zero() && !at_once {
            self.terminate();
        } else if since >= PATIENCE || at_once {
            self.kill();
        }
        true
    }
}

/// Resident memory of each group, in bytes. Processes of a group share some of it, which is counted for each.
pub(super) fn memory(proc: &Path, groups: &HashMap<ProcessGroup, ProcessId>) -> Vec<(ProcessId, u64)> {
    let mut bytes: HashMap<ProcessId, u64> = HashMap::new();
    if groups.is_empty() {
        return Vec::new();
    }
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    for entry in std::fs::read_dir(proc).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if !name.to_str().is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit())) {
            continue;
        }
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((group, pages)) = parse(&stat) else { continue };
        if let Some(id) = ProcessGroup::of(group).and_then(|group| groups.get(&group)) {
            *bytes.entry(*id).or_default() += pages.saturating_mul(page);
        }
    }
    bytes.into_iter().collect()
}

/// The group and the resident pages in /proc/PID/stat (proc_pid_stat(5): fields 5 and 24). The second field may contain
/// anything, but it ends at the last `)`.
fn parse(stat: &str) -> Option<(u32, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let group = fields.nth(2)?.parse().ok()?;
    let pages = fields.nth(18)?.parse().ok()?;
    Some((group, pages))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_from_the_end_of_the_name() {
        let stat = "42 (a) b) S 1 40 40 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 11 0 99 1000 777 184";
        assert_eq!(parse(stat), Some((40, 777)));
        assert_eq!(parse("42 (a"), None);
    }
}
