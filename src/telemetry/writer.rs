//! Writing of log lines: a bounded queue, and one thread that empties it to standard error.
//!
//! A full disk or a stalled reader blocks `write`, and no data thread may wait for a log
//! (docs/reference/threats.md §2.12, "disk full"). Lines the queue has no room for are dropped and counted, and the
//! loss is logged once there is room again. Left out: the format of a line (`super`).

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

use super::Rarely;

/// Maximum number of lines in the queue; a slot costs 32 bytes.
const LINES: usize = 8_192;

/// Maximum total size of the lines in the queue, in bytes: one line may hold a path as long as a request's head may be.
const BYTES: usize = 4 << 20;

/// Size at which a batch is written, in bytes: under load one call writes many lines.
const BATCH: usize = 64 * 1024;

/// Time the last lines get to be written when the process ends.
const LAST: Duration = Duration::from_secs(1);

static COUNTS: QueueCounts = QueueCounts { bytes: AtomicUsize::new(0), dropped: AtomicU64::new(0) };
static QUEUE: OnceLock<LineQueue> = OnceLock::new();

/// Returns the number of lines dropped since the start.
pub(crate) fn dropped() -> u64 {
    COUNTS.dropped.load(Relaxed)
}

/// Waits until the lines logged so far are written, at most for [`LAST`].
pub(crate) fn flush() {
    let Some(queue) = QUEUE.get() else { return };
    let (sender, written) = sync_channel(1);
    if queue.sender.try_send(LogItem::Flush(sender)).is_ok() {
        let _ = written.recv_timeout(LAST);
    }
}

enum LogItem {
    Line(Vec<u8>),
    /// Answered once every line queued before it is written.
    Flush(SyncSender<()>),
}

/// Counters of one queue.
#[derive(Default)]
struct QueueCounts {
    /// Total size of the lines in the queue, in bytes.
    bytes: AtomicUsize,
    /// Number of lines dropped since the start.
    dropped: AtomicU64,
}

/// The sending side of the queue of lines.
#[derive(Clone)]
pub(crate) struct LineQueue {
    sender: SyncSender<LogItem>,
    counts: &'static QueueCounts,
}

/// Starts the thread that writes to standard error.
///
/// # Errors
/// The operating system refused a thread.
pub(crate) fn start() -> io::Result<LineQueue> {
    let (queue, items) = queue(&COUNTS);
    std::thread::Builder::new().name("log".to_owned()).spawn(move || write(&items, &COUNTS, io::stderr()))?;
    Ok(QUEUE.get_or_init(|| queue).clone())
}

/// Starts a thread that writes to something else; lines that are lost count with those of the log.
///
/// # Errors
/// The operating system refused a thread.
pub(super) fn start_for(name: &str, out: impl Write + Send + 'static) -> io::Result<LineQueue> {
    let (queue, items) = queue(&COUNTS);
    std::thread::Builder::new().name(name.to_owned()).spawn(move || write(&items, &COUNTS, out))?;
    Ok(queue)
}

/// Writes a line that has a form of its own to the log. Before the log has started there is nowhere to write.
pub(super) fn push(line: &[u8]) {
    if let Some(queue) = QUEUE.get() {
        queue.push(line);
    }
}

fn queue(counts: &'static QueueCounts) -> (LineQueue, Receiver<LogItem>) {
    let (sender, items) = sync_channel(LINES);
    (LineQueue { sender, counts }, items)
}

impl LineQueue {
    pub(super) fn push(&self, line: &[u8]) {
        let QueueCounts { bytes, dropped } = self.counts;
        if bytes.fetch_add(line.len(), Relaxed).saturating_add(line.len()) > BYTES {
            bytes.fetch_sub(line.len(), Relaxed);
            dropped.fetch_add(1, Relaxed);
            return;
        }
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.sender.try_send(LogItem::Line(line.to_vec()))
        {
            bytes.fetch_sub(line.len(), Relaxed);
            dropped.fetch_add(1, Relaxed);
        }
    }
}

impl<'a> MakeWriter<'a> for LineQueue {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

/// The subscriber writes each event with one call.
impl Write for &LineQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes lines until every sender is gone; for the process's own queue that never happens.
fn write(items: &Receiver<LogItem>, counts: &QueueCounts, mut out: impl Write) {
    let (mut batch, mut said, every) = (Vec::new(), 0, Rarely::new());
    while let Ok(first) = items.recv() {
        let (mut lines, mut next, mut flushed) = (0, Some(first), None);
        while let Some(item) = next {
            match item {
                LogItem::Line(line) => {
                    counts.bytes.fetch_sub(line.len(), Relaxed);
                    batch.extend_from_slice(&line);
                    lines += 1;
                }
                LogItem::Flush(sender) => flushed = Some(sender),
            }
            next = if batch.len() < BATCH && flushed.is_none() { items.try_recv().ok() } else { None };
        }
        // The write fails on a full disk or a closed pipe; later lines may succeed.
        if out.write_all(&batch).and_then(|()| out.flush()).is_err() {
            counts.dropped.fetch_add(lines, Relaxed);
        }
        batch.clear();
        batch.shrink_to(BATCH);
        if let Some(sender) = flushed {
            let _ = sender.try_send(());
        }
        let dropped = counts.dropped.load(Relaxed);
        if dropped > said && every.try_pass(1_000) {
            tracing::warn!(lines = dropped - said, "log lines were dropped: standard error is blocked or too slow");
            said = dropped;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    fn counts() -> &'static QueueCounts {
        Box::leak(Box::default())
    }

    /// A writer that blocks in each write until the test lets it proceed.
    struct Gate(Receiver<()>, std::sync::mpsc::Sender<Vec<u8>>);

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            let _ = self.1.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn logging_never_waits_and_dropped_lines_are_counted() {
        let counts = counts();
        let (queue, items) = queue(counts);
        let ((open, gate), (tell, told)) = (channel(), channel());
        let writer = std::thread::spawn(move || write(&items, counts, Gate(gate, tell)));
        let all = LINES * 3;
        for number in 0..all {
            (&queue).write_all(format!("{number:06}\n").as_bytes()).unwrap();
        }
        let lost = usize::try_from(counts.dropped.load(Relaxed)).unwrap();
        // The writer holds one batch of lines, 7 bytes each.
        assert!(lost >= all - LINES - BATCH / 7 - 1, "{lost}");
        drop(open);
        drop(queue);
        writer.join().unwrap();
        let text: Vec<u8> = told.iter().flatten().collect();
        let lines: Vec<u32> = std::str::from_utf8(&text).unwrap().lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(lines.len() + lost, all, "each line is written or counted");
        assert!(lines.is_sorted());
        assert_eq!(counts.bytes.load(Relaxed), 0);
    }

    #[test]
    fn long_lines_fill_the_queue_by_their_bytes() {
        let counts = counts();
        let (queue, _items) = queue(counts);
        for _ in 0..5 {
            (&queue).write_all(&vec![b'x'; 1 << 20]).unwrap();
        }
        assert_eq!(counts.dropped.load(Relaxed), 1);
    }
}
