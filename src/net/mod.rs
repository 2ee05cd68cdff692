//! Sockets of both sides: clients (plain, TLS, one HTTP/2 stream) and workers. Left out: what is said over them.

pub(crate) mod client_hello;
pub(crate) mod client_io;
pub(crate) mod h2_stream;
pub(crate) mod held;
pub(crate) mod tls_stream;
pub(crate) mod worker_io;
pub(crate) mod written_target;
