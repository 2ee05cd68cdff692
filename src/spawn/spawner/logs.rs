//! What workers write: read at once, so that no worker is ever held up, and passed on with the worker's name.
//!
//! Everything is bounded. A line has at most 64 KiB; longer ones are split. The newest lines of all workers are kept
//! for `stickyd logs`, up to [`KEPT`] bytes. A worker that writes faster than [`RATE`], or a slow reader of the
//! spawner's own output, costs lines, which are counted. The thread that writes is the only one that may block.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant, SystemTime};

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio_util::task::TaskTracker;

use super::super::protocol::{LogLine, ProcessId, Tag};

/// Maximum length of a line, in bytes.
const LINE: usize = 64 << 10;

/// Bytes of log lines kept for `stickyd logs`, and their maximum number.
const KEPT: usize = 1 << 20;
const KEPT_LINES: usize = 10_000;

/// Bytes of one answer to `stickyd logs`.
const PAGE: usize = 256 << 10;

/// Bytes that wait for the reader of the spawner's output.
const UNWRITTEN: usize = 1 << 20;

/// Bytes per second that one worker may log in the long run, and bytes that it may log at once.
const RATE: f64 = 4_000_000.0;
const BURST: f64 = 2_000_000.0;

/// Lines kept of a process for the message about its end, and bytes kept of each.
const LAST: usize = 20;
const LAST_BYTES: usize = 1_000;

/// Where the lines of all workers go.
pub(super) struct Logs {
    kept: RefCell<KeptLines>,
    dropped: RefCell<HashMap<ProcessId, u64>>,
    out: Sender<Vec<u8>>,
    unwritten: Arc<AtomicUsize>,
    /// Whether standard error is the journal, which takes a level at the begin of each line.
    journal: bool,
}

/// The newest lines; `first` is the number of the oldest.
#[derive(Default)]
struct KeptLines {
    lines: VecDeque<LogLine>,
    first: u64,
    bytes: usize,
}

impl KeptLines {
    fn push(&mut self, line: LogLine) {
        self.bytes += line.text.len();
        self.lines.push_back(line);
        while self.bytes > KEPT || self.lines.len() > KEPT_LINES {
            let Some(old) = self.lines.pop_front() else { return };
            self.bytes -= old.text.len();
            self.first += 1;
        }
    }
}

impl Logs {
    /// Starts the thread that writes.
    pub(super) fn start(service: bool) -> io::Result<Rc<Self>> {
        let (out, lines) = channel();
        let unwritten = Arc::<AtomicUsize>::default();
        let counted = unwritten.clone();
        std::thread::Builder::new().name("log".to_owned()).spawn(move || write(&lines, &counted))?;
        let journal = service && std::env::var_os("JOURNAL_STREAM").is_some();
        Ok(Rc::new(Self { kept: RefCell::default(), dropped: RefCell::default(), out, unwritten, journal }))
    }

    fn add(&self, line: LogLine, output: &Output) {
        let text = self.format(&line, output.json);
        if self.unwritten.load(Relaxed) + text.len() > UNWRITTEN {
            self.drop_lines(output.id, 1);
        } else {
            self.unwritten.fetch_add(text.len(), Relaxed);
            // The thread ends only with the process.
            let _ = self.out.send(text);
        }
        self.kept.borrow_mut().push(line);
    }

    fn drop_lines(&self, id: ProcessId, lines: u64) {
        *self.dropped.borrow_mut().entry(id).or_default() += lines;
    }

    fn format(&self, line: &LogLine, json: bool) -> Vec<u8> {
        let level = match (self.journal, line.error) {
            (true, true) => "<4>",
            (true, false) => "<6>",
            (false, _) => "",
        };
        let LogLine { upstream, worker, text, .. } = line;
        let mut all = match json {
            false => format!("{level}{upstream}/{worker} | {text}"),
            true => format!("{level}{}", json_line(line)),
        };
        all.push('\n');
        all.into_bytes()
    }

    /// Lines from a number on, and the number from which to ask on.
    pub(super) fn page(&self, from: u64, upstream: Option<&str>, worker: Option<&str>) -> (Vec<LogLine>, u64) {
        let kept = self.kept.borrow();
        let skip = usize::try_from(from.saturating_sub(kept.first)).unwrap_or(usize::MAX);
        let (mut next, mut bytes, mut lines) = (from.max(kept.first), 0, Vec::new());
        for line in kept.lines.iter().skip(skip) {
            if bytes > PAGE {
                break;
            }
            next += 1;
            let fits = |wanted: Option<&str>, is: &str| wanted.is_none_or(|wanted| wanted == is);
            if fits(upstream, &line.upstream) && fits(worker, &line.worker) {
                bytes += line.text.len() + 100;
                lines.push(line.clone());
            }
        }
        (lines, next)
    }

    /// Lines that were dropped since the last call.
    pub(super) fn take_dropped(&self) -> Vec<(ProcessId, u64)> {
        self.dropped.borrow_mut().drain().collect()
    }

    /// Waits up to half a second until all lines are written.
    pub(super) fn flush(&self) {
        let began = Instant::now();
        while self.unwritten.load(Relaxed) > 0 && began.elapsed() < Duration::from_millis(500) {
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}

fn json_line(line: &LogLine) -> String {
    let stream = if line.error { "stderr" } else { "stdout" };
    let since = Duration::from_millis(line.at_ms);
    let at = humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + since).to_string();
    serde_json::json!({
        "timestamp": at, "upstream": line.upstream, "worker": line.worker, "stream": stream, "message": line.text,
    })
    .to_string()
}

/// Writes lines to standard output. An output that is closed takes nothing; the workers run on.
fn write(lines: &Receiver<Vec<u8>>, unwritten: &AtomicUsize) {
    let mut out = io::stdout().lock();
    while let Ok(line) = lines.recv() {
        let _ = out.write_all(&line);
        unwritten.fetch_sub(line.len(), Relaxed);
        if unwritten.load(Relaxed) == 0 {
            let _ = out.flush();
        }
    }
}

/// What one process writes.
pub(super) struct Output {
    id: ProcessId,
    upstream: String,
    worker: String,
    json: bool,
    open: Cell<u8>,
    budget: Cell<(f64, Instant)>,
    last_error: RefCell<VecDeque<String>>,
    last_out: RefCell<VecDeque<String>>,
}

impl Output {
    pub(super) fn new(tag: &Tag, json: bool) -> Rc<Self> {
        Rc::new(Self {
            id: tag.id,
            upstream: tag.upstream.clone(),
            worker: tag.slot.to_string(),
            json,
            open: Cell::new(0),
            budget: Cell::new((BURST, Instant::now())),
            last_error: RefCell::default(),
            last_out: RefCell::default(),
        })
    }

    /// Reads both pipes until they end.
    pub(super) fn follow(
        self: &Rc<Self>,
        out: Option<OwnedFd>,
        error: Option<OwnedFd>,
        logs: &Rc<Logs>,
        tasks: &TaskTracker,
    ) -> io::Result<()> {
        for (pipe, is_error) in [(out, false), (error, true)] {
            let Some(pipe) = pipe else { continue };
            let pipe = pipe::Receiver::from_owned_fd(pipe)?;
            self.open.set(self.open.get() + 1);
            let (output, logs) = (self.clone(), logs.clone());
            tasks.spawn_local(async move {
                output.read(pipe, is_error, &logs).await;
                output.open.set(output.open.get() - 1);
            });
        }
        Ok(())
    }

    /// Whether everything that the process and its children wrote was read.
    pub(super) fn is_closed(&self) -> bool {
        self.open.get() == 0
    }

    /// The last lines of standard error; if there are none, of standard output.
    pub(super) fn last_lines(&self) -> Vec<String> {
        let lines = |lines: &RefCell<VecDeque<String>>| lines.borrow().iter().cloned().collect::<Vec<_>>();
        let errors = lines(&self.last_error);
        if errors.is_empty() { lines(&self.last_out) } else { errors }
    }

    async fn read(&self, mut pipe: pipe::Receiver, error: bool, logs: &Logs) {
        let (mut chunk, mut begun) = (vec![0; LINE], Vec::new());
        while let Ok(size @ 1..) = pipe.read(&mut chunk).await {
            let read = chunk.get(..size).unwrap_or_default();
            if !self.may_log(size) {
                let lines = memchr::memchr_iter(b'\n', read).count();
                logs.drop_lines(self.id, u64::try_from(lines).unwrap_or(u64::MAX));
                begun.clear();
                // Keeps the memory of a fast writer bounded, and lets everything else run.
                tokio::task::yield_now().await;
                continue;
            }
            let mut rest = read;
            while let Some(end) = memchr::memchr(b'\n', rest) {
                let (line, after) = rest.split_at(end);
                begun.extend_from_slice(line);
                self.line(&mut begun, error, logs);
                rest = after.get(1..).unwrap_or_default();
            }
            begun.extend_from_slice(rest);
            if begun.len() >= LINE {
                self.line(&mut begun, error, logs);
            }
        }
        if !begun.is_empty() {
            self.line(&mut begun, error, logs);
        }
    }

    /// Takes from the budget of the process, which fills at [`RATE`].
    fn may_log(&self, bytes: usize) -> bool {
        let (left, at) = self.budget.get();
        let (now, bytes) = (Instant::now(), u32::try_from(bytes).map_or(f64::MAX, f64::from));
        let left = (left + now.duration_since(at).as_secs_f64() * RATE).min(BURST);
        let may = left >= bytes;
        self.budget.set((if may { left - bytes } else { left }, now));
        may
    }

    fn line(&self, begun: &mut Vec<u8>, error: bool, logs: &Logs) {
        let line = begun.strip_suffix(b"\r").unwrap_or(begun);
        let text = String::from_utf8_lossy(line).into_owned();
        begun.clear();
        begun.shrink_to(LINE);
        let last = if error { &self.last_error } else { &self.last_out };
        {
            let mut last = last.borrow_mut();
            if last.len() == LAST {
                last.pop_front();
            }
            last.push_back(text.chars().take(LAST_BYTES).collect());
        }
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let at_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let line = LogLine { upstream: self.upstream.clone(), worker: self.worker.clone(), error, at_ms, text };
        logs.add(line, self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(worker: &str, text: &str) -> LogLine {
        let (upstream, worker, text) = ("app".to_owned(), worker.to_owned(), text.to_owned());
        LogLine { upstream, worker, error: false, at_ms: 0, text }
    }

    #[test]
    fn only_the_newest_lines_are_kept() {
        let mut kept = KeptLines::default();
        for _ in 0..50 {
            kept.push(line("1", &"x".repeat(LINE)));
        }
        assert_eq!((kept.lines.len(), kept.first), (16, 34));
        for _ in 0..2 * KEPT_LINES {
            kept.push(line("1", ""));
        }
        assert_eq!(kept.lines.len(), KEPT_LINES);
    }

    #[test]
    fn a_line_of_json_names_its_worker() {
        let json = json_line(&line("2", "a \"b\""));
        let expected = "{\"message\":\"a \\\"b\\\"\",\"stream\":\"stdout\",\"timestamp\":\"1970-01-01T00:00:00.000Z\",\
            \"upstream\":\"app\",\"worker\":\"2\"}";
        assert_eq!(json, expected);
    }
}
