//! Packets of clients as a guard sees them: which may pass before a client is known, and what a CONNECT packet says
//! (docs/reference/protocols.md §1.3).
//!
//! Only protocol 4 is read here, because earlier ones have no payload in CONNECT. Servers differ in what they take for
//! a type: JavaScript's `Number(" ")` is 0, and Python's `int` knows digits of other scripts. So a packet passes only
//! if its first characters are ASCII digits whose meaning is the same everywhere; everything else cannot be read.

use serde_json::{Map, Value};

/// Longest namespace that stickyd answers, in bytes.
pub(crate) const MAX_NAMESPACE: usize = 128;

/// What a packet is, as far as its first characters tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PacketKind {
    /// Engine.IO's own: close, ping, pong, upgrade, noop. The application never gets it.
    Harmless,
    /// Socket.IO's CONNECT, which names a namespace.
    Connect,
    /// Anything else that the application gets.
    Message,
    /// A packet that not every server reads alike.
    Unreadable,
    /// More characters are needed.
    NeedMore,
}

/// Tells what a packet is by its beginning; `is_whole`: nothing follows. Never [`PacketKind::NeedMore`] for three bytes
/// or a whole packet.
pub fn packet_kind(beginning: &[u8], is_whole: bool) -> PacketKind {
    match beginning {
        [] if !is_whole => PacketKind::NeedMore,
        [b'1' | b'2' | b'3' | b'5' | b'6', ..] => PacketKind::Harmless,
        [b'4'] if !is_whole => PacketKind::NeedMore,
        [b'4', b'0', ..] => PacketKind::Connect,
        [b'4', b'1'..=b'6', ..] => PacketKind::Message,
        // Binary data in base64.
        [b'b', ..] => PacketKind::Message,
        _ => PacketKind::Unreadable,
    }
}

/// Splits the body of a POST into its packets (protocol 4).
pub fn packets(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    body.split(|byte| *byte == 0x1e)
}

/// A CONNECT packet that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct ConnectPacket {
    /// The namespace as it is written in answers: empty for `/`.
    pub namespace: String,
    /// What the client sent as `auth`; empty if it sent nothing.
    pub payload: Map<String, Value>,
}

impl ConnectPacket {
    /// Reads a whole packet `40…`; `None` if not every server reads it as the same CONNECT packet.
    pub fn read(packet: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(packet).ok()?.strip_prefix("40")?;
        let (namespace, rest) = split_namespace(text)?;
        let payload = match rest {
            "" => Map::new(),
            json => serde_json::from_str(json).ok()?,
        };
        Some(Self { namespace: namespace.to_owned(), payload })
    }

    /// Returns a text in the payload.
    pub fn text(&self, field: &str) -> Option<&str> {
        self.payload.get(field)?.as_str().filter(|text| !text.is_empty())
    }
}

/// Returns the namespace of a CONNECT packet of any protocol, as it is written in answers; `None` if the packet is no
/// CONNECT packet.
pub(crate) fn connected_namespace(packet: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(packet).ok()?.strip_prefix("40")?;
    let (namespace, _) = split_namespace(text)?;
    // In protocol 3 the query of the namespace follows it.
    Some(namespace.split('?').next().unwrap_or_default().to_owned())
}

/// Returns the namespace that a DISCONNECT packet of a worker ends, as it is written in answers.
pub(crate) fn disconnected_namespace(packet: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(packet).ok()?.strip_prefix("41")?;
    let (namespace, _) = split_namespace(text)?;
    Some(namespace.to_owned())
}

/// Splits `/chat,{…}` into its namespace and the rest.
fn split_namespace(text: &str) -> Option<(&str, &str)> {
    if !text.starts_with('/') {
        return Some(("", text));
    }
    let (namespace, rest) = text.split_once(',').unwrap_or((text, ""));
    let fits = namespace.len() <= MAX_NAMESPACE && !namespace.chars().any(char::is_control);
    fits.then_some((if namespace == "/" { "" } else { namespace }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_follow_from_the_first_characters() {
        for (packet, kind) in [
            (&b"2"[..], PacketKind::Harmless),
            (b"2probe", PacketKind::Harmless),
            (b"3", PacketKind::Harmless),
            (b"5", PacketKind::Harmless),
            (b"6", PacketKind::Harmless),
            (b"1", PacketKind::Harmless),
            (b"40", PacketKind::Connect),
            (b"40{\"token\":\"x\"}", PacketKind::Connect),
            (b"40/chat,", PacketKind::Connect),
            (b"41", PacketKind::Message),
            (b"42[\"a\"]", PacketKind::Message),
            (b"451-[\"a\"]", PacketKind::Message),
            (b"bAQID", PacketKind::Message),
            // JavaScript reads these as CONNECT: Number("") and Number(" ") are 0.
            (b"4", PacketKind::Unreadable),
            (b"4 /admin,", PacketKind::Unreadable),
            (b"4\t", PacketKind::Unreadable),
            (b"4\xc2\xa0{}", PacketKind::Unreadable),
            // Python reads digits of other scripts.
            ("٤٠{}".as_bytes(), PacketKind::Unreadable),
            ("4٠{}".as_bytes(), PacketKind::Unreadable),
            (b"", PacketKind::Unreadable),
            (b"0{}", PacketKind::Unreadable),
            (b"7", PacketKind::Unreadable),
        ] {
            assert_eq!(packet_kind(packet, true), kind, "{}", String::from_utf8_lossy(packet));
        }
        assert_eq!(packet_kind(b"", false), PacketKind::NeedMore);
        assert_eq!(packet_kind(b"4", false), PacketKind::NeedMore);
    }

    #[test]
    fn connect_packets_are_read() {
        let read = |packet: &str| {
            let found = ConnectPacket::read(packet.as_bytes())?;
            Some((found.namespace.clone(), found.text("token").map(str::to_owned)))
        };
        assert_eq!(read("40"), Some((String::new(), None)));
        assert_eq!(read("40{\"token\":\"t\"}"), Some((String::new(), Some("t".to_owned()))));
        assert_eq!(read("40/chat,{\"token\":\"t\"}"), Some(("/chat".to_owned(), Some("t".to_owned()))));
        assert_eq!(read("40/chat"), Some(("/chat".to_owned(), None)));
        assert_eq!(read("40/,{\"token\":\"t\"}"), Some((String::new(), Some("t".to_owned()))));
        assert_eq!(read("40{\"token\":7}"), Some((String::new(), None)));
        for wrong in ["40[]", "401{}", "40{", "40{}{}", "42", "40/a\u{1}b,", "40\"x\""] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(connected_namespace(b"40/chat?token=a,"), Some("/chat".to_owned()));
        assert_eq!(disconnected_namespace(b"41/chat,"), Some("/chat".to_owned()));
        assert_eq!((disconnected_namespace(b"41"), disconnected_namespace(b"42[]")), (Some(String::new()), None));
    }
}
