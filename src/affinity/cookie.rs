//! The affinity cookie: a client's random name and the worker of its last session, signed (design §3).
//!
//! ```text
//! stickyd_<upstream> = base64url( client 12 bytes | worker 8 bytes | MAC 16 bytes )       48 characters, no padding
//! ```
//!
//! The MAC is HMAC-SHA256 cut to 128 bits under a key of (secret, upstream), so a cookie is worth nothing at another
//! upstream, and whoever cannot sign cannot choose a worker. The worker is a keyed hash, which shows no address and stays
//! right when the config's order changes. Left out: expiry (it is a session cookie and a wrong worker costs nothing but a
//! ring lookup) and encryption (there is nothing to hide in it). When to read and when to rewrite it is the caller's.

mod seen;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use aws_lc_rs::{constant_time, hmac};
use hyper::HeaderMap;
use hyper::header::{CACHE_CONTROL, EXPIRES};
use hyper::http::HeaderValue;

use super::derive::{derive, first};
use crate::config::SameSite;
pub use seen::Seen;

#[cfg(test)]
mod tests;

const CLIENT: usize = 12;
const MAC: usize = 16;
/// Client, worker, MAC. A multiple of 3, so base64 has no spare bits: one cookie has one spelling.
const LENGTH: usize = CLIENT + 8 + MAC;
/// The same in letters.
const TEXT: usize = LENGTH / 3 * 4;

/// A worker as a cookie and the ring name it: the same in a whole fleet, whatever the order of the config.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub u64);

/// The id of the worker with this name, or address where it has none. `secret` is the fleet's.
pub fn worker_id(secret: &[u8], upstream: &str, worker: &str) -> WorkerId {
    WorkerId(u64::from_be_bytes(first(&derive(secret, "worker", &[upstream, worker]))))
}

/// What a cookie says once its MAC is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cookie {
    /// Random, made by whoever sets the first cookie; the ring's key for this client.
    pub client: [u8; CLIENT],
    /// Where this client's last session was placed. May be gone by now.
    pub worker: WorkerId,
}

/// Reads and writes the cookie of one upstream.
pub struct Jar {
    /// Never another jar's, so that what one has opened is not taken for another's.
    serial: u64,
    name: String,
    key: hmac::Key,
    same_site: SameSite,
}

impl Jar {
    /// `secret` is the fleet's; `upstream` is `[a-z0-9_-]{1,32}` (checked by `config`).
    pub fn new(secret: &[u8], upstream: &str, same_site: SameSite) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &derive(secret, "cookie", &[upstream]));
        static MADE: AtomicU64 = AtomicU64::new(0);
        Self { serial: MADE.fetch_add(1, Relaxed), name: format!("stickyd_{upstream}"), key, same_site }
    }

    /// The cookie's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The first cookie that is ours, of the values of all `Cookie` headers. Forged, cut or another upstream's: none. `seen`
    /// is the connection's.
    pub fn read<'a>(&self, cookie_headers: impl Iterator<Item = &'a [u8]>, seen: &Seen) -> Option<Cookie> {
        cookie_headers
            .flat_map(|header| header.split(|&b| b == b';'))
            .filter_map(|pair| pair.trim_ascii().strip_prefix(self.name.as_bytes())?.strip_prefix(b"="))
            // Several are legitimate (one a path or a domain); a header full of forgeries must not cost a MAC each.
            .take(4)
            .find_map(|value| {
                let known = seen.get(self.serial, value);
                known.or_else(|| self.open(value).inspect(|cookie| seen.set(self.serial, value, *cookie)))
            })
    }

    /// Whether a value is a cookie's that we signed.
    pub fn signed(&self, value: &[u8]) -> bool {
        self.open(value).is_some()
    }

    /// A `Set-Cookie` value. `secure`: the client came over TLS; `SameSite=None` is always `Secure`, or browsers refuse it.
    pub fn write(&self, cookie: &Cookie, secure: bool) -> HeaderValue {
        let same_site = match self.same_site {
            SameSite::Lax => "; SameSite=Lax",
            SameSite::Strict => "; SameSite=Strict",
            SameSite::None => "; SameSite=None; Secure; Partitioned",
        };
        let secure = if secure && self.same_site != SameSite::None { "; Secure" } else { "" };
        let sealed = self.seal(cookie);
        let text =
            [self.name.as_bytes(), b"=", &sealed, b"; Path=/; HttpOnly", same_site.as_bytes(), secure.as_bytes()];
        // Cannot fail for the names `config` lets through, which are ASCII; an empty Set-Cookie sets nothing.
        HeaderValue::try_from(text.concat()).unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    fn seal(&self, cookie: &Cookie) -> [u8; TEXT] {
        let mut bytes = [0; LENGTH];
        let said = cookie.client.into_iter().chain(cookie.worker.0.to_be_bytes());
        bytes.iter_mut().zip(said).for_each(|(to, from)| *to = from);
        let (said, mac) = bytes.split_at_mut(LENGTH - MAC);
        mac.copy_from_slice(&first::<MAC>(hmac::sign(&self.key, said).as_ref()));
        to_base64(&bytes)
    }

    fn open(&self, value: &[u8]) -> Option<Cookie> {
        let bytes = from_base64(value)?;
        let (said, mac) = bytes.split_at_checked(LENGTH - MAC)?;
        let expected: [u8; MAC] = first(hmac::sign(&self.key, said).as_ref());
        constant_time::verify_slices_are_equal(&expected, mac).ok()?;
        let (client, worker) = said.split_at_checked(CLIENT)?;
        Some(Cookie { client: first(client), worker: WorkerId(u64::from_be_bytes(first(worker))) })
    }
}

/// Whether an answer may carry our cookie. Never one that a shared cache may store: it would hand one client's name to
/// all. `public`, `s-maxage`, a `max-age` above 0 or `Expires` say it may; `private` and `no-store` outweigh the last two,
/// as in a cache (RFC 9111 §3, §5.2.2).
pub fn may_set(response_headers: &HeaderMap) -> bool {
    let (mut shared, mut stored, mut forbidden) = (false, response_headers.contains_key(EXPIRES), false);
    let values = response_headers.get_all(CACHE_CONTROL).into_iter();
    for directive in values.flat_map(|value| value.as_bytes().split(|&b| b == b',')) {
        let mut halves = directive.splitn(2, |&b| b == b'=');
        let name = halves.next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
        let argument = halves.next();
        match &name[..] {
            b"public" | b"s-maxage" => shared = true,
            b"max-age" => stored |= !argument.is_some_and(is_zero),
            // `private="field"` is about that field alone.
            b"private" | b"no-store" => forbidden |= argument.is_none(),
            _ => {}
        }
    }
    !shared && (forbidden || !stored)
}

/// `0`, `00`, `"0"`. What cannot be read is not zero: better no cookie than a shared one.
fn is_zero(argument: &[u8]) -> bool {
    let digits = argument.trim_ascii();
    let digits = digits.strip_prefix(b"\"").and_then(|d| d.strip_suffix(b"\"")).unwrap_or(digits);
    !digits.is_empty() && digits.iter().all(|&b| b == b'0')
}

/// RFC 4648 §5.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// base64url.
fn to_base64(bytes: &[u8; LENGTH]) -> [u8; TEXT] {
    let mut text = [0; TEXT];
    for (quad, triple) in text.chunks_exact_mut(4).zip(bytes.chunks_exact(3)) {
        let bits = triple.iter().fold(0, |bits, &byte| bits << 8 | usize::from(byte));
        for (letter, shift) in quad.iter_mut().zip([18, 12, 6, 0]) {
            *letter = ALPHABET.get(bits >> shift & 63).copied().unwrap_or_default();
        }
    }
    text
}

/// Back to [`LENGTH`] bytes; anything but exactly that much base64url is none.
fn from_base64(text: &[u8]) -> Option<[u8; LENGTH]> {
    if text.len() != TEXT {
        return None;
    }
    let mut bytes = [0; LENGTH];
    for (triple, quad) in bytes.chunks_exact_mut(3).zip(text.chunks_exact(4)) {
        let bits = quad.iter().try_fold(0_u32, |bits, &letter| Some(bits << 6 | u32::from(six_bits(letter)?)))?;
        for (to, from) in triple.iter_mut().zip(bits.to_be_bytes().into_iter().skip(1)) {
            *to = from;
        }
    }
    Some(bytes)
}

fn six_bits(letter: u8) -> Option<u8> {
    match letter {
        b'A'..=b'Z' => Some(letter - b'A'),
        b'a'..=b'z' => Some(letter - b'a' + 26),
        b'0'..=b'9' => Some(letter - b'0' + 52),
        b'-' => Some(62),
        b'_' => Some(63),
        _ => None,
    }
}
