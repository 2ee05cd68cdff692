//! TODO.

pub mod limit;
pub mod dial;
pub mod connect;
pub mod tls;
pub mod response_timeout;
pub mod pool;

