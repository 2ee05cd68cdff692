//! A reload: read the file, and become what it says if it is good. A bad one changes nothing and says where (invariant 8).
//!
//! Lives on the control thread. SIGHUP and the admin listener ask it through a channel; an edit of the file, or of one it
//! names, is noticed by `watch`. Everything that can fail comes first: the file is read and checked, new listeners are
//! bound; then the snapshot is swapped, and listeners come and go. What lives on carries over (`state::Snapshot::build`).
//! What needs a restart is named, never silently ignored.

mod losses;
mod status;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::config::{self, Config, Look, Sources};
use crate::listener::{self, Part};
use crate::state::Shared;
use crate::systemd::Notify;
use crate::telemetry;
use crate::watch::Watcher;

pub use status::{State, Status};

/// For a data thread to take new listeners, and to close removed ones; a healthy one needs a millisecond.
const THREADS: Duration = Duration::from_secs(2);

/// What a reload did besides what was asked of it.
#[derive(Debug, Default)]
pub struct Done {
    /// What changed in the file but waits for a restart.
    pub needs_restart: Vec<&'static str>,
    /// What somebody should know of.
    pub warnings: Vec<String>,
}

/// What became of a reload; or every mistake, with its place.
pub type Outcome = Result<Done, String>;

/// Asks for a reload; the answer comes through the sender in it.
pub type Ask = mpsc::Sender<oneshot::Sender<Outcome>>;

/// What runs when the reloader begins.
pub struct Running {
    /// Its listeners are in `listeners`.
    pub config: Config,
    /// What a reload reads; `None` when there is no file.
    pub sources: Option<Sources>,
    /// Where clients are accepted.
    pub listeners: listener::Set,
    /// Of every data thread, what it has to accept from besides.
    pub mailboxes: Vec<mpsc::Sender<Vec<Part>>>,
}

/// Reloads one after the other.
pub struct Reloader {
    shared: Arc<Shared>,
    running: Running,
    watcher: Watcher,
    /// By the configuration of now.
    watch: bool,
    /// The file was not there when it was last looked at.
    gone: bool,
    stop: CancellationToken,
    notify: Notify,
}

impl Reloader {
    /// Nothing is watched yet.
    pub fn new(shared: Arc<Shared>, running: Running, stop: CancellationToken, notify: Notify) -> Self {
        let (watcher, watch) = (Watcher::default(), running.config.watch);
        Self { shared, running, watcher, watch, gone: false, stop, notify }
    }

    /// Answers asks and watches files until the server stops.
    pub async fn run(mut self, mut asks: mpsc::Receiver<oneshot::Sender<Outcome>>) {
        self.follow(self.running.sources.as_ref().map(Sources::trail).unwrap_or_default());
        let stop = self.stop.clone();
        loop {
            let ask = tokio::select! {
                ask = asks.recv() => match ask {
                    Some(ask) => Some(ask),
                    None => return,
                },
                () = self.watcher.settled() => match stop.run_until_cancelled(self.is_changed()).await {
                    Some(true) => None,
                    Some(false) => continue,
                    None => return,
                },
                () = stop.cancelled() => return,
            };
            self.notify.reloading();
            let Some(outcome) = stop.run_until_cancelled(self.reload()).await else { return };
            self.notify.reloaded(outcome.as_ref().err().map(String::as_str), &self.shared);
            // Who asked may have left.
            let _ = ask.map(|ask| ask.send(outcome));
        }
    }

    fn follow(&mut self, trail: BTreeSet<PathBuf>) {
        self.watcher.follow(if self.watch { &trail } else { const { &BTreeSet::new() } });
    }

    /// Something happened on disk: whether a reload would read anything new.
    async fn is_changed(&mut self) -> bool {
        let Some(sources) = self.running.sources.clone() else { return false };
        let looked = on_a_thread(move || (sources.look(), sources.trail(), sources)).await;
        let (look, trail, sources) = match looked {
            Ok(looked) => looked,
            Err(error) => {
                tracing::warn!("the configuration may have changed, and was not looked at: {error}");
                return false;
            }
        };
        self.follow(trail);
        let was_gone = std::mem::replace(&mut self.gone, look == Look::Gone);
        if self.gone && !was_gone {
            let said = format!("{} is not there any more, the old configuration stays", sources.file().display());
            tracing::warn!("{said}");
            self.shared.config.set(|state| state.error = Some(said));
        }
        look == Look::Changed || (was_gone && !self.gone)
    }

    async fn reload(&mut self) -> Outcome {
        let Some(file) = self.running.sources.as_ref().map(|sources| sources.file().to_owned()) else {
            tracing::warn!("asked to reload, but stickyd was started without a file");
            return Err("stickyd was started without a configuration file".to_owned());
        };
        let outcome = self.load(file.clone()).await;
        let (shared, result) = (&self.shared, if outcome.is_ok() { "ok" } else { "failed" });
        shared.metrics.reloads.with_label_values(&[result]).inc();
        match &outcome {
            Ok(done) => {
                tracing::info!(file = %file.display(), "reloaded");
                for warning in &done.warnings {
                    tracing::warn!("{warning}");
                }
                for what in &done.needs_restart {
                    tracing::warn!("{what} changed in the file, but needs a restart");
                }
                shared.config.set(|state| {
                    (state.loaded, state.generation, state.error) = (SystemTime::now(), state.generation + 1, None);
                    (state.needs_restart, state.listeners) =
                        (done.needs_restart.clone(), self.running.listeners.addresses());
                });
            }
            Err(errors) => {
                tracing::error!("not reloaded, the old configuration stays:\n{errors}");
                shared.config.set(|state| state.error = Some(errors.clone()));
            }
        }
        outcome
    }

    async fn load(&mut self, file: PathBuf) -> Outcome {
        let load = move || {
            let (sources, loaded) = config::load_noting(&file);
            (sources.trail(), sources, loaded)
        };
        let (trail, sources, loaded) = on_a_thread(load).await?;
        self.running.sources = Some(sources);
        self.gone = false;
        let outcome = match loaded {
            Ok((config, warnings)) => self.become_new(config).await.map(|mut done| {
                done.warnings.splice(0..0, warnings.iter().map(config::Diagnostic::one_line));
                done
            }),
            Err(errors) => Err(errors.to_string()),
        };
        self.follow(trail);
        outcome
    }

    /// Everything or nothing.
    async fn become_new(&mut self, new: Config) -> Outcome {
        let running = &mut self.running;
        let file = running.sources.as_ref().map(|sources| sources.file().display().to_string()).unwrap_or_default();
        let mut plan =
            running.listeners.plan(&new.listeners).map_err(|error| format!("error: {error}\n --> {file}"))?;
        let mut places = Vec::new();
        for mailbox in running.mailboxes.iter().filter(|_| plan.has_new()) {
            let place = tokio::time::timeout(THREADS, mailbox.reserve()).await;
            places.push(place.ok().and_then(Result::ok).ok_or("error: a data thread does not take new listeners")?);
        }
        let needs_restart = running.config.needs_restart(&new);
        let mut warnings = losses::all(&self.shared.snapshot.load(), &new);
        self.shared.replace(&new);
        telemetry::set_level(&new.log.level);
        self.watch = new.watch;
        for place in places {
            place.send(plan.parts());
        }
        let going = running.listeners.apply(new.listeners, plan);
        running.listeners.show(&self.shared.metrics);
        for address in &going.waiting {
            warnings.push(format!(
                "no listener is on {address} any more, but systemd keeps its socket: clients get in and wait; stop the socket unit"
            ));
        }
        if tokio::time::timeout(THREADS, going.closed()).await.is_err() {
            warnings.push("a data thread still accepts from a listener that was removed".to_owned());
        }
        for address in &going.addresses {
            tracing::info!(%address, "no longer listening");
        }
        Ok(Done { needs_restart, warnings })
    }
}

/// Files are read on a thread of their own: a name that is slow to look up, or a disk, must hold up neither health checks
/// nor systemd's watchdog. Nobody waits for that thread when stickyd stops meanwhile.
async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    let (sender, done) = oneshot::channel();
    let thread = std::thread::Builder::new().name("reload".to_owned());
    // Who asked may have left.
    let started = thread.spawn(move || sender.send(work()).is_ok());
    started.map_err(|error| format!("the file cannot be read, there is no thread for it: {error}"))?;
    done.await.map_err(|_| "reading the file ended in a panic".to_owned())
}
