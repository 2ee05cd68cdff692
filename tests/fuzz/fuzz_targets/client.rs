//! Who asks: forwarding headers and whose word on them counts.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stickyd_fuzz::client::check(data));
