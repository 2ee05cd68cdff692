//! Sockets of both sides: clients (plain, TLS, one HTTP/2 stream) and workers. Left out: what is said over them.

pub mod client_io;
pub mod h2_stream;
pub mod held;
pub mod tls_stream;
pub mod worker_io;
