//! A queued message as the Redis keeps it, and as its client gets it. Pure.
//!
//! Before the sealed part stands the time at which the message expires, so that old messages can be found without
//! opening them. The name of the list and that time are part of the seal: no message can be moved to another user, or
//! made to last longer.

use serde_json::{Value, json};

use crate::fleet::Fleet;
use crate::sockets::SocketKind;

/// Version of the layout; a message of another version counts as forged.
const VERSION: u8 = 1;

/// A message for one user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QueuedMessage {
    /// Name by which receivers tell a message from its copies.
    pub(crate) id: String,
    /// Name and value of the label that says who the user is.
    pub(crate) label: (String, String),
    /// When it was stored, by the clock of the Redis, in milliseconds since 1970.
    pub(crate) stored_ms: i64,
    pub(crate) content: MessageContent,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MessageContent {
    /// An event for Socket.IO clients.
    Event {
        /// Namespace; empty for `/`.
        namespace: String,
        /// The name and the arguments as a JSON array.
        array: String,
    },
    /// A text for plain WebSockets.
    Text(String),
    /// An event that plain WebSockets get, too: as this text, or else as an object with its name and arguments.
    Both { namespace: String, array: String, text: Option<String> },
}

impl MessageContent {
    /// The namespace (empty for `/`) that has to be connected at a socket of this kind; `None` if the message is not
    /// for this kind, empty text for plain WebSockets.
    pub(crate) fn needs(&self, kind: SocketKind) -> Option<&str> {
        match (self, kind) {
            (Self::Text(_) | Self::Both { .. }, SocketKind::Plain) => Some(""),
            (Self::Event { namespace, .. } | Self::Both { namespace, .. }, SocketKind::EngineIo) => Some(namespace),
            _ => None,
        }
    }

    /// Size of the text, or of the event with its arguments, in bytes.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Event { array, .. } => array.len(),
            Self::Both { array, text, .. } => array.len().max(text.as_ref().map_or(0, String::len)),
        }
    }
}

impl QueuedMessage {
    /// The packet or the text that a client gets. An event has the id as its last argument, the object of a plain
    /// WebSocket has it as `id`; a text is sent as it was given.
    pub(crate) fn packet(&self, kind: SocketKind) -> String {
        match &self.content {
            MessageContent::Text(text) => text.clone(),
            MessageContent::Both { text: Some(text), .. } if kind == SocketKind::Plain => text.clone(),
            MessageContent::Both { array, .. } if kind == SocketKind::Plain => {
                let mut all = serde_json::from_str::<Vec<Value>>(array).unwrap_or_default().into_iter();
                let event = all.next();
                json!({ "args": all.collect::<Vec<_>>(), "event": event, "id": self.id }).to_string()
            }
            MessageContent::Event { namespace, array } | MessageContent::Both { namespace, array, .. } => {
                let place = if namespace.is_empty() { String::new() } else { format!("{namespace},") };
                // Ids have no character that JSON escapes.
                format!("42{place}{},\"{}\"]", array.strip_suffix(']').unwrap_or(array), self.id)
            }
        }
    }

    fn encode(&self) -> Vec<u8> {
        let (kind, namespace, body, text) = match &self.content {
            MessageContent::Event { namespace, array } => (0, namespace.as_str(), array.as_str(), None),
            MessageContent::Text(text) => (1, "", text.as_str(), None),
            MessageContent::Both { namespace, array, text: None } => (2, namespace.as_str(), array.as_str(), None),
            MessageContent::Both { namespace, array, text } => (3, namespace.as_str(), array.as_str(), text.as_deref()),
        };
        let mut plain = vec![VERSION, kind];
        plain.extend(self.stored_ms.to_be_bytes());
        for text in [&self.id, &self.label.0, &self.label.1, namespace, body] {
            put(&mut plain, text);
        }
        text.into_iter().for_each(|text| put(&mut plain, text));
        plain
    }

    fn decode(plain: &[u8]) -> Option<Self> {
        let [VERSION, kind, rest @ ..] = plain else { return None };
        let (stored, mut rest) = rest.split_first_chunk()?;
        let mut next = || take(&mut rest);
        let (id, name, value, namespace, body) = (next()?, next()?, next()?, next()?, next()?);
        let content = match kind {
            0 => MessageContent::Event { namespace, array: body },
            1 => MessageContent::Text(body),
            2 => MessageContent::Both { namespace, array: body, text: None },
            3 => MessageContent::Both { namespace, array: body, text: Some(next()?) },
            _ => return None,
        };
        Some(Self { id, label: (name, value), stored_ms: i64::from_be_bytes(*stored), content })
    }
}

/// Appends the length of a text, in groups of seven bits with the lowest first, and the text.
fn put(plain: &mut Vec<u8>, text: &str) {
    let mut length = text.len();
    while length > 0x7f {
        plain.push(0x80 | u8::try_from(length & 0x7f).unwrap_or(0));
        length >>= 7;
    }
    plain.push(u8::try_from(length).unwrap_or(0));
    plain.extend_from_slice(text.as_bytes());
}

fn take(rest: &mut &[u8]) -> Option<String> {
    let mut length = 0_usize;
    for shift in (0..28).step_by(7) {
        let (byte, behind) = rest.split_first()?;
        *rest = behind;
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            let (text, behind) = rest.split_at_checked(length)?;
            *rest = behind;
            return String::from_utf8(text.to_vec()).ok();
        }
    }
    None
}

/// Seals a message for the list with this name; `None` only if the library fails.
pub(crate) fn seal(fleet: &Fleet, list: &str, message: &QueuedMessage, expires_ms: i64) -> Option<Vec<u8>> {
    let sealed = fleet.seal(&bound(list, expires_ms), &message.encode())?;
    Some([&expires_ms.to_be_bytes()[..], &sealed].concat())
}

/// Opens a message of the list with this name; `None` if it is not the fleet's own.
pub(crate) fn open(fleet: &Fleet, list: &str, raw: &[u8]) -> Option<QueuedMessage> {
    let (expires, sealed) = raw.split_first_chunk()?;
    QueuedMessage::decode(&fleet.open(&bound(list, i64::from_be_bytes(*expires)), sealed)?)
}

/// When a message expires, in milliseconds since 1970.
pub(crate) fn expires_ms(raw: &[u8]) -> Option<i64> {
    raw.first_chunk().map(|expires| i64::from_be_bytes(*expires))
}

fn bound(list: &str, expires_ms: i64) -> String {
    format!("{list} {expires_ms}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(namespace: &str, array: &str) -> QueuedMessage {
        let content = MessageContent::Event { namespace: namespace.to_owned(), array: array.to_owned() };
        QueuedMessage { id: "id7".to_owned(), label: ("user".to_owned(), "7".to_owned()), stored_ms: 5, content }
    }

    #[test]
    fn the_id_is_the_last_argument_of_an_event() {
        let io = SocketKind::EngineIo;
        assert_eq!(event("", r#"["order",1]"#).packet(io), r#"42["order",1,"id7"]"#);
        assert_eq!(event("/chat", r#"["order"]"#).packet(io), r#"42/chat,["order","id7"]"#);
        let text = MessageContent::Text("hello".to_owned());
        assert_eq!(QueuedMessage { content: text, ..event("", "") }.packet(SocketKind::Plain), "hello");
    }

    #[test]
    fn a_message_for_both_kinds_suits_the_socket_that_comes() {
        let both = |text: Option<&str>| {
            let (namespace, array) = ("/chat".to_owned(), r#"["order",{"n":1}]"#.to_owned());
            let content = MessageContent::Both { namespace, array, text: text.map(str::to_owned) };
            QueuedMessage { content, ..event("", "") }
        };
        assert_eq!(both(Some("hello")).packet(SocketKind::Plain), "hello");
        assert_eq!(both(Some("hello")).packet(SocketKind::EngineIo), r#"42/chat,["order",{"n":1},"id7"]"#);
        assert_eq!(both(None).packet(SocketKind::Plain), r#"{"args":[{"n":1}],"event":"order","id":"id7"}"#);
        assert_eq!(both(None).content.needs(SocketKind::EngineIo), Some("/chat"));
        assert_eq!(both(None).content.needs(SocketKind::Plain), Some(""));
        assert_eq!(event("", "").content.needs(SocketKind::Plain), None);
    }

    proptest! {
        #[test]
        fn messages_come_back_as_they_were(
            id in "[a-z0-9]{1,64}", label in "[a-z]{1,32}", value in ".{0,300}", namespace in "(/[a-z]{1,20})?",
            body in ".{0,40000}", text in ".{0,300}", stored_ms: i64, kind in 0..4, cut in 0..200_usize,
        ) {
            let content = match kind {
                0 => MessageContent::Text(body),
                1 => MessageContent::Event { namespace, array: body },
                2 => MessageContent::Both { namespace, array: body, text: None },
                _ => MessageContent::Both { namespace, array: body, text: Some(text) },
            };
            let message = QueuedMessage { id, label: (label, value), stored_ms, content };
            let plain = message.encode();
            let decoded = QueuedMessage::decode(&plain);
            prop_assert_eq!(decoded.as_ref(), Some(&message));
            let cut = cut.min(plain.len() - 1);
            let decoded = QueuedMessage::decode(&plain[..cut]);
            prop_assert_ne!(decoded.as_ref(), Some(&message));
        }

        #[test]
        fn no_bytes_cause_a_panic(plain in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = QueuedMessage::decode(&plain);
        }
    }
}
