//! The filter between an HTTP/2 client and the h2 crate.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stickyd_fuzz::h2_filter::check(data));
