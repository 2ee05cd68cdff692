//! Reads headers of the PROXY protocol, versions 1 and 2, by which a balancer below HTTP names its client.
//!
//! Exactly the header is read, and not a byte of what follows, so that TLS or HTTP begins on an untouched socket. TLVs
//! are skipped, including the checksum. The sender of a header can claim any client address, so the caller must first
//! check that the sender is trusted. The caller also limits the time. Specification:
//! haproxy.org/download/3.0/doc/proxy-protocol.txt.

use std::io;
use std::net::IpAddr;

use ppp::{v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;

/// Maximum bytes of a version 2 header after its fixed part: up to 216 of addresses, and TLVs. The length field would
/// allow 64 KiB.
const MAX_REST: usize = 4_096;

/// Maximum bytes of a version 1 header, including the line end (specification §2.1).
const MAX_LINE: usize = 107;

/// Length of `PROXY UNKNOWN\r\n`, the shortest of all headers, in bytes; the fixed part of version 2 is one byte
/// longer.
const SHORTEST: usize = 15;

/// The client that a header names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxiedSource {
    /// The balancer itself (LOCAL), for its own health checks.
    Balancer,
    /// A client whose address is not an IP address, or is not given.
    Unknown,
    /// A client with this address.
    Client(IpAddr),
}

/// A stream whose next bytes can be read without consuming them: a socket, or the input of a fuzz target.
pub trait Peek: AsyncRead + Unpin {
    /// Waits for bytes and copies those that are there without consuming them; returns their number, 0 at the end of
    /// the stream.
    fn look(&self, room: &mut [u8]) -> impl Future<Output = io::Result<usize>>;
}

impl Peek for TcpStream {
    fn look(&self, room: &mut [u8]) -> impl Future<Output = io::Result<usize>> {
        self.peek(room)
    }
}

/// Reads a PROXY header.
///
/// # Errors
/// The connection ended, or does not begin with a valid header.
pub(crate) async fn read(stream: &mut impl Peek) -> io::Result<ProxiedSource> {
    let mut header = vec![0; SHORTEST];
    stream.read_exact(&mut header).await?;
    if header.starts_with(b"PROXY ") {
        line(stream, &mut header).await?;
        return parse_v1(&header).ok_or_else(no_header);
    }
    // Nothing more is read unless the bytes so far begin a version 2 header.
    if !header.starts_with(v2::PROTOCOL_PREFIX) {
        return Err(no_header());
    }
    header.push(stream.read_u8().await?);
    let rest = match *header.as_slice() {
        [.., high, low] => usize::from(u16::from_be_bytes([high, low])),
        _ => return Err(no_header()),
    };
    if rest > MAX_REST {
        return Err(no_header());
    }
    let fixed = header.len();
    header.resize(fixed + rest, 0);
    stream.read_exact(header.get_mut(fixed..).unwrap_or_default()).await?;
    parse_v2(&header).ok_or_else(no_header)
}

/// Reads up to the end of the line and no further: peeks first, then consumes. Every round consumes what it saw, so a
/// client that sends byte by byte costs more rounds, but no busy loop.
async fn line(stream: &mut impl Peek, header: &mut Vec<u8>) -> io::Result<()> {
    while !header.ends_with(b"\n") {
        let mut seen = [0; MAX_LINE];
        let room = seen.get_mut(..MAX_LINE.saturating_sub(header.len())).unwrap_or_default();
        if room.is_empty() {
            return Err(no_header());
        }
        let count = stream.look(room).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let seen = room.get_mut(..count).unwrap_or_default();
        let take = seen.iter().position(|&byte| byte == b'\n').map_or(count, |end| end + 1);
        let seen = seen.get_mut(..take).unwrap_or_default();
        stream.read_exact(seen).await?;
        header.extend_from_slice(seen);
    }
    Ok(())
}

fn parse_v1(header: &[u8]) -> Option<ProxiedSource> {
    // ppp ignores everything after UNKNOWN, including whether the line ends properly.
    header.strip_suffix(b"\r\n").filter(|line| !line.contains(&b'\r'))?;
    Some(match v1::Header::try_from(header).ok()?.addresses {
        v1::Addresses::Tcp4(addresses) => client(addresses.source_address.into()),
        v1::Addresses::Tcp6(addresses) => client(addresses.source_address.into()),
        v1::Addresses::Unknown => ProxiedSource::Unknown,
    })
}

fn parse_v2(header: &[u8]) -> Option<ProxiedSource> {
    let header = v2::Header::try_from(header).ok()?;
    Some(match (header.command, header.addresses) {
        (v2::Command::Local, _) => ProxiedSource::Balancer,
        (v2::Command::Proxy, v2::Addresses::IPv4(addresses)) => client(addresses.source_address.into()),
        (v2::Command::Proxy, v2::Addresses::IPv6(addresses)) => client(addresses.source_address.into()),
        (v2::Command::Proxy, v2::Addresses::Unspecified | v2::Addresses::Unix(_)) => ProxiedSource::Unknown,
    })
}

fn client(address: IpAddr) -> ProxiedSource {
    ProxiedSource::Client(address.to_canonical())
}

fn no_header() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the PROXY header is missing or invalid")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// Builds a version 2 header from the command (with the version), the family (with the protocol), and the rest.
    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [v2::PROTOCOL_PREFIX, &[command, family], &length, rest].concat()
    }

    /// Reads a header that arrives in pieces; returns the result, and the bytes left in the socket.
    async fn read_of(pieces: &[&[u8]]) -> (io::Result<ProxiedSource>, Vec<u8>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.set_nodelay(true).unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let send = async move {
            for piece in pieces {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let (source, ()) = tokio::join!(read(&mut stream), send);
        let mut left = Vec::new();
        if source.is_ok() {
            stream.read_to_end(&mut left).await.unwrap();
        }
        (source, left)
    }

    async fn is(expected: ProxiedSource, header: &[u8]) {
        let (source, left) = read_of(&[header, b"GET /"]).await;
        assert_eq!((source.unwrap(), left.as_slice()), (expected, &b"GET /"[..]));
        let together = [header, b"GET /"].concat();
        let bytes: Vec<_> = together.chunks(1).collect();
        let (source, left) = read_of(&bytes).await;
        assert_eq!((source.unwrap(), left.as_slice()), (expected, &b"GET /"[..]), "byte by byte");
    }

    #[tokio::test]
    async fn both_versions_and_every_address_family_are_read() {
        let v4 = ProxiedSource::Client([192, 0, 2, 7].into());
        let v6 = ProxiedSource::Client("2001:db8::7".parse().unwrap());
        is(v4, b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 443\r\n").await;
        is(v6, b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n").await;
        is(v4, b"PROXY TCP6 ::ffff:192.0.2.7 ::1 4711 443\r\n").await;
        is(ProxiedSource::Unknown, b"PROXY UNKNOWN\r\n").await;
        is(ProxiedSource::Unknown, b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n").await;
        let (ipv4, ipv6) = ([192, 0, 2, 7, 10, 0, 0, 1, 18, 103, 1, 187], "2001:db8::7".parse::<std::net::Ipv6Addr>());
        let ipv6 = [&ipv6.unwrap().octets()[..], &[1; 16], &[18, 103, 1, 187]].concat();
        is(v4, &binary(0x21, 0x11, &ipv4)).await;
        is(v6, &binary(0x21, 0x21, &ipv6)).await;
        // TLVs, one of which claims to be longer than the header.
        is(v4, &binary(0x21, 0x11, &[&ipv4[..], &[0x04, 0, 1, 0, 0xee, 0xff, 0xff]].concat())).await;
        is(v6, &binary(0x21, 0x21, &[&ipv6[..], &vec![0; 4_000]].concat())).await;
        is(ProxiedSource::Unknown, &binary(0x21, 0x31, &[b'/'; 216])).await;
        is(ProxiedSource::Unknown, &binary(0x21, 0x00, &[])).await;
        is(ProxiedSource::Balancer, &binary(0x20, 0x00, &[])).await;
        is(ProxiedSource::Balancer, &binary(0x20, 0x11, &ipv4)).await;
    }

    #[tokio::test]
    async fn malformed_headers_are_rejected() {
        let long = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 92], b"\r\n"].concat();
        for header in [
            b"GET / HTTP/1.1\r\n".to_vec(),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\x00\x00\x00\x00".to_vec(),
            b"PROXY TCP4 192.0.2.7 10.0.0.1 4711\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 443\n".to_vec(),
            b"PROXY TCP4 2001:db8::7 ::1 4711 443\r\n".to_vec(),
            b"PROXY UNKNOWN ffff::1\n".to_vec(),
            b"PROXY UNKNOWN \rffff::1\r\n".to_vec(),
            b"PROXY TCP4 a b 4711 443\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 10.0.0.1 70000 443\r\n".to_vec(),
            b"proxy TCP4 192.0.2.7 10.0.0.1 4711 443\r\n".to_vec(),
            long,
            binary(0x11, 0x11, &[0; 12]),
            binary(0x22, 0x11, &[0; 12]),
            binary(0x21, 0x41, &[0; 12]),
            binary(0x21, 0x11, &[0; 11]),
            binary(0x21, 0x11, &vec![0; MAX_REST + 1]),
        ] {
            assert!(read_of(&[&header]).await.0.is_err(), "{}", String::from_utf8_lossy(&header));
        }
        let whole = b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 443\r\n";
        for length in 0..whole.len() {
            assert!(read_of(&[&whole[..length]]).await.0.is_err(), "cut off at {length}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), prefix in 0..3u8) {
            let header = match prefix {
                0 => bytes,
                1 => [b"PROXY ".as_slice(), &bytes].concat(),
                _ => binary(0x21, 0x11, &bytes),
            };
            let _ = (parse_v1(&header), parse_v2(&header));
        }
    }
}
