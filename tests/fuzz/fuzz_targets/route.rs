//! The route of a request, and the guards that it must pass.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stickyd_fuzz::route::check(data));
