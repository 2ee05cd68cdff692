//! The affinity cookie: no cookie is accepted that stickyd did not sign.
//!
//! Input: a choice, then the values of `Cookie` headers, one per line; or a valid cookie with some of its bytes
//! changed.

use stickyd::testing::config::SameSite;
use stickyd::testing::cookie::{Cookie, Jar, SeenCookie, WorkerId};

use super::bytes::Choices;

/// Checks reading against writing.
pub fn check(data: &[u8]) {
    let mut choices = Choices(data);
    let same_site = choices.of(&[SameSite::Lax, SameSite::Strict, SameSite::None]);
    let secret = [choices.byte(); 16];
    let (jar, other) = (Jar::new(&secret, "app", same_site), Jar::new(&secret, "api", same_site));
    let mut client = [0; 12];
    client.iter_mut().for_each(|byte| *byte = choices.byte());
    let cookie = Cookie { client, worker: WorkerId(u64::from(choices.byte()) << 56 | 7) };
    let (name, value) = written(&jar, &cookie, choices.byte() & 1 != 0, same_site);

    // A connection remembers the cookie it has read; that must change nothing.
    let seen = SeenCookie::default();
    let read = |jar: &Jar, header: &[u8]| jar.read([header].into_iter(), &seen);
    assert_eq!(read(&jar, format!("{name}={value}").as_bytes()), Some(cookie));
    assert_eq!(read(&jar, format!("a=b; {name}=x;{name}={value} ;c").as_bytes()), Some(cookie), "among others");
    assert_eq!(read(&other, format!("stickyd_api={value}").as_bytes()), None, "another upstream's");
    let stranger = Jar::new(b"another secret !", "app", same_site);
    assert_eq!(read(&stranger, format!("{name}={value}").as_bytes()), None, "another fleet's");

    // A cookie has one valid spelling: with any other change of these 48 bytes it is not accepted.
    let mut changed = value.clone().into_bytes();
    for _ in 0..usize::from(choices.byte() % 4) {
        let at = choices.below(changed.len());
        changed[at] = choices.byte();
    }
    let header = [name.as_bytes(), b"=", &changed].concat();
    // Characters at which a header is split or trimmed leave a shorter value.
    assert_eq!(read(&jar, &header).is_some(), changed == value.as_bytes(), "{header:?}");

    let headers: Vec<&[u8]> = choices.0.split(|&b| b == b'\n').collect();
    if let Some(cookie) = jar.read(headers.iter().copied(), &seen) {
        // A fuzzer cannot guess a MAC, so only the cookie just written may be accepted.
        let (_, value) = written(&jar, &cookie, false, same_site);
        let holds = |header: &&[u8]| header.windows(value.len()).any(|part| part == value.as_bytes());
        assert!(headers.iter().any(holds), "{cookie:?} from {headers:?}");
    }
}

/// The name and value of a `Set-Cookie`, which must be one field value with the attributes it should have.
fn written(jar: &Jar, cookie: &Cookie, secure: bool, same_site: SameSite) -> (String, String) {
    let header = jar.write(cookie, secure);
    let text = header.to_str().expect("ASCII");
    let mut parts = text.split("; ");
    let (name, value) = parts.next().and_then(|pair| pair.split_once('=')).expect("a pair");
    let attributes: Vec<_> = parts.collect();
    assert_eq!(name, jar.name());
    assert!(value.len() == 48 && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)), "{value}");
    assert!(attributes.starts_with(&["Path=/", "HttpOnly"]), "{text}");
    assert_eq!(attributes.contains(&"Secure"), secure || same_site == SameSite::None, "{text}");
    (name.to_owned(), value.to_owned())
}
