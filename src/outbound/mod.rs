//! The HTTP client for requests that stickyd itself sends: to receivers of notifications, to issuers of keys, and to
//! services that decide about requests.
//!
//! hyper-util's client over hyper-rustls, wrapped in layers of tower: rate limit, retry, time-out. Every answer is read
//! whole, within the time-out and up to a bound. Redirects are never followed: a target is what the configuration
//! names, and an answer must not send stickyd's credentials elsewhere. Certificates are always verified. Left out: the
//! connections to workers, which are in `upstream`; reading of addresses and authorities, which is in
//! `config::outbound`.

mod fault;
mod names;
mod retry;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{HeaderValue, USER_AGENT};
use hyper::http::{HeaderMap, Request, Response, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioTimer;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::Mutex;
use tokio_util::task::TaskTracker;
use tower::util::BoxService;
use tower::{BoxError, Service, ServiceBuilder, ServiceExt};

use crate::config::Authorities;
pub(crate) use fault::OutboundFault;
use names::Resolver;
pub(crate) use names::addresses;
use retry::RetryPolicy;

/// A request with a body in memory, which can be sent again.
pub(crate) type OutboundRequest = Request<Full<Bytes>>;

/// Maximum size of the head of an answer, in bytes.
const HEAD: usize = 64 << 10;

/// Time after which a connection that no request uses is closed.
const IDLE: Duration = Duration::from_secs(30);

/// How one client sends its requests.
#[derive(Debug, Clone)]
pub(crate) struct OutboundSettings {
    /// Trusted authorities for https.
    pub(crate) authorities: Authorities,
    /// Time limit of one attempt, from the lookup of the name to the last byte of the answer.
    pub(crate) timeout: Duration,
    /// Maximum size of the body of an answer, in bytes.
    pub(crate) largest: usize,
    /// Maximum number of requests that begin in one second; further requests wait.
    pub(crate) per_second: u64,
    /// Maximum number of attempts per request, at least 1; see [`retry`] for what is tried again.
    pub(crate) attempts: u32,
    /// Maximum number of connections that stay open between two requests, per host.
    pub(crate) idle: usize,
}

impl OutboundSettings {
    /// One attempt of 10 s, answers of at most 256 KiB, at most 10 requests per second, and no idle connection.
    pub(crate) fn new(authorities: Authorities) -> Self {
        let timeout = Duration::from_secs(10);
        Self { authorities, timeout, largest: 256 << 10, per_second: 10, attempts: 1, idle: 0 }
    }
}

/// The whole answer to a request, whatever its status; a redirect is an answer like any other.
#[derive(Debug, Clone)]
pub(crate) struct OutboundAnswer {
    /// Status of the answer.
    pub(crate) status: StatusCode,
    /// Headers of the answer.
    pub(crate) headers: HeaderMap,
    /// Body of the answer.
    pub(crate) body: Bytes,
}

/// An HTTP client. Clones share its connections and its rate limit.
#[derive(Clone)]
pub(crate) struct Outbound {
    /// The layers. The lock is tokio's and fair: it is held while a request waits for the rate limit, which wakes only
    /// one waiter, and never while a request is under way.
    stack: Arc<Mutex<BoxService<OutboundRequest, OutboundAnswer, BoxError>>>,
    timeout: Duration,
}

/// Makes aws-lc-rs the process' default for TLS, which libraries use that do not name a provider. Further calls change
/// nothing.
pub(crate) fn install_provider() {
    // The error is that there is a default already.
    let _ = aws_lc_rs::default_provider().install_default();
}

impl Outbound {
    /// Creates a client whose connections run as tasks of `tasks`. They end soon after the last clone is dropped.
    ///
    /// # Errors
    /// Fails if TLS cannot be set up.
    pub(crate) fn new(settings: &OutboundSettings, tasks: &TaskTracker) -> Result<Self, OutboundFault> {
        let client = client(settings, tasks)?;
        let (largest, timeout) = (settings.largest, settings.timeout);
        let exchange = tower::service_fn(move |request| exchange(client.clone(), request, largest));
        let stack = ServiceBuilder::new()
            .rate_limit(settings.per_second.max(1), Duration::from_secs(1))
            .retry(RetryPolicy::new(settings.attempts)?)
            .timeout(timeout)
            .service(exchange);
        Ok(Self { stack: Arc::new(Mutex::new(BoxService::new(stack))), timeout })
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// Fails if there is no whole answer. Neither the error nor its text contains the URL of the request.
    pub(crate) async fn send(&self, mut request: OutboundRequest) -> Result<OutboundAnswer, OutboundFault> {
        const AGENT: HeaderValue = HeaderValue::from_static(concat!("stickyd/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().entry(USER_AGENT).or_insert(AGENT);
        let answer = {
            let mut stack = self.stack.lock().await;
            let ready = stack.ready().await.map_err(|error| OutboundFault::of(&*error, self.timeout))?;
            ready.call(request)
        };
        answer.await.map_err(|error| OutboundFault::of(&*error, self.timeout))
    }
}

type HttpsClient = Client<HttpsConnector<HttpConnector<Resolver>>, Full<Bytes>>;

fn client(settings: &OutboundSettings, tasks: &TaskTracker) -> Result<HttpsClient, OutboundFault> {
    let mut roots = RootCertStore::empty();
    // The list of the system may contain certificates that rustls cannot use.
    roots.add_parsable_certificates(settings.authorities.iter().cloned());
    let provider = Arc::new(aws_lc_rs::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| OutboundFault::Setup(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut tcp = HttpConnector::new_with_resolver(Resolver::default());
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(settings.timeout));
    let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
    Ok(Client::builder(CountedTasks(tasks.clone()))
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(settings.idle)
        .http1_max_buf_size(HEAD)
        .build(https))
}

/// Runs the client's connections as counted tasks (ARCHITECTURE.md, invariant 10).
#[derive(Clone)]
struct CountedTasks(TaskTracker);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for CountedTasks {
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

async fn exchange(client: HttpsClient, request: OutboundRequest, largest: usize) -> Result<OutboundAnswer, BoxError> {
    let answer: Response<Incoming> = client.request(request).await?;
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, largest).collect().await?.to_bytes();
    Ok(OutboundAnswer { status: head.status, headers: head.headers, body })
}

#[cfg(test)]
mod tests;
