//! The checked upgrade: verifies that a 101 is the one that was requested (RFC 6455 §4.2.2,
//! ARCHITECTURE.md, invariant 6).

use crate::header_list::list_has;
use aws_lc_rs::digest;
use hyper::header::{self, HeaderMap, HeaderValue};

/// The `Sec-WebSocket-Accept` a worker must answer with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accept([u8; 28]);

impl Accept {
    /// The value of the header field.
    pub(crate) fn value(self) -> HeaderValue {
        HeaderValue::from_bytes(&self.0).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

/// Computes the accept value for a client's key; `None` if the key is not 16 bytes in base64 (24 characters).
pub(crate) fn accept_for(key: &[u8]) -> Option<Accept> {
    let is_base64 = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=');
    if key.len() != 24 || !key.iter().all(is_base64) {
        return None;
    }
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key);
    context.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let mut accept = [b'='; 28];
    base64(context.finish().as_ref(), &mut accept);
    Some(Accept(accept))
}

/// Encodes random bytes as a `Sec-WebSocket-Key` of stickyd's own.
pub(crate) fn key(bytes: &[u8; 16]) -> [u8; 24] {
    let mut key = [b'='; 24];
    base64(bytes, &mut key);
    key
}

/// Whether the head of a 101 grants the requested upgrade. There must be exactly one accept: with two, the client might
/// check the other one.
pub(crate) fn grants(headers: &HeaderMap, accept: &Accept) -> bool {
    let mut accepts = headers.get_all(header::SEC_WEBSOCKET_ACCEPT).iter();
    let accepted = accepts.next().is_some_and(|value| value.as_bytes() == accept.0) && accepts.next().is_none();
    accepted && list_has(headers, &header::UPGRADE, b"websocket") && list_has(headers, &header::CONNECTION, b"upgrade")
}

/// Encodes `input` as base64 into `out`, which already holds the padding.
fn base64(input: &[u8], out: &mut [u8]) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (three, four) in input.chunks(3).zip(out.chunks_mut(4)) {
        let bits = three.iter().chain(&[0, 0]).take(3).fold(0u32, |bits, &byte| bits << 8 | u32::from(byte));
        for (place, character) in four.iter_mut().enumerate().take(three.len() + 1) {
            let index = (bits >> (18 - 6 * place)) & 63;
            *character = ALPHABET.get(index as usize).copied().unwrap_or(b'=');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rfc_6455_example_is_accepted() {
        let accept = accept_for(b"dGhlIHNhbXBsZSBub25jZQ==").unwrap();
        assert_eq!(&accept.0, b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".first_chunk::<28>().unwrap());
    }

    #[test]
    fn our_own_keys_are_valid() {
        assert_eq!(&key(b"the sample nonce"), b"dGhlIHNhbXBsZSBub25jZQ==");
    }

    #[test]
    fn malformed_keys_are_rejected() {
        assert_eq!(accept_for(b""), None);
        assert_eq!(accept_for(b"dGhlIHNhbXBsZSBub25jZQ="), None);
        assert_eq!(accept_for(b"dGhlIHNhbXBsZSBub25jZ\r\n="), None);
    }
}
