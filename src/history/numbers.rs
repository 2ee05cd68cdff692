//! The numbers of a sample: their names and order, and their codes of four bytes. The code is pure.
//!
//! A sample of one second is stored as it is (`f32`). In the coarser rings a rate is the mean of its step, and a gauge
//! is a pair of 16-bit floats: its last value and its maximum. These have 11 significant bits, so that counts up to
//! 2,048 are exact and larger values are within 0.05 %. Code 0 is a gap, so that an empty ring is all zeros.

/// Numbers of a worker, in the order of every sample.
pub(crate) const WORKER_NUMBERS: [&str; 12] = [
    "sessions",
    "websockets",
    "requests_per_s",
    "failures_per_s",
    "refusals_per_s",
    "opened_per_s",
    "closed_per_s",
    "bytes_up_per_s",
    "bytes_down_per_s",
    "in_flight",
    "cpu_percent",
    "memory_bytes",
];

/// Numbers of an upstream, in the order of every sample.
pub(crate) const UPSTREAM_NUMBERS: [&str; 5] = [
    "refusals_own_per_s",
    "refusals_healed_per_s",
    "refusals_forwarded_per_s",
    "round_trip_p50_ms",
    "round_trip_p95_ms",
];

/// Whether a number is a gauge, that is, a state and not a rate.
pub(crate) fn is_gauge(name: &str) -> bool {
    !name.ends_with("_per_s")
}

/// Returns the code of a number of a sample; NaN is a gap.
pub(crate) fn code_of(number: f32) -> u32 {
    if number.is_nan() { 0 } else { number.to_bits() ^ f32::NAN.to_bits() }
}

/// Returns the number of a code; NaN is a gap.
pub(crate) fn number_of(code: u32) -> f32 {
    if code == 0 { f32::NAN } else { f32::from_bits(code ^ f32::NAN.to_bits()) }
}

/// Returns the code of the last value and the maximum of a gauge.
pub(crate) fn pair_of(last: f32, maximum: f32) -> u32 {
    u32::from(half_of(last)) | u32::from(half_of(maximum)) << 16
}

/// Returns the last value and the maximum of a gauge.
pub(crate) fn parts_of(code: u32) -> (f32, f32) {
    let half = |bits: u32| number_of_half(u16::try_from(bits & 0xffff).unwrap_or(0));
    (half(code), half(code >> 16))
}

/// Bits of the fraction of a 16-bit float; the other six are its exponent. There is no sign.
const FRACTION: u32 = 10;

/// Exponent of the smallest 16-bit float: 2^-14 is far below anything that is shown.
const SMALLEST: i32 = -14;

/// Returns the 16-bit float that is nearest to a number; 0 is a gap, 1 the number 0.
fn half_of(number: f32) -> u16 {
    if number.is_nan() {
        return 0;
    }
    if number < 2f32.powi(SMALLEST) {
        return 1;
    }
    // Adding half of the last bit that is kept rounds; a carry goes into the exponent, as it should.
    let bits = number.to_bits() + (1 << (23 - FRACTION - 1));
    let exponent = (bits >> 23).saturating_sub(u32::try_from(127 + SMALLEST).unwrap_or(0));
    let code = exponent << FRACTION | (bits >> (23 - FRACTION)) & ((1 << FRACTION) - 1);
    u16::try_from(code + 2).unwrap_or(u16::MAX)
}

fn number_of_half(half: u16) -> f32 {
    match half {
        0 => f32::NAN,
        1 => 0.0,
        half => {
            let code = u32::from(half) - 2;
            let exponent = (code >> FRACTION) + u32::try_from(127 + SMALLEST).unwrap_or(0);
            f32::from_bits(exponent << 23 | (code & ((1 << FRACTION) - 1)) << (23 - FRACTION))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn gaps_and_counts_are_exact() {
        assert!(number_of(code_of(f32::NAN)).is_nan() && number_of(0).is_nan() && parts_of(0).0.is_nan());
        assert_eq!(pair_of(f32::NAN, f32::NAN), 0);
        for count in 0..=2_048u16 {
            let count = f32::from(count);
            assert_eq!((number_of(code_of(count)), parts_of(pair_of(count, 0.0)).0), (count, count));
        }
        assert_eq!(parts_of(pair_of(12.5, 84_934_656.0)), (12.5, 84_934_656.0));
        assert_eq!(parts_of(pair_of(-1.0, 1e-9)), (0.0, 0.0), "there is nothing below 0");
        assert!(parts_of(pair_of(0.0, f32::MAX)).1 > 1e14, "what is too large stays large");
    }

    proptest! {
        #[test]
        fn a_pair_is_within_half_a_thousandth(last in 0.0f32..1e14, maximum in 0.001f32..1e6) {
            let parts = parts_of(pair_of(last, maximum));
            prop_assert!((parts.0 - last).abs() <= last * 0.0005 + 0.0001, "{last} became {}", parts.0);
            prop_assert!((parts.1 - maximum).abs() <= maximum * 0.0005, "{maximum} became {}", parts.1);
            prop_assert_eq!(pair_of(parts.0, parts.1), pair_of(last, maximum));
        }

        #[test]
        fn a_number_survives_its_code(bits: u32) {
            let number = f32::from_bits(bits);
            let back = number_of(code_of(number));
            prop_assert!(back.to_bits() == bits || number.is_nan() && back.is_nan());
        }
    }
}
