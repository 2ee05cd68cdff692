//! TODO.

pub mod tls_stream;
pub mod h2_stream;
pub mod held;
pub mod worker_io;

