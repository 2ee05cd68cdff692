//! A reload: reads the file and, if it is valid, applies it. An invalid file changes nothing and is reported with its
//! position (ARCHITECTURE.md, invariant 8).
//!
//! Runs on the control thread. SIGHUP and the admin listener request a reload through a channel; `watch` notices edits
//! of the file and of the files it names. Everything that can fail comes first: the file is read and checked, and new
//! listeners are bound. Then the snapshot is swapped, and listeners are added and removed. What lives on is carried
//! over (`state::Snapshot::build`). Changes that need a restart are reported, never silently ignored.

mod losses;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::config::{self, Config, Sources, SourcesState};
use crate::control::Control;
use crate::events::tell;
use crate::listener::{self, Part};
use crate::state::Shared;
use crate::systemd::Notify;
use crate::telemetry;
use crate::watch::Watcher;

/// Time a data thread has to take new listeners and to close removed ones; a healthy thread needs a millisecond.
const THREADS: Duration = Duration::from_secs(2);

/// Notes on a successful reload.
#[derive(Debug, Default)]
pub struct Done {
    /// Settings that have changed in the file but need a restart.
    pub needs_restart: Vec<&'static str>,
    /// Warnings for the operator.
    pub warnings: Vec<String>,
}

/// Result of a reload; the error lists every mistake in the file, with its position.
pub type ReloadOutcome = Result<Done, String>;

/// Requests a reload; the result is sent through the sender in the message.
pub type ReloadSender = mpsc::Sender<oneshot::Sender<ReloadOutcome>>;

/// The running configuration that the reloader starts from.
pub(crate) struct Running {
    /// The configuration, without its listeners: those are in `listeners`.
    pub config: Config,
    /// Files that a reload reads; `None` if stickyd was started without a file.
    pub sources: Option<Sources>,
    /// Listeners on which clients are accepted.
    pub listeners: listener::ListenerSet,
    /// Channels that bring new listeners to the data threads, one per thread.
    pub mailboxes: Vec<mpsc::Sender<Vec<Part>>>,
}

/// Performs reloads, one at a time.
pub(crate) struct Reloader {
    shared: Arc<Shared>,
    running: Running,
    watcher: Watcher,
    /// Whether files are watched, as configured now.
    watch: bool,
    /// Whether the file was missing when it was last checked.
    gone: bool,
    stop: CancellationToken,
    notify: Notify,
}

impl Reloader {
    /// Creates a reloader that watches no files yet.
    pub(crate) fn new(shared: Arc<Shared>, running: Running, stop: CancellationToken, notify: Notify) -> Self {
        let (watcher, watch) = (Watcher::default(), running.config.watch);
        Self { shared, running, watcher, watch, gone: false, stop, notify }
    }

    /// Serves requests for a reload and watches files, until the server stops.
    pub(crate) async fn run(mut self, mut asks: mpsc::Receiver<oneshot::Sender<ReloadOutcome>>) {
        self.follow(self.running.sources.as_ref().map(Sources::trail).unwrap_or_default());
        let stop = self.stop.clone();
        loop {
            let ask = tokio::select! {
                ask = asks.recv() => match ask {
                    Some(ask) => Some(ask),
                    None => return,
                },
                () = self.watcher.settled() => match stop.run_until_cancelled(self.check_changed()).await {
                    Some(true) => None,
                    Some(false) => continue,
                    None => return,
                },
                () = stop.cancelled() => return,
            };
            self.notify.reloading();
            let Some(outcome) = stop.run_until_cancelled(self.reload()).await else { return };
            self.notify.reloaded(outcome.as_ref().err().map(String::as_str), &self.shared);
            // The requester may have gone away.
            let _ = ask.map(|ask| ask.send(outcome));
        }
    }

    fn follow(&mut self, trail: BTreeSet<PathBuf>) {
        self.watcher.follow(if self.watch { &trail } else { const { &BTreeSet::new() } });
    }

    /// Checks, after an event on disk, whether a reload would read anything new.
    async fn check_changed(&mut self) -> bool {
        let Some(sources) = self.running.sources.clone() else { return false };
        let looked = on_a_thread(move || (sources.look(), sources.trail(), sources)).await;
        let (look, trail, sources) = match looked {
            Ok(looked) => looked,
            Err(error) => {
                tracing::warn!(%error, "cannot check whether the configuration has changed");
                return false;
            }
        };
        self.follow(trail);
        let was_gone = std::mem::replace(&mut self.gone, look == SourcesState::Gone);
        if self.gone && !was_gone {
            let said = format!("{} no longer exists; the old configuration stays in use", sources.file().display());
            tell!(self.shared.events, ConfigRefused, warn, "{said}");
            self.shared.config.set(|state| state.error = Some(said));
        }
        look == SourcesState::Changed || (was_gone && !self.gone)
    }

    async fn reload(&mut self) -> ReloadOutcome {
        let Some(file) = self.running.sources.as_ref().map(|sources| sources.file().to_owned()) else {
            if self.running.config.upstreams.iter().any(|upstream| upstream.spawn.is_some()) {
                // `run --spawn` has no file, but workers that SIGHUP replaces.
                return Ok(Done::default());
            }
            tracing::warn!("cannot reload: stickyd was started without a configuration file");
            return Err("stickyd was started without a configuration file".to_owned());
        };
        let outcome = self.load(file.clone()).await;
        let (shared, result) = (&self.shared, if outcome.is_ok() { "ok" } else { "failed" });
        shared.metrics.reloads.with_label_values(&[result]).inc();
        match &outcome {
            Ok(done) => {
                tell!(shared.events, ConfigReloaded, info, file = %file.display(), "reloaded");
                for warning in &done.warnings {
                    tell!(shared.events, Advice, warn, "{warning}");
                }
                for what in &done.needs_restart {
                    tell!(shared.events, ConfigNeedsRestart, warn,
                        setting = %what, "setting has changed in the file but needs a restart");
                }
                shared.config.set(|state| {
                    (state.loaded, state.generation, state.error) = (SystemTime::now(), state.generation + 1, None);
                    (state.needs_restart, state.listeners) =
                        (done.needs_restart.clone(), self.running.listeners.addresses());
                });
            }
            Err(errors) => {
                tell!(
                    shared.events,
                    ConfigRefused,
                    error,
                    "not reloaded, the old configuration stays in use:\n{errors}"
                );
                shared.config.set(|state| state.error = Some(errors.clone()));
            }
        }
        outcome
    }

    async fn load(&mut self, file: PathBuf) -> ReloadOutcome {
        let load = move || {
            let (sources, loaded) = config::load_noting(&file);
            (sources.trail(), sources, loaded)
        };
        let (trail, sources, loaded) = on_a_thread(load).await?;
        self.running.sources = Some(sources);
        self.gone = false;
        let certificate = loaded.as_ref().err().and_then(|errors| errors.of_certificate()).map(str::to_owned);
        self.shared.config.set(|state| state.certificate = certificate);
        let outcome = match loaded {
            Ok((config, warnings)) => self.become_new(config).await.map(|mut done| {
                done.warnings.splice(0..0, warnings.iter().map(config::Diagnostic::one_line));
                done
            }),
            Err(errors) => {
                if errors.of_certificate().is_some() {
                    tell!(
                        self.shared.events,
                        CertificateFailed,
                        error,
                        "a certificate or key cannot be used; those in use stay, and may expire"
                    );
                }
                Err(errors.to_string())
            }
        };
        self.follow(trail);
        outcome
    }

    /// Applies a new configuration, either completely or not at all.
    async fn become_new(&mut self, new: Config) -> ReloadOutcome {
        let running = &mut self.running;
        let file = running.sources.as_ref().map(|sources| sources.file().display().to_string()).unwrap_or_default();
        let mut plan = running.listeners.plan(&new.listeners).map_err(|error| {
            let help = error.help().map(|help| format!("\n  = help: {help}")).unwrap_or_default();
            format!("error: {error}\n --> {file}{help}")
        })?;
        let mut places = Vec::new();
        for mailbox in running.mailboxes.iter().filter(|_| plan.has_new()) {
            let place = tokio::time::timeout(THREADS, mailbox.reserve()).await;
            places.push(place.ok().and_then(Result::ok).ok_or("error: a data thread does not accept new listeners")?);
        }
        let needs_restart = running.config.needs_restart(&new);
        let mut warnings = losses::all(&self.shared.snapshot.load(), &new);
        Control::new(self.shared.clone()).apply(&new);
        telemetry::set_level(&new.log.level);
        self.watch = new.watch;
        for place in places {
            place.send(plan.parts());
        }
        let going = running.listeners.apply(new.listeners, plan);
        running.listeners.show(&self.shared.metrics);
        for address in &going.waiting {
            warnings.push(format!(
                "{address} has no listener any more, but systemd keeps its socket open, so clients \
                 connect and wait; stop the socket unit"
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

/// Runs `work` on a thread of its own, and returns its result. Files are read this way: a slow name lookup or disk must
/// not delay health checks or systemd's watchdog. A stop does not wait for that thread.
async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    let (sender, done) = oneshot::channel();
    let thread = std::thread::Builder::new().name("reload".to_owned());
    // The requester may have gone away.
    let started = thread.spawn(move || sender.send(work()).is_ok());
    started.map_err(|error| format!("cannot start a thread to read the file: {error}"))?;
    done.await.map_err(|_| "the thread that read the file panicked".to_owned())
}
