//! The HTTP data plane, byte by byte: what reaches a worker, what comes back, and who gets shown the door.

mod bad_clients;
mod bad_workers;
mod bodies;
mod connections;
mod cookies;
mod forward;
mod h2;
mod h2_floods;
mod headers;
mod keys;
mod operate;
mod reload;
mod stop;
mod tls;
