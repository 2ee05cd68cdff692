//! A reload: read the file, and replace the snapshot if it is good. A bad one changes nothing and says where (invariant 8).
//!
//! Lives on the control thread; SIGHUP and the admin listener ask it through a channel. What lives on carries over
//! (`state::Snapshot::build`). What needs a restart is named, never silently ignored. Left out for now: watching the file,
//! and changing listeners.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::config::{self, Config};
use crate::state::Shared;
use crate::systemd::Notify;

/// What became of a reload: what changed in the file but waits for a restart; or every mistake, with its place.
pub type Outcome = Result<Vec<&'static str>, String>;

/// Asks for a reload; the answer comes through the sender in it.
pub type Ask = mpsc::Sender<oneshot::Sender<Outcome>>;

/// Reloads one after the other.
pub struct Reloader {
    shared: Arc<Shared>,
    running: Config,
    file: Option<PathBuf>,
    stop: CancellationToken,
    notify: Notify,
}

impl Reloader {
    /// `file`: what a reload reads; `None` when there is none.
    pub fn new(
        shared: Arc<Shared>,
        running: Config,
        file: Option<PathBuf>,
        stop: CancellationToken,
        notify: Notify,
    ) -> Self {
        Self { shared, running, file, stop, notify }
    }

    /// Answers asks until the server stops.
    pub async fn run(self, mut asks: mpsc::Receiver<oneshot::Sender<Outcome>>) {
        loop {
            let ask = tokio::select! {
                ask = asks.recv() => ask,
                () = self.stop.cancelled() => None,
            };
            let Some(ask) = ask else { return };
            self.notify.reloading();
            let Some(outcome) = self.stop.run_until_cancelled(self.reload()).await else { return };
            self.notify.reloaded(outcome.as_ref().err().map(String::as_str), &self.shared);
            // Who asked may have left.
            let _ = ask.send(outcome);
        }
    }

    async fn reload(&self) -> Outcome {
        let Some(file) = &self.file else {
            tracing::warn!("asked to reload, but stickyd was started without a file");
            return Err("stickyd was started without a configuration file".to_owned());
        };
        match load(file.clone()).await? {
            Ok((config, warnings)) => {
                for warning in warnings {
                    tracing::warn!("{}", warning.one_line());
                }
                let waiting = self.running.needs_restart(&config);
                self.shared.replace(&config);
                self.shared.metrics.reloads.with_label_values(&["ok"]).inc();
                tracing::info!(file = %file.display(), "reloaded");
                for what in &waiting {
                    tracing::warn!("{what} changed in the file, but needs a restart");
                }
                Ok(waiting)
            }
            Err(errors) => {
                self.shared.metrics.reloads.with_label_values(&["failed"]).inc();
                tracing::error!("not reloaded, the old configuration stays:\n{errors}");
                Err(errors.to_string())
            }
        }
    }
}

/// Reads the file on a thread of its own: a name that is slow to look up must hold up neither health checks nor systemd's
/// watchdog. Nobody waits for that thread when stickyd stops meanwhile.
async fn load(file: PathBuf) -> Result<Result<(Config, Vec<config::Diagnostic>), config::Errors>, String> {
    let (sender, loaded) = oneshot::channel();
    let thread = std::thread::Builder::new().name("reload".to_owned());
    // Who asked may have left.
    let started = thread.spawn(move || sender.send(config::load_with_warnings(&file)).is_ok());
    started.map_err(|error| format!("the file cannot be read, there is no thread for it: {error}"))?;
    loaded.await.map_err(|_| "reading the file ended in a panic".to_owned())
}
