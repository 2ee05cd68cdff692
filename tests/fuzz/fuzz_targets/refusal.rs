//! Which answers refuse a session, and which bodies end one.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stickyd_fuzz::refusal::check(data));
