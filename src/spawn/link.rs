//! Stickyd's connection to the spawner: it starts one as its child, or connects to the one that runs as a service.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::protocol::{self, Request, SpawnerReport};
use super::spawner::OWN_FILE;

/// Requests that wait to be sent.
const UNSENT: usize = 1024;

/// What comes from the spawner.
pub(super) enum LinkEvent {
    Told(SpawnerReport),
    /// The connection has ended.
    Lost,
}

/// The connection, which may be down.
pub(super) struct SpawnerLink {
    /// Socket of a spawner that is a service of its own.
    service: Option<PathBuf>,
    child: Option<Child>,
    requests: Option<mpsc::Sender<Vec<u8>>>,
    /// Number of the present connection; events of earlier ones are ignored.
    number: u64,
    sender: mpsc::Sender<(u64, LinkEvent)>,
    events: mpsc::Receiver<(u64, LinkEvent)>,
    tasks: TaskTracker,
}

impl SpawnerLink {
    pub(super) fn new(service: Option<PathBuf>, tasks: TaskTracker) -> Self {
        let (sender, events) = mpsc::channel(256);
        Self { service, child: None, requests: None, number: 0, sender, events, tasks }
    }

    /// Whether the workers outlive this process.
    pub(super) fn is_service(&self) -> bool {
        self.service.is_some()
    }

    pub(super) fn is_up(&self) -> bool {
        self.requests.is_some()
    }

    /// Starts a spawner, or connects to the service.
    pub(super) fn open(&mut self) -> io::Result<()> {
        let stream = match &self.service {
            Some(path) => StdStream::connect(path)?,
            None => self.start()?,
        };
        stream.set_nonblocking(true)?;
        let (reader, writer) = UnixStream::from_std(stream)?.into_split();
        let (requests, unsent) = mpsc::channel(UNSENT);
        self.number += 1;
        self.tasks.spawn_local(write(writer, unsent));
        self.tasks.spawn_local(read(BufReader::new(reader), self.number, self.sender.clone()));
        self.requests = Some(requests);
        Ok(())
    }

    /// Starts the spawner in a process group of its own, so that Ctrl-C reaches only stickyd, which drains first.
    fn start(&mut self) -> io::Result<StdStream> {
        self.reap();
        let (ours, theirs) = StdStream::pair()?;
        let mut command = Command::new(OWN_FILE);
        command.arg("spawn").stdin(Stdio::from(OwnedFd::from(theirs))).process_group(0);
        self.child = Some(command.spawn()?);
        Ok(ours)
    }

    /// Ends a spawner that has lost its socket or does not answer.
    pub(super) fn reap(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Gives up the present connection.
    pub(super) fn close(&mut self) {
        self.requests = None;
        self.number += 1;
    }

    /// Sends a request; `false` if that is impossible.
    pub(super) fn send(&self, request: &Request) -> bool {
        self.requests.as_ref().is_some_and(|requests| requests.try_send(protocol::line(request)).is_ok())
    }

    /// Waits for the next event of the present connection.
    pub(super) async fn next(&mut self) -> LinkEvent {
        loop {
            match self.events.recv().await {
                Some((number, event)) if number == self.number => return event,
                Some(_) => {}
                // Impossible: `self` holds a sender.
                None => std::future::pending().await,
            }
        }
    }
}

async fn write(mut writer: OwnedWriteHalf, mut unsent: mpsc::Receiver<Vec<u8>>) {
    while let Some(request) = unsent.recv().await {
        if writer.write_all(&request).await.is_err() {
            return;
        }
    }
}

async fn read(mut reader: BufReader<OwnedReadHalf>, number: u64, events: mpsc::Sender<(u64, LinkEvent)>) {
    loop {
        match protocol::read(&mut reader).await {
            Ok(Some(report)) => {
                if events.send((number, LinkEvent::Told(report))).await.is_err() {
                    return;
                }
            }
            Ok(None) => break,
            Err(error) => {
                tracing::error!(%error, "the spawner sent a message that cannot be read");
                break;
            }
        }
    }
    let _ = events.send((number, LinkEvent::Lost)).await;
}
