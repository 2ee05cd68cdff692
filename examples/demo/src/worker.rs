//! A real Socket.IO server (socketioxide) on its own runtime, so that it can be killed like a process.

use std::net::SocketAddr;

use axum::Router;
use socketioxide::SocketIo;
use socketioxide::extract::{Data, SocketRef};
use tokio::runtime::{Builder, Runtime};

/// A running worker, and the address it listens on.
pub(crate) struct Worker {
    pub(crate) address: SocketAddr,
    runtime: Runtime,
}

impl Worker {
    /// Starts a worker on a free port; it answers the event `n` with the same number and the worker's name.
    pub(crate) fn start(name: String) -> super::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (layer, io) = SocketIo::new_layer();
        io.ns("/", async move |socket: SocketRef| {
            socket.on("n", async move |socket: SocketRef, Data(number): Data<u64>| {
                // The client may have disconnected meanwhile.
                let _ = socket.emit("n", &(number, &name));
            });
        });
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        runtime.spawn(async move { axum::serve(listener, Router::new().layer(layer)).await });
        Ok(Self { address, runtime })
    }

    /// Closes all its sockets at once, without a goodbye.
    pub(crate) fn kill(self) {
        self.runtime.shutdown_background();
    }
}
