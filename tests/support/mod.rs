//! The test kit: real workers and clients in their own processes, raw ones in this process, and stickyd before them.
//!
//! What a test waits for is an event or a condition ([`wait::wait_for`]), never a fixed time. Nothing outlives its
//! test: every process ends with its stdin, and is killed when its value is dropped.

pub(crate) mod admin;
pub(crate) mod answer;
pub(crate) mod browser;
pub(crate) mod cluster;
pub(crate) mod engine_io;
pub(crate) mod engines;
pub(crate) mod h2;
pub(crate) mod kind;
pub(crate) mod live;
pub(crate) mod load;
pub(crate) mod nginx;
pub(crate) mod node;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod raw;
pub(crate) mod redis;
pub(crate) mod redis_cluster;
pub(crate) mod scripted;
pub(crate) mod sources;
pub(crate) mod temp;
pub(crate) mod tls;
pub(crate) mod tokens;
pub(crate) mod tunnels;
pub(crate) mod wait;
