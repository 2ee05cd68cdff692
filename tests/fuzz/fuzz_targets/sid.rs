//! Which session a query names.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stickyd_fuzz::sid::check(data));
