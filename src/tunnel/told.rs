//! A WebSocket that stickyd opens itself, to tell a Socket.IO client in its own protocol why it is refused: the open
//! packet, the error for each namespace that the client names, and a Close. No worker is involved.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::engine_io::{self, PacketKind};
use crate::net::client_io::ClientIo;
use crate::state::told::{ToldPlace, ToldReason};
use crate::thread::{Registered, ThreadOrder};
use crate::websocket::frames::{CloseCode, close_frame, text_frame};
use crate::websocket::gate::{Gate, Keeper};

/// The longest time that such a WebSocket lives.
const LIFE: Duration = Duration::from_secs(5);

/// How long a client of protocol 3 may take to name a namespace: for the first one it sends nothing.
const V3_PATIENCE: Duration = Duration::from_millis(500);

/// How long further namespaces are awaited after the first one was refused.
const MORE: Duration = Duration::from_secs(1);

/// A WebSocket that is refused, once its 101 is written.
pub(crate) struct RefusalPlan {
    pub(crate) reason: ToldReason,
    /// The id in the open packet.
    pub(crate) sid: String,
    pub(crate) is_v3: bool,
    /// Keeps the number of such WebSockets bounded.
    pub(crate) place: ToldPlace,
}

/// Collects the namespaces that the client names.
#[derive(Default)]
struct Namespaces(Vec<String>);

impl Keeper for Namespaces {
    type Refusal = ();

    fn judge(&mut self, kind: PacketKind, packet: &[u8]) -> Result<(), ()> {
        match kind {
            PacketKind::Connect if self.0.len() < 16 => self.0.extend(engine_io::connected_namespace(packet)),
            PacketKind::Unreadable => return Err(()),
            _ => {}
        }
        Ok(())
    }
}

/// Tells the client why it is refused, and ends the WebSocket.
pub(crate) async fn run(mut io: ClientIo, early: Bytes, plan: RefusalPlan, live: Registered) {
    let cut = poll_fn(|cx| {
        live.watch(cx.waker());
        if live.order() == ThreadOrder::Cut { Poll::Ready(()) } else { Poll::Pending }
    });
    tokio::select! {
        // The time-out is a normal end: the client may never say anything.
        _ = tokio::time::timeout(LIFE, tell(&mut io, early, &plan)) => {}
        () = cut => {}
    }
    drop(plan.place);
}

async fn tell(io: &mut ClientIo, early: Bytes, plan: &RefusalPlan) -> std::io::Result<()> {
    let begun = Instant::now();
    io.write_all(&text_frame(&engine_io::open_text(&plan.sid))).await?;
    io.flush().await?;
    let (mut gate, mut named, mut unused) = (Gate::default(), Namespaces::default(), Vec::new());
    let mut buffer = BytesMut::from(&early[..]);
    let mut until = begun + if plan.is_v3 { V3_PATIENCE } else { LIFE };
    let mut told = false;
    loop {
        let read = gate.feed(&buffer, &mut named, &mut unused);
        (buffer, unused) = (BytesMut::new(), Vec::new());
        for namespace in named.0.drain(..) {
            refuse(io, plan, &namespace).await?;
            (told, until) = (true, Instant::now() + MORE);
        }
        if read.is_err() {
            break;
        }
        buffer.reserve(1024);
        match tokio::time::timeout_at(until, io.read_buf(&mut buffer)).await {
            Ok(Ok(0)) => return Ok(()),
            Ok(read) => _ = read?,
            Err(_) => break,
        }
    }
    // Clients of protocol 3 connect to `/` without saying so.
    if !told || plan.is_v3 {
        refuse(io, plan, "").await?;
    }
    io.write_all(close_frame(CloseCode::POLICY, plan.reason.code()).as_ref()).await?;
    io.flush().await?;
    // The client's Close comes before its end; a socket that is closed with unread bytes would be reset.
    let mut rest = BytesMut::new();
    while io.read_buf(&mut rest).await? > 0 {
        rest.clear();
    }
    io.shutdown().await
}

async fn refuse(io: &mut ClientIo, plan: &RefusalPlan, namespace: &str) -> std::io::Result<()> {
    let (message, code) = (plan.reason.message(), plan.reason.code());
    for packet in engine_io::refusal_packets(plan.is_v3, namespace, message, code) {
        io.write_all(&text_frame(&packet)).await?;
    }
    io.flush().await
}
