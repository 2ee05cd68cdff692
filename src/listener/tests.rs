//! Parts of listeners that need no traffic.

use super::bind::{BindTerms, adopt, bind};
use super::*;

#[test]
fn private_networks_are_near() {
    for (address, near) in [
        ("127.0.0.1", true),
        ("10.255.0.1", true),
        ("172.16.0.1", true),
        ("172.32.0.1", false),
        ("192.168.9.9", true),
        ("169.254.1.1", true),
        ("100.64.0.1", true),
        ("100.128.0.1", false),
        ("192.0.2.1", false),
        ("::1", true),
        ("fd00::1", true),
        ("fe80::1", true),
        ("2001:db8::1", false),
    ] {
        assert_eq!(is_near(address.parse().unwrap()), near, "{address}");
    }
}

fn loopback() -> config::Listener {
    config::Listener::plain(([127, 0, 0, 1], 0).into())
}

fn settings(config: &config::Listener) -> ListenerSettings {
    ListenerSettings::of(config, None, None).unwrap()
}

/// Checks the options of a connection accepted from `bound`.
fn has_our_options(mut bound: BoundListener) {
    let (socket, _) = bound.take().unwrap();
    socket.set_nonblocking(false).unwrap();
    let _client = std::net::TcpStream::connect(bound.address).unwrap();
    let (accepted, _) = socket.accept().unwrap();
    let accepted = socket2::SockRef::from(&accepted);
    assert!(accepted.tcp_nodelay().unwrap());
    assert!(accepted.keepalive().unwrap());
    assert_eq!(accepted.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
    assert_eq!(accepted.tcp_notsent_lowat().unwrap(), UNSENT);
}

#[test]
fn accepted_sockets_inherit_the_listeners_options() {
    has_our_options(bind(&loopback(), settings(&loopback()), 1, BindTerms::default()).unwrap());
}

#[test]
fn sockets_accepted_from_an_adopted_socket_inherit_them_too() {
    let given = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let bound = adopt(&loopback(), settings(&loopback()), &given, 3).unwrap();
    assert_eq!((bound.sockets.len(), bound.address), (3, given.local_addr().unwrap()));
    has_our_options(bound);
}

#[test]
fn an_address_in_use_is_an_error_even_for_the_same_user() {
    let bound = bind(&loopback(), settings(&loopback()), 2, BindTerms::default()).unwrap();
    let again = config::Listener { address: bound.address, ..loopback() };
    assert!(matches!(bind(&again, settings(&again), 2, BindTerms::default()), Err(BindError::Socket(..))));
}
