//! The admin listener: metrics, status, workers and their admin states, sockets, reload. It runs on the control thread,
//! away from traffic; long lists are written on a thread of their own.
//!
//! By default it is a unix socket of mode 0600 in the state directory: access to the file grants writing, and browsers
//! cannot connect to it. Over TCP, reading needs a Host that no foreign page can name (DNS rebinding), and a bearer
//! token if the address is not loopback; writing needs the token, JSON's content type and a header field of stickyd's
//! own. No CORS header is ever sent, and no worker can have this listener's address (`config` and the DNS lookups check
//! it). The answers are described in `conf/openapi.json`, which is also served, and which the tests check every answer
//! against. Left out for now: a web page.

pub(crate) mod auth;
mod broadcast;
mod log;
mod processes;
pub mod scrape;
mod sessions;
mod sockets;
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

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router, middleware};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{AdminAddress, Secret};
use crate::drain::close_requests::Closings;
use crate::reload;
use crate::state::Shared;
use crate::telemetry::say_full;
use processes::{ProcessTable, Processes};
use stats::History;

/// Maximum number of connections; an operator, a scraper and a script need three.
const CONNECTIONS: usize = 64;

/// Time for a request's head to arrive, and again for its body.
const HEAD: Duration = Duration::from_secs(10);

/// Maximum size of a request body, in bytes: enough for a broadcast of 64 KiB in any JSON escaping.
const BODY: usize = 512 * 1024;

/// Settings of the admin listener, and its connections to the rest of stickyd.
pub struct AdminSettings {
    /// Token that writes over TCP must bear.
    pub token: Option<Secret>,
    /// Channel that requests a reload.
    pub reload: reload::ReloadSender,
    /// Cancelled once stickyd stops and only finishes what is under way.
    pub stopping: CancellationToken,
}

/// A bound admin listener.
pub enum BoundAdmin {
    /// The configuration has no admin listener.
    None,
    /// A TCP listener and its address.
    Tcp(std::net::TcpListener, SocketAddr),
    /// A unix socket and its path; the file is removed when stickyd stops.
    Unix(std::os::unix::net::UnixListener, PathBuf),
}

impl BoundAdmin {
    /// Returns the address, with the port that the kernel chose.
    pub fn address(&self) -> AdminAddress {
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
pub fn bind(address: &AdminAddress) -> io::Result<BoundAdmin> {
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
pub async fn serve(
    bound: BoundAdmin,
    shared: Arc<Shared>,
    settings: AdminSettings,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let AdminSettings { token, reload, stopping } = settings;
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
type ApiRefusal = (StatusCode, Json<Value>);

fn refuse(status: StatusCode, why: impl Into<String>) -> ApiRefusal {
    (status, Json(json!({ "error": why.into() })))
}

/// Every path with its methods, as listed in `conf/openapi.json`.
pub const PATHS: [(&str, &[&str]); 16] = [
    ("/api/v1/broadcast", &["post"]),
    ("/api/v1/explain", &["get"]),
    ("/api/v1/health", &["get"]),
    ("/api/v1/log", &["get", "put"]),
    ("/api/v1/openapi.json", &["get"]),
    ("/api/v1/pins", &["get"]),
    ("/api/v1/reload", &["post"]),
    ("/api/v1/sockets", &["get"]),
    ("/api/v1/sockets/close", &["get", "post"]),
    ("/api/v1/sockets/{id}", &["get"]),
    ("/api/v1/sockets/{id}/close", &["post"]),
    ("/api/v1/stats", &["get"]),
    ("/api/v1/status", &["get"]),
    ("/api/v1/workers", &["get"]),
    ("/api/v1/workers/{upstream}/{worker}/{word}", &["post"]),
    ("/metrics", &["get"]),
];

/// Returns the handlers of a path of [`PATHS`].
fn handlers(path: &str) -> MethodRouter<Api> {
    match path {
        "/api/v1/broadcast" => post(broadcast::send),
        "/api/v1/explain" => get(sessions::explain),
        "/api/v1/health" => get(status::health),
        "/api/v1/log" => get(log::show).put(log::set),
        "/api/v1/openapi.json" => get(openapi),
        "/api/v1/pins" => get(sessions::pin),
        "/api/v1/reload" => post(reload),
        "/api/v1/sockets" => get(sockets::list),
        "/api/v1/sockets/close" => get(sockets::close::progress).post(sockets::close::many),
        "/api/v1/sockets/{id}" => get(sockets::one),
        "/api/v1/sockets/{id}/close" => post(sockets::close::one),
        "/api/v1/stats" => get(stats::show),
        "/api/v1/status" => get(status::show),
        "/api/v1/workers" => get(workers::list),
        "/api/v1/workers/{upstream}/{worker}/{word}" => post(workers::say),
        "/metrics" => get(metrics),
        _ => MethodRouter::new(),
    }
}

fn router(api: Api, token: Option<Secret>, reach: auth::Reach) -> Router {
    let guard = auth::AdminAuth::new(reach, token);
    PATHS
        .iter()
        .fold(Router::new(), |router, (path, _)| router.route(path, handlers(path)))
        .layer(middleware::from_fn(whole))
        .layer(middleware::from_fn_with_state(Arc::new(guard), auth::check))
        .with_state(api)
}

/// Passes requests on only once their body is complete, so that a body that never ends cannot occupy one of the few
/// connections for long. A body announced as too long is rejected without reading it.
async fn whole(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let length = parts.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > BODY as u64) {
        return (StatusCode::PAYLOAD_TOO_LARGE, "the body is too large\n").into_response();
    }
    match tokio::time::timeout(HEAD, to_bytes(body, BODY)).await {
        Ok(Ok(body)) => next.run(Request::from_parts(parts, Body::from(body))).await,
        Ok(Err(_)) => (StatusCode::PAYLOAD_TOO_LARGE, "the body is too large or incomplete\n").into_response(),
        Err(_) => (StatusCode::REQUEST_TIMEOUT, "the body was not received in time\n").into_response(),
    }
}

async fn metrics(State(api): State<Api>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], scrape::scrape(&api.shared))
}

async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], include_str!("../../conf/openapi.json"))
}

async fn reload(State(api): State<Api>) -> impl IntoResponse {
    let (sender, outcome) = oneshot::channel();
    let asked = api.reload.send(sender).await.is_ok();
    match outcome.await {
        Ok(Ok(done)) if asked => {
            let said = json!({ "reloaded": true, "needs_restart": done.needs_restart, "warnings": done.warnings });
            (StatusCode::OK, Json(said))
        }
        Ok(Err(errors)) => (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({ "reloaded": false, "error": errors }))),
        _ => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "reloaded": false, "error": "stickyd is stopping" }))),
    }
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
