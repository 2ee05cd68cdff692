//! The checks of the fuzz targets (`tests/fuzz`) without a fuzzer: every stored input, and variations of it.

#[allow(
    clippy::cast_possible_truncation,
    unreachable_pub,
    reason = "for the fuzz targets this is a crate of its own, with its own lints"
)]
#[path = "fuzz/src/lib.rs"]
pub(crate) mod checks;

use std::path::Path;

/// Variations of one input, the same in every run (splitmix64).
fn relatives(seed: &[u8], count: u64) -> impl Iterator<Item = Vec<u8>> {
    let mut state = seed.len() as u64;
    let mut chance = move |below: usize| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        usize::try_from((mixed ^ (mixed >> 27)) % below.max(1) as u64).unwrap()
    };
    (0..count).map(move |_| {
        let mut bytes = seed.to_vec();
        for _ in 0..=chance(4) {
            let (at, other) = (chance(bytes.len()), chance(bytes.len()));
            match chance(4) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, u8::try_from(chance(256)).unwrap()),
                2 => bytes.extend_from_within(at.min(other)..at.max(other)),
                _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << chance(8)),
            }
        }
        bytes
    })
}

fn replay(target: &str) {
    let (_, check) = checks::ALL.into_iter().find(|(name, _)| *name == target).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let mut seeds: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    seeds.sort();
    assert!(!seeds.is_empty(), "{} is empty", folder.display());
    // A higher count makes this a slow fuzzer for machines without one.
    let count = std::env::var("CORPUS_RELATIVES").map_or(20, |count| count.parse().unwrap());
    for seed in seeds {
        println!("{}", seed.display());
        let seed = std::fs::read(seed).unwrap();
        check(&seed);
        relatives(&seed, count).for_each(|relative| check(&relative));
    }
}

/// Checks that heads are forwarded at all, because the other checks only look at forwarded heads.
#[test]
fn clear_heads_are_forwarded_and_ambiguous_ones_are_not() {
    let sent = |seed: &str| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus/head");
        checks::head::sent(&std::fs::read(folder.join(seed)).unwrap())
    };
    let text = |bytes: &Option<Vec<u8>>| String::from_utf8_lossy(bytes.as_deref().unwrap()).into_owned();
    let get = text(&sent("get")[0]);
    assert!(get.starts_with("GET /a?b=c HTTP/1.1\r\n") && get.contains("x-forwarded-for: 192.0.2.7\r\n"), "{get}");
    let two = sent("post");
    assert_eq!(two.len(), 2);
    assert!(text(&two[0]).ends_with("\r\n\r\nhello") && text(&two[1]).starts_with("GET /second "), "{two:?}");
    assert!(text(&sent("chunked")[0]).contains("\r\n5\r\nhello\r\n3\r\nabc\r\n0\r\n"));
    assert!(text(&sent("no_path_but_fragment")[0]).starts_with("GET / HTTP/1.1\r\n"));
    assert!(!text(&sent("spoofed")[0]).contains("cheme"), "X-Forwarded-Scheme");
    for seed in ["te_list", "hosts", "userinfo", "authority", "connect"] {
        assert_eq!(sent(seed).first().cloned().flatten(), None, "{seed}");
    }
}

/// Checks that heads of HTTP/2 streams are forwarded at all.
#[test]
fn clear_http_2_heads_are_forwarded_and_ambiguous_ones_are_not() {
    let sent = |seed: &str| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus/h2_head");
        checks::h2_head::sent(&std::fs::read(folder.join(seed)).unwrap())
    };
    let text = |seed: &str| String::from_utf8_lossy(&sent(seed).unwrap()).into_owned();
    let get = text("get");
    assert!(get.starts_with("GET /a?b=c HTTP/1.1\r\n") && get.contains("cookie: a=1; b=2\r\n"), "{get}");
    assert!(text("post").ends_with("\r\n5\r\nhello\r\n0\r\nx-sum: 7\r\n\r\n"), "{}", text("post"));
    assert!(text("websocket").contains("upgrade: websocket\r\n"));
    assert!(!text("spoofed").contains("6.6.6.6"));
    for seed in ["split", "quoted", "hosts", "lengths", "connect", "star", "upper", "empty_length"] {
        assert_eq!(sent(seed), None, "{seed}");
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            replay(stringify!($name));
        })*

        #[test]
        fn every_target_is_replayed_and_built() {
            let names = [$(stringify!($name)),*];
            assert_eq!(checks::ALL.map(|(name, _)| name), names);
            let targets = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/fuzz_targets");
            assert!(names.iter().all(|name| targets.join(format!("{name}.rs")).is_file()));
            assert_eq!(std::fs::read_dir(targets).unwrap().count(), names.len());
        }
    };
}

targets!(
    head h2_head h2_filter cookie client proxy_protocol config sid handshake refusal frames answer route forwarded token
    connect_packet
);
