//! The PROXY protocol's header, versions 1 and 2.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stickyd_fuzz::proxy_protocol::check(data));
