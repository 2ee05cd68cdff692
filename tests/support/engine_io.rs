//! Requests and Engine.IO sessions by hand: exactly one request per call, with the address and headers that a test
//! wants.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::answer::Answer;
use super::wait::patience;

pub(crate) const HOME: [u8; 4] = [127, 0, 0, 1];

/// The target, source address and headers of requests, each on its own connection.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) to: SocketAddr,
    pub(crate) from: [u8; 4],
    pub(crate) headers: Vec<(&'static str, String)>,
}

impl Ask {
    pub(crate) fn new(to: SocketAddr) -> Self {
        Self { to, from: HOME, headers: Vec::new() }
    }

    pub(crate) fn from(mut self, from: [u8; 4]) -> Self {
        self.from = from;
        self
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Sends a request; `None` if there was no HTTP answer.
    pub(crate) async fn try_send(&self, method: &str, path: &str, body: impl Into<Bytes>) -> Option<Answer> {
        let began = Instant::now();
        let exchange = async {
            let stream = self.connect().await.ok()?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
            let mut request = Request::builder().method(Method::from_bytes(method.as_bytes()).unwrap()).uri(path);
            if !self.headers.iter().any(|(name, _)| *name == "host") {
                request = request.header("host", "app.test");
            }
            request = request.header("connection", "close");
            for (name, value) in &self.headers {
                request = request.header(*name, value);
            }
            let answer = sender.send_request(request.body(Full::new(body.into())).unwrap());
            let exchange = async move {
                let (parts, body) = answer.await.ok()?.into_parts();
                let body = body.collect().await.ok()?.to_bytes();
                Some((parts, String::from_utf8_lossy(&body).into_owned()))
            };
            let (_, answered) = tokio::join!(connection, exchange);
            answered
        };
        let (parts, body) = timeout(patience(), exchange).await.expect("answered in time")?;
        let status = parts.status.as_u16();
        Some(Answer { status, headers: parts.headers, body, trailers: None, took: began.elapsed() })
    }

    pub(crate) async fn send(&self, method: &str, path: &str, body: impl Into<Bytes>) -> Answer {
        self.try_send(method, path, body).await.unwrap_or_else(|| panic!("no answer to {method} {path}"))
    }

    pub(crate) async fn connect(&self) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        if self.from != HOME {
            socket.bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(self.from)), 0))?;
        }
        socket.connect(self.to).await
    }
}

/// An Engine.IO 4 session on polling.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) ask: Ask,
    pub(crate) path: String,
    pub(crate) sid: String,
}

impl Session {
    /// Sends a handshake; the session and the answer.
    pub(crate) async fn begin(ask: Ask) -> (Self, Answer) {
        let answer = ask.send("GET", "/socket.io/?EIO=4&transport=polling", "").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let open: Value = serde_json::from_str(answer.body.strip_prefix('0').unwrap()).unwrap();
        let sid = open["sid"].as_str().unwrap().to_owned();
        (Self { ask, path: "/socket.io/".to_owned(), sid }, answer)
    }

    /// Opens a complete Socket.IO session: handshake, `40` and its answer, with no request left open.
    pub(crate) async fn open(ask: Ask) -> Self {
        let (session, _) = Self::begin(ask).await;
        assert_eq!(session.post("40").await.status, 200);
        let connected = session.get().await;
        let greets = connected.body.split('\x1e').any(|packet| packet.starts_with("40{"));
        assert!(greets, "{connected:?}");
        session
    }

    /// Opens many sessions at the same time.
    pub(crate) async fn open_many(count: usize, ask: &Ask) -> Vec<Self> {
        together((0..count).map(|_| Self::open(ask.clone()))).await
    }

    /// A session with this sid, which need not exist.
    pub(crate) fn made_up(ask: Ask, sid: &str) -> Self {
        Self { ask, path: "/socket.io/".to_owned(), sid: sid.to_owned() }
    }

    /// The same session through another stickyd.
    pub(crate) fn through(mut self, to: SocketAddr) -> Self {
        self.ask.to = to;
        self
    }

    pub(crate) fn url(&self, transport: &str) -> String {
        format!("{}?EIO=4&transport={transport}&sid={}", self.path, self.sid)
    }

    pub(crate) async fn get(&self) -> Answer {
        self.ask.send("GET", &self.url("polling"), "").await
    }

    pub(crate) async fn post(&self, body: impl Into<Bytes>) -> Answer {
        let ask = self.ask.clone().with("content-type", "text/plain;charset=UTF-8");
        ask.send("POST", &self.url("polling"), body).await
    }

    /// Sends one message and waits for its echo; the name of the worker.
    pub(crate) async fn echo(&self) -> String {
        self.try_echo().await.unwrap_or_else(|answer| panic!("{answer:?}"))
    }

    pub(crate) async fn try_echo(&self) -> Result<String, Answer> {
        let posted = self.post("42[\"n\",7]").await;
        if posted.status != 200 {
            return Err(posted);
        }
        loop {
            let polled = self.get().await;
            if polled.status != 200 {
                return Err(polled);
            }
            // Other packets may come first, such as a ping.
            for packet in polled.body.split('\x1e') {
                if let Some(event) = packet.strip_prefix("42") {
                    let event: Value = serde_json::from_str(event).unwrap();
                    assert_eq!(event[1], 7);
                    return Ok(event[2].as_str().unwrap().to_owned());
                }
            }
        }
    }

    /// Upgrades the session to WebSocket; `Err` with the answer if that is refused.
    pub(crate) async fn upgrade(&self) -> Result<WebSocketStream<MaybeTlsStream<TcpStream>>, Answer> {
        let url = format!("ws://{}{}", self.ask.to, self.url("websocket"));
        let mut request = tungstenite::client::IntoClientRequest::into_client_request(url).unwrap();
        for (name, value) in &self.ask.headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let began = Instant::now();
        let stream = MaybeTlsStream::Plain(self.ask.connect().await.unwrap());
        match timeout(patience(), tokio_tungstenite::client_async(request, stream)).await.expect("answered in time") {
            Ok((socket, _)) => Ok(socket),
            Err(tungstenite::Error::Http(response)) => {
                let (parts, body) = response.into_parts();
                Err(Answer {
                    status: parts.status.as_u16(),
                    headers: parts.headers,
                    body: String::from_utf8_lossy(&body.unwrap_or_default()).into_owned(),
                    trailers: None,
                    took: began.elapsed(),
                })
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Runs all futures at the same time; the results are in no particular order.
pub(crate) async fn together<T: Send + 'static>(
    futures: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let mut set: JoinSet<T> = futures.into_iter().collect();
    let mut results = Vec::new();
    while let Some(done) = set.join_next().await {
        match done {
            Ok(result) => results.push(result),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    results
}
