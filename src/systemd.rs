//! systemd integration: notifications (readiness, reloads, a status line, the watchdog), and inherited sockets.
//!
//! This is the only file that knows systemd (ARCHITECTURE.md, invariant 11). Without `NOTIFY_SOCKET` nothing is
//! reported, and without `LISTEN_FDS` nothing is inherited: see sd_notify(3), sd_listen_fds(3). Descriptors are made
//! into sockets by the crate `listenfd`, which checks each one, so that no `unsafe` is needed here. Not supported:
//! notify sockets in the abstract namespace or on vsock, the descriptor store, and the admin listener as an inherited
//! socket.

pub(crate) mod service_unit;
pub(crate) mod units;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use listenfd::ListenFd;
use sd_notify::NotifyState;
use socket2::SockRef;
use tokio_util::sync::CancellationToken;

use crate::config::Listener;
use crate::locks::lock;
use crate::printable::is_unprintable;
use crate::state::Shared;
use crate::telemetry::say_full;
use crate::thread::Pulse;
use crate::upstream::connections::pool::TICK;
use crate::upstream::worker::WorkerHealth;

/// Interval at which the status is computed, and reported if it has changed.
const STATUS: Duration = Duration::from_secs(3);

/// Maximum characters of an error in the status.
const MAX_ERROR: usize = 300;

/// The service manager that started this process, as far as it matters. The default stands for no service manager.
#[derive(Default)]
pub struct Parent {
    /// Listening sockets that the service manager passed.
    pub sockets: Vec<Inherited>,
    /// Sends notifications to the service manager.
    pub notify: Notify,
}

/// A listening socket that the service manager passed.
pub struct Inherited {
    /// `FileDescriptorName=` of the socket unit; systemd's default is the unit's own name.
    pub name: String,
    /// The socket itself, bound and listening.
    pub socket: TcpListener,
    /// Address to which the socket is bound.
    pub address: SocketAddr,
}

impl Inherited {
    /// Duplicates the socket on a descriptor of its own.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { name: self.name.clone(), socket: self.socket.try_clone()?, address: self.address })
    }

    /// Returns the error for a socket that no listener matches, so that nothing would accept from it.
    pub fn unmatched(&self) -> SocketError {
        SocketError::Unmatched(self.address, self.name.clone())
    }
}

/// Reason why inherited sockets cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The variables contradict each other, or there is no such descriptor.
    #[error("cannot take the sockets passed by systemd (LISTEN_FDS, LISTEN_FDNAMES): {0}")]
    Unreadable(io::Error),
    /// The descriptor is a datagram or unix socket, or not a socket at all.
    #[error(
        "descriptor {0} (`{1}`) passed by systemd is not a listening TCP socket: {2}; \
         stickyd needs ListenStream= with an IP address and a port, and Accept=no"
    )]
    NotTcp(i32, String, String),
    /// No listener matches the socket: its clients would wait in its queue for ever.
    #[error(
        "systemd passed a socket on {0} named `{1}`, but no [[listener]] has this name or address; \
         write name = \"{1}\" in the [[listener]] it is for, or remove it from the socket unit"
    )]
    Unmatched(SocketAddr, String),
    /// Several sockets have one name, and the address does not decide between them.
    #[error(
        "systemd passed {0} sockets named `{1}`, and none of them is on {2}; \
         a listener takes one: give each socket unit one ListenStream= and a FileDescriptorName= of its own"
    )]
    Several(usize, String, SocketAddr),
}

impl Parent {
    /// Takes what the service manager passed, and removes it from the environment. Must be called once, while there is
    /// only one thread.
    ///
    /// # Errors
    /// See `SocketError`.
    pub fn find() -> Result<Self, SocketError> {
        let notify = std::env::var_os("NOTIFY_SOCKET").is_some_and(|path| !path.is_empty());
        Ok(Self { sockets: inherit()?, notify: Notify(notify.then(Arc::default)) })
    }
}

fn inherit() -> Result<Vec<Inherited>, SocketError> {
    // This also sets close-on-exec, and checks LISTEN_PID, which `listenfd` does not. The first call is without names,
    // because the names of sockets for another process would be "too many".
    if sd_notify::listen_fds().map_err(SocketError::Unreadable)?.len() == 0 {
        return Ok(Vec::new());
    }
    let given: Vec<_> = sd_notify::listen_fds_with_names().map_err(SocketError::Unreadable)?.collect();
    let mut descriptors = ListenFd::from_env();
    let take = |(index, (descriptor, name)): (usize, (i32, String))| {
        let no = |why: String| SocketError::NotTcp(descriptor, name.clone(), why);
        let socket = descriptors.take_tcp_listener(index).map_err(|error| no(error.to_string()))?;
        let socket = socket.ok_or_else(|| no("it was not passed".to_owned()))?;
        let listens = SockRef::from(&socket).is_listener().map_err(|error| no(error.to_string()))?;
        if !listens {
            return Err(no("it does not listen".to_owned()));
        }
        let address = socket.local_addr().map_err(|error| no(error.to_string()))?;
        Ok(Inherited { name, socket, address })
    };
    given.into_iter().enumerate().map(take).collect()
}

/// Chooses the inherited socket of each listener, in the order of the listeners: by name, else by address. A listener
/// with `None` binds one of its own. Sockets that no listener matches stay in `given`.
///
/// # Errors
/// Several sockets have the name of a listener, and none of them its address.
pub(crate) fn choose(
    listeners: &[&Listener],
    given: &mut Vec<Inherited>,
) -> Result<Vec<Option<Inherited>>, SocketError> {
    let mut chosen: Vec<_> = listeners.iter().map(|_| None).collect();
    // Names go first, because a named socket may be on an address that would fit another listener, too.
    for (listener, slot) in listeners.iter().zip(&mut chosen) {
        *slot = listener.name.as_ref().map_or(Ok(None), |name| by_name(listener, name, given))?;
    }
    for (listener, slot) in listeners.iter().zip(&mut chosen).filter(|(_, slot)| slot.is_none()) {
        *slot = by_address(listener, |_| true, given);
    }
    Ok(chosen)
}

fn by_name(listener: &Listener, name: &str, given: &mut Vec<Inherited>) -> Result<Option<Inherited>, SocketError> {
    let named = given.iter().filter(|one| one.name == name).count();
    let found = match (named, given.iter().position(|one| one.name == name)) {
        (1, Some(at)) => Some(given.swap_remove(at)),
        _ => by_address(listener, |one| one.name == name, given),
    };
    match &found {
        None if named > 1 => Err(SocketError::Several(named, name.to_owned(), listener.address)),
        Some(one) if !covers(one, listener.address) => {
            tracing::warn!(listener = name, given = %one.address, configured = %listener.address,
                "listener uses the address of the socket unit, not its configured `address`");
            Ok(found)
        }
        _ => Ok(found),
    }
}

fn by_address(
    listener: &Listener,
    wanted: impl Fn(&Inherited) -> bool,
    given: &mut Vec<Inherited>,
) -> Option<Inherited> {
    let at = given.iter().position(|one| wanted(one) && covers(one, listener.address))?;
    Some(given.swap_remove(at))
}

/// Returns whether a socket takes the clients of an address: it has the same address; or it is `ListenStream=80`, which
/// is `[::]:80` and takes IPv4 as well, for 0.0.0.0:80.
fn covers(one: &Inherited, address: SocketAddr) -> bool {
    let (bound, wanted) = (one.address.ip(), address.ip());
    let both = || !SockRef::from(&one.socket).only_v6().unwrap_or(true);
    let every = bound.is_ipv6() && wanted.is_ipv4() && bound.is_unspecified() && wanted.is_unspecified();
    one.address.port() == address.port() && (bound == wanted || (every && both()))
}

/// Sends notifications to the service manager; does nothing if there is none. Clones share their state.
#[derive(Clone, Default)]
pub struct Notify(Option<Arc<Mutex<StatusParts>>>);

/// State of the notifications: what the status is made of, in addition to counts, and the status sent last.
#[derive(Default)]
struct StatusParts {
    status: String,
    /// Error of the last reload, if it failed.
    failure: Option<String>,
}

impl Notify {
    /// Reports readiness once every data thread has begun to tick (its listeners are registered before that), then
    /// keeps the status and the watchdog up to date, and reports that stickyd stops once `stopping` is cancelled. With
    /// a watchdog it never returns.
    pub async fn run(self, shared: Arc<Shared>, pulses: Vec<Pulse>, stopping: CancellationToken) {
        if self.0.is_none() {
            return;
        }
        let began = async {
            while pulses.iter().any(|pulse| pulse.beats() == 0) {
                tokio::time::sleep(TICK / 10).await;
            }
        };
        if stopping.run_until_cancelled(began).await.is_some() {
            self.send_with_status(&[NotifyState::Ready], &shared);
        }
        tokio::join!(self.keep_status(&shared, &stopping), self.keep_watchdog(&pulses, &stopping));
    }

    /// Reports that a reload has begun.
    pub fn reloading(&self) {
        if self.0.is_none() {
            return;
        }
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.send(&[NotifyState::Reloading, now]),
            Err(error) => say_full!(%error, "cannot read the monotonic clock for systemd"),
        }
    }

    /// Reports that a reload is over, and its error if it failed; the service is as ready as it was before.
    pub fn reloaded(&self, failed: Option<&str>, shared: &Shared) {
        let Some(told) = &self.0 else { return };
        lock(told).failure = failed.map(first_line);
        self.send_with_status(&[NotifyState::Ready], shared);
    }

    async fn keep_status(&self, shared: &Shared, stopping: &CancellationToken) {
        let told = async {
            loop {
                tokio::time::sleep(STATUS).await;
                self.send_with_status(&[], shared);
            }
        };
        stopping.run_until_cancelled(told).await;
        let what = "stopping: requests may finish, tunnels are closed";
        self.send(&[NotifyState::Stopping, NotifyState::Status(what)]);
    }

    /// Feeds systemd's watchdog at half of its time-out, but not before every data thread has answered. While stickyd
    /// stops, threads end one by one and no longer tick; stopping has deadlines of its own, so the threads are not
    /// checked then.
    async fn keep_watchdog(&self, pulses: &[Pulse], stopping: &CancellationToken) {
        let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) else { return };
        loop {
            let seen: Vec<u32> = pulses.iter().map(Pulse::beats).collect();
            self.send(&[NotifyState::Watchdog]);
            tokio::time::sleep(limit / 2).await;
            stopping.run_until_cancelled(all_beat(pulses, &seen)).await;
        }
    }

    /// Sends notifications, together with the status if that has changed.
    fn send_with_status(&self, what: &[NotifyState<'_>], shared: &Shared) {
        let Some(told) = &self.0 else { return };
        let mut told = lock(told);
        let now = status(shared, told.failure.as_deref());
        let mut all = what.to_vec();
        if now != told.status {
            all.push(NotifyState::Status(&now));
        }
        self.send(&all);
        told.status = now;
    }

    fn send(&self, what: &[NotifyState<'_>]) {
        if self.0.is_none() || what.is_empty() {
            return;
        }
        if let Err(error) = sd_notify::notify(what) {
            say_full!(%error, "cannot notify systemd (NOTIFY_SOCKET)");
        }
    }
}

/// Waits until every pulse has moved on from `seen`; logs an error if one takes more than a second.
async fn all_beat(pulses: &[Pulse], seen: &[u32]) {
    let (began, mut said) = (Instant::now(), false);
    let silent = || pulses.iter().zip(seen).position(|(pulse, seen)| pulse.beats() == *seen);
    while let Some(thread) = silent() {
        if !said && began.elapsed() > Duration::from_secs(1) {
            tracing::error!(thread, "a data thread does not answer: systemd's watchdog is not fed");
            said = true;
        }
        tokio::time::sleep(TICK / 5).await;
    }
}

/// Returns the status, such as `4 workers up of 5, 1,203 sessions`, with a failed reload before it.
fn status(shared: &Shared, failure: Option<&str>) -> String {
    let (mut up, mut all, mut sessions) = (0_usize, 0_usize, 0_u64);
    for worker in shared.snapshot.load().workers() {
        // A removed worker is not counted, but its sessions are.
        let counts = !worker.admin.is_removed();
        all += usize::from(counts);
        up += usize::from(counts && worker.health() == WorkerHealth::Up);
        sessions += u64::from(worker.sessions());
    }
    let plural = if sessions == 1 { "" } else { "s" };
    let counts = format!("{up} workers up of {all}, {} session{plural}", thousands(sessions));
    failure.map_or_else(|| counts.clone(), |failure| format!("not reloaded: {failure}; {counts}"))
}

/// Returns the first line of an error, with the place that its second line names. It must be a single line, because in
/// the protocol each line is a variable.
fn first_line(error: &str) -> String {
    let mut lines = error.lines();
    let first = lines.next().unwrap_or_default();
    let place = lines.next().and_then(|line| line.trim().strip_prefix("--> "));
    let message = first.strip_prefix("error: ").unwrap_or(first);
    let message = place.map_or_else(|| message.to_owned(), |place| format!("{message} ({place})"));
    message.chars().filter(|c| !is_unprintable(*c)).take(MAX_ERROR).collect()
}

fn thousands(number: u64) -> String {
    crate::config::digits(number).replace('_', ",")
}

#[cfg(test)]
mod tests;
