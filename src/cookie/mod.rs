//! The affinity cookie: a random client id and the worker of the client's last session, signed
//! (docs/reference/routing.md §6).
//!
//! ```text
//! stickyd_<upstream> = base64url( client 12 bytes | worker 8 bytes | MAC 16 bytes )       48 characters, no padding
//! ```
//!
//! The MAC is HMAC-SHA256 truncated to 128 bits under a key derived from the secret and the upstream. A cookie is
//! therefore worthless at another upstream, and clients cannot forge one to choose a worker. The worker is stored as a
//! keyed hash, which reveals no address and stays correct when the order of the config changes. There is no expiry (it
//! is a session cookie, and a wrong worker costs only a ring lookup) and no encryption (the cookie contains nothing
//! secret). The caller decides when to read and when to rewrite it.

mod seen;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use aws_lc_rs::{constant_time, hmac};
use hyper::HeaderMap;
use hyper::header::{CACHE_CONTROL, EXPIRES};
use hyper::http::HeaderValue;

use crate::config::SameSite;
use crate::keys::derive::{derive, first};
pub use seen::SeenCookie;

#[cfg(test)]
mod tests;

const CLIENT: usize = 12;
const MAC: usize = 16;
/// Length of a cookie in bytes: client, worker and MAC. It is a multiple of 3, so base64 has no spare bits and each
/// cookie has exactly one spelling.
const LENGTH: usize = CLIENT + 8 + MAC;
/// Length of a cookie's base64url text: 48 characters.
const TEXT: usize = LENGTH / 3 * 4;

/// Id of a worker in cookies and on the ring: the same in the whole fleet, whatever the order of the config.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub u64);

/// Returns the id of the worker with this name, or with this address if it has no name. `secret` is shared by the
/// fleet.
pub fn worker_id(secret: &[u8], upstream: &str, worker: &str) -> WorkerId {
    WorkerId(u64::from_be_bytes(first(&derive(secret, "worker", &[upstream, worker]))))
}

/// The pairs of a `Cookie` header. Heads of browsers carry long cookies of applications, so the separators are searched
/// for many bytes at a time.
fn pairs(header: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(header);
    std::iter::from_fn(move || {
        let all = rest?;
        let end = memchr::memchr(b';', all);
        rest = end.and_then(|end| all.get(end + 1..));
        end.map_or(Some(all), |end| all.get(..end))
    })
}

/// Contents of a cookie whose MAC was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cookie {
    /// Random id of the client, made when its first cookie is set; the ring's key for this client.
    pub client: [u8; CLIENT],
    /// Worker of this client's last session; it may be gone by now.
    pub worker: WorkerId,
}

/// Reads and writes the cookie of one upstream.
pub struct Jar {
    /// Unique per jar, so that a cookie verified by one jar is not taken as verified by another.
    serial: u64,
    name: String,
    key: hmac::Key,
    same_site: SameSite,
}

impl Jar {
    /// Makes the jar of one upstream. `secret` is shared by the fleet; `upstream` is `[a-z0-9_-]{1,32}` (checked by
    /// `config`).
    pub fn new(secret: &[u8], upstream: &str, same_site: SameSite) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &derive(secret, "cookie", &[upstream]));
        static MADE: AtomicU64 = AtomicU64::new(0);
        Self { serial: MADE.fetch_add(1, Relaxed), name: format!("stickyd_{upstream}"), key, same_site }
    }

    /// Name of the cookie: `stickyd_` and the upstream.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the first valid cookie of this jar among the values of all `Cookie` headers. A cookie that is forged,
    /// truncated or made for another upstream counts as absent. `seen` caches the last valid cookie of the client
    /// connection.
    pub fn read<'a>(&self, cookie_headers: impl Iterator<Item = &'a [u8]>, seen: &SeenCookie) -> Option<Cookie> {
        cookie_headers
            .flat_map(pairs)
            .filter_map(|pair| pair.trim_ascii().strip_prefix(self.name.as_bytes())?.strip_prefix(b"="))
            // Several cookies of this name are legitimate (one per path or domain); a header full of forgeries must not
            // cost one MAC each.
            .take(4)
            .find_map(|value| {
                let known = seen.get(self.serial, value);
                known.or_else(|| self.open(value).inspect(|cookie| seen.set(self.serial, value, *cookie)))
            })
    }

    /// Whether a cookie value carries a valid signature of this jar.
    pub fn signed(&self, value: &[u8]) -> bool {
        self.open(value).is_some()
    }

    /// Formats a `Set-Cookie` value. `secure`: the client connected over TLS. `SameSite=None` always implies `Secure`,
    /// because browsers reject it otherwise.
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
        // Cannot fail, because the names that `config` accepts are ASCII; an empty Set-Cookie sets nothing.
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

/// Whether a response may carry our cookie. A response that a shared cache may store must not, or the cache would give
/// one client's cookie to all clients. `public`, `s-maxage`, a `max-age` above 0 and `Expires` permit storing;
/// `private` and `no-store` override the last two, as in a cache (RFC 9111 §3, §5.2.2).
pub(crate) fn may_set(response_headers: &HeaderMap) -> bool {
    let (mut shared, mut stored, mut forbidden) = (false, response_headers.contains_key(EXPIRES), false);
    let values = response_headers.get_all(CACHE_CONTROL).into_iter();
    for directive in values.flat_map(|value| value.as_bytes().split(|&b| b == b',')) {
        let mut halves = directive.splitn(2, |&b| b == b'=');
        let name = halves.next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
        let argument = halves.next();
        match &name[..] {
            b"public" | b"s-maxage" => shared = true,
            b"max-age" => stored |= !argument.is_some_and(is_zero),
            // `private="field"` restricts only that field.
            b"private" | b"no-store" => forbidden |= argument.is_none(),
            _ => {}
        }
    }
    !shared && (forbidden || !stored)
}

/// Whether a `max-age` argument is zero: `0`, `00` or `"0"`. An unreadable argument is not zero: no cookie is better
/// than a shared one.
fn is_zero(argument: &[u8]) -> bool {
    let digits = argument.trim_ascii();
    let digits = digits.strip_prefix(b"\"").and_then(|d| d.strip_suffix(b"\"")).unwrap_or(digits);
    !digits.is_empty() && digits.iter().all(|&b| b == b'0')
}

/// Alphabet of base64url (RFC 4648 §5).
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Encodes the bytes of a cookie as base64url.
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

/// Decodes a cookie value to [`LENGTH`] bytes; `None` unless it is base64url of exactly that length.
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
