//! `traceparent` and `tracestate` of W3C Trace Context, Level 1. Pure.
//!
//! A field that breaks a rule is treated as absent, and a new trace begins (§3.2.2.4, "Processing model").

use hyper::header::{HeaderMap, HeaderName, HeaderValue};

pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Length of a field of version 00.
const LENGTH: usize = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".len();

/// The bit of the flags that says that the caller records the trace.
const SAMPLED: u8 = 1;

/// Bits of the flags that are sent on: whether the trace is sampled, and whether its id is random (Level 2).
const KNOWN: u8 = 3;

/// Identity of a trace.
pub(super) type TraceId = [u8; 16];

/// Identity of a span in its trace.
pub(super) type SpanId = [u8; 8];

/// What a caller says about the trace that a request belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TraceContext {
    pub(super) trace: TraceId,
    /// Identity of the caller's span.
    pub(super) span: SpanId,
    pub(super) flags: u8,
}

impl TraceContext {
    /// Reads the context of a request. `None` if there is none, or more than one, or if it is not valid.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut all = headers.get_all(TRACEPARENT).iter();
        let only = all.next()?;
        if all.next().is_some() { None } else { Self::parse(only.as_bytes()) }
    }

    fn parse(value: &[u8]) -> Option<Self> {
        let (known, more) = value.split_at_checked(LENGTH)?;
        let [version, trace, span, flags] = parts(known)?;
        let [version] = hex::<1>(version)?;
        // A later version may have more fields, which follow after a dash.
        let fits = match version {
            0 => more.is_empty(),
            0xff => false,
            _ => more.is_empty() || more.starts_with(b"-"),
        };
        let [flags] = hex::<1>(flags)?;
        let read = Self { trace: hex(trace)?, span: hex(span)?, flags };
        (fits && read.trace != [0; 16] && read.span != [0; 8]).then_some(read)
    }

    pub(super) fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The same context, of a trace that is not recorded.
    pub(super) fn unsampled(self) -> Self {
        Self { flags: self.flags & !SAMPLED, ..self }
    }

    /// Writes the context into a request; `is_new` if the trace began here, so that the state of no other is kept.
    pub(super) fn write(&self, is_new: bool, headers: &mut HeaderMap) {
        if is_new {
            headers.remove(TRACESTATE);
        }
        if let Ok(value) = HeaderValue::try_from(self.text()) {
            headers.insert(TRACEPARENT, value);
        }
    }

    /// The field of version 00.
    pub(super) fn text(&self) -> String {
        let mut text = String::with_capacity(LENGTH);
        text.push_str("00-");
        push_hex(&mut text, &self.trace);
        text.push('-');
        push_hex(&mut text, &self.span);
        text.push('-');
        push_hex(&mut text, &[self.flags & KNOWN]);
        text
    }
}

/// Splits at the dashes of version 00.
fn parts(value: &[u8]) -> Option<[&[u8]; 4]> {
    let mut parts = value.split(|byte| *byte == b'-');
    let four = [parts.next()?, parts.next()?, parts.next()?, parts.next()?];
    parts.next().is_none().then_some(four)
}

/// Reads exactly `N` bytes of lower-case hexadecimal digits.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    if text.len() != 2 * N {
        return None;
    }
    let mut read = [0; N];
    for (to, pair) in read.iter_mut().zip(text.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *to = digit(*high)? << 4 | digit(*low)?;
    }
    Some(read)
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        for half in [byte >> 4, byte & 15] {
            text.push(char::from_digit(half.into(), 16).unwrap_or('0'));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (TRACEPARENT, value.parse().unwrap())).collect()
    }

    #[test]
    fn a_context_is_read_and_written() {
        let read = TraceContext::of(&headers(&[VALID])).unwrap();
        assert!(read.is_sampled());
        assert_eq!(read.text(), VALID);
        assert!(!TraceContext::parse(VALID.replace("-01", "-00").as_bytes()).unwrap().is_sampled());
        // A later version may have more; version 00 and the known flags are sent on.
        let later = TraceContext::parse(VALID.replace("00-4b", "cc-4b").replace("-01", "-ff-more").as_bytes()).unwrap();
        assert_eq!(later.text(), VALID.replace("-01", "-03"));
    }

    #[test]
    fn what_breaks_a_rule_is_no_context() {
        for wrong in [
            "",
            "00",
            &VALID.to_ascii_uppercase(),
            &VALID[1..],
            &format!("{VALID}-more"),
            &format!("{VALID} "),
            &VALID.replace("00-4b", "ff-4b"),
            &VALID.replace("00-4b", "+0-4b"),
            &VALID.replace("00-4b", "0x-4b"),
            &VALID.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &VALID.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &VALID.replace("00f067aa0ba902b7", "00f067aa0ba902b-"),
            &VALID.replace("-01", "_01"),
            &format!("{}x", VALID.replace("00-4b", "cc-4b")),
        ] {
            assert_eq!(TraceContext::parse(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(TraceContext::of(&headers(&[VALID, VALID])), None, "two fields");
    }

    #[test]
    fn a_new_trace_keeps_the_state_of_no_other() {
        for (is_new, kept) in [(true, false), (false, true)] {
            let mut all = headers(&["rubbish", VALID]);
            all.insert(TRACESTATE, HeaderValue::from_static("a=b"));
            TraceContext::of(&headers(&[VALID])).unwrap().write(is_new, &mut all);
            assert_eq!((all.get_all(TRACEPARENT).iter().count(), all.contains_key(TRACESTATE)), (1, kept));
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(trace in any::<[u8; 16]>(), span in any::<[u8; 8]>(), flags in 0..4_u8) {
            let context = TraceContext { trace, span, flags };
            let read = TraceContext::parse(context.text().as_bytes());
            prop_assert_eq!(read, (trace != [0; 16] && span != [0; 8]).then_some(context));
        }

        #[test]
        fn noise_never_panics(
            bytes in prop::collection::vec(any::<u8>(), 0..80), at in 0..55_usize, to in any::<u8>(),
        ) {
            let _ = TraceContext::parse(&bytes);
            let mut near = VALID.as_bytes().to_vec();
            near[at] = to;
            let _ = TraceContext::parse(&near);
        }
    }
}
