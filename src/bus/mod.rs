//! The bus: messages among the workers of an upstream, so that `io.emit`, rooms and `fetchSockets` of an unmodified
//! Socket.IO application reach the clients of all workers.
//!
//! A preload (`preload/`) in each Node.js worker replaces Socket.IO's in-memory adapter and connects to the hub, a unix
//! socket of stickyd. The hub runs on a thread of its own, so that many messages slow no request. It knows members by
//! upstream and path and leaves the content of messages unread. Without the hub, each worker delivers to its own
//! clients and connects again; what it published meanwhile follows then. In a fleet, hubs of several machines hand
//! their messages to one another ([`far`]).
//! Left out: the way to other machines (`crate::fleet`), and servers other than Socket.IO's for Node.js.

mod duplicates;
mod emit;
pub(crate) mod environment;
pub(crate) mod far;
mod frame;
mod group;
mod link;
mod members;
mod outbox;
mod recovery;

use std::cell::{Cell, RefCell};
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::net::UnixListener;
use tokio::runtime::{Builder, LocalOptions};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::events::tell;
use emit::EmitsUnderWay;
pub(crate) use emit::{BusEmit, BusEmitted, EmitMatter, EmitMessage};
use far::{FarHubs, FarQueue, HubId};
use group::{GroupKey, Groups, Published};
pub(crate) use members::{BusMember, BusMembers};

/// Links that the hub accepts at once; each is one Socket.IO server of one process.
const MOST_LINKS: usize = 4_096;
/// Pause between two looks for what is too old.
const SWEEP: Duration = Duration::from_secs(1);

/// Carries messages to the hubs of other machines and back, on the hub's thread, until the token is cancelled.
pub(crate) type FarWay = Box<dyn FnOnce(Rc<Hub>, Rc<FarQueue>, CancellationToken) -> WayTask + Send>;
/// The task that a [`FarWay`] runs.
pub(crate) type WayTask = Pin<Box<dyn Future<Output = ()>>>;

/// The hub's state, on its own thread.
pub(crate) struct Hub {
    groups: Groups,
    /// The hubs of other machines.
    far: FarHubs,
    /// Number of the last message. It begins with the time, so that it grows over restarts, too.
    position: Cell<u64>,
    members: Arc<BusMembers>,
    /// Messages of the backend.
    emits: EmitsUnderWay,
}

impl Hub {
    fn new(members: Arc<BusMembers>, far: FarHubs) -> Self {
        let ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        // 48 bits: some 60 messages per millisecond of uptime keep ahead of the clock until the year 2109.
        let position = u64::try_from(ms).unwrap_or(0).saturating_mul(64) & ((1 << 48) - 1);
        Self {
            groups: RefCell::default(),
            far,
            position: Cell::new(position),
            members,
            emits: EmitsUnderWay::default(),
        }
    }

    /// Counts a published message, and warns of messages that several workers send alike.
    fn count(&self, (upstream, path): &GroupKey, published: &Published) {
        let series = &self.members.metrics.bus;
        if !published.known {
            series.messages.inc();
            series.copies.inc_by(published.sent as u64);
        }
        if published.duplicates {
            series.duplicates.inc();
            tell!(
                self.members.metrics.events, Bus, warn,
                upstream = %upstream,
                %path,
                "several workers send the same messages, so clients get each of them more \
                than once: the application seems to spread messages itself; remove that, or set bus = false"
            );
        }
    }

    fn next_position(&self) -> u64 {
        self.position.set(self.position.get() + 1);
        self.position.get()
    }

    /// The way to other machines is open: asks for their members.
    pub(crate) fn link_far(&self) {
        self.far.link(self);
    }

    /// Messages of other machines may be lost: asks for their members again.
    pub(crate) fn ask_far(&self) {
        self.far.ask(self);
    }

    /// The way to other machines is gone.
    pub(crate) fn lose_far(&self) {
        self.far.lose(self);
        self.show_far();
    }

    /// Tells the other machines the members here, and forgets those that are silent.
    pub(crate) fn tick_far(&self, now: Instant) {
        self.far.tick(self, now);
        self.show_far();
    }

    /// Tells the other machines that this hub ends.
    pub(crate) fn leave_far(&self) {
        self.far.leave(self);
    }

    /// Takes a message of another hub.
    pub(crate) fn hear_far(&self, from: HubId, message: Bytes) {
        let series = &self.members.metrics.bus.far;
        let is_read = self.far.hear(self, from, message, Instant::now());
        (if is_read { &series.received } else { &series.unreadable }).inc();
        self.show_far();
    }

    /// Counts a message that was handed to the way, or was refused there.
    pub(crate) fn count_sent(&self, is_sent: bool) {
        let series = &self.members.metrics.bus.far;
        (if is_sent { &series.sent } else { &series.dropped }).inc();
    }

    /// Counts messages that waited for too long.
    pub(crate) fn count_dropped(&self, count: u64) {
        self.members.metrics.bus.far.dropped.inc_by(count);
    }

    fn show_far(&self) {
        self.members.metrics.bus.far.members.set(i64::try_from(self.far.members()).unwrap_or(i64::MAX));
    }

    fn sweep(&self, now: Instant) {
        self.groups.borrow_mut().retain(|_, group| {
            let mut group = group.borrow_mut();
            let dropped = std::mem::take(&mut group.recovery.dropped);
            self.members.metrics.bus.unrecoverable.inc_by(dropped);
            !group.sweep(now)
        });
    }
}

/// A bound socket of the hub, which [`BoundBus::start`] serves.
#[derive(Debug)]
pub(crate) struct BoundBus {
    listener: std::os::unix::net::UnixListener,
}

impl BoundBus {
    /// Binds the hub's socket, which only this user may open. A socket that an earlier stickyd left is replaced.
    ///
    /// # Errors
    /// The error of the file system, for example a folder that does not exist.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        // Bound under another name and renamed, so that no one can connect before the mode is set, and workers that
        // connect meanwhile reach the old socket or the new one.
        let fresh = path.with_extension(format!("{}.new", std::process::id()));
        let _ = std::fs::remove_file(&fresh);
        let listener = std::os::unix::net::UnixListener::bind(&fresh)?;
        std::fs::set_permissions(&fresh, Permissions::from_mode(0o600))?;
        std::fs::rename(&fresh, path)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener })
    }

    /// Serves the socket on a thread of its own until `stop`.
    ///
    /// # Errors
    /// The operating system refused the thread.
    pub(crate) fn start(
        self,
        members: Arc<BusMembers>,
        way: Option<FarWay>,
        stop: CancellationToken,
    ) -> io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("bus".to_owned()).spawn(move || {
            let runtime = match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
                Ok(runtime) => runtime,
                Err(error) => return tracing::error!(%error, "cannot create the runtime of the bus"),
            };
            runtime.block_on(self.serve(members, way, stop));
        })
    }

    async fn serve(self, members: Arc<BusMembers>, way: Option<FarWay>, stop: CancellationToken) {
        let listener = match UnixListener::from_std(self.listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "cannot serve the bus"),
        };
        let outbound = way.is_some().then(Rc::<FarQueue>::default);
        let far = outbound.clone().map(FarHubs::over).unwrap_or_default();
        let (emits, orders) = emit::channel();
        members.takes_emits(emits);
        let (hub, tasks) = (Rc::new(Hub::new(members, far)), TaskTracker::new());
        tasks.spawn_local(stop.clone().run_until_cancelled_owned(emit::serve(hub.clone(), orders)));
        if let Some((way, outbound)) = way.zip(outbound) {
            tasks.spawn_local(way(hub.clone(), outbound, stop.clone()));
        }
        tasks.spawn_local(stop.clone().run_until_cancelled_owned(sweep(hub.clone())));
        while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((socket, _)) if tasks.len() <= MOST_LINKS => {
                    tasks.spawn_local(stop.clone().run_until_cancelled_owned(link::serve(hub.clone(), socket)));
                }
                Ok(_) => crate::telemetry::say_full!(limit = MOST_LINKS, "too many links to the bus"),
                // No descriptor is free, for example; accepting again at once would only fail again.
                Err(error) => {
                    crate::telemetry::say_full!(%error, "cannot accept a link to the bus");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        tasks.close();
        let _ = tokio::time::timeout(Duration::from_secs(1), tasks.wait()).await;
    }
}

async fn sweep(hub: Rc<Hub>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        hub.sweep(Instant::now());
    }
}
