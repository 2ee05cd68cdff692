//! The client of a request, as far as limits, hashes and logs know it. Left out: how it is read (`proxy::headers`).

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

/// The client of a request: the connection's peer, or the client that a trusted proxy names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// The client's IP address.
    pub address: IpAddr,
    /// Whether `address` is the client's; it is not if a PROXY header names no client. Such a client is in no network.
    pub known: bool,
    /// Whether the client used TLS, to stickyd or to the trusted proxy in front of it.
    pub secure: bool,
}

impl Client {
    /// Whether the client is in one of these networks.
    pub(crate) fn is_within(&self, networks: &[IpNet]) -> bool {
        self.known && networks.iter().any(|network| network.contains(&self.address))
    }

    /// The part of the address that identifies one client: all of an IPv4 address, or the /64 (one household) of an
    /// IPv6 address.
    pub fn key(&self) -> [u8; 16] {
        address_key(self.address)
    }
}

/// The part of an address that identifies one client: all of an IPv4 address, or the /64 of an IPv6 address.
pub(crate) fn address_key(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).octets(),
    }
}
