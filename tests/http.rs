//! Requests and answers over HTTP/1.1, byte by byte: what reaches a worker, what comes back, and what is refused.

mod bad_clients;
mod bad_workers;
mod bodies;
mod client_input;
mod connections;
mod forward;
mod headers;
mod own_connections;
mod slow_readers;
mod told;
