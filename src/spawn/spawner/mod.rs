//! The spawner: the process that is the parent of all workers. It decides nothing; see [`super::protocol`].
//!
//! Stickyd starts it as its own child, with the socket as standard input; if that socket ends, stickyd is dead, and the
//! spawner ends all workers. Or it is a service of its own (`stickyd spawn --socket PATH`), which keeps the workers
//! while stickyd is restarted. Everything runs on the main thread, see [`super::shim`]; only what goes to standard
//! output has a thread of its own, so that a slow reader delays no worker.

mod groups;
mod logs;
mod process;
mod service;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::protocol::{self, Exit, Hello, LinePage, Living, ProcessId, Request, SpawnerReport, VERSION};
pub(crate) use groups::{PATIENCE, ProcessGroup};
use logs::Logs;
pub(crate) use process::OWN_FILE;
use process::SpawnedProcess;
pub(crate) use service::SpawnerCommand;

/// Interval between two looks at the memory of workers.
const MEMORY: Duration = Duration::from_secs(5);

/// Interval between two looks while something is to be waited for.
const SHORT: Duration = Duration::from_millis(20);

/// Time for the last output of a process that has ended; a grandchild may hold its pipes open.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Maximum number of messages that wait for a slow stickyd; it is then cut off and has to connect anew.
const UNSENT: usize = 4096;

/// The workers and the one stickyd that directs them.
struct Spawner {
    processes: HashMap<ProcessId, SpawnedProcess>,
    /// Groups whose first process has ended, but of which others may live.
    remains: Vec<(ProcessGroup, Instant)>,
    logs: Rc<Logs>,
    folder: PathBuf,
    /// Messages to the present stickyd.
    stickyd: Option<mpsc::Sender<Vec<u8>>>,
    tasks: TaskTracker,
    /// Whether the spawner ends with its workers.
    ending: bool,
}

/// What happens to the spawner.
enum SpawnerEvent {
    Asked(Request),
    /// The connection with this number has ended.
    Lost(u64),
    Connected(UnixStream),
}

/// Runs the spawner until it has nothing to do any more. `first` is the socket of the stickyd that started it; without
/// it, stickyds connect to `service`.
async fn run(first: Option<UnixStream>, service: Option<tokio::net::UnixListener>, folder: PathBuf) -> io::Result<()> {
    let mut child = signal(SignalKind::child())?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (events, mut happened) = mpsc::channel(64);
    let keeps = service.is_some();
    let tasks = TaskTracker::new();
    let logs = Logs::start(keeps)?;
    let mut spawner = Spawner {
        processes: HashMap::new(),
        remains: Vec::new(),
        logs,
        folder,
        stickyd: None,
        tasks: tasks.clone(),
        ending: false,
    };
    let mut connection = 0;
    if let Some(stream) = first {
        spawner.welcome(stream, connection, &events);
    }
    if let Some(listener) = service {
        tasks.spawn_local(accept(listener, events.clone()));
    }
    let mut memory = Instant::now();
    loop {
        let pause = if spawner.is_waiting() { SHORT } else { Duration::from_secs(1) };
        tokio::select! {
            event = happened.recv() => match event {
                Some(SpawnerEvent::Asked(request)) => spawner.obey(request),
                Some(SpawnerEvent::Connected(stream)) => {
                    connection += 1;
                    spawner.welcome(stream, connection, &events);
                }
                Some(SpawnerEvent::Lost(number)) if number == connection => {
                    spawner.stickyd = None;
                    if !keeps {
                        spawner.end(true);
                    }
                }
                Some(SpawnerEvent::Lost(_)) | None => {}
            },
            _ = child.recv() => {}
            _ = terminate.recv() => spawner.end(false),
            _ = interrupt.recv() => spawner.end(false),
            () = tokio::time::sleep(pause) => {}
        }
        spawner.look(Instant::now());
        if memory.elapsed() >= MEMORY {
            memory = Instant::now();
            spawner.tell_memory();
        }
        if spawner.ending && spawner.processes.is_empty() && spawner.remains.is_empty() {
            // Lets the last messages and log lines go out.
            spawner.stickyd = None;
            tokio::time::sleep(SHORT).await;
            spawner.logs.flush();
            return Ok(());
        }
    }
}

/// Accepts stickyds; the newest one directs the workers.
async fn accept(listener: tokio::net::UnixListener, events: mpsc::Sender<SpawnerEvent>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if events.send(SpawnerEvent::Connected(stream)).await.is_err() {
                    return;
                }
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn hear(mut reader: BufReader<OwnedReadHalf>, number: u64, events: mpsc::Sender<SpawnerEvent>) {
    while let Ok(Some(request)) = protocol::read(&mut reader).await {
        if events.send(SpawnerEvent::Asked(request)).await.is_err() {
            return;
        }
    }
    let _ = events.send(SpawnerEvent::Lost(number)).await;
}

async fn tell(mut writer: OwnedWriteHalf, mut messages: mpsc::Receiver<Vec<u8>>) {
    while let Some(message) = messages.recv().await {
        if writer.write_all(&message).await.is_err() {
            return;
        }
    }
}

impl Spawner {
    /// Takes orders from this stickyd from now on.
    fn welcome(&mut self, stream: UnixStream, number: u64, events: &mpsc::Sender<SpawnerEvent>) {
        let (reader, writer) = stream.into_split();
        let (sender, messages) = mpsc::channel(UNSENT);
        self.tasks.spawn_local(hear(BufReader::new(reader), number, events.clone()));
        self.tasks.spawn_local(tell(writer, messages));
        self.stickyd = Some(sender);
        let living = self.processes.values().filter(|process| !process.has_ended());
        let living = living.map(|process| Living {
            tag: process.tag.clone(),
            pid: process.pid(),
            age_ms: u64::try_from(process.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            stopping: process.is_stopping(),
        });
        let (living, pid) = (living.collect(), std::process::id());
        self.report(&SpawnerReport::Hello(Hello { version: VERSION, pid, folder: self.folder.clone(), living }));
    }

    fn report(&mut self, report: &SpawnerReport) {
        let Some(stickyd) = &self.stickyd else { return };
        if stickyd.try_send(protocol::line(report)).is_err() {
            // A stickyd that takes no messages would act on an old state. Its next connection begins with a new list.
            self.stickyd = None;
        }
    }

    fn obey(&mut self, request: Request) {
        match request {
            Request::Start(start) if !self.ending => {
                let id = start.tag.id;
                let report = match SpawnedProcess::start(*start, &self.folder, &self.logs, &self.tasks) {
                    Ok(process) => {
                        let pid = process.pid();
                        self.processes.insert(id, process);
                        SpawnerReport::Started { id, pid }
                    }
                    Err(error) => SpawnerReport::NotStarted { id, why: error.to_string() },
                };
                self.report(&report);
            }
            Request::Start(start) => {
                self.report(&SpawnerReport::NotStarted { id: start.tag.id, why: "the spawner is stopping".to_owned() });
            }
            Request::Stop { id, after_ms } => {
                if let Some(process) = self.processes.get_mut(&id) {
                    process.stop(Duration::from_millis(after_ms));
                }
            }
            Request::Lines { ask, from, upstream, worker } => {
                let (lines, next) = self.logs.page(from, upstream.as_deref(), worker.as_deref());
                self.report(&SpawnerReport::Lines(LinePage { ask, lines, next }));
            }
            Request::End { now } => self.end(now),
        }
    }

    /// Ends all workers, at once ([`PATIENCE`]) or each within its time, and then the spawner.
    fn end(&mut self, now: bool) {
        self.ending = true;
        for process in self.processes.values_mut() {
            let patience = if now { PATIENCE } else { process.patience };
            process.stop(patience);
        }
    }

    /// Whether something is to be waited for that causes no event.
    fn is_waiting(&self) -> bool {
        let waits = |process: &SpawnedProcess| process.is_stopping() || process.has_ended();
        self.ending || !self.remains.is_empty() || self.processes.values().any(waits)
    }

    /// Sees which processes have ended, and kills those whose time is over.
    fn look(&mut self, now: Instant) {
        let mut over = Vec::new();
        for (id, process) in &mut self.processes {
            process.look(now);
            if process.is_over(now, LAST_WORDS) {
                over.push(*id);
            }
        }
        for id in over {
            let Some(process) = self.processes.remove(&id) else { continue };
            self.remains.push((process.group, now));
            let (code, signal) = process.outcome();
            let report = SpawnerReport::Exited(Exit { id, code, signal, last: process.output.last_lines() });
            self.report(&report);
        }
        let (ending, dropped) = (self.ending, self.logs.take_dropped());
        self.remains.retain(|(group, since)| group.ends_within(now.duration_since(*since), ending));
        if !dropped.is_empty() {
            self.report(&SpawnerReport::Dropped { lines: dropped });
        }
    }

    fn tell_memory(&mut self) {
        let pids = self.processes.iter().map(|(id, process)| (process.group, *id)).collect();
        let bytes = groups::memory(Path::new("/proc"), &pids);
        self.report(&SpawnerReport::Memory { bytes });
    }
}
