//! Caches the last valid cookie of a connection: a browser sends the same cookie with every request, and checking its
//! MAC costs as much as reading the rest of the head.
//!
//! The cache knows nothing of a worker that is not in the cookie itself (ARCHITECTURE.md, invariant 1). A different
//! text, or a new jar after a reload, is verified anew.

use std::cell::Cell;

use aws_lc_rs::constant_time;

use super::{Cookie, TEXT};

/// The last valid cookie of one client connection.
#[derive(Default)]
pub struct SeenCookie(Cell<Option<KnownCookie>>);

#[derive(Clone, Copy)]
struct KnownCookie {
    jar: u64,
    text: [u8; TEXT],
    cookie: Cookie,
}

impl SeenCookie {
    /// Returns the cached cookie if this jar verified exactly this text last. The comparison takes constant time: the
    /// connection may be a proxy's, and the cookie another client's.
    pub(crate) fn get(&self, jar: u64, text: &[u8]) -> Option<Cookie> {
        let known = self.0.get().filter(|known| known.jar == jar)?;
        constant_time::verify_slices_are_equal(&known.text, text).ok()?;
        Some(known.cookie)
    }

    /// Caches a cookie that this jar has verified.
    pub(crate) fn set(&self, jar: u64, text: &[u8], cookie: Cookie) {
        if let Ok(text) = text.try_into() {
            self.0.set(Some(KnownCookie { jar, text, cookie }));
        }
    }
}
