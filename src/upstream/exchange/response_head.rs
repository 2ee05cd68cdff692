//! The head of a worker's response: where it ends, what it contains, and how long the body after it is.
//!
//! This is stricter than RFC 9112 §6.3 where peers are known to disagree about a message (docs/reference/threats.md
//! §2.8): the length of a body is given either by `Content-Length` or by a single `chunked`, otherwise the response is
//! rejected. A framing that is odd but has only one meaning is normalized before a client sees it, and its connection
//! is not used again. Informational responses go to `interim`. The code is pure: the result does not depend on how the
//! bytes are split into reads. The body (`unread`) and which fields a client may see (`proxy::headers`) are not part of
//! this module.

use std::mem::MaybeUninit;

use bytes::Bytes;
use hyper::ext::ReasonPhrase;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::Extensions;
use hyper::{StatusCode, Version};

use super::broken::BrokeOff;
use super::connection_auth;
use super::interim::InterimHeads;
use super::response_body::Length;

/// Maximum number of bytes up to the end of a response head, including the informational responses before it.
pub const HEAD_BYTES: usize = 64 * 1024;

/// Maximum number of fields in a response head, and in trailers.
pub const HEAD_FIELDS: usize = 200;

/// Number of fields that nearly every head stays below; more room is made only for heads that need it.
const FEW_FIELDS: usize = 32;

/// Time in milliseconds for which an idle connection is used if the worker advertises none: Node closes after 5 s
/// (docs/reference/protocols.md §4).
pub(crate) const IDLE_MS: u64 = 4_000;

/// A complete response head, with its framing resolved.
#[derive(Debug)]
pub struct Head {
    /// The status; never an informational one except 101.
    pub status: StatusCode,
    /// The HTTP version of the response: 1.0 or 1.1.
    pub version: Version,
    /// The fields: without `Transfer-Encoding` and `Keep-Alive`, with at most one `Content-Length`, and without
    /// `Connection` if it names no field. The fields of a 101 are unchanged.
    pub fields: HeaderMap,
    /// The reason phrase, if it is not the usual one.
    pub extensions: Extensions,
    /// The length of the body that follows the head.
    pub length: Length,
    /// Time in milliseconds for which the connection may be idle after this response; 0: it is not used again.
    pub idle_ms: u64,
    /// Whether the worker has advertised this time.
    pub advertised: bool,
    /// Whether the response belongs to the authentication of its connection.
    pub authenticates: bool,
}

/// A response head that is being received.
#[derive(Default)]
pub struct Coming {
    /// The part received so far; empty if the whole head came in one read, as it nearly always does.
    seen: Vec<u8>,
    /// Number of bytes of informational responses before this head.
    skipped: usize,
    pub(super) interim: InterimHeads,
    /// Whether the response answers a HEAD request.
    to_head: bool,
}

impl Coming {
    /// Starts to receive the response to a request. `to_head` is set for a HEAD request, whose response has no body.
    pub fn new(to_head: bool) -> Self {
        Self { to_head, ..Self::default() }
    }

    /// Adds bytes that were received. Returns the head once it is complete, and the bytes after it. `fields` is an
    /// empty map that is reused for the head's fields.
    ///
    /// # Errors
    /// Fails if the bytes are not a valid head, or if the head is too long.
    pub fn feed(&mut self, new: &[u8], fields: &mut HeaderMap) -> Result<Option<(Head, Bytes)>, BrokeOff> {
        let mut rest = if self.seen.is_empty() {
            Bytes::copy_from_slice(new)
        } else {
            self.seen.extend_from_slice(new);
            // Only the end of a line can complete the head. Heads that arrive byte by byte are not parsed again for
            // each byte.
            if !new.contains(&b'\n') && self.skipped + self.seen.len() <= HEAD_BYTES {
                return Ok(None);
            }
            Bytes::from(std::mem::take(&mut self.seen))
        };
        loop {
            match read::<FEW_FIELDS>(&rest, fields, self.to_head)? {
                HeadProgress::Whole(head, length) if self.skipped + length <= HEAD_BYTES => {
                    return Ok(Some((head, rest.split_off(length))));
                }
                HeadProgress::Informational(length) => {
                    self.skipped += length;
                    let after = rest.split_off(length);
                    self.interim.add(&std::mem::replace(&mut rest, after));
                }
                HeadProgress::Part if self.skipped + rest.len() <= HEAD_BYTES => {
                    // Blank lines before the head are looked at once, and not again with each line that follows.
                    let blank = blank_lines(&rest);
                    self.skipped += blank;
                    self.seen = rest.split_off(blank).into();
                    return Ok(None);
                }
                HeadProgress::Part | HeadProgress::Whole(..) => return Err(BrokeOff::Head("the head is too long")),
            }
        }
    }
}

/// Returns the length of the blank lines at the beginning of `bytes`.
fn blank_lines(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    while let [b'\r', b'\n', more @ ..] | [b'\n', more @ ..] = rest {
        rest = more;
    }
    bytes.len() - rest.len()
}

/// What the bytes received so far are; lengths are in bytes.
#[allow(clippy::large_enum_variant, reason = "destructured by its caller; a box would cost every response")]
enum HeadProgress {
    Part,
    Informational(usize),
    Whole(Head, usize),
}

/// Parses a head with up to `N` fields, or else with up to [`HEAD_FIELDS`].
fn read<const N: usize>(bytes: &Bytes, fields: &mut HeaderMap, to_head: bool) -> Result<HeadProgress, BrokeOff> {
    let mut room = [const { MaybeUninit::uninit() }; N];
    let mut answer = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut answer, bytes, &mut room);
    let length = match parsed {
        Ok(httparse::Status::Partial) => return Ok(HeadProgress::Part),
        Ok(httparse::Status::Complete(length)) => length,
        Err(httparse::Error::TooManyHeaders) if N < HEAD_FIELDS => return read::<HEAD_FIELDS>(bytes, fields, to_head),
        Err(error) => return Err(BrokeOff::Head(of_httparse(error))),
    };
    let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(BrokeOff::Head("invalid status"))?;
    if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(HeadProgress::Informational(length));
    }
    let version = if answer.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    let mut said = HeadFields::new(status, version);
    let mut map = std::mem::take(fields);
    map.reserve(answer.headers.len());
    for field in answer.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| BrokeOff::Head("invalid field name"))?;
        // The values are slices of the one buffer that holds the head.
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value));
        let value = value.map_err(|_| BrokeOff::Head("invalid field value"))?;
        if said.takes(&name, &value) {
            map.append(name, value);
        }
    }
    let mut extensions = Extensions::new();
    let reason = answer.reason.unwrap_or_default();
    if status.canonical_reason() != Some(reason)
        && let Ok(reason) = ReasonPhrase::try_from(bytes.slice_ref(reason.as_bytes()))
    {
        extensions.insert(reason);
    }
    let (advertised, authenticates) = (said.idle_ms.is_some(), said.authenticates);
    let (body, idle_ms) = said.framing(&mut map, to_head)?;
    let head = Head { status, version, fields: map, extensions, length: body, idle_ms, advertised, authenticates };
    Ok(HeadProgress::Whole(head, length))
}

fn of_httparse(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => "invalid field name",
        httparse::Error::HeaderValue => "invalid field value",
        httparse::Error::NewLine => "invalid line end",
        httparse::Error::Status => "invalid status",
        httparse::Error::TooManyHeaders => "too many fields",
        httparse::Error::Version => "unsupported HTTP version",
        httparse::Error::Token => "invalid status line",
    }
}

/// What the fields of a head declare about its body's length and its connection.
struct HeadFields {
    status: StatusCode,
    version: Version,
    close: bool,
    keep_alive: bool,
    idle_ms: Option<u64>,
    /// The first `Content-Length`, as it was written.
    length: Option<HeaderValue>,
    /// The common value of all `Content-Length` fields; an error if they differ or are not numbers.
    parsed: Result<u64, ()>,
    lengths: u32,
    codings: u32,
    chunked: bool,
    authenticates: bool,
}

impl HeadFields {
    fn new(status: StatusCode, version: Version) -> Self {
        Self {
            status,
            version,
            close: false,
            keep_alive: false,
            idle_ms: None,
            length: None,
            parsed: Err(()),
            lengths: 0,
            codings: 0,
            chunked: false,
            authenticates: false,
        }
    }

    /// Evaluates a field. Returns whether the field is kept as it is.
    fn takes(&mut self, name: &HeaderName, value: &HeaderValue) -> bool {
        let upgrades = self.status == StatusCode::SWITCHING_PROTOCOLS;
        match *name {
            header::CONTENT_LENGTH => {
                let parsed = lengths(value.as_bytes());
                self.parsed = if self.lengths == 0 || self.parsed == parsed { parsed } else { Err(()) };
                self.length.get_or_insert_with(|| value.clone());
                self.lengths += 1;
                false
            }
            header::TRANSFER_ENCODING => {
                self.codings += 1;
                self.chunked = value.as_bytes().eq_ignore_ascii_case(b"chunked");
                false
            }
            header::CONNECTION => {
                let mut more = false;
                for token in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                    match token {
                        token if token.eq_ignore_ascii_case(b"close") => self.close = true,
                        token if token.eq_ignore_ascii_case(b"keep-alive") => self.keep_alive = true,
                        _ => more = true,
                    }
                }
                more
            }
            // Most fields; compared as numbers, before those that are compared as text.
            header::CACHE_CONTROL | header::CONTENT_TYPE | header::DATE | header::SET_COOKIE | header::VARY => true,
            _ if !upgrades && name == "keep-alive" => {
                self.idle_ms = self.idle_ms.or_else(|| advertised_idle(value));
                false
            }
            _ => {
                self.authenticates |= connection_auth::is_challenge(name, value.as_bytes());
                true
            }
        }
    }

    /// Returns the length of the body, and for how many milliseconds its connection may be idle afterwards. Puts the
    /// length into `fields` in its plain form.
    fn framing(self, fields: &mut HeaderMap, to_head: bool) -> Result<(Length, u64), BrokeOff> {
        let never = matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let upgrades = self.status == StatusCode::SWITCHING_PROTOCOLS;
        let length = match (self.codings, self.lengths) {
            _ if never || to_head || upgrades => Length::Exactly(0),
            (0, 0) => Length::UntilClose,
            (0, _) => Length::Exactly(self.parsed.map_err(|()| BrokeOff::Head("invalid Content-Length"))?),
            (1, 0) if self.chunked && self.version == Version::HTTP_11 => Length::Chunked,
            _ => return Err(BrokeOff::Head("ambiguous or unsupported framing")),
        };
        let plain = self.plain_length(never);
        let odd = self.is_odd(never);
        if let Some(plain) = plain {
            fields.insert(header::CONTENT_LENGTH, plain);
        }
        let kept = !self.close && (self.version == Version::HTTP_11 || self.keep_alive);
        let ends = !kept || odd || upgrades || length == Length::UntilClose;
        Ok((length, if ends { 0 } else { self.idle_ms.unwrap_or(IDLE_MS) }))
    }

    /// Whether the framing is odd although it has only one meaning: a repeated length, leading zeros, or a length or
    /// chunks where no body is allowed. A worker that writes such a head may send more bytes than it declares.
    fn is_odd(&self, never: bool) -> bool {
        let Some(length) = &self.length else { return self.codings > 0 && never };
        self.lengths > 1
            || self.codings > 0
            || !is_plain(length)
            || (self.status == StatusCode::NO_CONTENT && length != "0")
    }

    /// Returns the length in the one form that all parsers read alike; some read `010` as eight.
    fn plain_length(&self, never: bool) -> Option<HeaderValue> {
        let length = self.length.as_ref()?;
        if self.codings > 0 || self.status == StatusCode::NO_CONTENT {
            return None;
        }
        if self.lengths == 1 && is_plain(length) {
            return Some(length.clone());
        }
        if never { None } else { self.parsed.ok().map(HeaderValue::from) }
    }
}

/// Whether the value consists of digits, without leading zeros.
fn is_plain(length: &HeaderValue) -> bool {
    let digits = length.as_bytes();
    digits.iter().all(u8::is_ascii_digit) && (digits.len() == 1 || digits.first().is_some_and(|first| *first != b'0'))
}

/// Parses a list of equal numbers (RFC 9110 §8.6).
fn lengths(list: &[u8]) -> Result<u64, ()> {
    let mut same = None;
    for one in list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
        if one.is_empty() || !one.iter().all(u8::is_ascii_digit) {
            return Err(());
        }
        let number = std::str::from_utf8(one).ok().and_then(|text| text.parse::<u64>().ok());
        // The bound leaves room to add the number of bytes held of a body.
        let number = number.filter(|number| *number <= u64::MAX / 2).ok_or(())?;
        if same.is_some_and(|known| known != number) {
            return Err(());
        }
        same = Some(number);
    }
    same.ok_or(())
}

/// Returns the worker's `Keep-Alive: timeout=N` less one second, in milliseconds; `None` if the field has no number.
fn advertised_idle(value: &HeaderValue) -> Option<u64> {
    let timeouts = value.to_str().ok()?.split(',');
    let seconds = timeouts.filter_map(|part| part.trim().strip_prefix("timeout=")?.parse::<u64>().ok()).next()?;
    Some(seconds.saturating_sub(1).saturating_mul(1_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(Head, Bytes), String> {
        let read = Coming::new(false).feed(text.as_bytes(), &mut HeaderMap::new());
        read.map_err(|error| error.to_string())?.ok_or_else(|| "incomplete".to_owned())
    }

    #[test]
    fn blank_lines_before_a_head_are_looked_at_once() {
        let (mut coming, mut fields) = (Coming::new(false), HeaderMap::new());
        for line in std::iter::repeat_n("\r\n", 5_000) {
            assert!(coming.feed(line.as_bytes(), &mut fields).unwrap().is_none());
            assert!(coming.seen.len() <= 1, "{}", coming.seen.len());
        }
        let head = coming.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", &mut fields).unwrap();
        assert_eq!(head.unwrap().0.length, Length::Exactly(5));
        assert!(Coming::new(false).feed(&[b'\n'; HEAD_BYTES + 1], &mut fields).is_err());
    }

    #[test]
    fn a_head_decides_how_long_its_connection_is_kept() {
        for (text, length, idle_ms) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Length::Exactly(5), IDLE_MS),
            ("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=72\r\nContent-Length: 5\r\n\r\n", Length::Exactly(5), 71_000),
            ("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=0\r\nContent-Length: 5\r\n\r\n", Length::Exactly(5), 0),
            ("HTTP/1.1 200 OK\r\nConnection: a, Close\r\nContent-Length: 5\r\n\r\n", Length::Exactly(5), 0),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", Length::Chunked, IDLE_MS),
            ("HTTP/1.1 200 OK\r\n\r\n", Length::UntilClose, 0),
            ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", Length::Exactly(5), 0),
            ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\n", Length::Exactly(5), IDLE_MS),
            ("HTTP/1.1 200 OK\r\nContent-Length: 05\r\n\r\n", Length::Exactly(5), 0),
            ("HTTP/1.1 204 No Content\r\n\r\n", Length::Exactly(0), IDLE_MS),
            ("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", Length::Exactly(0), 0),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", Length::Exactly(0), IDLE_MS),
        ] {
            let (head, rest) = read(text).unwrap();
            assert_eq!((head.length, head.idle_ms, rest.len()), (length, idle_ms, 0), "{text}");
            assert!(
                !head.fields.contains_key("keep-alive") && !head.fields.contains_key("transfer-encoding"),
                "{text}"
            );
        }
        let (head, _) = read("HTTP/1.1 200 OK\r\nContent-Length: 007, 7\r\nContent-Length: 7\r\n\r\n").unwrap();
        assert_eq!(head.fields.get_all("content-length").iter().collect::<Vec<_>>(), ["7"]);
    }

    #[test]
    fn a_head_of_many_fields_is_read_and_one_of_too_many_is_not() {
        let head = |count: usize| format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(count));
        assert_eq!(read(&head(HEAD_FIELDS)).unwrap().0.fields.len(), HEAD_FIELDS);
        assert_eq!(read(&head(HEAD_FIELDS + 1)).unwrap_err(), "invalid response: too many fields");
    }

    #[test]
    fn an_unusual_reason_phrase_is_kept() {
        let (head, _) = read("HTTP/1.1 200 Fine\r\n\r\n").unwrap();
        assert_eq!(head.extensions.get::<ReasonPhrase>().map(ReasonPhrase::as_bytes), Some(&b"Fine"[..]));
        assert!(read("HTTP/1.1 200 OK\r\n\r\n").unwrap().0.extensions.is_empty());
    }
}
