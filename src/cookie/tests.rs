//! Cookies that stickyd wrote are read back, and everything else is rejected.

use hyper::header::HeaderName;
use proptest::prelude::*;

use super::*;

const SECRET: &[u8] = b"0123456789abcdef";

fn jar() -> Jar {
    Jar::new(SECRET, "app", SameSite::Lax)
}

fn value(cookie: &Cookie) -> String {
    String::from_utf8(jar().seal(cookie).to_vec()).unwrap()
}

fn read(jar: &Jar, headers: &[&str]) -> Option<Cookie> {
    jar.read(headers.iter().map(|h| h.as_bytes()), &SeenCookie::default())
}

fn cookie() -> Cookie {
    Cookie { client: *b"twelve bytes", worker: worker_id(SECRET, "app", "w1") }
}

proptest! {
    #[test]
    fn round_trip(client in any::<[u8; 12]>(), worker in any::<u64>()) {
        let cookie = Cookie { client, worker: WorkerId(worker) };
        let header = format!("a=b; stickyd_app={}; c=d", value(&cookie));
        prop_assert_eq!(read(&jar(), &[&header]), Some(cookie));
    }

    #[test]
    fn garbage_is_rejected(header in prop::collection::vec(any::<u8>(), 0..200), text in "[A-Za-z0-9_-]{48}") {
        prop_assert_eq!(jar().read([&header[..]].into_iter(), &SeenCookie::default()), None);
        prop_assert_eq!(read(&jar(), &[&format!("stickyd_app={text}")]), None);
    }
}

#[test]
fn every_flipped_bit_and_every_other_letter_is_rejected() {
    let good = value(&cookie());
    assert_eq!(good.len(), 48);
    for at in 0..good.len() {
        let mut forged = good.clone().into_bytes();
        for bit in 0..8 {
            forged[at] ^= 1 << bit;
            assert_eq!(jar().open(&forged), None);
            forged[at] ^= 1 << bit;
        }
        for letter in ALPHABET.iter().filter(|&&letter| letter != good.as_bytes()[at]) {
            let mut forged = good.clone().into_bytes();
            forged[at] = *letter;
            assert_eq!(jar().open(&forged), None);
        }
        assert_eq!(jar().open(&good.as_bytes()[..at]), None);
    }
    assert_eq!(jar().open(format!("{good}A").as_bytes()), None);
    assert_eq!(jar().open(format!("{good}=").as_bytes()), None);
}

#[test]
fn cookies_are_bound_to_secret_and_upstream() {
    let header = format!("stickyd_app={0}; stickyd_api={0}", value(&cookie()));
    assert_eq!(read(&jar(), &[&header]), Some(cookie()));
    assert_eq!(read(&Jar::new(SECRET, "api", SameSite::Lax), &[&header]), None);
    assert_eq!(read(&Jar::new(b"0123456789abcdeF", "app", SameSite::Lax), &[&header]), None);
}

#[test]
fn the_cookie_is_found_among_others() {
    let good = value(&cookie());
    let ours = format!("stickyd_app={good}");
    for headers in [
        vec![ours.clone()],
        vec!["x=y".into(), format!("a=b;{ours}")],
        vec![format!(" {ours} ;z")],
        vec![format!("stickyd_app=forged; xstickyd_app={good}; {ours}")],
        vec!["stickyd_app=; stickyd_app=; stickyd_app=".into(), ours.clone()],
    ] {
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        assert_eq!(read(&jar(), &headers), Some(cookie()), "{headers:?}");
    }
    for none in [
        String::new(),
        "stickyd_app".into(),
        format!("stickyd_appp={good}"),
        format!("STICKYD_APP={good}"),
        format!("stickyd_app=\"{good}\""),
    ] {
        assert_eq!(read(&jar(), &[&none]), None, "{none}");
    }
    let flood = format!("{}{ours}", "stickyd_app=x; ".repeat(4));
    assert_eq!(read(&jar(), &[&flood]), None, "bounded work");
}

#[test]
fn attributes_follow_same_site_and_tls() {
    let written = |same_site, secure| {
        let jar = Jar::new(SECRET, "app", same_site);
        let header = jar.write(&cookie(), secure).to_str().unwrap().to_owned();
        let (pair, attributes) = header.split_once("; ").unwrap();
        assert_eq!(read(&jar, &[pair]), Some(cookie()));
        attributes.to_owned()
    };
    assert_eq!(written(SameSite::Lax, false), "Path=/; HttpOnly; SameSite=Lax");
    assert_eq!(written(SameSite::Strict, true), "Path=/; HttpOnly; SameSite=Strict; Secure");
    assert_eq!(written(SameSite::None, false), "Path=/; HttpOnly; SameSite=None; Secure; Partitioned");
    assert_eq!(written(SameSite::None, true), "Path=/; HttpOnly; SameSite=None; Secure; Partitioned");
    assert_eq!(jar().name(), "stickyd_app");
}

#[test]
fn worker_ids_are_keyed_and_unambiguous() {
    let ids = [
        worker_id(SECRET, "app", "w1"),
        worker_id(SECRET, "app", "w2"),
        worker_id(SECRET, "ap", "pw1"),
        worker_id(b"another secret..", "app", "w1"),
    ];
    for (i, a) in ids.iter().enumerate() {
        assert!(ids.iter().skip(i + 1).all(|b| a != b));
    }
    // A fleet is upgraded one host after the other: the id must not change between versions.
    assert_eq!(worker_id(SECRET, "app", "w1"), WorkerId(0x5a66_8781_0aa1_d14b));
}

#[test]
fn no_cookie_where_a_shared_cache_may_store() {
    let set = |headers: &[(&str, &str)]| {
        let pair = |(name, value): &(&str, &str)| {
            (HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap())
        };
        may_set(&headers.iter().map(pair).collect())
    };
    for no in [
        "public",
        "Public, max-age=0",
        "s-maxage=0",
        "max-age=1",
        "no-cache,MAX-AGE = 60",
        "max-age=\"5\"",
        "max-age",
        "max-age=x",
        "private, public",
        "private=\"x\", max-age=9",
    ] {
        assert!(!set(&[("cache-control", no)]), "{no}");
    }
    for yes in
        ["no-store", "no-cache", "max-age=0", "max-age=\"0\"", "private, max-age=600", "no-transform", "x-public", ""]
    {
        assert!(set(&[("cache-control", yes)]), "{yes}");
    }
    assert!(set(&[]));
    assert!(!set(&[("expires", "Thu, 19 Nov 1981 08:52:00 GMT")]));
    assert!(set(&[("expires", "Thu, 19 Nov 1981 08:52:00 GMT"), ("cache-control", "no-store, no-cache")])); // PHP
    let mut two = HeaderMap::new();
    two.append(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    two.append(CACHE_CONTROL, HeaderValue::from_static("max-age=5"));
    assert!(!may_set(&two));
}

/// A cookie that was verified on a connection does not validate anything else: neither a changed text nor another jar's
/// cookie.
#[test]
fn a_cached_cookie_validates_nothing_else() {
    let (ours, others, seen) = (jar(), Jar::new(b"another secret !", "app", SameSite::Lax), SeenCookie::default());
    let mut text = format!("stickyd_app={}", value(&cookie())).into_bytes();
    let read = |jar: &Jar, text: &[u8]| jar.read([text].into_iter(), &seen);
    for _ in 0..2 {
        assert_eq!(read(&ours, &text), Some(cookie()));
        assert_eq!(read(&others, &text), None);
        assert_eq!(read(&ours, &text[..text.len() - 1]), None);
        let last = text.len() - 1;
        text[last] ^= 1;
        assert_eq!(read(&ours, &text), None);
        text[last] ^= 1;
    }
    let another = Cookie { client: *b"other client", ..cookie() };
    assert_eq!(read(&ours, format!("stickyd_app={}", value(&another)).as_bytes()), Some(another));
    assert_eq!(read(&ours, &text), Some(cookie()));
}
