//! Limits on clients, on connections to workers, and on the duration of a request.

mod clients;
mod max_connections;
mod request_timeout;
