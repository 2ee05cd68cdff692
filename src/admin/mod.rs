//! The admin listener: metrics, status, workers and their admin states, sockets, reload. It runs on the control thread,
//! away from traffic; long lists are written on a thread of their own.
//!
//! It has a unix socket of mode 0600 (0660 with a group) in the state directory, and any further addresses of the file.
//! Access to the socket's file stands for a token and for nothing else: `ssh -L` gives the socket to a browser. On
//! every address, a request without a token needs a Host that no foreign page can name (DNS rebinding), and writing
//! needs a header field of stickyd's own (`auth`). No CORS header is ever sent, and no worker can have this listener's
//! address (`config` and the DNS lookups check it). The answers are described in `conf/openapi.json`, which is also
//! served, and which the tests check every answer against. The same addresses serve a page for browsers (`page`).

pub mod api;
pub(crate) mod auth;
mod away;
mod bind;
mod broadcast;
mod emit;
mod events;
pub(crate) mod fleet;
pub(crate) mod layers;
mod linked;
mod live;
mod log;
mod notify;
mod orders;
pub(crate) mod page;
mod queue;
pub(crate) mod scrape;
mod sessions;
mod sockets;
mod spawn;
mod stats;
mod status;
mod workers;

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post, put};
use axum::{Extension, Json, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::drain::close_requests::Closings;
use crate::emit::EmitLinks;
use crate::notify::NotifyHandle;
use crate::processes::ProcessTable;
use crate::reload;
use crate::spawn::SpawnHandle;
use crate::state::Shared;
use crate::telemetry::say_full;
use api::{ErrorAnswer, ReloadAnswer, ReloadFailure, paths};
pub(crate) use auth::AdminTokens;
use auth::{AdminAuth, AdminPeer, Reach};
pub(crate) use bind::{BoundAdmin, NotGivenError, bind};
use stats::LastMinute;

/// Maximum number of connections per address, idle ones included: a bound on descriptors and memory. Requests under way
/// have their own bound, with an answer (`layers`).
const CONNECTIONS: usize = 64;

/// Time for a request's head to arrive.
const HEAD: Duration = Duration::from_secs(10);

/// Time at a stop for answers and streams to send their last piece.
const LAST_PIECE: Duration = Duration::from_millis(500);

/// Settings of the admin listener, and its connections to the rest of stickyd.
pub(crate) struct AdminSettings {
    /// Bearer tokens, by what they allow.
    pub tokens: AdminTokens,
    /// Names that the Host of a request without a token may have.
    pub hosts: Vec<String>,
    /// Channel that requests a reload.
    pub reload: reload::ReloadSender,
    /// Cancelled once stickyd stops and only finishes what is under way.
    pub stopping: CancellationToken,
    /// The workers that stickyd starts.
    pub spawned: SpawnHandle,
    /// Asks the notifier for its state.
    pub notify: NotifyHandle,
}

/// Serves requests on all addresses until `stop` is cancelled.
pub(crate) async fn serve(
    bound: Vec<BoundAdmin>,
    shared: Arc<Shared>,
    settings: AdminSettings,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let AdminSettings { tokens, hosts, reload, stopping, spawned, notify } = settings;
    let fleet = shared.sessions.fleet().filter(|fleet| fleet.settings().control).cloned();
    if bound.is_empty() && fleet.is_none() {
        return;
    }
    let history = Arc::<LastMinute>::default();
    let samples = history.clone().keep(shared.clone());
    tasks.spawn_local(stop.clone().run_until_cancelled_owned(samples));
    let lister = match sockets::list::Lister::start(shared.sessions.sockets.clone()) {
        Ok(lister) => lister,
        Err(error) => return tracing::error!(%error, "cannot start the admin listener's thread for lists"),
    };
    let (tasks_of_api, stop_of_api) = (tasks.clone(), stop.clone());
    let api = Api {
        shared,
        reload,
        stopping,
        spawned,
        notify,
        history,
        viewers: Arc::default(),
        closings: Arc::default(),
        lister,
        broadcasting: Arc::default(),
        emitting: Arc::default(),
        emit_links: Arc::default(),
        orders: Arc::default(),
        asking: Arc::new(Semaphore::new(orders::UNDER_WAY)),
        tasks: tasks_of_api,
        stop: stop_of_api,
    };
    if let Some(fleet) = fleet {
        api.spawn(orders::obey::keep(api.clone(), fleet));
    }
    for one in bound {
        let guard = AdminAuth::new(reach(&one), tokens.clone(), hosts.clone());
        let (router, address) = (router(api.clone(), guard), one.address());
        let (tasks_of_one, stop) = (tasks.clone(), stop.clone());
        tasks.spawn_local(async move {
            if let Err(error) = accept(one, router, tasks_of_one, &stop).await {
                tracing::error!(%address, %error, "the admin listener has failed");
            }
        });
    }
}

/// Returns who can connect to an address.
fn reach(bound: &BoundAdmin) -> Reach {
    match bound {
        BoundAdmin::Tcp(_, address) if address.ip().to_canonical().is_loopback() => Reach::Loopback,
        BoundAdmin::Tcp(..) => Reach::Network,
        BoundAdmin::Unix(..) => Reach::Unix,
    }
}

/// Accepts connections on one address until `stop`. Each address has its own limits, so that a crowd on TCP does not
/// keep an operator on this machine out.
async fn accept(bound: BoundAdmin, router: Router, tasks: TaskTracker, stop: &CancellationToken) -> io::Result<()> {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    match bound {
        BoundAdmin::Tcp(listener, _) => {
            let listener = TcpListener::from_std(listener)?;
            while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
                match accepted {
                    Ok((stream, _)) => spawn(stream, &router, &room, &tasks, stop),
                    Err(error) => pause(error).await,
                }
            }
        }
        BoundAdmin::Unix(listener, file) => {
            let listener = UnixListener::from_std(listener)?;
            while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
                match accepted {
                    Ok((stream, _)) => {
                        let peer = AdminPeer(stream.peer_cred().ok().map(|peer| peer.uid()));
                        spawn(stream, &router.clone().layer(Extension(peer)), &room, &tasks, stop);
                    }
                    Err(error) => pause(error).await,
                }
            }
            // Before the listener is closed.
            file.remove();
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
        let (_seat, mut connection) = (seat, pin!(connection));
        // A broken admin connection needs no handling.
        if stop.run_until_cancelled(connection.as_mut()).await.is_none() {
            connection.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(LAST_PIECE, connection).await;
        }
    });
}

/// State that all handlers share.
#[derive(Clone)]
struct Api {
    shared: Arc<Shared>,
    reload: reload::ReloadSender,
    stopping: CancellationToken,
    spawned: SpawnHandle,
    notify: NotifyHandle,
    history: Arc<LastMinute>,
    viewers: Arc<live::Viewers>,
    closings: Arc<Closings>,
    lister: sockets::list::Lister,
    /// Locked while a broadcast is under way.
    broadcasting: Arc<tokio::sync::Mutex<()>>,
    /// Bounds the messages of the backend that are under way.
    emitting: Arc<emit::EmitSeats>,
    emit_links: Arc<EmitLinks>,
    /// Which orders of the fleet have set the admin states of workers.
    orders: Arc<orders::AppliedOrders>,
    /// Bounds the questions to the fleet that are under way.
    asking: Arc<Semaphore>,
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
        self.shared.processes.look(addresses).await
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
        paths::EMIT => post(emit::send),
        paths::EVENTS => get(events::list),
        paths::HISTORY => get(live::history),
        paths::LIVE => get(live::stream),
        paths::EXPLAIN => get(sessions::explain),
        paths::FLEET => get(fleet::show),
        paths::FLEET_ORDERS => get(orders::ask).post(orders::order),
        paths::HEALTH => get(status::health),
        paths::LOG => get(log::show).put(log::set),
        paths::LOGS => get(spawn::logs),
        paths::NOTIFY => get(notify::show),
        paths::NOTIFY_TEST => post(notify::test),
        paths::OPENAPI => get(openapi),
        paths::PINS => get(sessions::pin),
        paths::QUEUE => get(queue::list).post(queue::send),
        paths::QUEUE_DELETE => post(queue::delete),
        paths::QUEUE_SHOW => post(queue::show),
        paths::RELOAD => post(reload),
        paths::SOCKETS => get(sockets::list),
        paths::SOCKETS_CLOSE => get(sockets::close::progress).post(sockets::close::many),
        paths::SOCKET => get(sockets::one),
        paths::SOCKET_CLOSE => post(sockets::close::one),
        paths::SOCKET_LABELS => put(sockets::labels::set),
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

/// The API without the layers around it.
fn bare_router() -> Router<Api> {
    api::PATHS.iter().fold(Router::new(), |router, (path, _)| router.route(path, handlers(path)))
}

fn router(api: Api, guard: AdminAuth) -> Router {
    let events = api.shared.events.clone();
    let router = bare_router();
    let router = page::routes().into_iter().fold(router, |router, (path, handlers)| router.route(path, handlers));
    layers::around(router.with_state(api), guard, events)
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
