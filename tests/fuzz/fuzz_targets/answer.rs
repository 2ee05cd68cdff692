//! A worker's answer: where its head and its body end, and what they say.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stickyd_fuzz::answer::check(data));
