//! Identity of the client: forwarding fields, and which peers may set them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stickyd_fuzz::client::check(data));
