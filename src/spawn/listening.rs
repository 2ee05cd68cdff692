//! Where the processes of a worker really listen, for the message about a worker that cannot be reached at its address.
//!
//! Read from /proc, once for such a message: the inodes of listening sockets, and the descriptors of the group's
//! processes. What cannot be read (another user's processes) is left out.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// State of a listening socket in /proc/net/tcp.
const LISTEN: &str = "0A";

/// The TCP addresses on which processes of the group listen.
pub(super) fn of_group(leader: u32) -> BTreeSet<SocketAddr> {
    let mut listening = HashMap::new();
    for file in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = fs::read_to_string(file).unwrap_or_default();
        listening.extend(text.lines().skip(1).filter_map(parse));
    }
    let mut found = BTreeSet::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let stat = fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        let group = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(2));
        if group.and_then(|group| group.parse::<u32>().ok()) != Some(leader) {
            continue;
        }
        for descriptor in fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            let Ok(target) = fs::read_link(descriptor.path()) else { continue };
            let inode = target.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']'));
            found.extend(inode.and_then(|inode| inode.parse::<u64>().ok()).and_then(|inode| listening.get(&inode)));
        }
    }
    found
}

/// The inode and address of a line about a listening socket.
fn parse(line: &str) -> Option<(u64, SocketAddr)> {
    let mut fields = line.split_ascii_whitespace();
    let (address, state) = (fields.nth(1)?, fields.nth(1)?);
    if state != LISTEN {
        return None;
    }
    let inode = fields.nth(5)?.parse().ok()?;
    let (ip, port) = address.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // Each group of eight digits is one word in the machine's byte order.
    let word = |i: usize| u32::from_str_radix(ip.get(8 * i..8 * i + 8)?, 16).ok();
    let words: Option<Vec<u32>> = (0..ip.len() / 8).map(word).collect();
    let bytes: Vec<u8> = words?.into_iter().flat_map(u32::to_ne_bytes).collect();
    let ip = match <[u8; 4]>::try_from(&bytes[..]) {
        Ok(four) => IpAddr::V4(Ipv4Addr::from(four)),
        Err(_) => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[..]).ok()?)),
    };
    Some((inode, SocketAddr::new(ip, port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listening_socket_is_read_with_its_inode() {
        let line = "   0: 0100007F:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0  0 4711 1 0 100 0";
        assert_eq!(parse(line), Some((4711, "127.0.0.1:3000".parse().unwrap())));
        assert_eq!(parse(&line.replace(" 0A ", " 01 ")), None);
        let own = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let group = u32::try_from(rustix::process::getpgrp().as_raw_pid()).unwrap();
        assert!(of_group(group).contains(&own.local_addr().unwrap()));
    }
}
