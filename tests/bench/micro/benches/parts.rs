//! What the pure parts cost: on the way of every request (sid, key, pin, ring, cookie), of every message (the frame
//! observer) and of every handshake (learning). Growth with workers and pins is part of the names.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use stickyd::testing::affinity::pins::Pins;
use stickyd::testing::config::SameSite;
use stickyd::testing::cookie::{Cookie, Jar, SeenCookie, WorkerId, worker_id};
use stickyd::testing::engine_io;
use stickyd::testing::keys::{AddressHash, Keys};
use stickyd::testing::upstream::{self, Ring, Seat};
use stickyd::testing::websocket::{Observer, Sender};

const SECRET: &[u8] = b"0123456789abcdef";

fn sids(c: &mut Criterion) {
    let query = "EIO=4&transport=polling&t=PaB3xYz&sid=lv_VI97HAXpY6yYWAAAC";
    c.bench_function("sid/found", |b| b.iter(|| engine_io::recognise(black_box(Some(query)))));
    let ordinary = "page=2&sort=name&filter=a%20b&token=eyJhbGciOiJIUzI1NiJ9";
    c.bench_function("sid/ordinary query", |b| b.iter(|| engine_io::recognise(black_box(Some(ordinary)))));
    let Ok(keys) = Keys::random() else { return };
    c.bench_function("sid/key", |b| b.iter(|| keys.key("app", black_box(b"lv_VI97HAXpY6yYWAAAC"))));
}

/// The same look-up in tables of a thousand and of a million.
fn pins(c: &mut Criterion) {
    let Ok(keys) = Keys::random() else { return };
    for count in [1_000_u32, 100_000, 1_000_000] {
        let now = Instant::now();
        let pins = Pins::new(2_000_000, usize::MAX, now);
        let all: Vec<_> = (0..count).map(|n| keys.key("app", &n.to_be_bytes())).collect();
        for key in &all {
            let _ = pins.insert(*key, 7_u64, AddressHash::new(1), Duration::from_secs(3600), now);
        }
        // Far apart, as requests of many clients are.
        let mut each = all.iter().cycle().step_by(7919);
        c.bench_function(&format!("pin/open and close, of {count}"), |b| {
            b.iter(|| {
                let key = *each.next()?;
                let (hold, owner) = pins.open(key, now, |owner| *owner)?;
                pins.close(key, hold, now, None);
                Some(owner)
            });
        });
    }
}

fn rings(c: &mut Criterion) {
    for count in [4_usize, 64, 512] {
        let ids: Vec<_> = (0..count).map(|n| (worker_id(SECRET, "app", &format!("10.0.0.1:{n}")), 1)).collect();
        let ring = Ring::build(SECRET, &ids);
        let mut n = 0_u64;
        c.bench_function(&format!("ring/hash, {count} workers"), |b| {
            b.iter(|| {
                n += 1;
                upstream::hash(&ring, &n.to_be_bytes(), |_| true)
            });
        });
        let seats = vec![Seat { weight: 1, takes_new: true, load: 100, recent: 0 }; count];
        c.bench_function(&format!("ring/place, {count} workers"), |b| {
            b.iter(|| {
                n += 1;
                upstream::place(&ring, &n.to_be_bytes(), &seats)
            });
        });
    }
}

fn cookies(c: &mut Criterion) {
    let jar = Jar::new(SECRET, "app", SameSite::Lax);
    let written = jar.write(&Cookie { client: *b"twelve bytes", worker: WorkerId(7) }, false);
    let pair = written.to_str().ok().and_then(|text| text.split(';').next()).unwrap_or_default();
    let header = format!("theme=dark; {pair}; _ga=GA1.1.1234567890.1234567890");
    let read = |seen: &SeenCookie| jar.read([black_box(header.as_bytes())].into_iter(), seen);
    c.bench_function("cookie/first of a connection", |b| b.iter(|| read(&SeenCookie::default())));
    let seen = SeenCookie::default();
    c.bench_function("cookie/seen on it before", |b| b.iter(|| read(&seen)));
}

fn frames(c: &mut Criterion) {
    let small: Vec<u8> = [&[0x81, 0x80 | 64, 1, 2, 3, 4][..], &[0x5a; 64]].concat();
    let mut observer = Observer::new(Sender::Client);
    c.bench_function("frames/one message of 64 bytes", |b| b.iter(|| observer.feed(black_box(&small))));
    let many = small.repeat(100);
    let mut observer = Observer::new(Sender::Client);
    c.bench_function("frames/a hundred in one read", |b| b.iter(|| observer.feed(black_box(&many))));
}

fn handshakes(c: &mut Criterion) {
    let open = br#"0{"sid":"lv_VI97HAXpY6yYWAAAC","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}"#;
    c.bench_function("handshake/learned", |b| b.iter(|| engine_io::open_packet(black_box(open))));
}

criterion_group!(parts, sids, pins, rings, cookies, frames, handshakes);
criterion_main!(parts);
