//! What each fuzz target checks, as plain functions: `fuzz_targets/` gives them libFuzzer's bytes, `tests/corpus.rs`
//! the inputs that were worth keeping. A check panics on what must not be; each has an oracle of its own, written apart
//! from what it judges.

pub mod answer;
mod bytes;
pub mod client;
pub mod config;
pub mod connect_packet;
pub mod cookie;
pub mod forwarded;
pub mod frames;
pub mod h2_filter;
pub mod h2_head;
pub mod handshake;
pub mod head;
mod proxied;
pub mod proxy_protocol;
pub mod refusal;
pub mod route;
pub mod sid;
mod still;
mod strict;
pub mod token;

/// The check of one target.
pub type Check = fn(&[u8]);

/// Every target by name, as `corpus/` has it.
pub const ALL: [(&str, Check); 16] = [
    ("head", head::check),
    ("h2_head", h2_head::check),
    ("h2_filter", h2_filter::check),
    ("cookie", cookie::check),
    ("client", client::check),
    ("proxy_protocol", proxy_protocol::check),
    ("config", config::check),
    ("sid", sid::check),
    ("handshake", handshake::check),
    ("refusal", refusal::check),
    ("frames", frames::check),
    ("answer", answer::check),
    ("route", route::check),
    ("forwarded", forwarded::check),
    ("token", token::check),
    ("connect_packet", connect_packet::check),
];
