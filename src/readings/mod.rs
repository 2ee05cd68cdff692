//! How workers read a path. A route is chosen by the path as its worker will read it, not by its spelling: most workers
//! decode `%61`, many merge `//` and follow `..`, some cut `;parameters` off or take `\` for `/`, and a few do more.
//!
//! [`Readings`] holds every path that a worker could see in a spelling: what the steps below make of it, in any order.
//! One of them, the normal form, chooses the route; the guards of the routes of all others apply as well
//! (docs/reference/routing.md §10). A path without special bytes has one reading, which is itself: [`is_plain`] says
//! so, and nothing is allocated for it. Left out: what is sent to the worker, which is always what the client wrote.

mod steps;

use steps::STEPS;

/// Maximum number of readings of one path. Ordinary paths have one, or two if something in them is percent-encoded; a
/// URL inside of a path has about ten.
const MAX_READINGS: usize = 64;

/// Bound for the bytes of all readings of one path, in addition to four times its length; with it, reading the worst
/// path costs less than half a millisecond.
const MAX_BYTES: usize = 64 * 1024;

/// Why a path has no meaning that all workers share, so that it is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// A `%` is not followed by two hexadecimal digits (RFC 3986 §2.1).
    Escape,
    /// It contains NUL, at which C programs end a text.
    Nul,
    /// It contains an overlong form of UTF-8 (RFC 3629 §3), which some decoders take for ASCII.
    Overlong,
    /// It climbs above the root.
    AboveRoot,
    /// It has more readings than are worth looking at.
    TooMany,
}

impl Unreadable {
    /// The reason, for the answer to the client.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Escape => "the path has a % without two hexadecimal digits",
            Self::Nul => "the path has a NUL",
            Self::Overlong => "the path has an overlong form of UTF-8",
            Self::AboveRoot => "the path climbs above the root",
            Self::TooMany => "the path can be read in too many ways",
        }
    }
}

/// Every path that a worker may see in one spelling.
#[derive(Debug)]
pub struct Readings {
    /// The normal form: decoded once, with `/` for `\`, without parameters, empty segments and dot segments.
    pub normal: Vec<u8>,
    /// All readings, each once. The first one is the spelling, with all characters decoded that structure nothing.
    pub all: Vec<Vec<u8>>,
}

/// Whether a path has only one reading, which is the path itself.
pub fn is_plain(path: &[u8]) -> bool {
    let mut before = 0;
    for (at, &byte) in path.iter().enumerate() {
        match byte {
            b'%' | b'\\' | b';' | b'#' | b'?' | 0..=b' ' | 0x7f.. => return false,
            b'/' if before == b'/' => return false,
            b'.' if before == b'/' && steps::is_dots(segment(path, at)) => return false,
            _ => {}
        }
        before = byte;
    }
    true
}

/// The segment that begins at a position.
fn segment(path: &[u8], start: usize) -> &[u8] {
    path.get(start..).and_then(|rest| rest.split(|byte| *byte == b'/').next()).unwrap_or_default()
}

impl Readings {
    /// Reads a path in every way.
    ///
    /// # Errors
    /// The path has no meaning that all workers share.
    pub fn of(path: &[u8]) -> Result<Self, Unreadable> {
        if !steps::has_valid_escapes(path) {
            return Err(Unreadable::Escape);
        }
        let first = steps::decode_unstructured(path);
        check(&first)?;
        let mut held = first.len();
        let most = MAX_BYTES.saturating_add(path.len().saturating_mul(4));
        let mut all = vec![first];
        let mut next = 0;
        while next < all.len() {
            for step in STEPS {
                let Some(made) = all.get(next).map(|reading| step(reading)).transpose()?.flatten() else { continue };
                if all.contains(&made) {
                    continue;
                }
                check(&made)?;
                held = held.saturating_add(made.len());
                if all.len() >= MAX_READINGS || held > most {
                    return Err(Unreadable::TooMany);
                }
                all.push(made);
            }
            next += 1;
        }
        Ok(Self { normal: normal(path)?, all })
    }
}

/// The normal form of a path.
///
/// # Errors
/// It climbs above the root.
fn normal(path: &[u8]) -> Result<Vec<u8>, Unreadable> {
    let mut path = path.to_vec();
    for step in steps::NORMAL {
        if let Some(made) = step(&path)? {
            path = made;
        }
    }
    Ok(path)
}

/// Refuses bytes that end a text for some workers, or that some take for others.
fn check(reading: &[u8]) -> Result<(), Unreadable> {
    if reading.contains(&0) {
        return Err(Unreadable::Nul);
    }
    if steps::has_overlong(reading) {
        return Err(Unreadable::Overlong);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
