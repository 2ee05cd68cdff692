//! What the tests stand on: real workers and clients in their own processes, three lines from start to answer.
//!
//! Nothing here sleeps where an event can be awaited, and nothing outlives its test: every process ends with its stdin, and is killed when
//! its value is dropped.

pub(crate) mod h2;
pub(crate) mod kind;
pub(crate) mod load;
pub(crate) mod node;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod raw;
pub(crate) mod sources;
pub(crate) mod tls;
