//! A worker that answers as a test tells it to, for answers that no real server gives (or not so fast).

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    /// Method and target, `GET /path?query`.
    pub(crate) line: String,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Heard {
    /// The sid of its query, if it has one.
    pub(crate) fn sid(&self) -> Option<&str> {
        self.line.split_once("&sid=").map(|(_, rest)| rest.split('&').next().unwrap())
    }
}

/// What the worker does with a request.
pub(crate) enum Then {
    /// Sends these bytes as the answer.
    Say(String),
    /// Sends these bytes after a delay.
    Later(Duration, String),
    /// Sends nothing until the peer closes.
    Silence,
}

/// The worker, which ends when it is dropped.
pub(crate) struct Scripted {
    pub(crate) address: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
    _tasks: JoinSet<()>,
}

impl Scripted {
    pub(crate) async fn start(script: impl Fn(&Heard) -> Then + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard: Arc<Mutex<Vec<Heard>>> = Arc::default();
        let (script, notes) = (Arc::new(script), heard.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, script.clone(), notes.clone()));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, heard, _tasks: tasks }
    }

    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// The number of requests with a sid whose line begins like this.
    pub(crate) fn count(&self, beginning: &str) -> usize {
        self.heard.lock().unwrap().iter().filter(|heard| heard.line.starts_with(beginning)).count()
    }
}

async fn serve(
    mut stream: TcpStream,
    script: Arc<impl Fn(&Heard) -> Then + Send + Sync + 'static>,
    notes: Arc<Mutex<Vec<Heard>>>,
) {
    let mut bytes = Vec::new();
    loop {
        let Some(heard) = next(&mut stream, &mut bytes).await else { return };
        let then = script(&heard);
        // Requests without a sid are not kept, because handshakes come by the hundred thousand.
        if heard.sid().is_some() {
            notes.lock().unwrap().push(heard);
        }
        let said = match then {
            Then::Say(answer) => answer,
            Then::Later(wait, answer) => {
                tokio::time::sleep(wait).await;
                answer
            }
            Then::Silence => {
                let _ = stream.read(&mut [0; 1]).await;
                return;
            }
        };
        if stream.write_all(said.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn next(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<Heard> {
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes.drain(..end).collect()).unwrap();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().unwrap())
    });
    let length = length.unwrap_or(0);
    while bytes.len() < length {
        if stream.read_buf(bytes).await.ok()? == 0 {
            return None;
        }
    }
    let body = bytes.drain(..length).collect();
    let line = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
    Some(Heard { line, head, body })
}

/// A complete answer with these header lines.
pub(crate) fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// The answer to a handshake.
pub(crate) fn open(sid: &str, ping_ms: u64) -> String {
    let packet = format!(
        r#"0{{"sid":"{sid}","upgrades":["websocket"],"pingInterval":{ping_ms},"pingTimeout":{ping_ms},"maxPayload":1000000}}"#
    );
    answer("200 OK", "", &packet)
}

/// Node's refusal "Session ID unknown".
pub(crate) fn refusal() -> String {
    answer("400 Bad Request", "", r#"{"code":1,"message":"Session ID unknown"}"#)
}
