//! WebSocket frame headers, cut anywhere.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stickyd_fuzz::frames::check(data));
