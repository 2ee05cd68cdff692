//! A bounded HTTP/1.1 client for checks of one worker: at most one connection, kept from one request to the next.
//!
//! A session that one request opened is closed by the next one. If several processes share an address, only the same
//! connection leads to the same process. The caller limits the time.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;

use crate::clock;
use crate::config::Address;
use crate::net::worker_io::WorkerIo;
use crate::printable::is_unprintable;
use crate::upstream::connections::dial::{self, ConnectError};
use crate::upstream::worker::Worker;

use super::explanation::WrongAnswer;

/// Maximum number of bytes read of a response body.
pub(crate) const MAX_BODY: usize = 64 * 1024;
/// Maximum number of bytes in a response head.
const HEAD_BYTES: usize = 64 * 1024;
const HEAD_FIELDS: usize = 200;

/// Why a check did not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// No process listens at the worker's address.
    Refused,
    /// The worker did not answer in time, or its backlog is full.
    TimedOut,
    /// The connection could not be made because of another network or system error.
    Unreachable,
    /// The response was not the expected one; with the beginning of its body.
    Wrong(WrongAnswer, String),
}

impl Fault {
    /// Returns the fault of a wrong response without a body text.
    pub(crate) fn wrong(what: WrongAnswer) -> Self {
        Self::Wrong(what, String::new())
    }
}

/// A response: its head, and as much of its body as was wanted.
pub(crate) struct CheckResponse {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl CheckResponse {
    /// Returns the fault that this response is a wrong one, with the beginning of its body.
    pub(crate) fn wrong(&self, what: WrongAnswer) -> Fault {
        let text = String::from_utf8_lossy(&self.body);
        Fault::Wrong(what, text.trim().chars().filter(|c| !is_unprintable(*c)).take(80).collect())
    }

    /// Returns the status as a number.
    pub(crate) fn code(&self) -> u16 {
        self.status.as_u16()
    }
}

struct OpenConnection {
    sender: SendRequest<Full<Bytes>>,
    connection: Connection<TokioIo<WorkerIo>, Full<Bytes>>,
    ended: bool,
}

/// An HTTP client for one worker.
pub(crate) struct CheckClient<'a> {
    worker: &'a Arc<Worker>,
    host: HeaderValue,
    open: Option<OpenConnection>,
}

impl<'a> CheckClient<'a> {
    /// Creates a client that is not connected yet. `host` is the value of the Host header, instead of the address.
    pub(crate) fn new(worker: &'a Arc<Worker>, host: Option<&str>) -> Self {
        let host = host.and_then(|host| HeaderValue::from_str(host).ok()).unwrap_or_else(|| own_host(&worker.address));
        Self { worker, host, open: None }
    }

    /// Creates a request with the headers that every check has. It fails only for an invalid path, which the check of
    /// the configuration rejects.
    pub(crate) fn request(
        &self,
        method: Method,
        path: &str,
        body: &'static str,
    ) -> Result<Request<Full<Bytes>>, Fault> {
        let mut request = Request::new(Full::new(Bytes::from_static(body.as_bytes())));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(|_| Fault::Unreachable)?;
        request.headers_mut().insert(header::HOST, self.host.clone());
        request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static("stickyd-health"));
        Ok(request)
    }

    /// Sends a request and reads the response until `enough` of its body has arrived, or [`MAX_BODY`], or all of it.
    pub(crate) async fn ask(
        &mut self,
        request: Request<Full<Bytes>>,
        enough: impl Fn(&[u8]) -> bool,
    ) -> Result<CheckResponse, Fault> {
        let kept = self.open.take().filter(|open| !open.ended && !open.sender.is_closed());
        let mut open = match kept {
            Some(open) => open,
            None => handshake(connect(self.worker).await?).await?,
        };
        let answer = open.exchange(request, enough).await?;
        self.worker.answered(clock::now_ms());
        self.open = Some(open);
        Ok(answer)
    }

    /// Returns the bare socket after a 101.
    pub(crate) async fn into_socket(self) -> Option<WorkerIo> {
        let mut open = self.open?;
        if !open.ended {
            poll_fn(|cx| open.connection.poll_without_shutdown(cx)).await.ok()?;
        }
        Some(open.connection.into_parts().io.into_inner())
    }
}

/// Connects to the worker, and maps an error to what it means for the check.
pub(crate) async fn connect(worker: &Worker) -> Result<WorkerIo, Fault> {
    match dial::open(worker).await.map_err(dial::classify) {
        Ok(io) => {
            worker.connected();
            Ok(io)
        }
        Err(ConnectError::Refused) => Err(Fault::Refused),
        Err(ConnectError::TimedOut | ConnectError::Full) => Err(Fault::TimedOut),
        // Health checks do not wait in the queue and are not limited, so only `Io` can happen here.
        Err(ConnectError::Io(_) | ConnectError::Busy(_) | ConnectError::Reserved) => Err(Fault::Unreachable),
    }
}

async fn handshake(io: WorkerIo) -> Result<OpenConnection, Fault> {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_BYTES).max_header_size(HEAD_BYTES).max_headers(HEAD_FIELDS);
    let made = builder.handshake(TokioIo::new(io)).await;
    let (sender, connection) = made.map_err(|_| Fault::wrong(WrongAnswer::NotHttp))?;
    Ok(OpenConnection { sender, connection, ended: false })
}

impl OpenConnection {
    async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
        enough: impl Fn(&[u8]) -> bool,
    ) -> Result<CheckResponse, Fault> {
        let Self { sender, connection, ended } = self;
        let mut work = pin!(async {
            match sender.send_request(request).await {
                Ok(response) => read(response, enough).await,
                Err(_) => Err(Fault::wrong(WrongAnswer::NotHttp)),
            }
        });
        poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(done);
            }
            if connection.poll_without_shutdown(cx).is_pending() {
                return Poll::Pending;
            }
            // A response without a body and the end of its connection arrive in one poll: nothing can come after it.
            *ended = true;
            match work.as_mut().poll(cx) {
                Poll::Ready(done) => Poll::Ready(done),
                Poll::Pending => Poll::Ready(Err(Fault::wrong(WrongAnswer::NotHttp))),
            }
        })
        .await
    }
}

async fn read(response: Response<Incoming>, enough: impl Fn(&[u8]) -> bool) -> Result<CheckResponse, Fault> {
    let (head, mut incoming) = response.into_parts();
    let mut body = Vec::new();
    while !enough(&body) && body.len() < MAX_BODY {
        match incoming.frame().await {
            Some(Ok(frame)) => {
                let data = frame.into_data().unwrap_or_default();
                body.extend(data.iter().take(MAX_BODY - body.len()));
            }
            Some(Err(_)) => return Err(Fault::wrong(WrongAnswer::NotHttp)),
            None => break,
        }
    }
    Ok(CheckResponse { status: head.status, headers: head.headers, body })
}

fn own_host(address: &Address) -> HeaderValue {
    match address {
        Address::Tcp(address) => HeaderValue::from_str(&address.to_string()).ok(),
        Address::Unix(_) => None,
    }
    .unwrap_or_else(|| HeaderValue::from_static("localhost"))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn asked(answer: &str, enough: fn(&[u8]) -> bool) -> Result<CheckResponse, Fault> {
        let (near, mut far) = tokio::net::UnixStream::pair().unwrap();
        let worker = async {
            let mut head = [0; 1024];
            assert!(far.read(&mut head).await.unwrap() > 0);
            far.write_all(answer.as_bytes()).await.unwrap();
            drop(far);
        };
        let mut open = handshake(WorkerIo::Unix(near)).await?;
        let mut request = Request::new(Full::default());
        request.headers_mut().insert(header::HOST, HeaderValue::from_static("a"));
        tokio::join!(open.exchange(request, enough), worker).0
    }

    #[tokio::test]
    async fn responses_without_a_body_are_accepted() {
        for answer in ["HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"] {
            assert!(asked(answer, |_| true).await.is_ok_and(|answer| answer.status.is_success()), "{answer}");
            assert!(asked(answer, |_| false).await.is_ok_and(|answer| answer.body.is_empty()), "{answer}");
        }
    }

    #[tokio::test]
    async fn bodies_are_read_to_their_end_or_the_limit() {
        let all = asked("HTTP/1.1 200 OK\r\n\r\nall of it", |_| false).await.ok().unwrap();
        assert_eq!(all.body, b"all of it", "the end of the connection is the end of the body");
        let long = format!("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{}", "x".repeat(100_000));
        assert_eq!(asked(&long, |_| false).await.ok().unwrap().body.len(), MAX_BODY);
        let short = asked("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", |_| false).await;
        assert_eq!(short.err(), Some(Fault::wrong(WrongAnswer::NotHttp)));
        for garbage in ["SSH-2.0-OpenSSH_9.2\r\n", ""] {
            assert_eq!(asked(garbage, |_| false).await.err(), Some(Fault::wrong(WrongAnswer::NotHttp)), "{garbage}");
        }
    }
}
