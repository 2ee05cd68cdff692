//! Random bytes, from the cryptographic library that is linked anyway.

use std::cell::RefCell;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};

/// Bytes fetched at once: fetching twelve costs as much as fetching all of them (2,300 instructions and a slow RDRAND).
const FETCH: usize = 512;

/// Unpredictable bytes of one thread; those from `used` on have not been handed out yet.
struct RandomPool {
    bytes: [u8; FETCH],
    used: usize,
}

thread_local! {
    static POOL: RefCell<RandomPool> = const { RefCell::new(RandomPool { bytes: [0; FETCH], used: FETCH }) };
}

/// Returns `N` unpredictable bytes that are not handed out again; `N` is at most [`FETCH`].
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    const { assert!(N <= FETCH) };
    POOL.with_borrow_mut(|pool| {
        if pool.used + N > FETCH {
            fetch(&mut pool.bytes);
            pool.used = 0;
        }
        let mut out = [0; N];
        for (to, from) in out.iter_mut().zip(pool.bytes.iter_mut().skip(pool.used)) {
            // Bytes that were handed out are erased, since they may be a secret.
            *to = std::mem::take(from);
        }
        pool.used += N;
        out
    })
}

fn fetch(out: &mut [u8]) {
    // The system's source fails only before it is seeded, at boot; nothing that stickyd does is safe without it.
    #[allow(clippy::panic, reason = "without randomness there is no unforgeable cookie and no keyed hash")]
    if SystemRandom::new().fill(out).is_err() {
        panic!("the operating system gives no random bytes");
    }
}

/// Returns an unpredictable number of 64 bits.
pub(crate) fn u64() -> u64 {
    u64::from_ne_bytes(bytes())
}

/// Mixes the bits of a number (splitmix64's finaliser): similar inputs give outputs without visible relation.
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
    fn bytes_are_never_handed_out_twice() {
        let threads: Vec<_> =
            (0..4).map(|_| std::thread::spawn(|| (0..500).map(|_| bytes::<12>()).collect::<Vec<_>>())).collect();
        let all: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), 2000);
        POOL.with_borrow(|pool| {
            assert!(pool.bytes.iter().take(pool.used).all(|&byte| byte == 0), "bytes that were handed out are erased")
        });
    }

    #[test]
    fn one_piece_may_use_up_the_whole_pool() {
        let (large, small) = (bytes::<FETCH>(), bytes::<16>());
        assert!(large.iter().filter(|&&byte| byte == 0).count() < 20);
        assert!(!large.windows(16).any(|piece| piece == small));
    }
}
