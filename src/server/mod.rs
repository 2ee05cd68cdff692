//! A running stickyd: its data threads, its control thread, and how they stop.
//!
//! Data threads (one per core) own listeners, connections, pools and tunnels. Health checks, sweeps, reload and the
//! admin listener run on a control thread (ARCHITECTURE.md §4), so that a busy data thread does not make workers look
//! unhealthy. Long lists are written on a third kind of thread (`admin::sockets`), which yields to the other two.

mod bus;
mod data_thread;
mod dns;
mod far_bus;
mod fleet;
mod guards;
mod health_checks;
mod lookout;
mod sampler;
mod start_error;
mod stop;
mod user_rates;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::affinity::pins::SHARDS;
use crate::clock;
use crate::config::{AdminAddress, AdminListener, Config, LogFormat, Sources};
use crate::control::Control;
use crate::drain;
use crate::events::{Event, EventFilter, EventKind, Events, Severity};
use crate::keys::Keys;
use crate::listener::{self, ListenerSetError, Part};
use crate::notify::{NotifyHandle, NotifyOrder, NotifySettings};
use crate::reload::{self, Reloader, Running};
use crate::spawn::{self, SpawnHandle, SpawnOrder, SpawnSettings, SpawnStop};
use crate::state::Shared;
use crate::systemd::{Notify, Parent};
use crate::thread::Pulse;
use crate::tunnel::liveness;
use crate::{admin, notify, outbound, secret};
pub(crate) use start_error::StartError;
pub use stop::{Stop, StopOutcome};

/// Time in which the whole pin table is swept once.
const SWEEP: Duration = Duration::from_secs(2);

/// A running stickyd process, as started by [`Server::start`].
pub struct Server {
    shared: Arc<Shared>,
    /// Addresses on which clients are accepted since the start, in the order of the config, with ports chosen by the
    /// kernel.
    pub addresses: Vec<SocketAddr>,
    /// First address of the admin listener.
    pub admin: AdminAddress,
    /// All addresses of the admin listener, in the order of the config.
    pub admins: Vec<AdminAddress>,
    stop: Stop,
    threads: Vec<JoinHandle<StopOutcome>>,
    control: JoinHandle<()>,
    bus: Option<JoinHandle<()>>,
    fleet: Option<JoinHandle<()>>,
    reload: reload::ReloadSender,
    spawned: SpawnHandle,
}

impl Server {
    /// Binds everything, then starts. `sources` is where the config was read from; a reload reads it again. `parent` is
    /// the process that started stickyd and may have passed sockets.
    ///
    /// # Errors
    /// See `StartError`. No thread is left running after an error.
    pub fn start(mut config: Config, sources: Option<Sources>, parent: Parent) -> Result<Self, StartError> {
        outbound::install_provider();
        let secret = match (&sources, &config.secret, &config.state_dir) {
            // Options of the command line have no place for either, so there is nothing to warn of.
            (None, None, None) => secret::in_memory(),
            (_, secret, directory) => secret::find(secret.as_ref().map(|secret| &*secret.0), directory.as_deref())
                .map_err(StartError::Secret)?,
        };
        let keys = match &config.fleet {
            Some(_) => Keys::of_fleet(&secret),
            None => Keys::random().map_err(|_| StartError::Random)?,
        };
        let shared = Shared::new(&config, secret, keys);
        // The listener set owns them from now on: it remembers the config each socket was made from.
        let wanted = std::mem::take(&mut config.listeners);
        let tickets = shared.sessions.fleet().and_then(|fleet| fleet.ticket_keys().cloned());
        let mut listeners = listener::ListenerSet::new(parent.sockets, config.threads, tickets);
        let mut plan = listeners.plan(&wanted)?;
        if let Some(left) = plan.left() {
            return Err(ListenerSetError::from(left.unmatched()).into());
        }
        let admin = bind_admin(&config.admin)?;
        let admins: Vec<_> = admin.iter().map(admin::BoundAdmin::address).collect();
        let stop = Stop::default();
        let (mut threads, mut mailboxes) = (Vec::new(), Vec::new());
        let pulses: Vec<_> = (0..config.threads).map(|_| Pulse::default()).collect();
        for (index, pulse) in pulses.iter().enumerate() {
            let parts = plan.parts();
            // Holds one set of listeners, since only one reload runs at a time.
            let (mailbox, added) = mpsc::channel(1);
            mailboxes.push(mailbox);
            let (shared, all, stop, pulse) = (shared.clone(), &stop, stop.clone(), pulse.clone());
            let thread = std::thread::Builder::new().name(format!("data-{index}"));
            let started = thread.spawn(move || run_data_thread(shared, parts, added, stop, pulse));
            threads.push(started.inspect_err(|_| all.abandon()).map_err(StartError::Thread)?);
        }
        listeners.apply(wanted, plan);
        listeners.show(&shared.metrics);
        let addresses = listeners.addresses();
        shared.config.begin(sources.as_ref().map(|sources| sources.file().to_owned()), addresses.clone());
        let bus = bus::start(&config, &shared, stop.control.clone());
        let fleet = fleet::start(&shared, stop.control.clone());
        let fleet = fleet.inspect_err(|_| stop.abandon()).map_err(StartError::Thread)?;
        let (reload, asks) = mpsc::channel(1);
        let (spawned, orders) = SpawnHandle::new();
        let control = {
            let (shared, all, stop) = (shared.clone(), &stop, stop.clone());
            let AdminListener { token: write, read_token: read, emit_token: emit, hosts, .. } = config.admin.clone();
            let tokens = admin::AdminTokens { write, read, emit };
            let stopping = stop.gently.clone();
            let (notify, notify_orders) = NotifyHandle::new();
            let settings = admin::AdminSettings {
                tokens,
                hosts,
                reload: reload.clone(),
                stopping,
                spawned: spawned.clone(),
                notify,
            };
            let spawn = SpawnSettings { spawner: config.spawner.clone(), json: config.log.format == LogFormat::Json };
            let thread = std::thread::Builder::new().name("control".to_owned());
            let reload = ReloadParts { running: Running { config, sources, listeners, mailboxes }, asks };
            let tell = Tell { notify: parent.notify, pulses };
            let run =
                move || control_thread(shared, admin, settings, reload, tell, (spawn, orders, notify_orders), stop);
            thread.spawn(run).inspect_err(|_| all.abandon()).map_err(StartError::Thread)?
        };
        let text = format!("stickyd {} has started", env!("CARGO_PKG_VERSION"));
        shared.events.tell(Event::new(EventKind::Started, Severity::Info, text));
        let first = admins.first().cloned().unwrap_or(AdminAddress::None);
        Ok(Self { shared, addresses, admin: first, admins, stop, threads, control, bus, fleet, reload, spawned })
    }

    /// Returns the channel that requests a reload of the file.
    pub fn reload(&self) -> reload::ReloadSender {
        self.reload.clone()
    }

    /// Returns what replaces the workers that stickyd has started.
    pub fn spawned(&self) -> SpawnHandle {
        self.spawned.clone()
    }

    /// Returns the tokens that stop the server.
    pub fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// Returns the state that all threads share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Waits until the server has stopped, and returns how that ended.
    pub fn wait(self) -> StopOutcome {
        let mut ended = StopOutcome::default();
        for thread in self.threads {
            ended.add(thread.join().unwrap_or(StopOutcome { cut: 0, panicked: true }));
        }
        self.stop.control.cancel();
        ended.panicked |= self.control.join().is_err();
        self.shared.history.save();
        ended.panicked |= self.bus.is_some_and(|bus| bus.join().is_err());
        ended.panicked |= self.fleet.is_some_and(|fleet| fleet.join().is_err());
        ended
    }
}

/// Binds every address of the admin listener.
fn bind_admin(config: &AdminListener) -> Result<Vec<admin::BoundAdmin>, StartError> {
    let mut bound = Vec::new();
    for address in config.addresses() {
        bound.extend(
            admin::bind(address, config.group.as_ref()).map_err(|error| StartError::Admin(address.clone(), error))?,
        );
    }
    Ok(bound)
}

/// Guard on each thread: if the thread ends before a stop was requested, the whole process stops. Without one of its
/// threads stickyd would silently lose that thread's clients; a supervisor can start it again.
struct Needed(Stop);

impl Drop for Needed {
    fn drop(&mut self) {
        if !self.0.gently.is_cancelled() {
            tracing::error!("a thread ended unexpectedly: stopping");
            self.0.gently.cancel();
        }
    }
}

fn run_data_thread(
    shared: Arc<Shared>,
    parts: Vec<Part>,
    added: mpsc::Receiver<Vec<Part>>,
    stop: Stop,
    pulse: Pulse,
) -> StopOutcome {
    let _needed = Needed(stop.clone());
    let runtime = match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot create the runtime of a data thread");
            return StopOutcome { cut: 0, panicked: true };
        }
    };
    runtime.block_on(data_thread::run(shared, parts, added, stop, pulse))
}

/// Everything the control thread needs to reload.
struct ReloadParts {
    running: Running,
    asks: mpsc::Receiver<oneshot::Sender<reload::ReloadOutcome>>,
}

/// Everything the control thread needs to notify the service manager.
struct Tell {
    notify: Notify,
    pulses: Vec<Pulse>,
}

fn control_thread(
    shared: Arc<Shared>,
    admin: Vec<admin::BoundAdmin>,
    settings: admin::AdminSettings,
    reload: ReloadParts,
    tell: Tell,
    (spawn, orders, notify_orders): (SpawnSettings, mpsc::Receiver<SpawnOrder>, mpsc::Receiver<NotifyOrder>),
    all: Stop,
) {
    let (stop, gently) = (all.control.clone(), all.gently.clone());
    let spawn_stop = SpawnStop { gently: gently.clone(), workers: stop.clone(), now: all.now.clone() };
    let _needed = Needed(all);
    let runtime = match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "cannot create the runtime of the control thread"),
    };
    runtime.block_on(async {
        let tasks = TaskTracker::new();
        let Tell { notify: notify_service, pulses } = tell;
        let introduces = reload.running.config.introduces;
        let reloader = Reloader::new(shared.clone(), reload.running, stop.clone(), notify_service.clone());
        tasks.spawn_local(reloader.run(reload.asks));
        tasks.spawn_local(stop.clone().run_until_cancelled_owned(drain::polling::keep(shared.clone())));
        tasks.spawn_local(stop.clone().run_until_cancelled_owned(liveness::keep(shared.clone())));
        tasks.spawn_local(health_checks::keep(shared.clone(), introduces, tasks.clone(), stop.clone()));
        tasks.spawn_local(guards::keep(shared.clone(), tasks.clone(), stop.clone()));
        tasks.spawn_local(dns::keep(shared.clone(), tasks.clone(), stop.clone()));
        tasks.spawn_local(stop.clone().run_until_cancelled_owned(sweep(shared.clone())));
        let told = NotifySettings { spawned: settings.spawned.clone(), orders: notify_orders };
        let told = tasks.spawn_local(notify::keep(shared.clone(), told, gently.clone()));
        #[cfg(feature = "otel")]
        let traced = {
            let (traces, shared) = (shared.traces.clone(), shared.clone());
            let rules = move || shared.snapshot.load().rules.telemetry.clone();
            tasks.spawn_local(crate::traces::keep(traces, rules, stop.clone()))
        };
        tasks.spawn_local(stop.clone().run_until_cancelled_owned(shared.events.clone().keep()));
        tasks.spawn_local(stop.clone().run_until_cancelled_owned(sampler::keep(shared.clone(), tasks.clone())));
        let (tell, events) = (notify_service.run(shared.clone(), pulses, gently.clone()), shared.events.clone());
        tasks.spawn_local(stop.clone().run_until_cancelled_owned(tell));
        let spawned = tasks.spawn_local(spawn::keep(shared.clone(), spawn, orders, spawn_stop));
        tasks.spawn_local(admin::serve(admin, shared, settings, tasks.clone(), stop.clone()));
        tasks.spawn_local(say_stopping(events, gently));
        stop.cancelled().await;
        tasks.close();
        // Tasks left here are answering operators; they get one second to finish.
        let _ = tokio::time::timeout(Duration::from_secs(1), tasks.wait()).await;
        // Messages that wait are sent, within a time of their own that began with the stop.
        let _ = told.await;
        // So are the spans of the last requests.
        #[cfg(feature = "otel")]
        let _ = traced.await;
        // The workers get the time that is configured for them; a second SIGTERM ends them at once.
        let _ = spawned.await;
    });
}

/// Tells that stickyd stops, once it does.
async fn say_stopping(events: Arc<Events>, gently: CancellationToken) {
    gently.cancelled().await;
    let text = "stickyd stops: requests may finish, tunnels are closed";
    events.tell(Event::new(EventKind::Stopping, Severity::Info, text.to_owned()));
    // Passed on now: the task that does it otherwise may have ended.
    events.page(&EventFilter::default(), 0);
}

/// Shards of the pin table that are swept between two looks for ejections that are over.
const SHARDS_PER_LOOK: usize = 8;

/// Removes expired pins, one shard after the other, and then removed workers that have no session left. Meanwhile ends
/// the ejections whose time is over.
async fn sweep(shared: Arc<Shared>) {
    let pause = SWEEP / u32::try_from(SHARDS).unwrap_or(64);
    loop {
        for shard in 0..SHARDS {
            tokio::time::sleep(pause).await;
            shared.sessions.pins.sweep(shard, Instant::now());
            shared.sessions.aliases.sweep(shard, Instant::now());
            if shard.is_multiple_of(SHARDS_PER_LOOK) {
                let snapshot = shared.snapshot.load();
                snapshot.workers().for_each(|worker| worker.refresh_ejection());
                snapshot.upstreams.iter().for_each(|upstream| upstream.carried.numbers.refresh(clock::now_ms()));
            }
        }
        Control::new(shared.clone()).forget_unneeded();
    }
}
