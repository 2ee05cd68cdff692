//! Tunnels: what becomes one, what passes through it, how it ends, and who is told.
//!
//! The other side is a `ws` worker where WebSocket counts, and a bare socket of this process where single bytes do.

mod bytes;
mod counts;
mod dead_clients;
mod drain;
mod ends;
mod h2;
mod idle;
mod limits;
mod round_trips;
mod stop;
mod upgrade;
mod worker_restarts;
