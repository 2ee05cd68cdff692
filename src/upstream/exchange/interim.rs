//! Informational responses of a worker, such as 103 (Early Hints), on their way to the client (RFC 9110 §15.2).
//!
//! A 100 is not passed on, because stickyd itself answers `Expect`; a 101 is the final response of an upgrade. The
//! number and the size of those passed on are bounded per request; others are dropped, which is harmless: they are
//! hints.

use std::mem::MaybeUninit;

use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use super::response_head::HEAD_FIELDS;

/// Maximum number of informational responses that are passed on per request.
const MOST: u8 = 8;

/// Maximum number of bytes of the informational responses that are passed on per request.
const MOST_BYTES: u32 = 16 * 1024;

/// One informational response of a worker.
#[derive(Debug)]
pub(crate) struct InterimHead {
    pub(crate) status: StatusCode,
    pub(crate) fields: HeaderMap,
}

impl InterimHead {
    /// Writes it as HTTP/1.1.
    pub(crate) fn write(&self, text: &mut Vec<u8>) {
        text.extend_from_slice(format!("HTTP/1.1 {}\r\n", self.status).as_bytes());
        for (name, value) in &self.fields {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                text.extend_from_slice(part);
            }
        }
        text.extend_from_slice(b"\r\n");
    }

    /// Makes it a response for HTTP/2.
    pub(crate) fn into_response(self) -> Response<()> {
        let mut response = Response::new(());
        (*response.status_mut(), *response.headers_mut()) = (self.status, self.fields);
        response
    }
}

/// The informational responses of one exchange that were received and not taken yet.
#[derive(Default)]
pub(super) struct InterimHeads {
    waiting: Vec<InterimHead>,
    /// Whether the client takes any.
    wanted: bool,
    /// Number of those received so far, and their bytes.
    received: u8,
    bytes: u32,
}

impl InterimHeads {
    pub(super) fn want(&mut self, wanted: bool) {
        self.wanted = wanted;
    }

    /// Adds a complete informational response, unless it is not to be passed on.
    pub(super) fn add(&mut self, text: &Bytes) {
        self.received = self.received.saturating_add(1);
        self.bytes = self.bytes.saturating_add(u32::try_from(text.len()).unwrap_or(u32::MAX));
        if self.wanted && self.received <= MOST && self.bytes <= MOST_BYTES {
            self.waiting.extend(parse(text));
        }
    }

    /// Takes what was added; this allocates nothing.
    pub(super) fn take(&mut self) -> Vec<InterimHead> {
        std::mem::take(&mut self.waiting)
    }
}

/// Reads a response head that was found to be complete; `None` if it is not passed on.
fn parse(text: &Bytes) -> Option<InterimHead> {
    let mut room = [const { MaybeUninit::uninit() }; HEAD_FIELDS];
    let mut head = httparse::Response::new(&mut []);
    httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut head, text, &mut room).ok()?;
    let status = StatusCode::from_u16(head.code?).ok()?;
    if !status.is_informational() || matches!(status, StatusCode::CONTINUE | StatusCode::SWITCHING_PROTOCOLS) {
        return None;
    }
    let mut fields = HeaderMap::new();
    for field in head.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        // A copy: a slice would keep the whole read alive.
        fields.append(name, HeaderValue::from_bytes(field.value).ok()?);
    }
    Some(InterimHead { status, fields })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(texts: &[&str]) -> Vec<u16> {
        let mut heads = InterimHeads::default();
        heads.want(true);
        texts.iter().for_each(|text| heads.add(&Bytes::copy_from_slice(text.as_bytes())));
        heads.take().iter().map(|head| head.status.as_u16()).collect()
    }

    #[test]
    fn hints_are_passed_on_and_others_are_not() {
        let texts = ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"];
        assert_eq!(added(&texts), [103]);
        assert_eq!(added(&["HTTP/1.1 102 Processing\r\n\r\n", "HTTP/1.1 199 Odd\r\n\r\n"]), [102, 199]);
    }

    #[test]
    fn their_number_and_their_size_are_bounded() {
        assert_eq!(added(&["HTTP/1.1 103 Early Hints\r\n\r\n"; 100]).len(), usize::from(MOST));
        let large = format!("HTTP/1.1 103 Early Hints\r\nX: {}\r\n\r\n", "x".repeat(MOST_BYTES as usize / 2));
        assert_eq!(added(&[&large, &large]).len(), 1);
    }

    #[test]
    fn a_client_that_takes_none_gets_none() {
        let mut heads = InterimHeads::default();
        heads.add(&Bytes::from_static(b"HTTP/1.1 103 Early Hints\r\n\r\n"));
        assert!(heads.take().is_empty());
    }
}
