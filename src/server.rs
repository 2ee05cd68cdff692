//! A running stickyd: data threads, the control thread, and how they stop.
//!
//! Data threads (one per core) own listeners, connections, pools and tunnels. Health checks, sweeps, reload and the admin
//! listener run on a thread of their own (design.md §8), so that a busy data thread makes nothing look sick. Long lists are
//! written on a third kind (`admin::sockets`), which gives way to both.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::affinity::pins::{Keys, SHARDS};
use crate::config::{AdminAddress, Config, Sources};
use crate::drain::{self, Ended};
use crate::listener::{self, Part, SetError};
use crate::reload::{self, Reloader, Running};
use crate::state::Shared;
use crate::systemd::{Notify, Parent};
use crate::thread::Pulse;
use crate::upstream::{addresses, health};
use crate::{admin, secret, vigil};

/// The whole pin table is swept once in this time.
const SWEEP: Duration = Duration::from_secs(2);

/// Why stickyd does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener's address or certificate, or a socket systemd gave us.
    #[error(transparent)]
    Listen(#[from] SetError),
    /// The secret in the state directory.
    #[error("the secret cannot be read or made: {0}")]
    Secret(std::io::Error),
    /// The admin listener's address.
    #[error("cannot listen on the admin address {0}: {1}")]
    Admin(String, std::io::Error),
    /// Threads or runtimes.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// No random bytes.
    #[error("the operating system gives no random bytes")]
    Random,
}

/// A running stickyd.
pub struct Server {
    shared: Arc<Shared>,
    /// Where clients were accepted at the start, in the order of the config; ports the kernel chose are filled in.
    pub addresses: Vec<SocketAddr>,
    /// Where the admin listener is.
    pub admin: AdminAddress,
    stop: Stop,
    threads: Vec<JoinHandle<Ended>>,
    control: JoinHandle<()>,
    reload: reload::Ask,
}

/// The two words a stop knows; cloneable, and cheap to hold for whoever may say them.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Finish what is under way, within the deadlines.
    pub gently: CancellationToken,
    /// End at once.
    pub now: CancellationToken,
    /// The control thread goes last.
    control: CancellationToken,
}

impl Stop {
    /// For a start that failed half-way: what runs already ends.
    fn abandon(&self) {
        self.now.cancel();
        self.gently.cancel();
    }
}

impl Server {
    /// Binds everything, then starts. `sources` is what the config was read from, and a reload reads again; `parent` is who started us, and gave us sockets.
    ///
    /// # Errors
    /// See [`StartError`]; nothing runs then.
    pub fn start(mut config: Config, sources: Option<Sources>, parent: Parent) -> Result<Self, StartError> {
        let secret = secret::find(&config).map_err(StartError::Secret)?;
        let shared = Shared::new(&config, secret, Keys::random().map_err(|_| StartError::Random)?);
        // They are the set's from now on: it knows what each one was made of.
        let wanted = std::mem::take(&mut config.listeners);
        let mut listeners = listener::Set::new(parent.sockets, config.threads);
        let mut plan = listeners.plan(&wanted)?;
        if let Some(left) = plan.left() {
            return Err(SetError::from(left.unmatched()).into());
        }
        let admin = admin::bind(&config.admin.address)
            .map_err(|error| StartError::Admin(config.admin.address.to_string(), error))?;
        let admin_address = admin.address();
        let stop = Stop::default();
        let (mut threads, mut mailboxes) = (Vec::new(), Vec::new());
        let pulses: Vec<_> = (0..config.threads).map(|_| Pulse::default()).collect();
        for (index, pulse) in pulses.iter().enumerate() {
            let parts = plan.parts();
            // One reload at a time.
            let (mailbox, added) = mpsc::channel(1);
            mailboxes.push(mailbox);
            let (shared, all, stop, pulse) = (shared.clone(), &stop, stop.clone(), pulse.clone());
            let thread = std::thread::Builder::new().name(format!("data-{index}"));
            let started = thread.spawn(move || data_thread(shared, parts, added, stop, pulse));
            threads.push(started.inspect_err(|_| all.abandon()).map_err(StartError::Thread)?);
        }
        listeners.apply(wanted, plan);
        listeners.show(&shared.metrics);
        let addresses = listeners.addresses();
        shared.config.begin(sources.as_ref().map(|sources| sources.file().to_owned()), addresses.clone());
        let (reload, asks) = mpsc::channel(1);
        let control = {
            let (shared, all, stop) = (shared.clone(), &stop, stop.clone());
            let (token, stopping) = (config.admin.token.clone(), stop.gently.clone());
            let settings = admin::Settings { token, reload: reload.clone(), stopping };
            let thread = std::thread::Builder::new().name("control".to_owned());
            let reload = Reload { running: Running { config, sources, listeners, mailboxes }, asks };
            let tell = Tell { notify: parent.notify, pulses };
            let run = move || control_thread(shared, admin, settings, reload, tell, stop);
            thread.spawn(run).inspect_err(|_| all.abandon()).map_err(StartError::Thread)?
        };
        Ok(Self { shared, addresses, admin: admin_address, stop, threads, control, reload })
    }

    /// How to make it reload its file.
    pub fn reload(&self) -> reload::Ask {
        self.reload.clone()
    }

    /// How to stop it.
    pub fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// What all threads share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Waits until it has stopped, and says how that ended.
    pub fn wait(self) -> Ended {
        let mut ended = Ended::default();
        for thread in self.threads {
            ended.add(thread.join().unwrap_or(Ended { cut: 0, panicked: true }));
        }
        self.stop.control.cancel();
        ended.panicked |= self.control.join().is_err();
        ended
    }
}

/// On a thread: should it end before anybody said stop, everything stops. A stickyd that lacks a thread would lose that
/// thread's clients without a word; whoever started it can start it again.
struct Needed(Stop);

impl Drop for Needed {
    fn drop(&mut self) {
        if !self.0.gently.is_cancelled() {
            tracing::error!("a thread ended by itself: stopping");
            self.0.gently.cancel();
        }
    }
}

fn data_thread(
    shared: Arc<Shared>,
    parts: Vec<Part>,
    added: mpsc::Receiver<Vec<Part>>,
    stop: Stop,
    pulse: Pulse,
) -> Ended {
    let _needed = Needed(stop.clone());
    let runtime = match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "a data thread has no runtime");
            return Ended { cut: 0, panicked: true };
        }
    };
    runtime.block_on(drain::run_thread(shared, parts, added, stop, pulse))
}

/// What the control thread needs to reload.
struct Reload {
    running: Running,
    asks: mpsc::Receiver<oneshot::Sender<reload::Outcome>>,
}

/// What the control thread needs to tell the service manager.
struct Tell {
    notify: Notify,
    pulses: Vec<Pulse>,
}

fn control_thread(
    shared: Arc<Shared>,
    admin: admin::Bound,
    settings: admin::Settings,
    reload: Reload,
    tell: Tell,
    all: Stop,
) {
    let (stop, gently) = (all.control.clone(), all.gently.clone());
    let _needed = Needed(all);
    let runtime = match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "the control thread has no runtime"),
    };
    runtime.block_on(async {
        let tasks = TaskTracker::new();
        let Tell { notify, pulses } = tell;
        let reloader = Reloader::new(shared.clone(), reload.running, stop.clone(), notify.clone());
        tasks.spawn_local(reloader.run(reload.asks));
        tasks.spawn_local(stop.clone().run_until_cancelled_owned(drain::sessions::keep(shared.clone())));
        tasks.spawn_local(stop.clone().run_until_cancelled_owned(vigil::keep(shared.clone())));
        tasks.spawn_local(health::keep(shared.clone(), tasks.clone(), stop.clone()));
        tasks.spawn_local(addresses::keep(shared.clone(), tasks.clone(), stop.clone()));
        tasks.spawn_local(stop.clone().run_until_cancelled_owned(sweep(shared.clone())));
        let tell = notify.run(shared.clone(), pulses, gently);
        tasks.spawn_local(stop.clone().run_until_cancelled_owned(tell));
        tasks.spawn_local(admin::serve(admin, shared, settings, tasks.clone(), stop.clone()));
        stop.cancelled().await;
        tasks.close();
        // What is left here answers an operator; it gets a moment, no more.
        let _ = tokio::time::timeout(Duration::from_secs(1), tasks.wait()).await;
    });
}

/// Takes expired pins out, one shard after the other, and then the removed workers that have no session left.
async fn sweep(shared: Arc<Shared>) {
    let pause = SWEEP / u32::try_from(SHARDS).unwrap_or(64);
    loop {
        for shard in 0..SHARDS {
            tokio::time::sleep(pause).await;
            shared.pins.sweep(shard, Instant::now());
            shared.aliases.sweep(shard, Instant::now());
        }
        shared.forget_unneeded();
    }
}
