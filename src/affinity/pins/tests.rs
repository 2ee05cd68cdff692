//! Tests of the pin table: single rules, a naive model, threads, and memory at scale.

mod model;

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::keys::Keys;

const SECOND: Duration = Duration::from_secs(1);

/// Makes a key whose shard is `shard`.
fn key(shard: u64, n: u64) -> Key {
    Key(shard, (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn pins(cap: usize, per_address: usize) -> (Pins<&'static str>, Instant) {
    let now = Instant::now();
    (Pins::new(cap, per_address, now), now)
}

fn own(owner: &&'static str) -> &'static str {
    owner
}

const NEW: Inserted<&str> = Inserted::New { evicted: 0 };

impl<E> Pins<E> {
    fn allocated(&self) -> usize {
        let shards: usize = self.shards.iter().map(|shard| lock(shard).allocated()).sum();
        shards + self.addresses.0.iter().map(|table| lock(table).allocation_size()).sum::<usize>()
    }
}

// ---- single rules

#[test]
fn keys_are_keyed_and_unambiguous() {
    let (a, b) = (Keys::random().unwrap(), Keys::random().unwrap());
    assert_eq!(a.key("app", b"sid"), a.key("app", b"sid"));
    assert_ne!(a.key("app", b"sid"), b.key("app", b"sid"));
    assert_ne!(a.key("app", b"sid"), a.key("ap", b"psid"));
    assert_ne!(a.key("app", b"sid"), a.key("api", b"sid"));
}

#[test]
fn a_pin_lives_its_time_after_the_last_activity() {
    let (pins, t) = pins(1000, 1000);
    let k = key(1, 1);
    assert_eq!(pins.insert(k, "a", AddressHash::new(1), 50 * SECOND, t), NEW);
    assert_eq!(pins.touch(k, t + 40 * SECOND, own), Some("a"));
    assert_eq!(pins.peek(k, t + 90 * SECOND, own), Some("a"), "refreshed");
    assert_eq!(pins.peek(k, t + 91 * SECOND, own), None, "but not by the peek");
    assert_eq!(pins.len(), 0);
}

#[test]
fn a_pin_never_lives_shorter_than_its_ttl() {
    let (pins, t) = pins(1000, 1000);
    for part in 0..20 {
        let t = t + Duration::from_millis(part * 13);
        assert_eq!(pins.insert(key(part, 1), "a", AddressHash::new(1), Duration::from_millis(1234), t), NEW);
        assert_eq!(pins.peek(key(part, 1), t + Duration::from_millis(1234), own), Some("a"));
        assert_eq!(pins.peek(key(part, 1), t + Duration::from_millis(1434), own), None);
    }
}

#[test]
fn a_pin_never_moves() {
    let (pins, t) = pins(1000, 1000);
    assert_eq!(pins.insert(key(1, 1), "a", AddressHash::new(1), SECOND, t), NEW);
    assert_eq!(pins.insert(key(1, 1), "b", AddressHash::new(1), SECOND, t + SECOND), Inserted::Kept("b"));
    assert_eq!(pins.touch(key(1, 1), t + 2 * SECOND, own), Some("a"));
    // Once expired, the pin is gone.
    assert_eq!(pins.insert(key(1, 1), "b", AddressHash::new(1), SECOND, t + 5 * SECOND), NEW);
    assert_eq!(pins.touch(key(1, 1), t + 5 * SECOND, own), Some("b"));
    assert_eq!((pins.len(), pins.remove(key(1, 1)), pins.len()), (1, Some("b"), 0));
    assert_eq!(pins.remove(key(1, 1)), None);
}

#[test]
fn changing_the_owner_is_not_activity() {
    let (pins, t) = pins(1000, 1000);
    for n in 0..3 {
        assert_eq!(pins.insert(key(1, n), "a", AddressHash::new(1), SECOND, t), NEW);
    }
    assert_eq!(pins.insert(key(2, 0), "other shard", AddressHash::new(1), SECOND, t), NEW);
    assert_eq!(pins.update(key(1, 1), t + SECOND / 2, |owner| std::mem::replace(owner, "b")), Some("a"));
    let mut seen = Vec::new();
    pins.each(1, |key, owner| seen.push((key, *owner)));
    assert_eq!(seen, [(key(1, 0), "a"), (key(1, 1), "b"), (key(1, 2), "a")]);
    pins.each(1, |_, owner| *owner = "c");
    pins.each(SHARDS, |_, _| panic!("there is no such shard"));
    assert_eq!(pins.peek(key(1, 0), t, own), Some("c"));
    assert_eq!(pins.update(key(1, 1), t + 2 * SECOND, |owner| *owner), None, "neither call is activity");
}

#[test]
fn a_pin_held_open_does_not_expire() {
    let (pins, t) = pins(64, 1000);
    let k = key(1, 1);
    assert_eq!(pins.insert(k, "a", AddressHash::new(1), SECOND, t), NEW);
    let (poll, _) = pins.open(k, t, own).unwrap();
    let (tunnel, _) = pins.open(k, t, own).unwrap();
    let late = t + 1000 * SECOND;
    assert_eq!(pins.sweep(1, late), 0);
    assert_eq!(pins.insert(key(1, 2), "b", AddressHash::new(1), SECOND, late), Inserted::Refused("b", PinsFull::Table));
    pins.close(k, poll, late, None);
    assert_eq!(pins.sweep(1, late + 100 * SECOND), 0, "one hold is left");
    pins.close(k, tunnel, late, None);
    assert_eq!(pins.touch(k, late + SECOND, own), Some("a"));
    assert_eq!(pins.sweep(1, late + 3 * SECOND), 1);
    assert_eq!(pins.open(k, late, own), None);
}

#[test]
fn closing_may_shorten_the_remaining_time() {
    let (pins, t) = pins(1000, 1000);
    let k = key(1, 1);
    assert_eq!(pins.insert(k, "a", AddressHash::new(1), 50 * SECOND, t), NEW);
    let (hold, _) = pins.open(k, t, own).unwrap();
    pins.close(k, hold, t, Some(5 * SECOND));
    assert_eq!(pins.touch(k, t + 4 * SECOND, own), Some("a"));
    assert_eq!(pins.touch(k, t + 50 * SECOND, own), Some("a"), "activity restores the full time");
    let (hold, _) = pins.open(k, t + 50 * SECOND, own).unwrap();
    pins.close(k, hold, t + 50 * SECOND, Some(500 * SECOND));
    assert_eq!(pins.touch(k, t + 101 * SECOND, own), None, "never longer than its own time to live");
}

#[test]
fn a_hold_ends_with_the_life_of_its_pin() {
    let (pins, t) = pins(1000, 1000);
    let k = key(1, 1);
    assert_eq!(pins.insert(k, "a", AddressHash::new(1), SECOND, t), NEW);
    let (old, _) = pins.open(k, t, own).unwrap();
    assert_eq!(pins.remove(k), Some("a"));
    pins.close(k, old, t, None);
    assert_eq!(pins.insert(k, "b", AddressHash::new(1), SECOND, t), NEW);
    let (hold, _) = pins.open(k, t, own).unwrap();
    pins.close(k, old, t, None);
    assert_eq!(pins.touch(k, t + 9 * SECOND, own), Some("b"), "the new hold stands");
    pins.close(k, hold, t, None);
    pins.close(k, hold, t, None);
    assert_eq!(pins.touch(k, t + 9 * SECOND, own), None);
}

#[test]
fn full_shards_evict_their_oldest_idle_pin() {
    let (pins, t) = pins(3 * SHARDS, 1000);
    for n in 0..3 {
        assert_eq!(pins.insert(key(7, n), "a", AddressHash::new(1), 50 * SECOND, t), NEW);
    }
    pins.touch(key(7, 0), t, own).unwrap();
    let (hold, _) = pins.open(key(7, 1), t, own).unwrap();
    assert_eq!(pins.insert(key(7, 3), "b", AddressHash::new(1), SECOND, t), Inserted::New { evicted: 1 });
    assert_eq!(pins.peek(key(7, 2), t, own), None, "0 was touched, 1 is open");
    pins.close(key(7, 1), hold, t, None);
    assert_eq!(pins.insert(key(7, 4), "b", AddressHash::new(1), SECOND, t), Inserted::New { evicted: 1 });
    assert_eq!(pins.peek(key(7, 0), t, own), None);
    assert_eq!((pins.len(), pins.capacity()), (3, 3 * SHARDS));
}

#[test]
fn the_quota_applies_only_over_half_full() {
    let (pins, t) = pins(4 * SHARDS, 10);
    let insert = |n: u64, address| pins.insert(key(n % 64, n), "a", AddressHash::new(address), SECOND, t);
    for n in 0..129 {
        assert_eq!(insert(n, 1), NEW, "{n}: no quota up to half full");
    }
    assert_eq!(insert(129, 1), Inserted::New { evicted: 1 });
    assert_eq!(pins.peek(key(1, 1), t, own), None, "the address's oldest pin of that shard");
    for n in 130..140 {
        assert_eq!(insert(n, 2), NEW, "{n}: other addresses have room");
    }
    // In shard 50 there is no pin of address 2 to evict.
    assert_eq!(
        pins.insert(key(50, 999), "a", AddressHash::new(2), SECOND, t),
        Inserted::Refused("a", PinsFull::Address)
    );
    assert_eq!(pins.len(), 139);
    assert_eq!((0..SHARDS).map(|shard| pins.sweep(shard, t + 9 * SECOND)).sum::<usize>(), 139);
    assert_eq!((pins.len(), pins.addresses.count(1), pins.addresses.count(2)), (0, 0, 0));
}

#[test]
fn the_search_for_own_pins_is_bounded() {
    let (pins, t) = pins(200 * SHARDS, 1);
    for n in 0..(QUOTA_WALK as u64) {
        let _ = pins.insert(key(0, n), "other", AddressHash::new(2), 9 * SECOND, t);
    }
    let _ = pins.insert(key(0, 1000), "a", AddressHash::new(1), 9 * SECOND, t);
    for shard in 1..64 {
        for n in 0..150 {
            let _ = pins.insert(key(shard, n), "x", AddressHash::new(shard * 1000 + n), 9 * SECOND, t);
        }
    }
    assert_eq!(
        pins.insert(key(0, 1001), "a", AddressHash::new(1), SECOND, t),
        Inserted::Refused("a", PinsFull::Address)
    );
    pins.remove(key(0, 5)).unwrap();
    assert_eq!(pins.insert(key(0, 1001), "a", AddressHash::new(1), SECOND, t), Inserted::New { evicted: 1 });
}

// ---- at scale

/// The bytes requested from the allocator, at every size from 20,000 to 200,000 pins, each of another address.
#[test]
fn a_pin_takes_at_most_a_hundred_bytes() {
    let now = Instant::now();
    let (pins, keys, owner) = (Pins::new(1_000_000, 10_000, now), Keys::random().unwrap(), Arc::new(()));
    let mut worst = 0.0_f64;
    for n in 1..=200_000_u64 {
        let inserted = pins.insert(
            keys.key("app", &n.to_be_bytes()),
            owner.clone(),
            AddressHash::new(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            SECOND,
            now,
        );
        assert_eq!(inserted, Inserted::New { evicted: 0 });
        if n >= 20_000 && n % 1_000 == 0 {
            let each = pins.allocated() as f64 / n as f64;
            worst = worst.max(each);
            if n == 100_000 {
                println!("{each:.1} bytes per pin at 100,000");
            }
        }
    }
    println!("{worst:.1} bytes per pin at worst");
    assert!(worst <= 90.0, "{worst}");
    assert_eq!(size_of::<Arc<()>>(), 8);

    let full = pins.allocated();
    let late = now + 10 * SECOND;
    assert_eq!((0..SHARDS).map(|shard| pins.sweep(shard, late)).sum::<usize>(), 200_000);
    assert!(pins.allocated() * 20 < full, "memory left after a flood: {} of {full}", pins.allocated());
}

#[test]
fn shrinking_loses_no_pins() {
    let (pins, t) = pins(1_000_000, 10_000);
    for n in 0..2_000 {
        let _ = pins.insert(key(3, n), "a", AddressHash::new(n), if n % 10 == 0 { 100 * SECOND } else { SECOND }, t);
    }
    let (hold, _) = pins.open(key(3, 51), t, own).unwrap();
    assert_eq!(pins.sweep(3, t + 5 * SECOND), 1_799);
    for n in (0..2_000).filter(|n| n % 10 == 0 || *n == 51) {
        assert_eq!(pins.peek(key(3, n), t + 5 * SECOND, own), Some("a"), "{n}");
    }
    pins.close(key(3, 51), hold, t + 5 * SECOND, None);
    assert_eq!(pins.sweep(3, t + 9 * SECOND), 1);
    assert_eq!(pins.len(), 200);
    let order: Vec<u32> = lock(&pins.shards[3]).oldest().into_iter().collect();
    assert_eq!(lock(&pins.shards[3]).index(key(3, 0)), order.first().copied(), "the oldest pin is still first");
}

#[test]
fn the_table_is_consistent_under_threads() {
    let now = Instant::now();
    let (pins, owner) = (Pins::new(10 * SHARDS, 20, now), Arc::new(()));
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (pins, owner) = (&pins, &owner);
            scope.spawn(move || {
                let mut random = thread + 1;
                for step in 0..20_000_u32 {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let (k, at) = (key(random >> 40 & 63, random >> 50 & 15), now + TICK * (step / 10));
                    match random >> 60 {
                        0..8 => drop(pins.insert(k, owner.clone(), AddressHash::new(random >> 35 & 31), SECOND, at)),
                        8..11 => drop(pins.touch(k, at, |_| ())),
                        11..14 => {
                            if let Some((hold, ())) = pins.open(k, at, |_| ()) {
                                pins.close(k, hold, at, None);
                            }
                        }
                        14 => drop(pins.remove(k)),
                        _ => drop(pins.sweep((random >> 40 & 63) as usize, at)),
                    }
                }
            });
        }
    });
    assert_eq!(Arc::strong_count(&owner), 1 + pins.len());
    (0..SHARDS).for_each(|shard| assert!(pins.sweep(shard, now + 10_000 * SECOND) <= 10));
    assert_eq!((pins.len(), Arc::strong_count(&owner)), (0, 1));
    assert!((0..32).all(|address| pins.addresses.count(address) == 0));
}
