//! A stickyd without sockets: the state that threads share, one thread, and connections without a client.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::rc::Rc;

use stickyd::testing::config::{self, Listener};
use stickyd::testing::keys::Keys;
use stickyd::testing::listener;
use stickyd::testing::listener::Conn;
use stickyd::testing::state::Shared;
use stickyd::testing::thread::Thread;

const CONFIG: &str = r#"
secret = "fuzzing fuzzing fuzzing"
threads = 1
[[listener]]
address = "127.0.0.1:8080"
trusted_proxies = ["10.0.0.0/8", "2001:db8::/32"]
[upstream.app]
workers = ["127.0.0.1:1"]
"#;

/// A trusted peer, like all of 10.0.0.0/8 and 2001:db8::/32.
pub const TRUSTED: &str = "10.0.0.1";
/// A peer that is not trusted.
pub const STRANGER: &str = "192.0.2.7";

/// Whether the listener trusts an address; written independently of its list.
pub fn is_trusted(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[0] == 10,
        IpAddr::V6(v6) => v6.segments()[..2] == [0x2001, 0xdb8],
    }
}

/// What connections are made from.
pub struct Stickyd {
    thread: Rc<Thread>,
    listener: Listener,
}

thread_local! {
    static STICKYD: Stickyd = Stickyd::new();
}

impl Stickyd {
    fn new() -> Self {
        let nobody = |_: &str| Err(io::ErrorKind::NotFound.into());
        let (mut config, _) = config::parse_with(CONFIG, Path::new("/fuzz.toml"), &nobody).expect("it is one");
        let shared = Shared::new(&config, b"fuzzing fuzzing fuzzing".to_vec(), Keys::random().expect("chance"));
        Self { thread: Thread::new(shared), listener: config.listeners.swap_remove(0) }
    }
}

/// A connection from `peer`; `secure`: over TLS.
pub fn conn(peer: IpAddr, secure: bool, http2: bool) -> Rc<Conn> {
    STICKYD
        .with(|stickyd| listener::conn(&stickyd.thread, &stickyd.listener, peer, secure, http2).expect("without TLS"))
}
