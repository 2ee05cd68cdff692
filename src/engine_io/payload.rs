//! Whether a body has the form of a worker's answer to a session's request (docs/reference/protocols.md §1.1, §1.3).
//!
//! Only such an answer shows that a session with an unknown sid exists: an ordinary page answers any query. The first
//! packet is enough. A body that merely looks like one is possible, so the head of the answer is checked as well
//! (`rules::proof`). Left out: handshakes, which no request with a sid gets.

/// Number of bytes of a body that show whether it is a payload.
pub(crate) const MAX_PROOF: usize = 32;

/// Whether a body begins like the answer to a poll. `body` is its beginning, and at least [`MAX_PROOF`] bytes unless it
/// is shorter.
pub(crate) fn is_payload(body: &[u8]) -> bool {
    match body {
        // JSONP: ___eio[0]("…").
        [b'_', ..] => body.strip_prefix(b"___eio[").is_some_and(|rest| {
            let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
            rest.get(digits..).is_some_and(|rest| rest.starts_with(b"](\""))
        }),
        // EIO3, binary: \x00 or \x01, one byte per digit of the length, \xff, the packet.
        [0 | 1, rest @ ..] => {
            let digits = rest.iter().take(10).take_while(|&&b| b <= 9).count();
            match rest.get(digits..) {
                Some([0xff, kind, ..]) if digits > 0 => matches!(kind, 0..=6 | b'0'..=b'6'),
                _ => false,
            }
        }
        _ => is_packet(first_packet(body)) || after_length(body).is_some_and(is_packet),
    }
}

/// Whether a body is the answer to a POST that a worker has taken: `ok`, in python-engineio `OK`.
pub(crate) fn is_post_taken(body: &[u8]) -> bool {
    body.eq_ignore_ascii_case(b"ok")
}

/// The first packet of an EIO4 payload.
fn first_packet(body: &[u8]) -> &[u8] {
    body.split(|&b| b == 0x1e).next().unwrap_or_default()
}

/// What follows the length of an EIO3 packet, `<length>:<packet>`, up to the packet's end.
fn after_length(body: &[u8]) -> Option<&[u8]> {
    let digits = body.iter().take(9).take_while(|b| b.is_ascii_digit()).count();
    let (length, rest) = body.split_at_checked(digits)?;
    let length: usize = std::str::from_utf8(length).ok()?.parse().ok()?;
    let packet = rest.strip_prefix(b":")?;
    // The length counts UTF-16 units; a packet whose end it tells in bytes has only ASCII.
    Some(packet.get(..length).unwrap_or(packet))
}

fn is_packet(packet: &[u8]) -> bool {
    match packet {
        // close, ping, pong, noop; a ping may carry text.
        [b'1' | b'2' | b'3' | b'6'] | [b'2' | b'3', b'p', b'r', b'o', b'b', b'e'] => true,
        [b'4', message @ ..] => is_message(message),
        // Binary: base64, which hardly ever looks like a word.
        [b'b', data @ ..] => {
            let is_base64 = |b: &u8| b.is_ascii_alphanumeric() || b"+/=".contains(b);
            data.len() >= 4 && data.iter().all(is_base64) && !data.iter().all(u8::is_ascii_lowercase)
        }
        _ => false,
    }
}

/// Whether the text of a message is Socket.IO's, or begins like no number: `404 Not Found` is not a message.
fn is_message(message: &[u8]) -> bool {
    match message {
        [b'0' | b'1' | b'4'] => true,
        [b'0', next, ..] => b"{/,".contains(next),
        [b'1', next, ..] => b"/,".contains(next),
        [b'2' | b'3', next, ..] => b"[/".contains(next) || next.is_ascii_digit(),
        [b'4', next, ..] => b"{\"/".contains(next),
        [b'5' | b'6', next, ..] => next.is_ascii_digit(),
        [first, ..] => !first.is_ascii_digit() && !first.is_ascii_whitespace(),
        [] => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_real_servers_are_payloads() {
        // Captured: docs/reference/protocols.md §1.1 and §1.3.
        for body in [
            &b"2"[..],
            b"6",
            b"1",
            b"40{\"sid\":\"HIU4\"}",
            b"40",
            b"42[\"n\",7,\"w1\"]",
            b"2\x1e42[\"n\",7]",
            b"42/chat,[\"n\"]",
            b"430[\"x\"]",
            b"44{\"message\":\"no\"}",
            b"451-[\"bin\",{\"_placeholder\":true,\"num\":0}]\x1ebAQL/",
            b"bAQL/",
            b"4hello",
            b"1:3",
            b"1:6",
            b"2:40",
            b"17:42[\"echo\",\"hi \xc3\xa9\"]",
            b"6:b4AQL/",
            b"\x00\x04\x01\xff451-[",
            b"\x01\x05\xff\x04\x01\x02\x03\xff",
            b"___eio[0](\"1:6\");",
        ] {
            assert!(is_payload(body), "{}", String::from_utf8_lossy(body));
        }
        assert!(is_post_taken(b"ok") && is_post_taken(b"OK"));
    }

    #[test]
    fn pages_are_not_payloads() {
        for body in [
            &b""[..],
            b"ok",
            b"hello",
            b"<!doctype html>",
            b"{\"a\":1}",
            b"[1,2]",
            b"404 page not found",
            b"42 items",
            b"400",
            b"2026-11-28",
            b"10",
            b"12:30",
            b"3.14",
            b"body",
            b"b",
            b"_",
            b"___eio",
            b"\x00",
            b"\x01\xff4",
        ] {
            assert!(!is_payload(body), "{}", String::from_utf8_lossy(body));
        }
        assert!(!is_post_taken(b"ok, thanks") && !is_post_taken(b""));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_have_a_result(body: Vec<u8>) {
            let _ = (is_payload(&body), is_post_taken(&body));
        }
    }
}
