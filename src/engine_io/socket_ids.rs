//! Socket.IO's own socket ids: `40{"sid":"…"}`, or `40/chat,{"sid":"…"}` in a namespace, in packets that a worker
//! sends. Only upstreams with `follow` read them. Version 2 has no such ids: a socket there is named as its Engine.IO
//! session.

use serde::Deserialize;

use super::MAX_SID;

/// Maximum number of ids read from one response, which is the number of namespaces a client connects to at once.
const MOST: usize = 16;

#[derive(Deserialize)]
struct ConnectAnswer {
    sid: String,
}

/// Returns the socket id in one packet.
pub(crate) fn socket_id(packet: &[u8]) -> Option<String> {
    let rest = packet.strip_prefix(b"40")?;
    let json = match rest.first()? {
        b'{' => rest,
        // The name of a namespace contains no comma.
        b'/' => rest.get(rest.iter().position(|b| *b == b',')? + 1..)?,
        _ => return None,
    };
    let ConnectAnswer { sid } = serde_json::Deserializer::from_slice(json).into_iter().next()?.ok()?;
    (1..=MAX_SID).contains(&sid.len()).then_some(sid)
}

/// Returns the socket ids in the body of a poll: packets joined by `\x1e` (EIO4). EIO3 prefixes packets with a length.
/// Its clients are of version 2, but clients of version 3 may also be served over EIO3, so a leading length is skipped.
pub(crate) fn socket_ids(body: &[u8]) -> impl Iterator<Item = String> {
    body.split(|b| *b == 0x1e).filter_map(|packet| socket_id(skip_count(packet))).take(MOST)
}

/// Whether an incomplete body may contain a socket id, because it begins with a connect packet.
pub(crate) fn may_name_sockets(body: &[u8]) -> bool {
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
    fn socket_ids_are_read_from_packets() {
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
