//! What a worker is told of the client's own request: scheme, host and port, from what proxies say.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stickyd_fuzz::forwarded::check(data));
