//! Socket.IO's own ids: `40{"sid":"…"}`, of a namespace `40/chat,{"sid":"…"}`, in packets a worker sends. Only upstreams
//! that `follow` look at them. Version 2 has none: there a socket is named as its Engine.IO session.

use serde::Deserialize;

use super::MAX_SID;

/// Ids looked at in one answer at most: namespaces a client connects to at once.
const MOST: usize = 16;

#[derive(Deserialize)]
struct Connected {
    sid: String,
}

/// The id in one packet.
pub fn socket_id(packet: &[u8]) -> Option<String> {
    let rest = packet.strip_prefix(b"40")?;
    let json = match rest.first()? {
        b'{' => rest,
        // No namespace has a comma before its end.
        b'/' => rest.get(rest.iter().position(|b| *b == b',')? + 1..)?,
        _ => return None,
    };
    let Connected { sid } = serde_json::Deserializer::from_slice(json).into_iter().next()?.ok()?;
    (1..=MAX_SID).contains(&sid.len()).then_some(sid)
}

/// The ids in the body of a poll: packets joined by `\x1e` (EIO4). EIO3 counts its packets, and its clients are
/// of version 2; those of version 3 may be served by EIO3, too, so a leading count is skipped.
pub fn socket_ids(body: &[u8]) -> impl Iterator<Item = String> {
    body.split(|b| *b == 0x1e).filter_map(|packet| socket_id(skip_count(packet))).take(MOST)
}

/// Whether a body not yet whole may hold an id: it begins with a packet of the kind.
pub fn may_name_sockets(body: &[u8]) -> bool {
    skip_count(body).starts_with(b"40")
}

fn skip_count(packet: &[u8]) -> &[u8] {
    let digits = packet.iter().take_while(|b| b.is_ascii_digit()).count();
    packet.get(digits..).and_then(|rest| rest.strip_prefix(b":")).unwrap_or(packet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_sockets() {
        let ids = |body: &[u8]| socket_ids(body).collect::<Vec<_>>();
        assert_eq!(ids(br#"40{"sid":"HIU4","pid":"x"}"#), ["HIU4"]);
        assert_eq!(ids(b"40{\"sid\":\"a\"}\x1e2\x1e40/chat,{\"sid\":\"b\"}\x1e42[\"x\"]"), ["a", "b"]);
        assert_eq!(ids(br#"14:40{"sid":"a"}"#), ["a"]);
        for none in [&b""[..], b"2", b"40", b"40{", b"41", br#"42{"sid":"a"}"#, br#"40{"sid":""}"#, b"40/chat", b"40x{"]
        {
            assert_eq!(ids(none), [""; 0], "{none:?}");
        }
        assert!(
            may_name_sockets(b"40{")
                && may_name_sockets(b"9:40")
                && !may_name_sockets(b"42[")
                && !may_name_sockets(b"")
        );
    }
}
