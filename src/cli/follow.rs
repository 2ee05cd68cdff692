//! What `events` and `logs` share: both print what there is, and then what comes, until the output is closed.

use std::io::Write as _;
use std::time::Duration;

use super::remote::RemoteError;

/// Interval between two questions for what is new.
const POLL: Duration = Duration::from_millis(300);

/// Number of tries while stickyd restarts.
const TRIES: u32 = 20;

/// Returns the exit code of a command that has printed its result itself; an error is printed here.
pub(crate) fn exit_code(result: Result<(), RemoteError>) -> u8 {
    match result {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{error}");
            1
        }
    }
}

/// Asks for what is new, from the number `next` on, until the output is closed or stickyd is gone. `print` prints a
/// page, and returns the number to ask from the next time; `None` once the output is closed. After a failure it is
/// asked from `restart`, if that is given.
pub(crate) fn follow(
    mut next: u64,
    restart: Option<u64>,
    mut print: impl FnMut(u64) -> Result<Option<u64>, RemoteError>,
) -> Result<(), RemoteError> {
    let mut failures = 0;
    loop {
        // Nothing else runs on this thread, so it may block.
        std::thread::park_timeout(POLL);
        match print(next) {
            Ok(Some(after)) => (failures, next) = (0, after),
            Ok(None) => return Ok(()),
            Err(error) => {
                failures += 1;
                if failures > TRIES {
                    return Err(error);
                }
                next = restart.unwrap_or(next);
            }
        }
    }
}

/// Writes lines to the standard output; `false` once it is closed.
pub(crate) fn write(lines: impl Iterator<Item = String>) -> bool {
    let mut out = std::io::stdout().lock();
    for line in lines {
        if writeln!(out, "{line}").is_err() {
            return false;
        }
    }
    out.flush().is_ok()
}
