//! Networks as sorted ranges of addresses: a lookup is a binary search, however long the list is.
//!
//! Overlapping and adjacent networks are joined when the list is made. Addresses of IPv4 that are mapped into IPv6
//! count as IPv4, as they do everywhere else.

use std::net::IpAddr;

use ipnet::IpNet;

/// A set of addresses, made from networks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetworkSet {
    /// First and last address of each range, sorted, without overlaps.
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

impl NetworkSet {
    /// Makes the set of all addresses in these networks.
    pub fn new(networks: &[IpNet]) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            match network {
                IpNet::V4(network) => v4.push((network.network().to_bits(), network.broadcast().to_bits())),
                IpNet::V6(network) => v6.push((network.network().to_bits(), network.broadcast().to_bits())),
            }
        }
        Self { v4: joined(v4, |last| last.checked_add(1)), v6: joined(v6, |last| last.checked_add(1)) }
    }

    /// Whether the address is in one of the networks.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => covers(&self.v4, address.to_bits()),
            IpAddr::V6(address) => covers(&self.v6, address.to_bits()),
        }
    }

    /// Returns the number of separate ranges.
    pub fn ranges(&self) -> usize {
        self.v4.len() + self.v6.len()
    }
}

/// Sorts ranges and joins those that overlap or touch; `next` returns the address after one, if there is any.
fn joined<T: Ord + Copy>(mut ranges: Vec<(T, T)>, next: impl Fn(T) -> Option<T>) -> Box<[(T, T)]> {
    ranges.sort_unstable();
    let mut all: Vec<(T, T)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match all.last_mut() {
            Some((_, end)) if next(*end).is_none_or(|next| first <= next) => *end = last.max(*end),
            _ => all.push((first, last)),
        }
    }
    all.into_boxed_slice()
}

fn covers<T: Ord + Copy>(ranges: &[(T, T)], address: T) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= address);
    after.checked_sub(1).and_then(|at| ranges.get(at)).is_some_and(|(_, last)| address <= *last)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(networks: &[&str]) -> NetworkSet {
        NetworkSet::new(&networks.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>())
    }

    #[test]
    fn networks_that_touch_are_one_range() {
        let all = set(&["10.0.0.0/9", "10.128.0.0/9", "10.1.2.3/32", "192.0.2.7/32", "192.0.2.9/32", "::/0"]);
        assert_eq!(all.ranges(), 4);
        for (address, is_in) in [
            ("10.0.0.0", true),
            ("10.255.255.255", true),
            ("11.0.0.0", false),
            ("9.255.255.255", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("::ffff:192.0.2.9", true),
            ("::ffff:192.0.2.8", false),
            ("2001:db8::1", true),
        ] {
            assert_eq!(all.contains(address.parse().unwrap()), is_in, "{address}");
        }
        assert!(!set(&[]).contains("0.0.0.0".parse().unwrap()));
        let whole = set(&["0.0.0.0/0", "128.0.0.0/1"]);
        assert!(whole.ranges() == 1 && whole.contains("255.255.255.255".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn a_set_contains_what_one_of_its_networks_contains(
            networks in prop::collection::vec((any::<u8>(), 0_u8..=32), 0..40),
            addresses in prop::collection::vec(any::<u8>(), 1..40),
        ) {
            // Few different addresses, so that networks often overlap and touch.
            let bits = |byte: u8| u32::from(byte).wrapping_mul(0x0101_0101) & 0xc0c0_f0ff;
            let spread = |byte: u8| std::net::Ipv4Addr::from_bits(bits(byte));
            let networks: Vec<IpNet> = networks.into_iter()
                .map(|(byte, length)| IpNet::new(spread(byte).into(), length).unwrap().trunc())
                .collect();
            let set = NetworkSet::new(&networks);
            prop_assert!(set.ranges() <= networks.len());
            for byte in addresses {
                let address = IpAddr::V4(spread(byte));
                prop_assert_eq!(set.contains(address), networks.iter().any(|network| network.contains(&address)));
            }
        }
    }
}
