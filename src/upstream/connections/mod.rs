//! TODO.

pub mod connect;
pub mod dial;
pub mod limit;
pub mod pool;
pub mod response_timeout;
pub mod tls;
