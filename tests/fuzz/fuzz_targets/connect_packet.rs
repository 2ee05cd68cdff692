//! Packets of clients that are not admitted yet.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stickyd_fuzz::connect_packet::check(data));
