//! Clients that behave like Node and mobile apps: no cookies, a new connection when they need one, a new handshake when
//! their session is lost. They implement Engine.IO by hand, so that every answer can be seen and counted.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

/// Counters shared by all clients.
#[derive(Default)]
pub(crate) struct Tally {
    live: AtomicU64,
    handshakes: AtomicU64,
    echoes: AtomicU64,
    lost: AtomicU64,
    refusals: AtomicU64,
    unreachable: AtomicU64,
}

/// Values of a [`Tally`] at one moment.
#[derive(Clone, Copy)]
pub(crate) struct Count {
    pub(crate) live: u64,
    handshakes: u64,
    echoes: u64,
    lost: u64,
    refusals: u64,
    unreachable: u64,
}

impl Tally {
    pub(crate) fn now(&self) -> Count {
        Count {
            live: self.live.load(Relaxed),
            handshakes: self.handshakes.load(Relaxed),
            echoes: self.echoes.load(Relaxed),
            lost: self.lost.load(Relaxed),
            refusals: self.refusals.load(Relaxed),
            unreachable: self.unreachable.load(Relaxed),
        }
    }
}

impl Count {
    pub(crate) fn since(&self, before: &Self) -> Self {
        Self {
            live: self.live,
            handshakes: self.handshakes - before.handshakes,
            echoes: self.echoes - before.echoes,
            lost: self.lost - before.lost,
            refusals: self.refusals - before.refusals,
            unreachable: self.unreachable - before.unreachable,
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} sessions lost ({} with \"Session ID unknown\", {} without a listener), {} handshakes, {} echoes",
            self.lost, self.refusals, self.unreachable, self.handshakes, self.echoes
        )
    }
}

/// Reason why a session ended.
#[derive(Debug)]
enum End {
    Refused,
    Unreachable,
    Broken,
}

/// A polling client: sends a message, polls for the answer, and pauses between two polls.
pub(crate) async fn poll_for_ever(server: SocketAddr, tally: Arc<Tally>) {
    loop {
        let end = poll_once(server, &tally).await;
        count(&tally, end).await;
    }
}

async fn poll_once(server: SocketAddr, tally: &Tally) -> End {
    let sid = match handshake(server).await {
        Ok(sid) => sid,
        Err(end) => return end,
    };
    let url = format!("/socket.io/?EIO=4&transport=polling&sid={sid}");
    for open in [exchange(server, Method::POST, &url, "40").await, exchange(server, Method::GET, &url, "").await] {
        if let Err(end) = open {
            return end;
        }
    }
    tally.handshakes.fetch_add(1, Relaxed);
    let _live = Live::count(&tally.live);
    for number in 0u64.. {
        tokio::time::sleep(Duration::from_millis(150 + number * 37 % 200)).await;
        match ask(server, &url, number).await {
            Ok(()) => tally.echoes.fetch_add(1, Relaxed),
            Err(end) => return end,
        };
    }
    End::Broken
}

async fn ask(server: SocketAddr, url: &str, number: u64) -> Result<(), End> {
    exchange(server, Method::POST, url, &format!("42[\"n\",{number}]")).await?;
    loop {
        let payload = exchange(server, Method::GET, url, "").await?;
        for packet in payload.split('\x1e') {
            if packet == "2" {
                exchange(server, Method::POST, url, "3").await?;
            } else if packet.starts_with(&format!("42[\"n\",{number},")) {
                return Ok(());
            }
        }
    }
}

async fn handshake(server: SocketAddr) -> Result<String, End> {
    let open = exchange(server, Method::GET, "/socket.io/?EIO=4&transport=polling", "").await?;
    let sid = open.split("\"sid\":\"").nth(1).and_then(|rest| rest.split('"').next());
    sid.map(str::to_owned).ok_or(End::Broken)
}

/// Sends one request on a connection of its own.
async fn exchange(server: SocketAddr, method: Method, url: &str, body: &str) -> Result<String, End> {
    let stream = TcpStream::connect(server).await.map_err(|_| End::Unreachable)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|_| End::Broken)?;
    let request = Request::builder().method(method).uri(url).header("host", "demo");
    let request = request.body(Full::new(Bytes::from(body.to_owned()))).map_err(|_| End::Broken)?;
    let exchange = async move {
        let answer = sender.send_request(request).await.map_err(|_| End::Broken)?;
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(|_| End::Broken)?.to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        match status.as_u16() {
            200 => Ok(text),
            400 if text.contains("Session ID unknown") => Err(End::Refused),
            _ => Err(End::Broken),
        }
    };
    let (answer, _) = tokio::join!(exchange, async {
        // An error of the connection also shows up in the exchange.
        let _ = connection.await;
    });
    answer
}

/// A WebSocket client: one tunnel, with one message every quarter of a second.
pub(crate) async fn websocket_for_ever(server: SocketAddr, tally: Arc<Tally>) {
    loop {
        let end = websocket_once(server, &tally).await.err().unwrap_or(End::Broken);
        count(&tally, end).await;
    }
}

async fn websocket_once(server: SocketAddr, tally: &Tally) -> Result<(), End> {
    let url = format!("ws://{server}/socket.io/?EIO=4&transport=websocket");
    let stream = TcpStream::connect(server).await.map_err(|_| End::Unreachable)?;
    let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await.map_err(|_| End::Broken)?;
    socket.send(Message::text("40")).await.map_err(|_| End::Broken)?;
    tally.handshakes.fetch_add(1, Relaxed);
    let _live = Live::count(&tally.live);
    let mut timer = tokio::time::interval(Duration::from_millis(250));
    loop {
        tokio::select! {
            _ = timer.tick() => socket.send(Message::text("42[\"n\",1]")).await.map_err(|_| End::Broken)?,
            message = socket.next() => match message {
                Some(Ok(Message::Text(text))) if text.as_str() == "2" => {
                    socket.send(Message::text("3")).await.map_err(|_| End::Broken)?;
                }
                Some(Ok(Message::Text(text))) if text.starts_with("42") => {
                    tally.echoes.fetch_add(1, Relaxed);
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Err(End::Broken),
                Some(Ok(_)) => {}
            },
        }
    }
}

/// Counts a lost session, and waits a little shorter than socket.io-client does before a new attempt.
async fn count(tally: &Tally, end: End) {
    tally.lost.fetch_add(1, Relaxed);
    match end {
        End::Refused => tally.refusals.fetch_add(1, Relaxed),
        End::Unreachable => tally.unreachable.fetch_add(1, Relaxed),
        End::Broken => 0,
    };
    tokio::time::sleep(Duration::from_millis(500)).await;
}

struct Live<'a>(&'a AtomicU64);

impl<'a> Live<'a> {
    fn count(live: &'a AtomicU64) -> Self {
        live.fetch_add(1, Relaxed);
        Self(live)
    }
}

impl Drop for Live<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
