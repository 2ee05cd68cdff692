//! Which fields a request over HTTP/2 may have, and in which order (RFC 9113 §8.2, §8.3).
//!
//! The h2 crate checks these rules, too, but ends the connection for most of them. What it answers with a reset of the
//! stream is left to it: a pseudo-header that is missing, empty or no part of a URI, and a wrong content-length. A
//! `:path` with characters that no URI has, but that HTTP/1 clients may send, is percent-encoded
//! (`net::written_target`).

use crate::hpack::{FIELD_OVERHEAD, Field, write_literal};
use crate::net::written_target::{EncodedTarget, WrittenTarget, encode_target};

/// What a field is, judged by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FieldClass {
    Regular,
    /// A pseudo-header of requests; the number is a bit of its own.
    Pseudo(u8),
    /// A field that makes its request malformed, with the reason.
    Malformed(&'static str),
}

/// The bit of `:path`.
const PATH: u8 = 8;

/// The bits of `:method`, `:scheme` and `:path`.
const TARGET: u8 = 1 | 2 | PATH;

/// Judges a field by itself.
pub(super) fn classify(name: &[u8], value: &[u8]) -> FieldClass {
    use FieldClass::{Malformed, Pseudo, Regular};
    let Some(pseudo) = name.strip_prefix(b":") else {
        return regular(name, value).map_or(Regular, Malformed);
    };
    let (bit, is_valid) = match pseudo {
        b"method" => (1, is_token(value)),
        b"scheme" => (2, is_scheme(value)),
        b"authority" => (4, value.iter().all(u8::is_ascii_graphic)),
        b"path" => (PATH, is_path(value)),
        b"protocol" => (16, is_token(value)),
        _ => return Malformed("a pseudo-header field that requests do not have"),
    };
    if is_valid { Pseudo(bit) } else { Malformed("an invalid character in a pseudo-header field") }
}

/// Returns what is wrong with a regular field.
fn regular(name: &[u8], value: &[u8]) -> Option<&'static str> {
    if !is_token(name) || name.iter().any(u8::is_ascii_uppercase) {
        // RFC 9113 §8.2.1; the rest of the grammar is RFC 9110 §5.1.
        return Some("a field name is not a token in lower case");
    }
    if !value.iter().all(|byte| matches!(byte, b'\t' | 0x20..=0x7e | 0x80..)) {
        // RFC 9113 §8.2.1 and RFC 9110 §5.5, which allows bytes from 0x80 on.
        return Some("a control character in a field value");
    }
    // White space around a value passes, although RFC 9113 §8.2.1 calls it malformed: some clients send it, and it
    // means nothing to HTTP/1 (RFC 9110 §5.5).
    match name {
        // RFC 9113 §8.2.2.
        b"connection" | b"proxy-connection" | b"keep-alive" | b"transfer-encoding" | b"upgrade" => {
            Some("a field that belongs to a connection of HTTP/1")
        }
        b"te" if value != b"trailers" => Some("te other than trailers"),
        _ => None,
    }
}

fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// The scheme of a URI (RFC 3986 §3.1).
fn is_scheme(text: &[u8]) -> bool {
    text.first().is_some_and(u8::is_ascii_alphabetic)
        && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte))
}

/// Bytes from 0x80 on are passed on as they are, if the whole is UTF-8: the http crate holds no others.
fn is_path(text: &[u8]) -> bool {
    text.iter().all(|byte| *byte > b' ' && *byte != 0x7f) && (text.is_ascii() || std::str::from_utf8(text).is_ok())
}

/// What kind of block a list of fields is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BlockKind {
    Head,
    Trailers,
}

/// How a list of fields is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    Clean,
    /// The list is larger than the limit.
    TooLarge,
    Malformed(&'static str),
}

/// The fields of one block so far.
pub(super) struct FieldList {
    kind: BlockKind,
    /// Size of the list (RFC 9113 §6.5.2).
    size: usize,
    most: usize,
    /// The pseudo-headers that the block has.
    seen: u8,
    /// Whether a regular field has come, after which pseudo-headers may not.
    has_regular: bool,
    malformed: Option<&'static str>,
    /// Whether regular fields are written to `written`; pseudo-headers always are.
    writes: bool,
    /// The fields as literals, as far as the list is neither malformed nor too large.
    written: Vec<u8>,
    /// The pseudo-headers among them.
    written_pseudo: u8,
    /// Whether `:path` was percent-encoded, so that the block must be written anew.
    is_changed: bool,
    /// The `:path` as the client wrote it, if it was percent-encoded.
    target: Option<WrittenTarget>,
}

impl FieldList {
    /// Creates an empty list of at most `most` bytes; `writes` is set if the block is to be written anew, into an empty
    /// buffer.
    pub(super) fn new(kind: BlockKind, most: usize, writes: bool, buffer: Vec<u8>) -> Self {
        Self {
            kind,
            size: 0,
            most,
            seen: 0,
            has_regular: false,
            malformed: None,
            writes,
            written: buffer,
            written_pseudo: 0,
            is_changed: false,
            target: None,
        }
    }

    /// Makes the list malformed for a reason outside of its fields.
    pub(super) fn reject(&mut self, why: &'static str) {
        self.malformed = Some(why);
    }

    /// Adds the next field of the block.
    pub(super) fn add(&mut self, field: Field<'_, FieldClass>) {
        self.size = self.size.saturating_add(field.name.len() + field.value.len() + FIELD_OVERHEAD);
        let wrong = match field.class {
            FieldClass::Malformed(why) => Some(why),
            FieldClass::Pseudo(_) if self.kind == BlockKind::Trailers => Some("a pseudo-header field in trailers"),
            FieldClass::Pseudo(_) if self.has_regular => Some("a pseudo-header field after a regular one"),
            FieldClass::Pseudo(bit) if self.seen & bit != 0 => Some("a pseudo-header field twice"),
            FieldClass::Pseudo(bit) => {
                self.seen |= bit;
                None
            }
            FieldClass::Regular => {
                self.has_regular = true;
                None
            }
        };
        self.malformed = self.malformed.or(wrong);
        let pseudo = if let FieldClass::Pseudo(bit) = field.class { bit } else { 0 };
        let encoded = if pseudo == PATH { self.encode(field.value) } else { None };
        if (self.writes || pseudo != 0) && self.judgement() == Judgement::Clean {
            self.written_pseudo |= pseudo;
            write_literal(&mut self.written, field.name, encoded.as_deref().map_or(field.value, str::as_bytes));
        }
    }

    /// Percent-encodes a `:path`, if it needs that. So far only pseudo-headers have come, and all of them are written.
    fn encode(&mut self, path: &[u8]) -> Option<String> {
        let EncodedTarget { encoded, written } = encode_target(path)?;
        self.size = self.size.saturating_add(encoded.len().saturating_sub(path.len()));
        (self.writes, self.is_changed, self.target) = (true, true, written);
        Some(encoded)
    }

    /// Returns whether the block may go on as the client sent it.
    pub(super) fn is_untouched(&self) -> bool {
        !self.is_changed && self.judgement() == Judgement::Clean
    }

    /// Takes the `:path` as the client wrote it, if it was percent-encoded.
    pub(super) fn take_target(&mut self) -> Option<WrittenTarget> {
        self.target.take()
    }

    /// Judges the fields so far.
    pub(super) fn judgement(&self) -> Judgement {
        match self.malformed {
            Some(why) => Judgement::Malformed(why),
            None if self.size >= self.most => Judgement::TooLarge,
            None => Judgement::Clean,
        }
    }

    /// Returns whether what was written has a method, a scheme and a path.
    pub(super) fn has_written_target(&self) -> bool {
        self.written_pseudo & TARGET == TARGET
    }

    /// Returns the block of literals that was written.
    pub(super) fn into_written(self) -> Vec<u8> {
        self.written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(kind: BlockKind, fields: &[(&[u8], &[u8])]) -> Judgement {
        let mut list = FieldList::new(kind, 1_000, true, Vec::new());
        fields.iter().for_each(|(name, value)| list.add(Field { name, value, class: classify(name, value) }));
        list.judgement()
    }

    #[test]
    fn valid_fields_are_clean() {
        for (name, value) in [
            (&b"x-name"[..], &b""[..]),
            (b"x", b"a\tb c"),
            (b"x", b" a\t"),
            (b"x-latin-1", b"caf\xe9"),
            (b"te", b"trailers"),
            (b":path", b"/caf\xc3\xa9?{\"a\"}"),
            (b":path", b""),
            (b":authority", b"[::1]:8080"),
        ] {
            assert_eq!(judged(BlockKind::Head, &[(name, value)]), Judgement::Clean, "{:?}", name.escape_ascii());
        }
    }

    /// RFC 9113 §8.2.1, §8.2.2, §8.3.
    #[test]
    fn invalid_fields_are_malformed() {
        for (name, value) in [
            (&b""[..], &b"1"[..]),
            (b"Upper", b"1"),
            (b"a b", b"1"),
            (b"a:b", b"1"),
            (b"a\x7f", b"1"),
            (b"caf\xe9", b"1"),
            (b"a\"b", b"1"),
            (b"x", b"a\0"),
            (b"x", b"a\rb"),
            (b"x", b"a\nb"),
            (b"x", b"a\x01b"),
            (b"x", b"a\x7fb"),
            (b"connection", b"close"),
            (b"proxy-connection", b"close"),
            (b"keep-alive", b"1"),
            (b"transfer-encoding", b"chunked"),
            (b"upgrade", b"websocket"),
            (b"te", b"gzip"),
            (b"te", b"trailers, gzip"),
            (b":status", b"200"),
            (b":unknown", b"1"),
            (b":", b"1"),
            (b":Path", b"/"),
            (b":path", b"/a b"),
            (b":path", b"/\x7f"),
            (b":path", b"/caf\xe9"),
            (b":method", b""),
            (b":method", b"G T"),
            (b":authority", b"caf\xe9"),
            (b":scheme", b"ht\ntp"),
            (b":scheme", b""),
            (b":scheme", b"1a"),
            (b":protocol", b"web socket"),
        ] {
            let judged = judged(BlockKind::Head, &[(name, value)]);
            assert!(matches!(judged, Judgement::Malformed(_)), "{} {}", name.escape_ascii(), value.escape_ascii());
        }
    }

    #[test]
    fn pseudo_headers_come_once_first_and_in_heads_only() {
        let (method, path, field) =
            ((&b":method"[..], &b"GET"[..]), (&b":path"[..], &b"/"[..]), (&b"a"[..], &b"b"[..]));
        assert_eq!(judged(BlockKind::Head, &[method, path, field]), Judgement::Clean);
        assert_eq!(judged(BlockKind::Trailers, &[field]), Judgement::Clean);
        for (kind, fields) in [
            (BlockKind::Head, &[method, method][..]),
            (BlockKind::Head, &[field, path]),
            (BlockKind::Trailers, &[path]),
            (BlockKind::Trailers, &[field, method]),
        ] {
            assert!(matches!(judged(kind, fields), Judgement::Malformed(_)), "{fields:?}");
        }
    }

    #[test]
    fn a_path_that_no_uri_has_is_encoded_and_kept_as_written() {
        let written = |path: &[u8]| {
            let mut list = FieldList::new(BlockKind::Head, 200, false, Vec::new());
            for (name, value) in [(&b":method"[..], &b"GET"[..]), (b":path", path), (b"a", b"b")] {
                list.add(Field { name, value, class: classify(name, value) });
            }
            let target = list.take_target().map(|target| target.as_bytes().to_vec());
            (list.is_untouched(), target, list.judgement(), list.into_written())
        };
        let block = |fields: &[(&str, &str)]| {
            let mut block = Vec::new();
            fields.iter().for_each(|(name, value)| write_literal(&mut block, name.as_bytes(), value.as_bytes()));
            block
        };
        let path = b"/<a>?b=\"";
        let encoded = block(&[(":method", "GET"), (":path", "/%3Ca%3E?b=%22"), ("a", "b")]);
        assert_eq!(written(path), (false, Some(path.to_vec()), Judgement::Clean, encoded));
        let plain = block(&[(":method", "GET"), (":path", "/?{caf\u{e9}}")]);
        assert_eq!(written("/?{caf\u{e9}}".as_bytes()), (true, None, Judgement::Clean, plain));
        assert_eq!(written(&[b"/".as_slice(), &[b'"'; 40]].concat()).2, Judgement::TooLarge, "its encoded form counts");
    }

    #[test]
    fn what_is_written_ends_at_the_limit() {
        let add = |list: &mut FieldList, value: &[u8]| {
            list.add(Field { name: b"x", value, class: FieldClass::Regular });
            list.judgement()
        };
        let mut list = FieldList::new(BlockKind::Head, 1_000, true, Vec::new());
        assert_eq!(add(&mut list, &[b'y'; 900]), Judgement::Clean);
        assert_eq!(add(&mut list, &[b'y'; 34]), Judgement::TooLarge);
        for _ in 0..1_000 {
            assert_eq!(add(&mut list, &[b'y'; 900]), Judgement::TooLarge);
        }
        assert!(list.into_written().len() < 1_000);
    }
}
