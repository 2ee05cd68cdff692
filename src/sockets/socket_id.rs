//! Ids as people read and type them, and the texts of an entry in one piece of memory.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use super::Id;
use crate::printable::is_unprintable;

/// Digits of an id in base 32: no letter that can be mistaken for a number, and no letter in both cases.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = (u64::BITS - self.0.leading_zeros()).div_ceil(5).max(1);
        let mut text = String::with_capacity(13);
        for place in (0..digits).rev() {
            let digit = usize::try_from(self.0 >> (place * 5) & 31).unwrap_or(0);
            text.push(char::from(DIGITS.get(digit).copied().unwrap_or(b'0')));
        }
        f.write_str(&text)
    }
}

impl FromStr for Id {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if text.is_empty() || text.len() > 13 {
            return Err(());
        }
        let mut id: u64 = 0;
        for byte in text.bytes() {
            let digit = DIGITS.iter().position(|digit| *digit == byte.to_ascii_lowercase()).ok_or(())?;
            let digit = u64::try_from(digit).map_err(|_| ())?;
            id = id.checked_mul(32).ok_or(())? | digit;
        }
        if id == 0 { Err(()) } else { Ok(Self(id)) }
    }
}

/// Bit in the length of a sid: the key of the pin follows the sid, for sessions whose sid does not lead to their pin.
const KEYED: u16 = 0x8000;

/// Texts of an entry in one allocation: the client's address (16 bytes), the length of the sid (2) and the sid, the key
/// of the pin (16) if [`KEYED`] is set, and for each label its length plus one (1; 0 if the request had none) and its
/// text.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Texts(Box<[u8]>);

impl Texts {
    /// Encodes the texts of an entry; `labels` are encoded by [`pack_label`].
    pub(crate) fn new(address: IpAddr, sid: &[u8], labels: &[u8]) -> Self {
        let address = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        let sid = sid.get(..sid.len().min(super::labels::LONGEST_SID)).unwrap_or_default();
        let length = u16::try_from(sid.len()).unwrap_or(0).to_be_bytes();
        Self([&address.octets()[..], &length, sid, labels].concat().into_boxed_slice())
    }

    /// Returns a copy with another sid and without a key.
    pub(crate) fn with_sid(&self, sid: &[u8]) -> Self {
        Self::new(self.address(), sid, parts(&self.0).labels)
    }

    /// Returns a copy with the key of the session's pin.
    pub(crate) fn with_key(&self, key: [u8; 16]) -> Self {
        let SocketTexts { sid, labels, .. } = parts(&self.0);
        let address = self.0.first_chunk::<16>().copied().unwrap_or_default();
        let length = (u16::try_from(sid.len()).unwrap_or(0) | KEYED).to_be_bytes();
        Self([&address[..], &length, sid, &key, labels].concat().into_boxed_slice())
    }

    /// Returns a copy with other labels, encoded by [`pack_label`].
    pub(crate) fn with_labels(&self, packed: &[u8]) -> Self {
        let SocketTexts { sid, key, .. } = parts(&self.0);
        let address = self.0.first_chunk::<16>().copied().unwrap_or_default();
        let keyed = if key.is_some() { KEYED } else { 0 };
        let length = (u16::try_from(sid.len()).unwrap_or(0) | keyed).to_be_bytes();
        let key = key.unwrap_or_default();
        let key = key.get(..if keyed == 0 { 0 } else { key.len() }).unwrap_or_default();
        Self([&address[..], &length, sid, key, packed].concat().into_boxed_slice())
    }

    /// Key of the session's pin, if it was stored.
    pub(crate) fn key(&self) -> Option<[u8; 16]> {
        parts(&self.0).key
    }

    pub(crate) fn address(&self) -> IpAddr {
        address(&self.0)
    }

    pub(crate) fn sid(&self) -> &[u8] {
        parts(&self.0).sid
    }

    /// Labels in the order of their rules; `None` if the request had no such label.
    pub(crate) fn labels(&self) -> impl Iterator<Item = Option<&str>> {
        labels(&self.0)
    }

    /// All texts in the form that [`address`], [`parts`] and [`labels`] read.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Returns the address in an entry's texts.
pub(crate) fn address(texts: &[u8]) -> IpAddr {
    let octets = texts.first_chunk::<16>().copied().unwrap_or_default();
    IpAddr::V6(Ipv6Addr::from(octets)).to_canonical()
}

/// Returns the labels in an entry's texts, in the order of their rules; `None` if the request had no such label.
pub(crate) fn labels(texts: &[u8]) -> impl Iterator<Item = Option<&str>> {
    let mut rest = parts(texts).labels;
    std::iter::from_fn(move || {
        let (length, text) = rest.split_first()?;
        let text_length = usize::from(*length).saturating_sub(1);
        let (text, behind) = text.split_at_checked(text_length)?;
        rest = behind;
        Some(if *length == 0 { None } else { std::str::from_utf8(text).ok() })
    })
}

/// Parts of an entry's texts after the address.
#[derive(Default)]
pub(crate) struct SocketTexts<'a> {
    pub(crate) sid: &'a [u8],
    key: Option<[u8; 16]>,
    /// Labels, encoded by [`pack_label`].
    labels: &'a [u8],
}

/// Splits an entry's texts into their parts, which are empty if there is no entry.
pub(crate) fn parts(texts: &[u8]) -> SocketTexts<'_> {
    let read = || {
        let (length, rest) = texts.get(16..)?.split_first_chunk::<2>()?;
        let length = u16::from_be_bytes(*length);
        let (sid, rest) = rest.split_at_checked(usize::from(length & !KEYED))?;
        if length & KEYED == 0 {
            return Some(SocketTexts { sid, key: None, labels: rest });
        }
        let (key, labels) = rest.split_first_chunk::<16>()?;
        Some(SocketTexts { sid, key: Some(*key), labels })
    };
    read().unwrap_or_default()
}

/// Appends an encoded label to the others.
pub(crate) fn pack_label(packed: &mut Vec<u8>, value: Option<&str>) {
    let Some(value) = value else { return packed.push(0) };
    let value = value.get(..value.floor_char_boundary(usize::from(u8::MAX) - 1)).unwrap_or_default();
    // Always fits, because the value was cut above.
    packed.push(u8::try_from(value.len() + 1).unwrap_or(1));
    packed.extend_from_slice(value.as_bytes());
}

/// Makes bytes that a client chose fit to be shown: at most `most` bytes, without control characters.
pub(crate) fn printable(bytes: &[u8], most: usize) -> String {
    let plain = bytes.get(..bytes.len().min(most)).unwrap_or_default();
    // Nearly every user agent is plain ASCII and is copied only once.
    if plain.iter().all(|byte| matches!(byte, b' '..=b'~'))
        && let Ok(text) = std::str::from_utf8(plain)
    {
        return text.to_owned();
    }
    let text = String::from_utf8_lossy(bytes.get(..bytes.len().min(most)).unwrap_or_default());
    let text: String = text.chars().map(|c| if is_unprintable(c) { '?' } else { c }).collect();
    text.get(..text.floor_char_boundary(most)).unwrap_or_default().to_owned()
}
