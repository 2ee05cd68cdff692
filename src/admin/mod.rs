//! The admin listener: metrics, status, workers and what is said of them, reload. On the control thread, away from
//! traffic; long lists are written on one of their own.
//!
//! A unix socket of mode 0600 in the state directory by default: whoever may open it may write, and no browser can. Over
//! TCP, reading needs a Host that no foreign page can name (DNS rebinding), and a bearer token where the address is not
//! loopback; writing needs the token, JSON's content type and a field of our own. No CORS header is ever sent, and no
//! worker is ever this listener (`config` and the lookups of names see to it). What each answer says stands in
//! `conf/openapi.json`, which is served, too, and which the tests hold every answer against. Left out for now:
//! the page.

pub(crate) mod auth;
mod broadcast;
mod log;
mod processes;
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
use crate::drain::ordered::Closings;
use crate::reload;
use crate::state::Shared;
use crate::telemetry::say_full;
use processes::{Look, Processes};
use stats::History;

/// Connections at once; an operator, a scraper and a script need three.
const CONNECTIONS: usize = 64;

/// For a request's head to arrive, and for its body.
const HEAD: Duration = Duration::from_secs(10);

/// Bytes of a request body at most: a broadcast of 64 KiB, however its JSON spells it.
const BODY: usize = 512 * 1024;

/// Who may write, and how a reload is asked for.
pub struct Settings {
    /// For writes over TCP.
    pub token: Option<Secret>,
    /// Where reloads happen.
    pub reload: reload::Ask,
    /// Said once stickyd finishes what is under way.
    pub stopping: CancellationToken,
}

/// A bound admin listener.
pub enum Bound {
    /// There is none.
    None,
    /// TCP.
    Tcp(std::net::TcpListener, SocketAddr),
    /// Unix socket; the file goes when stickyd stops.
    Unix(std::os::unix::net::UnixListener, PathBuf),
}

impl Bound {
    /// Where it is, with the port the kernel gave.
    pub fn address(&self) -> AdminAddress {
        match self {
            Self::None => AdminAddress::None,
            Self::Tcp(_, address) => AdminAddress::Tcp(*address),
            Self::Unix(_, path) => AdminAddress::Unix(path.clone()),
        }
    }
}

/// Binds the admin address. The socket file of a stickyd that is gone is replaced, that of a living one is not.
///
/// # Errors
/// The operating system's; `AddrInUse` when another process answers there.
pub fn bind(address: &AdminAddress) -> io::Result<Bound> {
    match address {
        AdminAddress::None => Ok(Bound::None),
        AdminAddress::Tcp(address) => {
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok(Bound::Tcp(listener, address))
        }
        AdminAddress::Unix(path) => {
            if let Some(directory) = path.parent() {
                fs::create_dir_all(directory)?;
            }
            remove_dead(path)?;
            Ok(Bound::Unix(bind_private(path)?, path.clone()))
        }
    }
}

/// A socket that is the owner's alone from the first connect on: until it listens, all connects are refused, and it only
/// listens once its mode is 0600. (A umask would be the whole process's.)
fn bind_private(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    socket.listen(128)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Removes a socket nobody answers on. Whatever else has that name stays, and so does a socket that only might be dead.
fn remove_dead(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {}
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file, and it is no socket")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) | Err(_) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// Serves until `stop`.
pub async fn serve(bound: Bound, shared: Arc<Shared>, settings: Settings, tasks: TaskTracker, stop: CancellationToken) {
    let Settings { token, reload, stopping } = settings;
    let (processes, history) = (Arc::default(), Arc::<History>::default());
    if !matches!(bound, Bound::None) {
        let samples = history.clone().keep(shared.clone());
        tasks.spawn_local(stop.clone().run_until_cancelled_owned(samples));
    }
    let lister = match sockets::list::Lister::start(shared.sockets.clone()) {
        Ok(lister) => lister,
        Err(error) => return tracing::error!(%error, "the admin listener has no thread for its lists"),
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
        Bound::None => return,
        Bound::Tcp(listener, address) => {
            let reach = if address.ip().is_loopback() { auth::Reach::Loopback } else { auth::Reach::Network };
            accept_tcp(listener, router(api, token, reach), tasks, &stop).await
        }
        Bound::Unix(listener, path) => {
            let served = accept_unix(listener, router(api, token, auth::Reach::Unix), tasks, &stop).await;
            let _ = fs::remove_file(path);
            served
        }
    };
    if let Err(error) = served {
        tracing::error!(%error, "the admin listener ended");
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
    say_full!("the admin listener cannot accept: {error}");
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
        say_full!("the admin listener is full: {CONNECTIONS} connections");
        return;
    };
    let service = TowerToHyperService::new(router.clone());
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_headers(64).max_buf_size(16 * 1024);
    let connection = http.serve_connection(TokioIo::new(stream), service);
    let stop = stop.clone();
    tasks.spawn_local(async move {
        let _seat = seat;
        // An operator's broken connection is nobody's trouble.
        let _ = stop.run_until_cancelled(connection).await;
    });
}

/// What handlers share.
#[derive(Clone)]
struct Api {
    shared: Arc<Shared>,
    reload: reload::Ask,
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
    /// What goes on behind an answer, until stickyd ends.
    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.tasks.spawn_local(self.stop.clone().run_until_cancelled_owned(task));
    }

    /// The processes of the workers there are now.
    async fn look(&self) -> Arc<Look> {
        let addresses = self.shared.snapshot.load().workers().map(|worker| worker.address.clone()).collect();
        self.processes.look(addresses).await
    }
}

/// What was wrong with a request, in words.
type Refusal = (StatusCode, Json<Value>);

fn refuse(status: StatusCode, why: impl Into<String>) -> Refusal {
    (status, Json(json!({ "error": why.into() })))
}

/// What may be asked, besides `/metrics`: each path with its methods, as `conf/openapi.json` has them.
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

/// The handlers of a path of [`PATHS`].
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
    let guard = auth::Guard::new(reach, token);
    PATHS
        .iter()
        .fold(Router::new(), |router, (path, _)| router.route(path, handlers(path)))
        .layer(middleware::from_fn(whole))
        .layer(middleware::from_fn_with_state(Arc::new(guard), auth::check))
        .with_state(api)
}

/// Hands requests on once they are whole: nobody holds one of the few connections by a body that does not end, and one
/// that is announced as too long is not waited for.
async fn whole(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let length = parts.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > BODY as u64) {
        return (StatusCode::PAYLOAD_TOO_LARGE, "the body is too large\n").into_response();
    }
    match tokio::time::timeout(HEAD, to_bytes(body, BODY)).await {
        Ok(Ok(body)) => next.run(Request::from_parts(parts, Body::from(body))).await,
        Ok(Err(_)) => (StatusCode::PAYLOAD_TOO_LARGE, "the body is too large, or broke off\n").into_response(),
        Err(_) => (StatusCode::REQUEST_TIMEOUT, "the body did not come in time\n").into_response(),
    }
}

async fn metrics(State(api): State<Api>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], api.shared.metrics.render(&api.shared))
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
    fn only_a_dead_socket_makes_room() {
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
