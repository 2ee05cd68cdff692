//! One real Socket.IO server (socketioxide) on a runtime of its own, so that it can be killed as a process can.

use std::net::SocketAddr;

use axum::Router;
use socketioxide::SocketIo;
use socketioxide::extract::{Data, SocketRef};
use tokio::runtime::{Builder, Runtime};

/// A running worker.
pub(crate) struct Worker {
    pub(crate) address: SocketAddr,
    runtime: Runtime,
}

impl Worker {
    /// Listens on a free port; answers the event `n` with its number and the worker's name.
    pub(crate) fn start(name: String) -> super::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (layer, io) = SocketIo::new_layer();
        io.ns("/", async move |socket: SocketRef| {
            socket.on("n", async move |socket: SocketRef, Data(number): Data<u64>| {
                // A client that left meanwhile misses nothing.
                let _ = socket.emit("n", &(number, &name));
            });
        });
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        runtime.spawn(async move { axum::serve(listener, Router::new().layer(layer)).await });
        Ok(Self { address, runtime })
    }

    /// All its sockets close at once, without a word.
    pub(crate) fn kill(self) {
        self.runtime.shutdown_background();
    }
}
