//! Chance, from the cryptographic library that is linked anyway.

use std::cell::RefCell;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};

/// Bytes fetched at once: a fetch costs as much for twelve of them as for all (2,300 instructions and a slow RDRAND).
const FETCH: usize = 512;

/// Unpredictable bytes of a thread that nobody has had yet: those from `used` on.
struct Pool {
    bytes: [u8; FETCH],
    used: usize,
}

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { bytes: [0; FETCH], used: FETCH }) };
}

/// `N` unpredictable bytes, which nobody else gets; at most [`FETCH`].
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    const { assert!(N <= FETCH) };
    POOL.with_borrow_mut(|pool| {
        if pool.used + N > FETCH {
            fetch(&mut pool.bytes);
            pool.used = 0;
        }
        let mut out = [0; N];
        for (to, from) in out.iter_mut().zip(pool.bytes.iter_mut().skip(pool.used)) {
            // What was given away is not kept: it may be a secret.
            *to = std::mem::take(from);
        }
        pool.used += N;
        out
    })
}

fn fetch(out: &mut [u8]) {
    // The system source fails only before it is seeded, at boot; nothing stickyd does is safe without it.
    #[allow(clippy::panic, reason = "no randomness means no unforgeable cookie and no keyed hash")]
    if SystemRandom::new().fill(out).is_err() {
        panic!("the operating system gives no random bytes");
    }
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn nobody_gets_what_another_had() {
        let threads: Vec<_> =
            (0..4).map(|_| std::thread::spawn(|| (0..500).map(|_| bytes::<12>()).collect::<Vec<_>>())).collect();
        let all: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), 2000);
        POOL.with_borrow(|pool| {
            assert!(pool.bytes.iter().take(pool.used).all(|&byte| byte == 0), "and none of it is kept")
        });
    }

    #[test]
    fn a_piece_may_be_as_large_as_the_pool_and_leaves_none_of_it() {
        let (large, small) = (bytes::<FETCH>(), bytes::<16>());
        assert!(large.iter().filter(|&&byte| byte == 0).count() < 20);
        assert!(!large.windows(16).any(|piece| piece == small));
    }
}
