//! Every integration test, as one binary: one link instead of twenty.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test ends by panicking; clippy.toml allows it in #[test] functions only, not in their helpers"
)]

mod config;
