//! Chooses the address of a worker's new process: free, and not given to another one.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use super::protocol::ProcessId;
use crate::config::Address;
use crate::config::spawn::{FREE_PORTS, PortSource, Spawn};

/// Maximum number of ports that are tried: each costs two system calls on the control thread.
const TRIES: usize = 1_024;

/// Chooses an address. `before` is where the worker listened last, and is taken again if possible, so that its next
/// process is known as the next life of the same worker. `folder` is for unix sockets.
///
/// # Errors
/// Why there is no free port, for the operator.
pub(super) fn choose(
    spawn: &Spawn,
    before: Option<&Address>,
    folder: &Path,
    name: (&str, u32, ProcessId),
    is_given: impl Fn(&Address) -> bool,
) -> Result<Address, String> {
    if spawn.port == PortSource::Socket {
        let (upstream, slot, ProcessId(id)) = name;
        return Ok(Address::Unix(folder.join(format!("{upstream}-{slot}-{:08x}.sock", id >> 32))));
    }
    let range = spawn.ports.as_ref().unwrap_or(&FREE_PORTS);
    let inside = |address: &&Address| match address {
        Address::Tcp(at) => at.ip() == range.ip && range.ports.contains(&at.port()),
        Address::Unix(_) => false,
    };
    let free = |address: &Address| match address {
        Address::Tcp(at) => !is_given(address) && TcpListener::bind(at).is_ok(),
        Address::Unix(_) => false,
    };
    if let Some(before) = before.filter(inside).filter(|before| free(before)) {
        return Ok(before.clone());
    }
    let count = usize::from(range.ports.end() - range.ports.start()) + 1;
    // A random first port where any will do: another stickyd on this machine chooses at the same time.
    let first = match spawn.ports {
        Some(_) => 0,
        None => usize::try_from(crate::random::u64() >> 32).unwrap_or(0) % count,
    };
    let ports = range.ports.clone().cycle_from(first).take(count.min(TRIES));
    let mut addresses = ports.map(|port| Address::Tcp(SocketAddr::new(range.ip, port)));
    addresses.find(free).ok_or_else(|| {
        let (ip, first, last) = (range.ip, range.ports.start(), range.ports.end());
        format!("no port of {ip}:{first}-{last} is free: other processes listen there; give the workers other `ports`")
    })
}

/// A range that begins in its middle and goes on from its start.
trait CycleFrom: Iterator + Sized {
    fn cycle_from(self, first: usize) -> impl Iterator<Item = Self::Item>;
}

impl<I: Iterator + Clone> CycleFrom for I {
    fn cycle_from(self, first: usize) -> impl Iterator<Item = I::Item> {
        self.clone().skip(first).chain(self.take(first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::spawn::PortRange;

    fn choose_in(ports: std::ops::RangeInclusive<u16>, before: Option<u16>, given: &[u16]) -> Result<Address, String> {
        let mut spawn = Spawn::plain(vec!["node".to_owned()], 1, "/".into());
        let ip = "127.0.0.1".parse().unwrap();
        spawn.ports = Some(PortRange { ip, ports });
        let at = |port: u16| Address::Tcp(SocketAddr::new(ip, port));
        let is_given = |address: &Address| given.iter().any(|port| at(*port) == *address);
        choose(&spawn, before.map(at).as_ref(), Path::new("/run"), ("app", 1, ProcessId(7)), is_given)
    }

    #[test]
    fn a_busy_port_is_passed_over_and_a_full_range_is_told() {
        let busy = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = busy.local_addr().unwrap().port();
        let error = choose_in(port..=port, None, &[]).unwrap_err();
        assert!(error.contains(&format!("127.0.0.1:{port}-{port}")), "{error}");
        drop(busy);
        assert_eq!(choose_in(port..=port, Some(port), &[]).unwrap().to_string(), format!("127.0.0.1:{port}"));
        assert!(choose_in(port..=port, None, &[port]).is_err());
    }

    #[test]
    fn a_socket_has_a_path_of_its_own() {
        let mut spawn = Spawn::plain(vec!["node".to_owned()], 1, "/".into());
        spawn.port = PortSource::Socket;
        let at = choose(&spawn, None, Path::new("/run/x"), ("app", 3, ProcessId(1 << 40)), |_| false).unwrap();
        assert_eq!(at, Address::Unix("/run/x/app-3-00000100.sock".into()));
    }
}
