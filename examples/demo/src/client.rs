//! Clients that behave like Node and mobile apps: no cookies, a new connection when they need one, a new handshake when
//! their session has ended. They implement Engine.IO by hand, so that every answer can be seen and counted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::tally::{End, Tally};

/// Time between the end of a session and the next handshake; a little less than socket.io-client waits.
const PAUSE: Duration = Duration::from_millis(500);

/// Runs a polling client: it sends a message, polls for the answer, and waits a moment before the next message.
pub(crate) async fn poll_for_ever(server: SocketAddr, tally: Arc<Tally>) {
    loop {
        if let Ok(polling) = Polling::open(server).await {
            let session = tally.open();
            let mut number = 0u64;
            let end = loop {
                tokio::time::sleep(Duration::from_millis(150 + number * 37 % 200)).await;
                match polling.ask(number).await {
                    Ok(()) => session.count_answer(),
                    Err(end) => break end,
                }
                number += 1;
            };
            session.end(end);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// A session over HTTP long-polling.
struct Polling {
    server: SocketAddr,
    url: String,
}

impl Polling {
    async fn open(server: SocketAddr) -> Result<Self, End> {
        let open = exchange(server, Method::GET, "/socket.io/?EIO=4&transport=polling", "").await?;
        let sid = open.split("\"sid\":\"").nth(1).and_then(|rest| rest.split('"').next()).ok_or(End::Failed)?;
        let polling = Self { server, url: format!("/socket.io/?EIO=4&transport=polling&sid={sid}") };
        polling.post("40").await?;
        polling.receive("40").await?;
        Ok(polling)
    }

    /// Sends a message and waits for its answer.
    async fn ask(&self, number: u64) -> Result<(), End> {
        self.post(&format!("42[\"n\",{number}]")).await?;
        self.receive(&format!("42[\"n\",{number},")).await
    }

    /// Polls until a packet begins with `expected`. Answers every ping: the first may come with the first poll, and the
    /// worker ends a session if a ping is not answered within 20 s.
    async fn receive(&self, expected: &str) -> Result<(), End> {
        loop {
            let payload = exchange(self.server, Method::GET, &self.url, "").await?;
            let packets: Vec<&str> = payload.split('\x1e').collect();
            if packets.contains(&"2") {
                self.post("3").await?;
            }
            if packets.iter().any(|packet| packet.starts_with(expected)) {
                return Ok(());
            }
        }
    }

    async fn post(&self, packet: &str) -> Result<(), End> {
        exchange(self.server, Method::POST, &self.url, packet).await.map(drop)
    }
}

/// Sends one request on a connection of its own.
async fn exchange(server: SocketAddr, method: Method, url: &str, body: &str) -> Result<String, End> {
    let stream = TcpStream::connect(server).await.map_err(|_| End::Failed)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|_| End::Failed)?;
    let request = Request::builder().method(method).uri(url).header("host", "demo");
    let request = request.body(Full::new(Bytes::from(body.to_owned()))).map_err(|_| End::Failed)?;
    let exchange = async move {
        let answer = sender.send_request(request).await.map_err(|_| End::Failed)?;
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(|_| End::Failed)?.to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        match status.as_u16() {
            200 => Ok(text),
            400 if text.contains("Session ID unknown") => Err(End::Unknown),
            _ => Err(End::Failed),
        }
    };
    let (answer, _) = tokio::join!(exchange, async {
        // An error of the connection also shows up in the exchange.
        let _ = connection.await;
    });
    answer
}

/// Runs a WebSocket client, with one message every quarter of a second.
pub(crate) async fn websocket_for_ever(server: SocketAddr, tally: Arc<Tally>) {
    loop {
        if let Some(mut socket) = connect(server).await {
            let session = tally.open();
            let mut timer = tokio::time::interval(Duration::from_millis(250));
            loop {
                let kept = tokio::select! {
                    _ = timer.tick() => socket.send(Message::text("42[\"n\",1]")).await.ok(),
                    text = receive(&mut socket) => text.map(|text| {
                        if text.starts_with("42") {
                            session.count_answer();
                        }
                    }),
                };
                if kept.is_none() {
                    break;
                }
            }
            session.end(End::Closed);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Opens a WebSocket, and returns it when the worker has opened the session.
async fn connect(server: SocketAddr) -> Option<WebSocketStream<TcpStream>> {
    let url = format!("ws://{server}/socket.io/?EIO=4&transport=websocket");
    let stream = TcpStream::connect(server).await.ok()?;
    let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await.ok()?;
    socket.send(Message::text("40")).await.ok()?;
    while !receive(&mut socket).await?.starts_with("40") {}
    Some(socket)
}

/// Returns the next packet, or `None` when the WebSocket is closed. Answers pings.
async fn receive(socket: &mut WebSocketStream<TcpStream>) -> Option<String> {
    loop {
        match socket.next().await?.ok()? {
            Message::Text(text) if text.as_str() == "2" => socket.send(Message::text("3")).await.ok()?,
            Message::Text(text) => return Some(text.as_str().to_owned()),
            Message::Close(_) => return None,
            _ => {}
        }
    }
}
