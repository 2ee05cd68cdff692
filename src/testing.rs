//! What tests, fuzz targets and benches outside of the crate use, in modules of the same names. Only the feature
//! `testing` builds it; nothing here is an interface of stickyd.

#![allow(missing_docs, reason = "each item is documented where it is defined")]

pub mod admin {
    pub use crate::admin::api;
    pub use crate::admin::scrape::scrape;
}

pub mod affinity {
    pub mod explain {
        pub use crate::affinity::explain::{ExplainQuestion, explain};
    }
    pub mod pins {
        pub use crate::affinity::pins::Pins;
    }
}

pub mod body {
    pub use crate::body::Outgoing;
}

pub mod cli {
    pub use crate::cli::{Cli, Command, RunCommand};
}

pub mod client {
    pub use crate::client::Client;
}

pub mod clock {
    pub use crate::clock::{Millis, Seconds, now_ms, now_s};
}

pub mod config {
    pub use crate::config::{
        AdminAddress, AdminState, Affinity, Buffers, CheckTarget, ClientAuth, Config, Diagnostic, Drain, Eject, Errors,
        Expected, Health, HealthKind, HistoryConfig, Limits, Listener, Log, LogFormat, Redirect, RemovedPolicy,
        SameSite, Severity, Tls, Tunnels, Upstream, check_level, for_command_line, guards, labels, load,
        load_with_warnings, parse, parse_with, rules,
    };
}

pub mod cookie {
    pub use crate::cookie::{Cookie, Jar, SeenCookie, WorkerId, worker_id};
}

pub mod engine_io {
    pub use crate::engine_io::{
        ConnectPacket, Handshake, MAX_REFUSAL, MAX_SID, OpenPacket, PacketKind, RequestTransport, Sid, is_refusal,
        open_packet, packet_kind, packets, raw_eio_and_sid, recognise, says_goodbye, websocket_open,
    };
}

pub mod jwt {
    pub use crate::jwt::{Claims, KeySet, TokenFault, TokenTerms, Unverified, verify};
}

pub mod keys {
    pub use crate::keys::{AddressHash, Keys};
}

pub mod listener {
    pub use crate::listener::conn::Conn;
    pub use crate::listener::conn::fuzzing::{Peek, ProxiedSource, conn, http1, proxy_header};
    pub use crate::listener::h2::fuzzing::{Filtered, builder, filtered, translated};
}

pub mod net {
    pub use crate::net::h2_stream::StreamIo;
}

pub mod proxy {
    pub use crate::proxy::fuzzing::forwardable;
    pub use crate::proxy::handle;
    pub use crate::proxy::headers::client;
}

pub mod readings {
    pub use crate::readings::{Readings, Unreadable, is_plain};
}

pub mod route {
    pub use crate::route::{RouteMatch, find};
}

pub mod server {
    pub use crate::server::{Server, Stop, StopOutcome};
}

pub mod sockets {
    pub use crate::sockets::SHARDS;
}

pub mod state {
    pub use crate::state::Shared;
}

pub mod systemd {
    pub use crate::systemd::Parent;
}

pub mod thread {
    pub use crate::thread::Thread;
}

pub mod upstream {
    pub use crate::upstream::Upstream;
    pub use crate::upstream::admin_state::AdminChange;
    pub use crate::upstream::exchange::request_writer::{Declared, RequestWriter, head};
    pub use crate::upstream::exchange::response_body::{BodyStep, Unread};
    pub use crate::upstream::exchange::response_head::{Coming, HEAD_BYTES, HEAD_FIELDS};
    pub use crate::upstream::ring::{Ring, Seat, hash, place};
    pub use crate::upstream::worker::Worker;
}

pub mod websocket {
    pub use crate::websocket::frames::{
        CloseCode, FIRST_BYTES_MAX, FirstText, Mark, Observed, Observer, Sender, Signal, close_frame, first_text,
        ping_frame,
    };
    pub use crate::websocket::gate::{Gate, Keeper};
    pub use crate::websocket::round_trip::{RoundTrips, Thresholds};
}
