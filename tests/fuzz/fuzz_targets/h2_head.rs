//! A request's head over HTTP/2, and the bytes we would send to a worker for it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stickyd_fuzz::h2_head::check(data));
