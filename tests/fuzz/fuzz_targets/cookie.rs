//! The affinity cookie: nothing is taken that we did not sign.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stickyd_fuzz::cookie::check(data));
