//! The admin listener: metrics, status, workers and their admin states, sockets, reload. It runs on the control thread,
//! away from traffic; long lists are written on a thread of their own.
//!
//! By default it is a unix socket of mode 0600 in the state directory: access to the file grants writing, and browsers
//! cannot connect to it. Over TCP, reading needs a Host that no foreign page can name (DNS rebinding), and a bearer
//! token if the address is not loopback; writing needs the token, JSON's content type and a header field of stickyd's
//! own. No CORS header is ever sent, and no worker can have this listener's address (`config` and the DNS lookups check
//! it). The answers are described in `conf/openapi.json`, which is also served, and which the tests check every answer
//! against. Left out for now: a web page.

pub mod api;
pub(crate) mod auth;
mod broadcast;
mod layers;
mod log;
mod processes;
pub(crate) mod scrape;
mod sessions;
mod sockets;
mod spawn;
mod stats;
mod status;
mod workers;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{AdminAddress, Secret};
use crate::drain::close_requests::Closings;
use crate::reload;
use crate::spawn::SpawnHandle;
use crate::state::Shared;
use crate::telemetry::say_full;
use api::{ErrorAnswer, ReloadAnswer, ReloadFailure, paths};
use processes::{ProcessTable, Processes};
use stats::History;

/// Maximum number of connections, idle ones included: a bound on descriptors and memory. Requests under way have their
/// own bound, with an answer (`layers`).
const CONNECTIONS: usize = 64;

/// Time for a request's head to arrive.
const HEAD: Duration = Duration::from_secs(10);

/// Settings of the admin listener, and its connections to the rest of stickyd.
pub(crate) struct AdminSettings {
    /// Token that writes over TCP must bear.
    pub token: Option<Secret>,
    /// Channel that requests a reload.
    pub reload: reload::ReloadSender,
    /// Cancelled once stickyd stops and only finishes what is under way.
    pub stopping: CancellationToken,
    /// The workers that stickyd starts.
    pub spawned: SpawnHandle,
}

/// A bound admin listener.
pub(crate) enum BoundAdmin {
    /// The configuration has no admin listener.
    None,
    /// A TCP listener and its address.
    Tcp(std::net::TcpListener, SocketAddr),
    /// A unix socket and its path; the file is removed when stickyd stops.
    Unix(std::os::unix::net::UnixListener, PathBuf),
}

impl BoundAdmin {
    /// Returns the address, with the port that the kernel chose.
    pub(crate) fn address(&self) -> AdminAddress {
        match self {
            Self::None => AdminAddress::None,
            Self::Tcp(_, address) => AdminAddress::Tcp(*address),
            Self::Unix(_, path) => AdminAddress::Unix(path.clone()),
        }
    }
}

/// Binds the admin address. The socket file of a stickyd that has ended is replaced; that of a running one is not.
///
/// # Errors
/// The error of the operating system; `AddrInUse` when another process answers at the address.
pub(crate) fn bind(address: &AdminAddress) -> io::Result<BoundAdmin> {
    match address {
        AdminAddress::None => Ok(BoundAdmin::None),
        AdminAddress::Tcp(address) => {
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok(BoundAdmin::Tcp(listener, address))
        }
        AdminAddress::Unix(path) => {
            if let Some(directory) = path.parent() {
                fs::create_dir_all(directory)?;
            }
            remove_dead(path)?;
            Ok(BoundAdmin::Unix(bind_private(path)?, path.clone()))
        }
    }
}

/// Binds a socket that only its owner can use, from the first connect on: until it listens, all connects are refused,
/// and it listens only once its mode is 0600. (A umask would apply to the whole process.)
fn bind_private(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    socket.listen(128)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Removes a stale socket file, on which no process answers. Other kinds of files stay, and so do sockets in doubt.
fn remove_dead(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {}
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file exists and is not a socket")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) | Err(_) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// Serves requests until `stop` is cancelled.
pub(crate) async fn serve(
    bound: BoundAdmin,
    shared: Arc<Shared>,
    settings: AdminSettings,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let AdminSettings { token, reload, stopping, spawned } = settings;
    let (processes, history) = (Arc::default(), Arc::<History>::default());
    if !matches!(bound, BoundAdmin::None) {
        let samples = history.clone().keep(shared.clone());
        tasks.spawn_local(stop.clone().run_until_cancelled_owned(samples));
    }
    let lister = match sockets::list::Lister::start(shared.sessions.sockets.clone()) {
        Ok(lister) => lister,
        Err(error) => return tracing::error!(%error, "cannot start the admin listener's thread for lists"),
    };
    let closings = Arc::default();
    let broadcasting = Arc::default();
    let (tasks_of_api, stop_of_api) = (tasks.clone(), stop.clone());
    let api = Api {
        shared,
        reload,
        stopping,
        spawned,
        processes,
        history,
        closings,
        lister,
        broadcasting,
        tasks: tasks_of_api,
        stop: stop_of_api,
    };
    let served = match bound {
        BoundAdmin::None => return,
        BoundAdmin::Tcp(listener, address) => {
            let reach = if address.ip().is_loopback() { auth::Reach::Loopback } else { auth::Reach::Network };
            accept_tcp(listener, router(api, token, reach), tasks, &stop).await
        }
        BoundAdmin::Unix(listener, path) => {
            let served = accept_unix(listener, router(api, token, auth::Reach::Unix), tasks, &stop).await;
            let _ = fs::remove_file(path);
            served
        }
    };
    if let Err(error) = served {
        tracing::error!(%error, "the admin listener has failed");
    }
}

async fn accept_tcp(
    listener: std::net::TcpListener,
    router: Router,
    tasks: TaskTracker,
    stop: &CancellationToken,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => spawn(stream, &router, &room, &tasks, stop),
            Err(error) => pause(error).await,
        }
    }
    Ok(())
}

async fn accept_unix(
    listener: std::os::unix::net::UnixListener,
    router: Router,
    tasks: TaskTracker,
    stop: &CancellationToken,
) -> io::Result<()> {
    let listener = UnixListener::from_std(listener)?;
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => spawn::<UnixStream>(stream, &router, &room, &tasks, stop),
            Err(error) => pause(error).await,
        }
    }
    Ok(())
}

async fn pause(error: io::Error) {
    say_full!(%error, "the admin listener cannot accept connections");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

fn spawn<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    stream: S,
    router: &Router,
    room: &Arc<Semaphore>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let Ok(seat) = room.clone().try_acquire_owned() else {
        say_full!(limit = CONNECTIONS, "the admin listener has reached its limit of connections");
        return;
    };
    let service = TowerToHyperService::new(router.clone());
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_headers(64).max_buf_size(16 * 1024);
    let connection = http.serve_connection(TokioIo::new(stream), service);
    let stop = stop.clone();
    tasks.spawn_local(async move {
        let _seat = seat;
        // A broken admin connection needs no handling.
        let _ = stop.run_until_cancelled(connection).await;
    });
}

/// State that all handlers share.
#[derive(Clone)]
struct Api {
    shared: Arc<Shared>,
    reload: reload::ReloadSender,
    stopping: CancellationToken,
    spawned: SpawnHandle,
    processes: Arc<Processes>,
    history: Arc<History>,
    closings: Arc<Closings>,
    lister: sockets::list::Lister,
    /// Locked while a broadcast is under way.
    broadcasting: Arc<tokio::sync::Mutex<()>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Api {
    /// Runs a task that outlives its request's answer, until stickyd stops.
    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.tasks.spawn_local(self.stop.clone().run_until_cancelled_owned(task));
    }

    /// Returns the processes of all present workers.
    async fn look(&self) -> Arc<ProcessTable> {
        let addresses = self.shared.snapshot.load().workers().map(|worker| worker.address.clone()).collect();
        self.processes.look(addresses).await
    }
}

/// Error answer to a request: its status, and the reason as JSON.
type ApiRefusal = (StatusCode, Json<ErrorAnswer>);

fn refuse(status: StatusCode, why: impl Into<String>) -> ApiRefusal {
    (status, Json(ErrorAnswer { error: why.into() }))
}

/// Returns the handlers of a path of [`api::PATHS`].
fn handlers(path: &str) -> MethodRouter<Api> {
    match path {
        paths::BROADCAST => post(broadcast::send),
        paths::EXPLAIN => get(sessions::explain),
        paths::HEALTH => get(status::health),
        paths::LOG => get(log::show).put(log::set),
        paths::LOGS => get(spawn::logs),
        paths::OPENAPI => get(openapi),
        paths::PINS => get(sessions::pin),
        paths::RELOAD => post(reload),
        paths::SOCKETS => get(sockets::list),
        paths::SOCKETS_CLOSE => get(sockets::close::progress).post(sockets::close::many),
        paths::SOCKET => get(sockets::one),
        paths::SOCKET_CLOSE => post(sockets::close::one),
        paths::SPAWN => get(spawn::show),
        paths::SPAWN_WISH => post(spawn::wish),
        paths::STATS => get(stats::show),
        paths::STATUS => get(status::show),
        paths::WORKERS => get(workers::list),
        paths::WORKER_STATE => post(workers::say),
        paths::METRICS => get(metrics),
        _ => MethodRouter::new(),
    }
}

fn router(api: Api, token: Option<Secret>, reach: auth::Reach) -> Router {
    let router = api::PATHS.iter().fold(Router::new(), |router, (path, _)| router.route(path, handlers(path)));
    layers::around(router.with_state(api), auth::AdminAuth::new(reach, token))
}

async fn metrics(State(api): State<Api>) -> impl IntoResponse {
    let look = api.look().await;
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], scrape::scrape_with(&api.shared, &look))
}

async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], include_str!("../../conf/openapi.json"))
}

async fn reload(State(api): State<Api>) -> Response {
    let (sender, outcome) = oneshot::channel();
    let asked = api.reload.send(sender).await.is_ok();
    let (status, error) = match outcome.await {
        Ok(Ok(reload::Done { needs_restart, warnings })) if asked => {
            let needs_restart = needs_restart.into_iter().map(str::to_owned).collect();
            return Json(ReloadAnswer { needs_restart, reloaded: true, warnings }).into_response();
        }
        Ok(Err(errors)) => (StatusCode::UNPROCESSABLE_ENTITY, errors),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "stickyd is stopping".to_owned()),
    };
    (status, Json(ReloadFailure { error, reloaded: false })).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_stale_socket_file_is_replaced() {
        let directory = std::env::temp_dir().join(format!("stickyd-admin-{:016x}", crate::random::u64()));
        let bind = |name: &str| bind(&AdminAddress::Unix(directory.join(name)));
        let living = bind("admin").unwrap();
        assert_eq!(bind("admin").err().map(|error| error.kind()), Some(io::ErrorKind::AddrInUse));
        drop(living);
        assert!(bind("admin").is_ok());
        fs::write(directory.join("file"), "precious").unwrap();
        assert!(bind("file").is_err());
        assert_eq!(fs::read_to_string(directory.join("file")).unwrap(), "precious");
        fs::remove_dir_all(directory).unwrap();
    }
}
