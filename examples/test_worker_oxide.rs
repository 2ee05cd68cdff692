//! A worker for tests, not an example of how to use stickyd: one third-party Socket.IO server (socketioxide), whose
//! refusal of an unknown sid gives its code as a string. It prints the same JSON line and has the same routes and
//! messages as `tests/clients/server.js`, and ends when its standard input closes. Usage: `--name NAME --port PORT`.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Json;
use axum::Router;
use axum::routing::get;
use serde_json::{Value, json};
use socketioxide::SocketIo;
use socketioxide::extract::{AckSender, Data, SocketRef};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pid = std::process::id();
    let name: Arc<str> = argument("--name").unwrap_or_else(|| format!("ox{pid}")).into();
    let port = argument("--port").map_or(Ok(0), |text| text.parse::<u16>())?;

    let connections = Arc::new(AtomicU64::new(0));
    let (socket_io, io) = SocketIo::new_layer();
    serve_messages(&io, &name, &connections);

    let stats = {
        let io = io.clone();
        move || {
            let live = io.sockets().len();
            let connections = connections.load(Ordering::Relaxed);
            async move { Json(json!({ "connections": connections, "live": live })) }
        }
    };
    let app = Router::new().route("/health", get(async || "ok\n")).route("/stats", get(stats)).layer(socket_io);

    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    let port = listener.local_addr()?.port();
    println!("{}", json!({ "port": port, "path": null, "pid": pid, "name": &*name }));
    tokio::select! {
        ended = axum::serve(listener, app) => ended?,
        () = end_of_stdin() => {}
    }
    Ok(())
}

/// Handles the events of clients: `echo` acknowledges its value, `n` is sent back with the worker's name, `whoami`
/// acknowledges with the worker's name.
fn serve_messages(io: &SocketIo, name: &Arc<str>, connections: &Arc<AtomicU64>) {
    let (name, connections) = (name.clone(), connections.clone());
    io.ns("/", async move |socket: SocketRef| {
        connections.fetch_add(1, Ordering::Relaxed);
        socket.on("echo", async |Data(value): Data<Value>, ack: AckSender| {
            ack.send(&value).ok();
        });
        let worker = name.clone();
        socket.on("n", async move |socket: SocketRef, Data(number): Data<u64>| {
            socket.emit("n", &(number, &*worker)).ok();
        });
        let worker = name.clone();
        socket.on("whoami", async move |ack: AckSender| {
            ack.send(&*worker).ok();
        });
    });
}

fn argument(flag: &str) -> Option<String> {
    std::env::args().skip_while(|argument| argument != flag).nth(1)
}

/// Waits for the end of standard input, so that a test that died leaves no workers running.
async fn end_of_stdin() {
    let (ended, end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut rest = Vec::new();
        let _ = std::io::stdin().read_to_end(&mut rest);
        let _ = ended.send(());
    });
    let _ = end.await;
}
