//! Chance, from the cryptographic library that is linked anyway.

use aws_lc_rs::rand::{SecureRandom, SystemRandom};

/// `N` unpredictable bytes.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    // The system source fails only before it is seeded, at boot; nothing stickyd does is safe without it.
    #[allow(clippy::panic, reason = "no randomness means no unforgeable cookie and no keyed hash")]
    if SystemRandom::new().fill(&mut out).is_err() {
        panic!("the operating system gives no random bytes");
    }
    out
}

/// An unpredictable number.
pub(crate) fn u64() -> u64 {
    u64::from_ne_bytes(bytes())
}

/// splitmix64's finaliser: neighbours in, no visible relation out.
pub(crate) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
