//! Series of processes: stickyd's own, with the names that all exporters use, and those of workers on this machine.

use super::families::{Families, Family, value};

/// The process of stickyd itself, as read from /proc.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct OwnProcess {
    pub(crate) cpu_s: f64,
    /// Resident and virtual memory.
    pub(crate) memory_bytes: u64,
    pub(crate) virtual_bytes: u64,
    /// Unix time of its start; `None` if /proc does not show when the machine was started.
    pub(crate) started_s: Option<f64>,
    pub(crate) threads: u32,
}

/// The process of a worker on this machine, as read from /proc.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WorkerProcess {
    pub(crate) cpu_s: f64,
    pub(crate) memory_bytes: u64,
    /// Unix time of its start; `None` if /proc does not show when the machine was started.
    pub(crate) started_s: Option<f64>,
}

const CPU: Family =
    Family { name: "process_cpu_seconds_total", help: "CPU time of stickyd, user and system, in seconds." };
const MEMORY: Family = Family { name: "process_resident_memory_bytes", help: "Resident memory of stickyd in bytes." };
const VIRTUAL: Family = Family { name: "process_virtual_memory_bytes", help: "Virtual memory of stickyd in bytes." };
const STARTED: Family =
    Family { name: "process_start_time_seconds", help: "Unix time at which stickyd was started, in seconds." };
const THREADS: Family = Family { name: "process_threads", help: "Threads of stickyd." };
const OPEN: Family = Family { name: "process_open_fds", help: "File descriptors that stickyd has open." };
const MAX: Family =
    Family { name: "process_max_fds", help: "Maximum number of file descriptors that stickyd may have open." };
const WORKER_CPU: Family = Family {
    name: "stickyd_worker_cpu_seconds_total",
    help: "CPU time of the process that listens at the worker's address, if it is on this machine; of several \
           processes, the one with the lowest pid.",
};
const WORKER_MEMORY: Family = Family {
    name: "stickyd_worker_resident_memory_bytes",
    help: "Resident memory of the process that listens at the worker's address, if it is on this machine.",
};
const WORKER_STARTED: Family = Family {
    name: "stickyd_worker_start_time_seconds",
    help: "Unix time at which the process that listens at the worker's address was started, if it is on this machine.",
};

impl Families {
    /// Adds stickyd's own process; a value that /proc does not show has no series.
    pub(crate) fn own_process(&mut self, own: Option<OwnProcess>, open: Option<u64>, max: u64) {
        if let Some(own) = own {
            self.counter(&CPU, &[], own.cpu_s);
            self.gauge(&MEMORY, &[], value(own.memory_bytes));
            self.gauge(&VIRTUAL, &[], value(own.virtual_bytes));
            self.gauge(&THREADS, &[], own.threads.into());
            if let Some(started_s) = own.started_s {
                self.gauge(&STARTED, &[], started_s);
            }
        }
        if let Some(open) = open {
            self.gauge(&OPEN, &[], value(open));
        }
        self.gauge(&MAX, &[], value(max));
    }

    pub(super) fn worker_process(&mut self, at: &[(&'static str, &str); 2], process: &WorkerProcess) {
        self.counter(&WORKER_CPU, at, process.cpu_s);
        self.gauge(&WORKER_MEMORY, at, value(process.memory_bytes));
        if let Some(started_s) = process.started_s {
            self.gauge(&WORKER_STARTED, at, started_s);
        }
    }
}
