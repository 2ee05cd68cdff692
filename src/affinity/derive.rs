//! Keys that follow from the fleet's one secret.

use aws_lc_rs::hmac;

/// 32 bytes that follow from the fleet's secret, one set per `purpose` and `parts`, so that no two uses of the secret
/// can be played against each other. Parts are length-prefixed: `("ab", "c")` is not `("a", "bc")`.
pub(super) fn derive(secret: &[u8], purpose: &str, parts: &[&str]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret));
    for part in std::iter::once(&purpose).chain(parts) {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    first(context.sign().as_ref())
}

/// The first `N` bytes; zeros where there are fewer.
pub(super) fn first<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    for (to, from) in out.iter_mut().zip(bytes) {
        *to = *from;
    }
    out
}
