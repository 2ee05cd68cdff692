//! The PROXY protocol's header, versions 1 and 2.
//!
//! Input: a choice, then bytes as they come from a socket, in pieces whose size the choice gives; or addresses, which
//! are written as a header first.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use stickyd::testing::listener::{Peek, ProxiedSource, proxy_header};
use tokio::io::{AsyncRead, ReadBuf};

use super::bytes::Choices;
use super::still;

/// The length of the longest header that is accepted: version 2's fixed part and 4 KiB.
const LONGEST: usize = 16 + 4_096;

/// Checks how a header is read, and where it ends.
pub fn check(data: &[u8]) {
    let mut choices = Choices(data);
    let (kind, piece) = (choices.byte(), usize::from(choices.byte()) + 1);
    if kind % 4 != 0 {
        written(kind, piece, &mut choices);
    }
    let bytes = choices.0;
    let (read, used) = read(bytes, piece);
    assert!(used <= LONGEST, "{used} bytes");
    if let Some(source) = read {
        assert_eq!(expected(&bytes[..used]), Some(source), "{:?}", String::from_utf8_lossy(&bytes[..used]));
        // In any pieces, and with any bytes after it.
        assert_eq!(self::read(bytes, 1), (Some(source), used));
        assert_eq!(self::read(&bytes[..used], 4_096), (Some(source), used));
        assert_eq!(self::read(&bytes[..used - 1], 4_096).0, None, "cut off");
    }
}

/// A header of addresses is read as these addresses, and the bytes after it are left.
fn written(kind: u8, piece: usize, choices: &mut Choices<'_>) {
    let mut sixteen = || {
        let mut octets = [0; 16];
        octets.iter_mut().for_each(|octet| *octet = choices.byte());
        octets
    };
    let (from, to) = (sixteen(), sixteen());
    let four = |octets: [u8; 16]| Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]);
    let (from6, to6) = (Ipv6Addr::from(from), Ipv6Addr::from(to));
    let ports = [from[4], from[5], to[4], to[5]];
    let (port, other) = (u16::from_be_bytes([ports[0], ports[1]]), u16::from_be_bytes([ports[2], ports[3]]));
    let tlvs = choices.some(300);
    let v6 = kind & 4 != 0;
    let address: IpAddr = if v6 { from6.into() } else { four(from).into() };
    let header = match (kind % 4, v6) {
        (1, false) => format!("PROXY TCP4 {} {} {port} {other}\r\n", four(from), four(to)).into_bytes(),
        (1, true) => format!("PROXY TCP6 {from6} {to6} {port} {other}\r\n").into_bytes(),
        (_, false) => binary(0x21, 0x11, &[&four(from).octets()[..], &four(to).octets(), &ports, tlvs].concat()),
        (_, true) => binary(0x21, 0x21, &[&from[..], &to, &ports, tlvs].concat()),
    };
    let sent = [&header[..], choices.0].concat();
    assert_eq!(
        read(&sent, piece),
        (Some(ProxiedSource::Client(address.to_canonical())), header.len()),
        "{header:02x?}"
    );
}

fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family], &length, rest].concat()
}

/// The meaning of exactly these bytes by the specification; `None` if they are not a header.
fn expected(header: &[u8]) -> Option<ProxiedSource> {
    let client = |address: IpAddr| ProxiedSource::Client(address.to_canonical());
    if let Some(rest) = header.strip_prefix(b"\r\n\r\n\0\r\nQUIT\n") {
        let (fixed, rest) = rest.split_at_checked(4)?;
        if fixed[0] >> 4 != 2 || usize::from(u16::from_be_bytes([fixed[2], fixed[3]])) != rest.len() {
            return None;
        }
        return match (fixed[0] & 15, fixed[1] >> 4) {
            (0, _) => Some(ProxiedSource::Balancer),
            (1, 1) if rest.len() >= 12 => Some(client(Ipv4Addr::from(<[u8; 4]>::try_from(&rest[..4]).ok()?).into())),
            (1, 2) if rest.len() >= 36 => Some(client(Ipv6Addr::from(<[u8; 16]>::try_from(&rest[..16]).ok()?).into())),
            (1, 0) => Some(ProxiedSource::Unknown),
            (1, 3) if rest.len() >= 216 => Some(ProxiedSource::Unknown),
            _ => None,
        };
    }
    let line = std::str::from_utf8(header).ok()?.strip_suffix("\r\n")?.strip_prefix("PROXY ")?;
    if header.len() > 107 || line.contains(['\r', '\n']) {
        return None;
    }
    let parts: Vec<_> = line.split(' ').collect();
    match parts[..] {
        ["UNKNOWN", ..] => Some(ProxiedSource::Unknown),
        ["TCP4", from, to, port, other] => {
            let (from, _): (Ipv4Addr, Ipv4Addr) = (from.parse().ok()?, to.parse().ok()?);
            let _: (u16, u16) = (port.parse().ok()?, other.parse().ok()?);
            Some(client(from.into()))
        }
        ["TCP6", from, to, port, other] => {
            let (from, _): (Ipv6Addr, Ipv6Addr) = (from.parse().ok()?, to.parse().ok()?);
            let _: (u16, u16) = (port.parse().ok()?, other.parse().ok()?);
            Some(client(from.into()))
        }
        _ => None,
    }
}

/// Reads a header from bytes that come in pieces; the source, and how many bytes were taken.
fn read(bytes: &[u8], piece: usize) -> (Option<ProxiedSource>, usize) {
    let mut stream = Pieces { bytes, used: 0, piece };
    let source = still::run(pin!(proxy_header(&mut stream))).expect("bytes never make it wait");
    (source.ok(), stream.used)
}

/// A socket that shows at most `piece` bytes at a time.
struct Pieces<'a> {
    bytes: &'a [u8],
    used: usize,
    piece: usize,
}

impl Pieces<'_> {
    fn next(&self, room: usize) -> &[u8] {
        let rest = &self.bytes[self.used..];
        &rest[..rest.len().min(self.piece).min(room)]
    }
}

impl Peek for Pieces<'_> {
    async fn look(&self, room: &mut [u8]) -> io::Result<usize> {
        let next = self.next(room.len());
        room[..next.len()].copy_from_slice(next);
        Ok(next.len())
    }
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let next = self.next(buffer.remaining()).len();
        let (from, to) = (self.used, self.used + next);
        buffer.put_slice(&self.bytes[from..to]);
        self.used = to;
        Poll::Ready(Ok(()))
    }
}
