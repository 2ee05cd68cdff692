//! Keys derived from the secret of the fleet.

use aws_lc_rs::hmac;

/// Derives 32 bytes from the fleet's secret. Each `purpose` and `parts` gives independent bytes, so that one use of the
/// secret reveals nothing about another. Parts are length-prefixed: `("ab", "c")` differs from `("a", "bc")`.
pub(crate) fn derive(secret: &[u8], purpose: &str, parts: &[&str]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret));
    for part in std::iter::once(&purpose).chain(parts) {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    first(context.sign().as_ref())
}

/// Returns the first `N` bytes, padded with zeros if there are fewer.
pub(crate) fn first<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    for (to, from) in out.iter_mut().zip(bytes) {
        *to = *from;
    }
    out
}
