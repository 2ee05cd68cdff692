//! Hosts of routes, compiled, and how the host of a request is compared with them: without port, case and final dot
//! (RFC 3986 §3.2.2, RFC 9110 §4.2.3), and by value where the rule is an address. A worker that parses its host as a
//! URL (Node's `new URL`) reads `0x7f.1` as 127.0.0.1, so these forms count as the address, too.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The hosts of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HostRule {
    /// Every host, and requests without one.
    Any,
    /// One name, in lower case.
    Name(String),
    /// Every name that ends in this text, which begins with a dot.
    Below(String),
    /// One address, however it is written.
    Address(IpAddr),
}

impl HostRule {
    /// Compiles the host of a route, which `config` has checked.
    pub(crate) fn of(host: Option<&str>) -> Self {
        let Some(host) = host else { return Self::Any };
        match (host.strip_prefix('*'), address(host)) {
            (Some(below), _) => Self::Below(below.to_ascii_lowercase()),
            (None, Some(address)) => Self::Address(address),
            (None, None) => Self::Name(host.to_ascii_lowercase()),
        }
    }

    /// Whether a host is among them; it has no port, and no final dot.
    pub(crate) fn fits(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Name(name) => host.eq_ignore_ascii_case(name),
            Self::Below(suffix) => {
                let start = host.len().checked_sub(suffix.len()).filter(|start| *start > 0);
                start.and_then(|start| host.get(start..)).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
            }
            Self::Address(wanted) => address(host) == Some(*wanted),
        }
    }
}

/// Cuts the port off a host; an IPv6 address keeps its brackets.
pub(crate) fn without_port(host: &str) -> &str {
    if host.starts_with('[') {
        return host.find(']').and_then(|end| host.get(..=end)).unwrap_or(host);
    }
    // Most requests ask for this, and a search for a character takes three times as many instructions.
    let end = host.bytes().position(|byte| byte == b':');
    end.and_then(|end| host.get(..end)).unwrap_or(host)
}

/// The host as rules compare it: without port and without the dot that ends a complete name.
pub(crate) fn bare(host: &str) -> &str {
    let name = without_port(host);
    name.strip_suffix('.').unwrap_or(name)
}

/// The address that a host stands for, if it is one; an IPv4 address mapped into IPv6 is IPv4.
fn address(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(|v6| IpAddr::V6(v6).to_canonical()),
        None => lenient_v4(host).map(IpAddr::V4),
    }
}

/// An IPv4 address in any form of the WHATWG URL standard (§3.5, "IPv4 parser"): one to four numbers in decimal, octal
/// or hexadecimal, the last of which fills the remaining bytes.
fn lenient_v4(host: &str) -> Option<Ipv4Addr> {
    let mut parts = host.rsplit('.');
    let mut value = number(parts.next()?)?;
    let before: Vec<u64> = parts.map(number).collect::<Option<_>>()?;
    let limit = 1_u64.checked_shl(32_u32.checked_sub(u32::try_from(before.len()).ok()?.checked_mul(8)?)?)?;
    if before.len() > 3 || value >= limit {
        return None;
    }
    for (place, part) in before.iter().rev().enumerate() {
        let shift = 24_u32.checked_sub(u32::try_from(place).ok()? * 8)?;
        value |= (*part < 256).then_some(part << shift)?;
    }
    u32::try_from(value).ok().map(Ipv4Addr::from_bits)
}

fn number(text: &str) -> Option<u64> {
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    match (hex, text.strip_prefix('0')) {
        (Some(""), _) => Some(0),
        (Some(digits), _) if digits.bytes().all(|b| b.is_ascii_hexdigit()) => u64::from_str_radix(digits, 16).ok(),
        (None, Some(digits)) if !digits.is_empty() => {
            digits.bytes().all(|b| b.is_ascii_digit()).then(|| u64::from_str_radix(digits, 8).ok()).flatten()
        }
        (None, _) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_compared_without_case_port_and_final_dot() {
        for (rule, host, fit) in [
            ("a.example", "A.example", true),
            ("a.example", "a.example.", true),
            ("a.example", "a.example.:80", true),
            ("a.example", "a.example:", true),
            ("a.example", "a.example..", false),
            ("a.example", "b.example", false),
            ("*.example", "a.example", true),
            ("*.example", "a.B.Example.:1", true),
            ("*.example", "example", false),
            ("*.example", ".example", false),
            ("*.example", "xexample", false),
        ] {
            assert_eq!(HostRule::of(Some(rule)).fits(bare(host)), fit, "{rule} {host}");
        }
        assert_eq!(without_port("[::1]:80"), "[::1]");
        assert_eq!(without_port("a:80"), "a");
    }

    #[test]
    fn addresses_are_compared_by_value() {
        for (rule, host, fit) in [
            ("[::1]", "[::1]:80", true),
            ("[::1]", "[0:0:0:0:0:0:0:1]", true),
            ("[::1]", "[0000::0001]", true),
            ("[2001:db8::a]", "[2001:DB8::A]", true),
            ("[::1]", "[::2]", false),
            ("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", true),
            ("127.0.0.1", "[::ffff:127.0.0.1]", true),
            ("127.0.0.1", "127.0.0.1.", true),
            ("127.0.0.1", "127.1", true),
            ("127.0.0.1", "0x7f.0.0.1", true),
            ("127.0.0.1", "0177.0.0.01", true),
            ("127.0.0.1", "2130706433", true),
            ("127.0.0.1", "0x7F000001", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("127.0.0.1", "127.0.0.1.1", false),
            ("127.0.0.1", "127.0.0.256", false),
            ("127.0.0.1", "4294967296", false),
            ("0.0.0.0", "256.0.0.0", false),
        ] {
            assert_eq!(HostRule::of(Some(rule)).fits(bare(host)), fit, "{rule} {host}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_compared(rule in "[a-z0-9.x\\[\\]:*]{0,20}", host in "[a-z0-9.x\\[\\]:]{0,30}") {
            let _ = HostRule::of(Some(&rule)).fits(bare(&host));
        }

        #[test]
        fn every_address_is_read_in_all_its_forms(bits: u32) {
            let address = Ipv4Addr::from_bits(bits);
            let [a, b, c, d] = address.octets();
            for text in [
                address.to_string(),
                bits.to_string(),
                format!("{bits:#x}"),
                format!("0{a:o}.{}", bits & 0xff_ffff),
                format!("{a}.{b:#X}.{}", u32::from(c) << 8 | u32::from(d)).replace("0X", "0x"),
            ] {
                proptest::prop_assert_eq!(lenient_v4(&text), Some(address), "{}", text);
            }
        }
    }
}
