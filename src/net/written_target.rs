//! Request targets with characters that no URI has (RFC 3986 §2) but that have one meaning: `"`, `<`, `>`, `` ` ``, and
//! bytes above ASCII that are not UTF-8. Browsers, scripts and old forms send them, and nginx and HAProxy pass them on.
//!
//! The crate http rejects some of them. A request line or a `:path` that has any is therefore shown to hyper or h2 in
//! percent-encoded form, which is what routes, guards, rules and logs see; the worker gets the target as the client
//! wrote it. Both name the same resource, and [`WrittenTarget::is_of`] checks that they do. Control characters and
//! spaces are not touched: hyper rejects them.

use std::borrow::Cow;
use std::fmt::Write;

use bytes::Bytes;

/// A target as the client wrote it, for the worker; its percent-encoded form is the URI of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WrittenTarget(Bytes);

/// A request line for hyper, and the target that it had.
pub(crate) struct EncodedLine {
    /// The line with its target percent-encoded.
    pub(crate) line: Vec<u8>,
    /// The target as it was, if it is a path.
    pub(crate) written: Option<WrittenTarget>,
}

/// A target in percent-encoded form, and as it was.
pub(crate) struct EncodedTarget {
    /// The target in percent-encoded form.
    pub(crate) encoded: String,
    /// The target as it was, if it is a path.
    pub(crate) written: Option<WrittenTarget>,
}

/// Encodes the target of a request line, if it needs that.
pub(crate) fn encode_line(line: &[u8]) -> Option<EncodedLine> {
    // Nearly every line stops here; the loop has no branches, so that it takes some nanoseconds.
    if !line.iter().fold(false, |odd, byte| odd | is_odd(*byte)) {
        return None;
    }
    let start = line.iter().position(|byte| *byte == b' ')? + 1;
    let target = line.get(start..)?.split(|byte| *byte == b' ').next()?;
    let EncodedTarget { encoded, written } = encode_target(target)?;
    let (before, after) = (line.get(..start)?, line.get(start + target.len()..)?);
    Some(EncodedLine { line: [before, encoded.as_bytes(), after].concat(), written })
}

/// Encodes a target, if it needs that.
pub(crate) fn encode_target(target: &[u8]) -> Option<EncodedTarget> {
    if !target.iter().fold(false, |odd, byte| odd | is_odd(*byte)) {
        return None;
    }
    let Cow::Owned(encoded) = encoded(target) else { return None };
    // The fragment is not part of the target; the crate http drops it as well.
    let path = target.split(|byte| *byte == b'#').next()?;
    let written = target.starts_with(b"/").then(|| WrittenTarget(Bytes::copy_from_slice(path)));
    Some(EncodedTarget { encoded, written })
}

impl WrittenTarget {
    /// Whether this is what the client wrote for `target`.
    pub(crate) fn is_of(&self, target: &str) -> bool {
        matches!(encoded(&self.0), Cow::Owned(encoded) if encoded == target)
    }

    /// Returns the target as the client wrote it.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

fn is_odd(byte: u8) -> bool {
    byte >= 0x80 || matches!(byte, b'"' | b'<' | b'>' | b'`')
}

/// Percent-encodes the odd characters of a target; bytes above ASCII stay where all of them are UTF-8.
fn encoded(target: &[u8]) -> Cow<'_, str> {
    let text = std::str::from_utf8(target);
    let stays = |byte: u8| !is_odd(byte) || (byte >= 0x80 && text.is_ok());
    if let Ok(text) = text
        && target.iter().all(|byte| stays(*byte))
    {
        return Cow::Borrowed(text);
    }
    let mut encoded = String::with_capacity(target.len() + 16);
    match text {
        Ok(text) => text.chars().for_each(|letter| match u8::try_from(letter) {
            Ok(byte) if byte < 0x80 && is_odd(byte) => push(byte, &mut encoded),
            _ => encoded.push(letter),
        }),
        Err(_) => target.iter().for_each(|byte| match is_odd(*byte) {
            true => push(*byte, &mut encoded),
            false => encoded.push(char::from(*byte)),
        }),
    }
    Cow::Owned(encoded)
}

fn push(byte: u8, encoded: &mut String) {
    // Writing to a String does not fail.
    let _ = write!(encoded, "%{byte:02X}");
}

#[cfg(test)]
mod tests {
    use hyper::Uri;
    use proptest::prelude::*;

    use super::*;

    fn line_of(target: &[u8]) -> Vec<u8> {
        [b"GET ", target, b" HTTP/1.1\r\n"].concat()
    }

    #[test]
    fn odd_characters_are_encoded_and_kept_as_written() {
        for (target, uri) in [
            (&b"/?filter={\"a\":1}"[..], "/?filter={%22a%22:1}"),
            (b"/?q=<x>", "/?q=%3Cx%3E"),
            (b"/<`>", "/%3C%60%3E"),
            (b"/caf\xe9", "/caf%E9"),
            ("/café?\"".as_bytes(), "/café?%22"),
        ] {
            let EncodedLine { line, written } = encode_line(&line_of(target)).unwrap();
            assert_eq!(line, line_of(uri.as_bytes()));
            assert!(written.as_ref().unwrap().is_of(uri) && !written.unwrap().is_of("/other"));
            assert!(uri.parse::<Uri>().is_ok(), "{uri}");
        }
        let fragment = encode_line(&line_of(b"/\"#/../b")).unwrap().written.unwrap();
        assert_eq!(fragment.as_bytes(), b"/\"", "a fragment is dropped");
        assert_eq!(encode_line(&line_of(b"http://a/\"")).unwrap().written, None, "only paths are sent as written");
    }

    #[test]
    fn other_lines_are_left_alone() {
        for line in ["GET /a?b={c}|^\\ HTTP/1.1\r\n", "GET /café HTTP/1.1\r\n", "\"\r\n", "GET / HTTP/\"1.1\r\n", ""] {
            assert!(encode_line(line.as_bytes()).is_none(), "{line}");
        }
    }

    proptest! {
        /// Whatever http accepts as it is, or encoded, names the same bytes.
        #[test]
        fn an_encoded_target_decodes_to_what_was_written(target in proptest::collection::vec(0x21..=0xff_u8, 0..20)) {
            prop_assume!(!target.contains(&b'%') && !target.contains(&b'#'));
            let target = [b"/", target.as_slice()].concat();
            if let Some(EncodedLine { line, written }) = encode_line(&line_of(&target)) {
                let encoded = &line[4..line.len() - 11];
                let decoded: Vec<u8> = percent_encoding::percent_decode(encoded).collect();
                prop_assert_eq!(&decoded, &target);
                prop_assert!(written.unwrap().is_of(std::str::from_utf8(encoded).unwrap()));
            }
        }
    }
}
