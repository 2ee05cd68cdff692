//! Tokens that no issuer has signed.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stickyd_fuzz::token::check(data));
