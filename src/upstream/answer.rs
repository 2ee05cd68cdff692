//! The head of a worker's answer: where it ends, what it says, and how long the body behind it is.
//!
//! Stricter than the letter of RFC 9112 §6.3 where peers are known to read in two ways (threats §2): a body has one length,
//! by `Content-Length` or by one `chunked`, or it is none. What is odd and has one meaning all the same is made plain before
//! a client reads it, and its connection carries nothing else. Informational answers are dropped. Pure, and the same however
//! the bytes come in pieces. Left out: the body (`unread`), and what of the head a client may see (`proxy::headers`).

use std::mem::MaybeUninit;

use bytes::Bytes;
use hyper::ext::ReasonPhrase;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::Extensions;
use hyper::{StatusCode, Version};

use super::broke_off::BrokeOff;
use super::unread::Length;

/// Bytes before the end of an answer's head, those of informational answers included.
pub const HEAD_BYTES: usize = 64 * 1024;

/// Fields of a head, and of trailers.
pub const HEAD_FIELDS: usize = 200;

/// Nearly every head has fewer; room for more is made only for those that need it.
const FEW_FIELDS: usize = 32;

/// For how long an idle connection is used when the worker says nothing: Node closes at 5 s (protocols §4).
pub const IDLE_MS: u64 = 4_000;

/// A whole head.
#[derive(Debug)]
pub struct Head {
    /// Never an informational one but 101.
    pub status: StatusCode,
    /// 1.0 or 1.1.
    pub version: Version,
    /// Without `Transfer-Encoding` and `Keep-Alive`, with at most one `Content-Length`, without `Connection` where it names no
    /// field; of a 101 as they came.
    pub fields: HeaderMap,
    /// The reason phrase, where it is not the usual one.
    pub extensions: Extensions,
    /// Of the body.
    pub length: Length,
    /// For how long the connection may be idle, in ms; 0: it is not used again.
    pub idle_ms: u64,
}

/// A head while it comes.
#[derive(Default)]
pub struct Coming {
    /// What has come of it; empty where all came at once, as it nearly always does.
    seen: Vec<u8>,
    /// Bytes of informational answers before it.
    skipped: usize,
    /// It answers a HEAD.
    to_head: bool,
}

impl Coming {
    /// The answer to a request; `to_head`: to a HEAD, so that nothing comes behind it.
    pub fn new(to_head: bool) -> Self {
        Self { to_head, ..Self::default() }
    }

    /// Bytes have come: the head, once it is whole, and what came behind it. `fields` is an empty map to put its fields in.
    ///
    /// # Errors
    /// What came is no head, or too long for one.
    pub fn feed(&mut self, new: &[u8], fields: &mut HeaderMap) -> Result<Option<(Head, Bytes)>, BrokeOff> {
        let mut rest = if self.seen.is_empty() {
            Bytes::copy_from_slice(new)
        } else {
            self.seen.extend_from_slice(new);
            // Only a line's end can make it whole; a head that comes by the byte is not read anew with each of them.
            if !new.contains(&b'\n') && self.skipped + self.seen.len() <= HEAD_BYTES {
                return Ok(None);
            }
            Bytes::from(std::mem::take(&mut self.seen))
        };
        loop {
            match read::<FEW_FIELDS>(&rest, fields, self.to_head)? {
                Read::Whole(head, length) if self.skipped + length <= HEAD_BYTES => {
                    return Ok(Some((head, rest.split_off(length))));
                }
                Read::Informational(length) => {
                    self.skipped += length;
                    rest = rest.split_off(length);
                }
                Read::Part if self.skipped + rest.len() <= HEAD_BYTES => {
                    self.seen = rest.into();
                    return Ok(None);
                }
                Read::Part | Read::Whole(..) => return Err(BrokeOff::Head("too long")),
            }
        }
    }
}

/// What the bytes so far are; lengths in bytes.
#[allow(clippy::large_enum_variant, reason = "taken apart where it is made; a box would cost every answer")]
enum Read {
    Part,
    Informational(usize),
    Whole(Head, usize),
}

/// Reads a head with up to `N` fields, or with up to [`HEAD_FIELDS`].
fn read<const N: usize>(bytes: &Bytes, fields: &mut HeaderMap, to_head: bool) -> Result<Read, BrokeOff> {
    let mut room = [const { MaybeUninit::uninit() }; N];
    let mut answer = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut answer, bytes, &mut room);
    let length = match parsed {
        Ok(httparse::Status::Partial) => return Ok(Read::Part),
        Ok(httparse::Status::Complete(length)) => length,
        Err(httparse::Error::TooManyHeaders) if N < HEAD_FIELDS => return read::<HEAD_FIELDS>(bytes, fields, to_head),
        Err(error) => return Err(BrokeOff::Head(of_httparse(error))),
    };
    let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(BrokeOff::Head("the status is none"))?;
    if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Read::Informational(length));
    }
    let version = if answer.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    let mut said = Said::new(status, version);
    let mut map = std::mem::take(fields);
    map.reserve(answer.headers.len());
    for field in answer.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| BrokeOff::Head("a field has no name"))?;
        // Slices of the one piece all of it is in.
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value));
        let value = value.map_err(|_| BrokeOff::Head("a field's value is none"))?;
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
    let (body, idle_ms) = said.framing(&mut map, to_head)?;
    Ok(Read::Whole(Head { status, version, fields: map, extensions, length: body, idle_ms }, length))
}

fn of_httparse(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => "a field has no name",
        httparse::Error::HeaderValue => "a field's value is none",
        httparse::Error::NewLine => "a line does not end",
        httparse::Error::Status => "the status is none",
        httparse::Error::TooManyHeaders => "too many fields",
        httparse::Error::Version => "not HTTP/1",
        httparse::Error::Token => "the first line is none",
    }
}

/// What a head says of its body's length and of its connection.
struct Said {
    status: StatusCode,
    version: Version,
    close: bool,
    keep_alive: bool,
    idle_ms: Option<u64>,
    /// The first one, as it is written.
    length: Option<HeaderValue>,
    /// All of them, parsed; an error where they differ or are no numbers.
    parsed: Result<u64, ()>,
    lengths: u32,
    codings: u32,
    chunked: bool,
}

impl Said {
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
        }
    }

    /// Takes notice of a field; whether it is to be kept.
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
            _ if !upgrades && name == "keep-alive" => {
                self.idle_ms = self.idle_ms.or_else(|| advertised_idle(value));
                false
            }
            _ => true,
        }
    }

    /// Of a body, and for how long its connection may be idle behind it; puts the length among the fields, in its plain form.
    fn framing(self, fields: &mut HeaderMap, to_head: bool) -> Result<(Length, u64), BrokeOff> {
        let never = matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let upgrades = self.status == StatusCode::SWITCHING_PROTOCOLS;
        let length = match (self.codings, self.lengths) {
            _ if never || to_head || upgrades => Length::Exactly(0),
            (0, 0) => Length::UntilClose,
            (0, _) => Length::Exactly(self.parsed.map_err(|()| BrokeOff::Head("the length is none"))?),
            (1, 0) if self.chunked && self.version == Version::HTTP_11 => Length::Chunked,
            _ => return Err(BrokeOff::Head("two lengths, or codings besides chunked")),
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

    /// Whether a framing of one meaning is odd all the same: a length said twice or with zeros in front, a length or chunks
    /// where no body may be. Who writes such a head may write more than it says.
    fn is_odd(&self, never: bool) -> bool {
        let Some(length) = &self.length else { return self.codings > 0 && never };
        self.lengths > 1
            || self.codings > 0
            || !is_plain(length)
            || (self.status == StatusCode::NO_CONTENT && length != "0")
    }

    /// The one length, as everybody reads it: to some, `010` is eight.
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

/// Digits, none of them a zero in front.
fn is_plain(length: &HeaderValue) -> bool {
    let digits = length.as_bytes();
    digits.iter().all(u8::is_ascii_digit) && (digits.len() == 1 || digits.first().is_some_and(|first| *first != b'0'))
}

/// The number a list of equal numbers says (RFC 9110 §8.6).
fn lengths(list: &[u8]) -> Result<u64, ()> {
    let mut same = None;
    for one in list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
        if one.is_empty() || !one.iter().all(u8::is_ascii_digit) {
            return Err(());
        }
        let number = std::str::from_utf8(one).ok().and_then(|text| text.parse::<u64>().ok());
        // So that what is held of a body can be added to it.
        let number = number.filter(|number| *number <= u64::MAX / 2).ok_or(())?;
        if same.is_some_and(|known| known != number) {
            return Err(());
        }
        same = Some(number);
    }
    same.ok_or(())
}

/// A worker's `Keep-Alive: timeout=N` less one second, in ms; `None`: it says no number.
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
        read.map_err(|error| error.to_string())?.ok_or_else(|| "in part".to_owned())
    }

    #[test]
    fn a_head_says_how_its_connection_goes_on() {
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
        assert_eq!(read(&head(HEAD_FIELDS + 1)).unwrap_err(), "no answer: too many fields");
    }

    #[test]
    fn a_reason_of_its_own_is_kept() {
        let (head, _) = read("HTTP/1.1 200 Fine\r\n\r\n").unwrap();
        assert_eq!(head.extensions.get::<ReasonPhrase>().map(ReasonPhrase::as_bytes), Some(&b"Fine"[..]));
        assert!(read("HTTP/1.1 200 OK\r\n\r\n").unwrap().0.extensions.is_empty());
    }
}
