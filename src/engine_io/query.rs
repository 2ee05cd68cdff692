//! The Engine.IO part of a request's query, read in one pass and kept with the request.
//!
//! What is kept is small: the transport, and where the sid stands. The sid itself is decoded from the query again only
//! where it is needed, which is once per session. Left out: how a sid is decoded (the parent module).

use memchr::memchr_iter;

use super::{Decoded, MAX_SID, RequestTransport, Sid, decode_sid, decode_transport, decoded_is, split_at_byte};

/// What the query of an Engine.IO request contains: small enough to be kept with the request, so that each query is
/// read once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineQuery {
    /// Transport that the request asks for.
    pub transport: RequestTransport,
    /// How packets are written in an answer to a poll.
    pub format: PollFormat,
    place: SidPlace,
    /// Whether the query has several sids that differ.
    contradicts: bool,
}

/// How packets are written in the answer to a poll (docs/reference/protocols.md §1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PollFormat {
    /// Protocol 4: packets as they are.
    Plain,
    /// Protocol 3: each packet after its length.
    Counted,
    /// A script (JSONP), or an unknown protocol.
    Other,
}

impl PollFormat {
    /// The answer to a poll that says that the server has closed the session.
    pub fn close(self) -> Option<&'static str> {
        match self {
            Self::Plain => Some("1"),
            Self::Counted => Some("1:1"),
            Self::Other => None,
        }
    }
}

/// Place of the raw sid in a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SidPlace {
    /// There is no sid, or an empty one.
    Nowhere,
    /// The sid begins at this byte and has this many bytes.
    At(u16, u16),
    /// The sid begins beyond the first 64 KiB, which only a raised `target_bytes` allows. The query is read again.
    Far,
    /// The sid is longer than [`MAX_SID`] bytes.
    TooLong,
}

impl EngineQuery {
    /// Recognises an Engine.IO request by its query, which contains both `EIO` and `transport`; the path never matters
    /// (docs/reference/protocols.md §1.8). If a key is repeated, the last one counts, as in Engine.IO's own
    /// `URLSearchParams` (docs/reference/protocols.md §1.6).
    ///
    /// Makes one pass over the query, and allocates nothing.
    pub fn read(query: Option<&str>) -> Option<Self> {
        let Scan { transport, format, start, sid, contradicts } = scan(query?)?;
        let place = match (u16::try_from(start), u16::try_from(sid.len())) {
            _ if sid.is_empty() => SidPlace::Nowhere,
            _ if is_too_long(sid) => SidPlace::TooLong,
            (Ok(start), Ok(len)) => SidPlace::At(start, len),
            _ => SidPlace::Far,
        };
        Some(Self { transport: decode_transport(transport), format, place, contradicts })
    }

    /// Whether the request names a session, be it by a sid that is too long.
    pub fn has_sid(self) -> bool {
        self.place != SidPlace::Nowhere
    }

    /// Whether the query names several sids that differ, or a sid and an empty one. Servers that take the first (Go,
    /// Java, Python) then read another session than this type does, or none.
    pub fn contradicts_itself(self) -> bool {
        self.contradicts
    }

    /// Decodes the sid from the query that was read. Allocates only if the sid is percent-encoded.
    pub fn sid(self, query: Option<&str>) -> Sid<'_> {
        let raw = match self.place {
            SidPlace::Nowhere => return Sid::None,
            SidPlace::TooLong => return Sid::TooLong,
            SidPlace::At(start, len) => {
                let (start, len) = (usize::from(start), usize::from(len));
                query.and_then(|query| query.as_bytes().get(start..start + len))
            }
            SidPlace::Far => query.and_then(scan).map(|scan| scan.sid),
        };
        raw.map_or(Sid::None, decode_sid)
    }
}

/// What one pass over an Engine.IO query finds.
struct Scan<'q> {
    /// The transport as the client wrote it.
    transport: &'q [u8],
    format: PollFormat,
    /// The place at which the raw sid begins.
    start: usize,
    /// The raw sid; empty if there is none.
    sid: &'q [u8],
    contradicts: bool,
}

fn scan(query: &str) -> Option<Scan<'_>> {
    let (mut eio, mut transport, mut last, mut contradicts) = (None, None, None, false);
    let mut is_script = false;
    let bytes = query.as_bytes();
    let mut begin = 0;
    let mut found = |start: usize, value| {
        contradicts |= last.is_some_and(|(_, before)| before != value);
        last = Some((start, value));
    };
    // With `split`, a poll takes 115 instructions more (callgrind).
    for end in memchr_iter(b'&', bytes).chain([bytes.len()]) {
        let (key, value) = split_at_byte(bytes.get(begin..end).unwrap_or_default(), b'=');
        begin = end + 1;
        // The length tells the plain spellings apart; an encoded key is longer than its decoded form.
        match key.len() {
            3 if key == b"sid" => found(end - value.len(), value),
            3 if key == b"EIO" => eio = Some(value),
            9 if key == b"transport" => transport = Some(value),
            1 if key == b"j" => is_script = true,
            0..=4 => {}
            _ if !key.contains(&b'%') => {}
            _ if decoded_is(key, b"sid") => found(end - value.len(), value),
            _ if decoded_is(key, b"EIO") => eio = Some(value),
            _ if decoded_is(key, b"transport") => transport = Some(value),
            _ => {}
        }
    }
    let format = match eio? {
        b"4" if !is_script => PollFormat::Plain,
        b"3" if !is_script => PollFormat::Counted,
        _ => PollFormat::Other,
    };
    let transport = transport?;
    let (start, sid) = last.unwrap_or_default();
    Some(Scan { transport, format, start, sid, contradicts })
}

/// Whether a raw sid has more than [`MAX_SID`] bytes when it is decoded. Counting stops one byte past the limit.
fn is_too_long(raw: &[u8]) -> bool {
    raw.len() > MAX_SID && Decoded { rest: raw, plus: b' ' }.take(MAX_SID + 1).count() > MAX_SID
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    #[test]
    fn differing_sids_contradict_each_other() {
        for (query, contradicts) in [
            ("EIO=4&transport=polling", false),
            ("EIO=4&transport=polling&sid=a", false),
            ("EIO=4&transport=polling&sid=a&sid=a", false),
            ("EIO=4&transport=polling&sid=a&sid=b", true),
            ("EIO=4&transport=polling&sid=&sid=b", true),
            ("EIO=4&transport=polling&%73id=b&sid=", true),
            ("EIO=4&transport=polling&sid&s%69d=b", true),
        ] {
            assert_eq!(EngineQuery::read(Some(query)).unwrap().contradicts_itself(), contradicts, "{query}");
        }
    }

    #[test]
    fn the_format_of_an_answer_follows_from_the_query() {
        let close = |query| EngineQuery::read(Some(query)).unwrap().format.close();
        assert_eq!(close("EIO=4&transport=polling&sid=a"), Some("1"));
        assert_eq!(close("EIO=3&transport=polling&sid=a&b64=1"), Some("1:1"));
        assert_eq!((close("EIO=4&transport=polling&j=0"), close("EIO=2&transport=polling")), (None, None));
    }

    #[test]
    fn a_sid_far_into_the_query_is_found_again() {
        for pad in [0, 65_400, 65_535, 70_000] {
            let query = format!("x={}&EIO=4&transport=polling&sid=a%20b", "y".repeat(pad));
            let read = EngineQuery::read(Some(&query)).unwrap();
            assert!(read.has_sid());
            assert_eq!(read.sid(Some(&query)), Sid::Given(Cow::Borrowed(b"a b")), "{pad}");
        }
    }
}
