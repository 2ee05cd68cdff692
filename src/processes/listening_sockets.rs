//! Who listens at the addresses of workers: the kernel's tables of sockets, and the descriptors of processes.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use super::lines;
use crate::config::Address;

/// Maximum number of descriptors inspected, over all processes.
const DESCRIPTORS: usize = 200_000;

/// Returns the inodes of listening sockets, each with the workers it belongs to.
pub(super) fn inodes(addresses: &[Address]) -> HashMap<u64, Vec<&Address>> {
    let mut found: HashMap<u64, Vec<&Address>> = HashMap::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for (socket, inode) in lines(table).skip(1).map_while(|line| listening(&line)) {
            let fits = |address: &&Address| matches!(address, Address::Tcp(worker) if covers(socket, *worker));
            found.entry(inode).or_default().extend(addresses.iter().filter(fits));
        }
    }
    if addresses.iter().any(|address| matches!(address, Address::Unix(_))) {
        for (path, inode) in lines("/proc/net/unix").skip(1).filter_map(|line| listening_unix(&line)) {
            let fits =
                |address: &&Address| matches!(address, Address::Unix(worker) if worker.as_os_str() == path.as_str());
            found.entry(inode).or_default().extend(addresses.iter().filter(fits));
        }
    }
    found.retain(|_, workers| !workers.is_empty());
    found
}

/// Whether connections to this worker's address arrive at this socket.
fn covers(socket: SocketAddr, worker: SocketAddr) -> bool {
    let same = socket.ip().to_canonical() == worker.ip().to_canonical();
    socket.port() == worker.port() && (same || (socket.ip().is_unspecified() && worker.ip().is_loopback()))
}

/// Parses a line `0: 0100007F:0BB9 00000000:0000 0A … inode …`. Returns `None` after the last listening socket: these
/// come first, and a table may have one line for each of a million connections.
fn listening(line: &str) -> Option<(SocketAddr, u64)> {
    let mut fields = line.split_ascii_whitespace();
    let local = fields.nth(1)?;
    if fields.nth(1)? != "0A" {
        return None;
    }
    let inode = fields.nth(5)?.parse().ok()?;
    let (ip, port) = local.split_once(':')?;
    Some((SocketAddr::new(address(ip)?, u16::from_str_radix(port, 16).ok()?), inode))
}

/// Parses an address, which the kernel prints as words of 32 bits in the byte order of the machine.
fn address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(hex.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            let mut bytes = [0; 16];
            for (to, from) in bytes.iter_mut().zip(words.as_flattened()) {
                *to = *from;
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

/// Parses a line `0000…: 00000002 00000000 00010000 0001 01 INODE /path` if its socket listens.
fn listening_unix(line: &str) -> Option<(String, u64)> {
    let (mut rest, mut fields) = (line, [""; 7]);
    for field in &mut fields {
        (*field, rest) = rest.trim_start().split_once(' ')?;
    }
    let [.., flags, _, _, inode] = fields;
    (flags == "00010000").then(|| Some((rest.to_owned(), inode.parse().ok()?)))?
}

/// Returns the process with the lowest pid that holds each of these sockets. stickyd itself is skipped: it has many
/// descriptors, and none of them is a worker's listening socket.
pub(super) fn holders_of(mut wanted: Vec<u64>, until: Instant) -> Vec<(u64, u32)> {
    let (mut found, mut seen) = (Vec::new(), 0);
    let mut pids: Vec<u32> = fs::read_dir("/proc").into_iter().flatten().filter_map(number).collect();
    pids.sort_unstable();
    for pid in pids.into_iter().filter(|pid| *pid != std::process::id()) {
        for descriptor in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            seen += 1;
            if wanted.is_empty() || seen > DESCRIPTORS || Instant::now() > until {
                return found;
            }
            let Ok(link) = fs::read_link(descriptor.path()) else { continue };
            let inode = link.to_str().and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            if let Some(at) = inode.and_then(|inode: u64| wanted.iter().position(|one| *one == inode)) {
                found.push((wanted.swap_remove(at), pid));
            }
        }
    }
    found
}

fn number(entry: std::io::Result<fs::DirEntry>) -> Option<u32> {
    entry.ok()?.file_name().to_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_sockets_are_parsed_from_proc() {
        let line =
            "   0: 0100007F:0BB9 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4242 1 0";
        if cfg!(target_endian = "little") {
            assert_eq!(listening(line), Some(("127.0.0.1:3001".parse().unwrap(), 4242)));
            let six = line.replace("0100007F", "00000000000000000000000001000000");
            assert_eq!(listening(&six), Some(("[::1]:3001".parse().unwrap(), 4242)));
        }
        assert_eq!(listening(&line.replace(" 0A ", " 01 ")), None);
        assert_eq!(listening("rubbish"), None);
        let unix = "ffff8880: 00000002 00000000 00010000 0001 01 777 /run/app/my 5.sock";
        assert_eq!(listening_unix(unix), Some(("/run/app/my 5.sock".to_owned(), 777)));
        let padded = "ffff8880: 00000002 00000000 00010000 0001 01   777 /run/a.sock";
        assert_eq!(listening_unix(padded), Some(("/run/a.sock".to_owned(), 777)));
        assert_eq!(listening_unix(&unix.replace("00010000", "00000000")), None);
        assert_eq!(listening_unix("ffff8880: 00000002 00000000 00010000 0001 01 777"), None);
    }

    #[test]
    fn wildcard_sockets_belong_only_to_loopback_workers() {
        let covers = |socket: &str, worker: &str| covers(socket.parse().unwrap(), worker.parse().unwrap());
        assert!(
            covers("127.0.0.1:1", "127.0.0.1:1") && covers("0.0.0.0:1", "127.0.0.1:1") && covers("[::]:1", "[::1]:1")
        );
        assert!(covers("[::ffff:10.0.0.7]:1", "10.0.0.7:1"));
        assert!(!covers("0.0.0.0:1", "10.0.0.7:1") && !covers("127.0.0.1:1", "127.0.0.1:2"));
    }
}
