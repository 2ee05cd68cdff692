//! The first moment of a worker's process: the spawner runs stickyd itself, as `stickyd __worker`, which asks the
//! kernel for a SIGTERM when the spawner dies, and then becomes the worker's command.
//!
//! A shim, because safe Rust cannot run code between fork and exec. The signal belongs to the *thread* that started the
//! process, so the spawner starts processes only on its main thread. It survives `exec`, except of programs that gain
//! privileges. The workers of a killed spawner are thus told to end even if stickyd was killed as well.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use clap::Args;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

/// Exit code if the command cannot be run, as of a shell.
const CANNOT_RUN: u8 = 127;

/// Arguments of `stickyd __worker`.
#[derive(Debug, Args)]
pub struct ShimCommand {
    /// Process id of the spawner
    pub parent: i32,
    /// The command to become
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

impl ShimCommand {
    /// Becomes the command; returns the exit code only if that is impossible.
    pub fn run(&self) -> u8 {
        if let Err(error) = set_parent_process_death_signal(Some(Signal::TERM)) {
            eprintln!("stickyd: cannot ask for a signal at the death of the spawner: {error}");
            return CANNOT_RUN;
        }
        // The spawner may have died before the request.
        if getppid().map(Pid::as_raw_pid) != Some(self.parent) {
            return CANNOT_RUN;
        }
        let Some((program, arguments)) = self.command.split_first() else { return CANNOT_RUN };
        let error = Command::new(program).args(arguments).exec();
        eprintln!("stickyd: cannot run `{}`: {error}", program.display());
        CANNOT_RUN
    }
}
