//! A request's head, and the bytes we would send to a worker for it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stickyd_fuzz::head::check(data));
