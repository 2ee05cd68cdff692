//! What stickyd and the spawner tell each other: one JSON object per line, over a unix socket.
//!
//! The spawner does what only the parent of the workers can do: it starts and signals them, reads what they write, and
//! sees how they end. Everything else (how many, when, in which order) is decided by stickyd, which may be restarted
//! meanwhile: then the spawner tells the next stickyd which workers live.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

/// Maximum length of a message in bytes: a command with its environment, or a page of log lines.
const LONGEST: u64 = 4 << 20;

/// Version of the messages; a spawner of another version is refused, with a log line that says what to do.
pub(crate) const VERSION: u32 = 1;

/// Number that stickyd gives to one process of a worker; unique over restarts of stickyd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct ProcessId(pub(crate) u64);

/// What stickyd asks the spawner to do.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// Start a process of a worker.
    Start(Box<StartRequest>),
    /// End the process and its group: SIGTERM now, SIGKILL after this many milliseconds.
    Stop { id: ProcessId, after_ms: u64 },
    /// Send log lines from this number on.
    Lines { ask: u64, from: u64, upstream: Option<String>, worker: Option<String> },
    /// End every process, each within its time, and then the spawner.
    End { now: bool },
}

/// A process that is to be started.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StartRequest {
    pub(crate) tag: Tag,
    pub(crate) command: Vec<String>,
    pub(crate) directory: PathBuf,
    /// Variables in addition to the spawner's own.
    pub(crate) environment: BTreeMap<String, String>,
    /// Modules that Node loads before the application.
    pub(crate) preloads: Vec<super::environment::Preload>,
    /// Time from SIGTERM to SIGKILL when the spawner itself is stopped.
    pub(crate) stop_ms: u64,
    /// Whether log lines are written as JSON.
    pub(crate) json: bool,
}

/// What a process is for. The spawner returns it to a stickyd that finds the process alive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tag {
    pub(crate) id: ProcessId,
    pub(crate) upstream: String,
    /// Number of the worker's place, from 1.
    pub(crate) slot: u32,
    /// Where the process is to listen: an IP address and a port, or the path of a unix socket.
    pub(crate) address: String,
    /// Hash of everything whose change needs a new process.
    pub(crate) made_from: String,
}

/// What the spawner tells stickyd.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SpawnerReport {
    /// The first message of a connection.
    Hello(Hello),
    Started {
        id: ProcessId,
        pid: u32,
    },
    NotStarted {
        id: ProcessId,
        why: String,
    },
    Exited(Exit),
    /// Resident memory of the group of each process, in bytes.
    Memory {
        bytes: Vec<(ProcessId, u64)>,
    },
    Lines(LinePage),
    /// Log lines that were not kept, since the last such message.
    Dropped {
        lines: Vec<(ProcessId, u64)>,
    },
}

/// Describes the spawner and the workers that live.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) version: u32,
    pub(crate) pid: u32,
    /// Folder for unix sockets of workers.
    pub(crate) folder: PathBuf,
    pub(crate) living: Vec<Living>,
}

/// A process that is alive.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Living {
    pub(crate) tag: Tag,
    pub(crate) pid: u32,
    pub(crate) age_ms: u64,
    /// Whether it is being stopped.
    pub(crate) stopping: bool,
}

/// How a process has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Exit {
    pub(crate) id: ProcessId,
    /// Its exit code, if it ended on its own.
    pub(crate) code: Option<i32>,
    /// The signal that ended it.
    pub(crate) signal: Option<i32>,
    /// The last lines that it wrote to standard error; if there are none, to standard output.
    pub(crate) last: Vec<String>,
}

impl Exit {
    /// Says how the process ended, as `exited with code 1`.
    pub(crate) fn words(&self) -> String {
        match (self.code, self.signal) {
            (Some(code), _) => format!("exited with code {code}"),
            (None, Some(signal)) => format!("was ended by signal {signal}{}", signal_name(signal)),
            (None, None) => "ended".to_owned(),
        }
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        6 => " (SIGABRT)",
        9 => " (SIGKILL, by an operator or for lack of memory)",
        11 => " (SIGSEGV)",
        15 => " (SIGTERM)",
        _ => "",
    }
}

/// Some of the log lines.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LinePage {
    pub(crate) ask: u64,
    pub(crate) lines: Vec<LogLine>,
    /// Number from which to ask on.
    pub(crate) next: u64,
}

/// One line that a worker wrote.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct LogLine {
    pub(crate) upstream: String,
    pub(crate) worker: String,
    /// Whether it was written to standard error.
    pub(crate) error: bool,
    /// When it was read, in milliseconds since 1970.
    pub(crate) at_ms: u64,
    pub(crate) text: String,
}

/// Writes a message as a line.
pub(crate) fn line(message: &impl Serialize) -> Vec<u8> {
    // This cannot fail: all keys are strings.
    let mut line = serde_json::to_vec(message).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Reads the next message; `None` at the end. Must not be cancelled half-way.
pub(crate) async fn read<T: DeserializeOwned>(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    let size = reader.take(LONGEST).read_until(b'\n', &mut line).await?;
    if size == 0 {
        return Ok(None);
    }
    serde_json::from_slice(&line).map(Some).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_are_read_as_they_were_written() {
        let mut bytes = line(&Request::Stop { id: ProcessId(u64::MAX), after_ms: 5 });
        bytes.extend(line(&Request::End { now: true }));
        let mut reader = &bytes[..];
        let first: Option<Request> = read(&mut reader).await.unwrap();
        assert_eq!(first, Some(Request::Stop { id: ProcessId(u64::MAX), after_ms: 5 }));
        assert_eq!(read(&mut reader).await.unwrap(), Some(Request::End { now: true }));
        assert_eq!(read::<Request>(&mut reader).await.unwrap(), None);
        assert!(read::<Request>(&mut &b"nonsense\n"[..]).await.is_err());
    }

    #[test]
    fn an_end_is_told_in_words() {
        let exit = |code, signal| Exit { id: ProcessId(1), code, signal, last: Vec::new() }.words();
        assert_eq!(exit(Some(1), None), "exited with code 1");
        assert!(exit(None, Some(9)).starts_with("was ended by signal 9 (SIGKILL"));
    }
}
