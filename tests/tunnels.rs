//! Tunnels: what becomes one, what passes through it, how it ends, and which Close each side gets.
//!
//! The other side is a `ws` worker where WebSocket matters, and a socket of this process where single bytes matter.

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
