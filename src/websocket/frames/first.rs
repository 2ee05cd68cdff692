//! Reads the first message that a worker sends in a tunnel, to learn the sid of a WebSocket-first session.
//!
//! The message may arrive in pieces and may be fragmented (RFC 6455 §5.4; some servers send each write as a fragment),
//! and control frames may come before and between its fragments. Out of scope: compressed and binary messages, and
//! everything after the first message.

use std::borrow::Cow;

use super::outgoing::CONTROL_MAX;
use super::{is_control, is_fin};

/// The largest payload that [`first_text`] accepts, in bytes. Engine.IO's open packet has about 110 bytes.
pub(crate) const FIRST_TEXT_MAX: usize = 1024;

/// The most bytes that [`first_text`] asks for, including headers, fragments and control frames.
pub const FIRST_BYTES_MAX: usize = FIRST_TEXT_MAX + 4;

/// What the first bytes that a worker sent in a tunnel are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FirstText<'a> {
    /// A text message: its payload, not checked as UTF-8; copied only if it came in fragments.
    Whole(Cow<'a, [u8]>),
    /// The bytes may become a text message: call again with more bytes appended. Never returned for [`FIRST_BYTES_MAX`]
    /// bytes or more.
    NeedMore,
    /// Not a text message that can be read: another kind, compressed, masked, not complete within [`FIRST_BYTES_MAX`]
    /// bytes, or not a valid frame.
    No,
}

/// Reads the first message of a worker (RFC 6455 §5.2, §5.4, §5.6). It must be an unmasked text with RSV1–3 = 0.
pub fn first_text(bytes: &[u8]) -> FirstText<'_> {
    let mut text: Option<Cow<'_, [u8]>> = None;
    let mut rest = bytes;
    loop {
        // A frame that cannot end within the bound is not waited for.
        let room = FIRST_BYTES_MAX - (bytes.len() - rest.len()).min(FIRST_BYTES_MAX);
        if rest.first().is_some_and(|first| !may_follow(*first, text.is_some())) {
            return FirstText::No;
        }
        let (first, payload, behind) = match frame(rest, room) {
            Frame::Whole(first, payload, behind) => (first, payload, behind),
            Frame::NeedMore => return FirstText::NeedMore,
            Frame::No => return FirstText::No,
        };
        if !is_control(first) {
            match &mut text {
                Some(text) => text.to_mut().extend_from_slice(payload),
                None => text = Some(Cow::Borrowed(payload)),
            }
            if is_fin(first)
                && let Some(text) = text
            {
                return FirstText::Whole(text);
            }
        }
        rest = behind;
    }
}

/// Whether a frame with this first byte belongs to a first text message, or may precede its end. A Close may not.
fn may_follow(first: u8, begun: bool) -> bool {
    match first {
        0x89 | 0x8a => true,
        0x01 | 0x81 => !begun,
        0x00 | 0x80 => begun,
        _ => false,
    }
}

enum Frame<'a> {
    /// The frame's first byte, its payload, and the bytes after it.
    Whole(u8, &'a [u8], &'a [u8]),
    NeedMore,
    No,
}

/// Parses one unmasked frame of at most `room` bytes, whose length must be in its shortest form.
fn frame(bytes: &[u8], room: usize) -> Frame<'_> {
    let more = if bytes.len() < room { Frame::NeedMore } else { Frame::No };
    let (first, header, length) = match bytes {
        [] | [_] | [_, 126] | [_, 126, _] => return more,
        [first, length @ 0..=125, ..] => (*first, 2, usize::from(*length)),
        [first, 126, high, low, ..] => (*first, 4, usize::from(u16::from_be_bytes([*high, *low]))),
        _ => return Frame::No,
    };
    let shortest = header == 2 || (length > CONTROL_MAX && !is_control(first));
    if !shortest || header + length > room {
        return Frame::No;
    }
    let Some((frame, behind)) = bytes.split_at_checked(header + length) else { return more };
    Frame::Whole(first, frame.get(header..).unwrap_or_default(), behind)
}
