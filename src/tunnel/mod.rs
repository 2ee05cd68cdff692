//! Upgraded connections: bytes both ways, frames only observed.
