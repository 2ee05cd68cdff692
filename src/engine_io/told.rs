//! Texts with which stickyd itself refuses a Socket.IO client in its own protocol: an open packet, the error, the end
//! (docs/reference/protocols.md §1.3).

use super::PollFormat;

/// Separates packets in a body of protocol 4.
const SEPARATOR: &str = "\u{1e}";

/// The open packet of a session that is refused; the client sends its CONNECT after it.
pub(crate) fn open_text(sid: &str) -> String {
    format!(r#"0{{"sid":"{sid}","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}}"#)
}

/// The packets that refuse a namespace (empty for `/`): `connect_error` in protocol 4, `error` and `disconnect` in
/// protocol 3. `message` and `code` are words of stickyd's own.
pub(crate) fn refusal_packets(is_v3: bool, namespace: &str, message: &str, code: &str) -> Vec<String> {
    let place = if namespace.is_empty() { String::new() } else { format!("{namespace},") };
    if is_v3 {
        return vec![format!(r#"44{place}"{message}""#), format!("41{namespace}")];
    }
    vec![format!(r#"44{place}{{"message":"{message}","data":{{"code":"{code}"}}}}"#)]
}

impl PollFormat {
    /// Writes packets as the body of an answer to a poll; `None` for a script, which pages cannot be told anything by.
    pub(crate) fn body(self, packets: &[String]) -> Option<String> {
        match self {
            Self::Plain => Some(packets.join(SEPARATOR)),
            // The length counts UTF-16 units.
            Self::Counted => Some(packets.iter().map(|one| format!("{}:{one}", one.encode_utf16().count())).collect()),
            Self::Other => None,
        }
    }
}

impl PollFormat {
    /// Adds packets to the body of an answer to a poll, which must not be empty; `None` for a script.
    pub(crate) fn with_more(self, body: &[u8], packets: &[String]) -> Option<Vec<u8>> {
        let more = self.body(packets)?;
        let between = if self == Self::Plain { SEPARATOR } else { "" };
        Some([body, between.as_bytes(), more.as_bytes()].concat())
    }
}

/// Splits the body of a POST into its packets, in the format of its protocol. What is malformed ends the list.
pub(crate) fn posted_packets(format: PollFormat, body: &[u8]) -> Vec<&[u8]> {
    match format {
        PollFormat::Plain => super::packets(body).collect(),
        PollFormat::Counted => {
            let mut rest = body;
            std::iter::from_fn(|| {
                let (packet, behind) = super::take_text_packet(rest)?;
                rest = behind;
                Some(packet)
            })
            .take(64)
            .collect()
        }
        PollFormat::Other => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_written_in_each_protocol() {
        let of = |v3, namespace| refusal_packets(v3, namespace, "token expired", "token_expired");
        let root = r#"44{"message":"token expired","data":{"code":"token_expired"}}"#;
        let chat = r#"44/chat,{"message":"token expired","data":{"code":"token_expired"}}"#;
        assert_eq!(of(false, ""), [root]);
        assert_eq!(of(false, "/chat"), [chat]);
        assert_eq!(of(true, ""), [r#"44"token expired""#, "41"]);
        assert_eq!(of(true, "/chat"), [r#"44/chat,"token expired""#, "41/chat"]);
        assert_eq!(PollFormat::Plain.body(&of(false, "")).unwrap(), root);
        assert_eq!(PollFormat::Counted.body(&of(true, "")).unwrap(), r#"17:44"token expired"2:41"#);
        assert_eq!(PollFormat::Other.body(&of(true, "")), None);
    }

    #[test]
    fn packets_are_added_to_an_answer() {
        let more = ["42[\"ä\"]".to_owned()];
        assert_eq!(PollFormat::Plain.with_more(b"40", &more).unwrap(), "40\u{1e}42[\"ä\"]".as_bytes());
        assert_eq!(PollFormat::Counted.with_more(b"2:40", &more).unwrap(), "2:407:42[\"ä\"]".as_bytes());
        assert_eq!(PollFormat::Other.with_more(b"x", &more), None);
    }

    #[test]
    fn posted_packets_are_split() {
        assert_eq!(posted_packets(PollFormat::Plain, b"40\x1e40/a,"), [&b"40"[..], b"40/a,"]);
        assert_eq!(posted_packets(PollFormat::Counted, b"2:407:40/chat"), [&b"40"[..], b"40/chat"]);
        assert!(posted_packets(PollFormat::Counted, b"junk").is_empty());
    }
}
