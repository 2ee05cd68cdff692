//! TODO.

pub mod h2_stream;
pub mod held;
pub mod tls_stream;
pub mod worker_io;
