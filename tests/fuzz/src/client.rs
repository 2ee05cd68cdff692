//! Identity of the client: forwarding fields, and which peers may set them.
//!
//! Input: choices for a peer, then for hops of `X-Forwarded-For`: addresses of both kinds in every spelling, trusted
//! and not, and any text; then for `X-Forwarded-Proto`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hyper::header::{HeaderMap, HeaderValue};
use stickyd::testing::client::Client;
use stickyd::testing::proxy;

use super::bytes::Choices;
use super::proxied;

/// A hop as it is written, and the address that it names.
struct Hop {
    text: Vec<u8>,
    names: Option<IpAddr>,
}

/// Checks which address is taken as the client's.
pub fn check(data: &[u8]) {
    let mut choices = Choices(data);
    let secure = choices.byte() & 1 != 0;
    let peer = address(&mut choices).to_canonical();
    let (mut headers, mut lists) = (HeaderMap::new(), Vec::new());
    for _ in 0..choices.byte() % 4 {
        let hops: Vec<Hop> = (0..=choices.byte() % 4).map(|_| hop(&mut choices)).collect();
        let text =
            hops.iter().map(|hop| &hop.text[..]).collect::<Vec<_>>().join(choices.of(&[&b","[..], b", ", b" ,\t"]));
        // hyper only passes on valid field values.
        let Ok(value) = HeaderValue::from_bytes(&text) else { return };
        let is_text = value.to_str().is_ok();
        headers.append("x-forwarded-for", value);
        lists.push((hops, is_text));
    }
    let mut told = None;
    for _ in 0..choices.byte() % 3 {
        let (line, first) = choices.of(&[
            ("https", Some(Some(true))),
            ("HTTPS", Some(Some(true))),
            ("wss", Some(Some(true))),
            ("https, http", Some(Some(true))),
            (" ,https", Some(Some(true))),
            ("\"https\"", Some(Some(true))),
            ("http", Some(Some(false))),
            ("ws,https", Some(Some(false))),
            ("quic, https", Some(None)),
            ("", None),
        ]);
        headers.append("x-forwarded-proto", HeaderValue::from_static(line));
        told = told.or(first);
    }
    let client = proxy::client(&proxied::conn(peer, secure, false), &headers);

    let mut expected = peer;
    'hops: for (hops, is_text) in lists.iter().rev() {
        for hop in hops.iter().rev() {
            // Hops count from the right, as far as they are trusted.
            if !proxied::is_trusted(expected) || !is_text {
                break 'hops;
            }
            // An empty element is none (RFC 9110 §5.6.1).
            if hop.text.trim_ascii().is_empty() {
                continue;
            }
            let Some(address) = hop.names else { break 'hops };
            expected = address;
        }
    }
    assert_eq!(client.address, expected, "peer {peer}, {headers:?}");
    let told = proxied::is_trusted(peer).then_some(told).flatten().flatten();
    assert_eq!(client.secure, told.unwrap_or(secure), "{headers:?}");
    check_key(&client);
}

/// Checks what counts as one client: all addresses of an IPv6 /64, but never two IPv4 addresses, or IPv4 and IPv6.
fn check_key(client: &Client) {
    let key = client.key();
    match client.address {
        IpAddr::V4(v4) => {
            assert_eq!((&key[..12], &key[12..]), (&b"\0\0\0\0\0\0\0\0\0\0\xff\xff"[..], &v4.octets()[..]))
        }
        IpAddr::V6(v6) => assert_eq!((&key[..8], &key[8..]), (&v6.octets()[..8], &[0; 8][..])),
    }
}

/// An address that is trusted in about half of the cases, because chains would be short otherwise.
fn address(choices: &mut Choices<'_>) -> IpAddr {
    let (kind, last) = (choices.byte(), choices.byte());
    match kind % 6 {
        0 | 1 => Ipv4Addr::new(10, 0, kind, last).into(),
        2 => Ipv6Addr::new(0x2001, 0xdb8, u16::from(kind), 0, 0, 0, 0, u16::from(last)).into(),
        3 => Ipv4Addr::new(192, 0, 2, last).into(),
        4 => Ipv6Addr::new(0x2001, 0xdb9, 0, 0, 0, 0, 0, u16::from(last)).into(),
        _ => Ipv4Addr::new(kind, last, 0, 1).to_ipv6_mapped().into(),
    }
}

fn hop(choices: &mut Choices<'_>) -> Hop {
    let form = choices.byte() % 8;
    if form < 2 {
        let text = choices.some(24).to_vec();
        // A comma would make two hops; a scope of an address means nothing here (the standard library accepts it).
        if text.iter().any(|b| b",%".contains(b)) {
            return Hop { text: b"unknown".to_vec(), names: None };
        }
        return Hop { names: plain_address(&text), text };
    }
    let address = address(choices);
    let text = match (form, address) {
        (2, IpAddr::V4(v4)) => format!("{v4}:65535"),
        (2 | 3, IpAddr::V6(v6)) => format!("[{v6}]:443"),
        (4, IpAddr::V6(v6)) => format!("[{v6}]"),
        _ => address.to_string(),
    };
    Hop { text: text.into_bytes(), names: Some(address.to_canonical()) }
}

/// An address with or without brackets and port, taken apart here so that the standard library parses addresses only.
fn plain_address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let (bare, rest) = match text.strip_prefix('[') {
        Some(inner) => inner.split_once(']')?,
        None if text.matches(':').count() == 1 => text.split_at(text.find(':')?),
        None => (text, ""),
    };
    let port = rest.is_empty() || rest.strip_prefix(':')?.bytes().all(|b| b.is_ascii_digit());
    let number = rest.get(1..).is_none_or(|digits| digits.parse::<u16>().is_ok());
    let address: IpAddr = bare.parse().ok().filter(|_| port && number)?;
    (rest.is_empty() || text.starts_with('[') == address.is_ipv6()).then(|| address.to_canonical())
}
