//! Where lines of the access log go if not to the log itself: a file that is opened again when it was moved away, or
//! standard error.
//!
//! A file has a queue and a thread of its own, so that a slow disk holds up no request. Left out: the form of a line
//! (`proxy::access_format`).

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::writer::{self, LineQueue};
use crate::config::{AccessFormat, Log};

/// Permissions of a new file: its lines hold addresses of clients.
const MODE: u32 = 0o640;

/// The access log as configured.
pub(crate) struct AccessSink {
    /// Form of a line.
    pub(crate) format: AccessFormat,
    /// Whether polls that succeed are left out.
    pub(crate) skips_polls: bool,
    /// Share of the requests answered below 400 that are logged, in percent.
    pub(crate) sample: u32,
    out: Option<AccessOut>,
}

/// The queue of a file.
struct AccessOut {
    path: PathBuf,
    queue: LineQueue,
    /// Set to let the thread open the path again before its next line.
    again: Arc<AtomicBool>,
}

impl AccessSink {
    /// Follows the configuration. A file of the same path keeps its queue, and is opened again.
    pub(crate) fn follow(log: &Log, before: Option<&Arc<Self>>) -> Option<Arc<Self>> {
        if !log.access {
            return None;
        }
        let old = before.and_then(|before| before.out.as_ref());
        let out = log.access_file.as_ref().and_then(|path| match old.filter(|old| old.path == *path) {
            Some(old) => {
                old.again.store(true, Relaxed);
                Some(AccessOut { path: path.clone(), queue: old.queue.clone(), again: old.again.clone() })
            }
            None => AccessOut::start(path),
        });
        Some(Arc::new(Self { format: log.access_format, skips_polls: log.skip_polls, sample: log.sample, out }))
    }

    /// Whether lines are events of the log, in the log's own form.
    pub(crate) fn is_of_log(&self) -> bool {
        self.out.is_none() && self.format == AccessFormat::Text
    }

    /// Writes one line, which ends with a newline.
    pub(crate) fn write(&self, line: &[u8]) {
        match &self.out {
            Some(out) => out.queue.push(line),
            None => writer::push(line),
        }
    }
}

impl AccessOut {
    fn start(path: &Path) -> Option<Self> {
        let again = Arc::new(AtomicBool::new(false));
        let file = AccessFile { path: path.to_owned(), file: open(path), again: again.clone() };
        match writer::start_for("access", file) {
            Ok(queue) => Some(Self { path: path.to_owned(), queue, again }),
            Err(error) => {
                tracing::error!(%error, "cannot start the thread of the access log");
                None
            }
        }
    }
}

/// A file that is opened again on request.
struct AccessFile {
    path: PathBuf,
    file: Option<File>,
    again: Arc<AtomicBool>,
}

fn open(path: &Path) -> Option<File> {
    let opened = OpenOptions::new().append(true).create(true).mode(MODE).open(path);
    opened.inspect_err(|error| tracing::error!(file = %path.display(), %error, "cannot open the access log")).ok()
}

impl Write for AccessFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.again.swap(false, Relaxed) {
            self.file = open(&self.path);
        }
        // Lines without a file are counted as dropped.
        self.file.as_mut().ok_or(io::ErrorKind::NotFound)?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), Write::flush)
    }
}
