//! stickyd: a reverse proxy that keeps every session on the worker that owns it.
pub mod affinity;
pub mod config;
pub mod tunnel;
