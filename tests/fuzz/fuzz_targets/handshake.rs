//! A worker's handshake body, in its four encodings.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stickyd_fuzz::handshake::check(data));
