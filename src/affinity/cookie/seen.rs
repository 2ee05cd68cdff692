//! The last cookie a connection has shown and that was found to be ours: a browser shows the same one with every request, and
//! its MAC costs as much as the rest of reading a head.
//!
//! What is kept says nothing of a worker that the cookie's own text does not (invariant 1); another text, or another jar
//! after a reload, is opened anew.

use std::cell::Cell;

use aws_lc_rs::constant_time;

use super::{Cookie, TEXT};

/// One connection's.
#[derive(Default)]
pub struct Seen(Cell<Option<Known>>);

#[derive(Clone, Copy)]
struct Known {
    jar: u64,
    text: [u8; TEXT],
    cookie: Cookie,
}

impl Seen {
    /// What this text says, if it was the last and this jar has opened it. As long to tell for any text: the connection may
    /// be a proxy's, and the cookie another client's.
    pub(super) fn get(&self, jar: u64, text: &[u8]) -> Option<Cookie> {
        let known = self.0.get().filter(|known| known.jar == jar)?;
        constant_time::verify_slices_are_equal(&known.text, text).ok()?;
        Some(known.cookie)
    }

    /// This jar has opened it.
    pub(super) fn set(&self, jar: u64, text: &[u8], cookie: Cookie) {
        if let Ok(text) = text.try_into() {
            self.0.set(Some(Known { jar, text, cookie }));
        }
    }
}
