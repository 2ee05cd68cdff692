//! Sockets passed by systemd, and the status line, without systemd.

use super::*;

fn listener(address: &str, name: Option<&str>) -> Listener {
    let name = name.map(str::to_owned);
    Listener { name, ..Listener::plain(address.parse().unwrap()) }
}

fn inherited(address: &str, name: &str) -> Inherited {
    let socket = TcpListener::bind(address).unwrap();
    Inherited { name: name.to_owned(), address: socket.local_addr().unwrap(), socket }
}

/// Chooses a socket for each listener; a socket that is left over is an error.
fn assign(listeners: &[Listener], mut given: Vec<Inherited>) -> Result<Vec<Option<Inherited>>, SocketError> {
    let chosen = choose(&listeners.iter().collect::<Vec<_>>(), &mut given)?;
    given.first().map_or(Ok(chosen), |left| Err(left.unmatched()))
}

fn names(assigned: &[Option<Inherited>]) -> Vec<Option<&str>> {
    assigned.iter().map(|one| one.as_ref().map(|one| one.name.as_str())).collect()
}

#[test]
fn sockets_are_chosen_by_name_then_by_address() {
    let (one, two) = (inherited("127.0.0.1:0", "a"), inherited("127.0.0.1:0", "unknown"));
    let fits_both = listener(&one.address.to_string(), None);
    let second = listener(&two.address.to_string(), None);
    let listeners = [fits_both, listener("0.0.0.0:80", Some("b")), second, listener("127.0.0.1:1", Some("a"))];
    let assigned = assign(&listeners, vec![two, one]).unwrap();
    assert_eq!(names(&assigned), [None, None, Some("unknown"), Some("a")]);
}

#[test]
fn the_address_decides_between_sockets_of_one_name() {
    let (one, two) = (inherited("127.0.0.1:0", "web"), inherited("127.0.0.1:0", "web"));
    let at = two.address;
    let listeners = [listener(&at.to_string(), Some("web")), listener(&one.address.to_string(), None)];
    let assigned = assign(&listeners, vec![one, two]).unwrap();
    assert_eq!(assigned[0].as_ref().unwrap().address, at);
    let given = vec![inherited("127.0.0.1:0", "web"), inherited("127.0.0.1:0", "web")];
    let error = assign(&[listener("127.0.0.1:1", Some("web"))], given).err().unwrap().to_string();
    assert!(error.contains("2 sockets named `web`") && error.contains("127.0.0.1:1"), "{error}");
}

#[test]
fn a_socket_without_a_listener_is_an_error() {
    let error = assign(&[listener("127.0.0.1:1", None)], vec![inherited("127.0.0.1:0", "x.socket")]);
    let error = error.err().unwrap().to_string();
    assert!(error.contains("name = \"x.socket\""), "{error}");
}

#[test]
fn the_ipv6_wildcard_address_takes_ipv4_too() {
    let given = inherited("[::]:0", "stickyd.socket");
    let wanted = listener(&format!("0.0.0.0:{}", given.address.port()), None);
    assert_eq!(names(&assign(&[wanted], vec![given]).unwrap()), [Some("stickyd.socket")]);
}

#[tokio::test]
async fn one_silent_thread_stops_the_watchdog_feeding() {
    let pulses = [Pulse::default(), Pulse::default()];
    pulses[0].beat();
    let waiting = tokio::time::timeout(Duration::from_millis(150), all_beat(&pulses, &[0, 0]));
    assert!(waiting.await.is_err());
    pulses[1].beat();
    all_beat(&pulses, &[0, 0]).await;
}

#[test]
fn an_error_is_one_line_in_the_status() {
    let long = "error: unknown key `x`\n --> s.toml:3:1\n  |\n3 | x = 1";
    assert_eq!(first_line(long), "unknown key `x` (s.toml:3:1)");
    assert_eq!(first_line("cannot read s.toml: gone"), "cannot read s.toml: gone");
    assert_eq!(thousands(1_203), "1,203");
}
