//! The HTTP data plane, byte by byte: what reaches a worker, what comes back, and who gets shown the door.

mod bad_clients;
mod bad_workers;
mod bodies;
mod connections;
mod cookies;
mod dns;
mod drains;
mod eject;
mod forward;
mod headers;
mod keys;
mod limits;
mod listeners;
mod operate;
mod queue;
mod reload;
mod reload_command;
mod reload_under_load;
mod retries;
mod stop;
mod tls;
mod watch;
