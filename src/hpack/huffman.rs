//! The Huffman code of HPACK (RFC 7541 §5.2, Appendix B), decoded.
//!
//! The code is canonical: codes of one length are consecutive numbers, in the order of their symbols. So the lengths
//! alone define it, and the tables are made from them when stickyd is compiled.

/// Length in bits of the code of every byte, and at last of the end-of-string symbol (RFC 7541, Appendix B).
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28,
    28, 28, 28,  6, 10, 10, 12, 13,  6,  8, 11, 10, 10,  8, 11,  8,  6,  6,  6,  5,  5,  5,  6,  6,  6,  6,  6,  6,  6,
     7,  8, 15,  6, 12, 10, 13,  6,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,
     7,  8,  7,  8, 13, 19, 13, 14,  6, 15,  5,  6,  5,  6,  5,  6,  6,  6,  5,  7,  7,  6,  6,  6,  5,  6,  7,  6,  5,
     5,  6,  7,  7,  7,  7,  7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24,
    24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22,
    23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26,
    27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23,
    22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

/// Length of the longest code in bits.
const LONGEST: usize = 30;

/// Codes of one length.
#[derive(Clone, Copy)]
struct OfLength {
    /// The first code of this length.
    first: u32,
    /// Place of its symbol in [`Tables::symbols`].
    place: usize,
    /// The first code that is longer, as [`LONGEST`] bits.
    limit: u32,
}

struct Tables {
    /// Symbol and length of the code that begins with these eight bits; length 0 if the code is longer.
    short: [(u8, u8); 256],
    /// All symbols in the order of their codes.
    symbols: [u16; 257],
    lengths: [OfLength; LONGEST + 1],
}

static TABLES: Tables = tables();

#[expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "evaluated by the compiler, which reports each mistake"
)]
const fn tables() -> Tables {
    let mut tables = Tables {
        short: [(0, 0); 256],
        symbols: [0; 257],
        lengths: [OfLength { first: 0, place: 0, limit: 0 }; LONGEST + 1],
    };
    let (mut code, mut place, mut length) = (0_u32, 0, 1);
    while length <= LONGEST {
        tables.lengths[length].first = code;
        tables.lengths[length].place = place;
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                tables.symbols[place] = symbol as u16;
                if length <= 8 {
                    let mut tail = 0;
                    while tail < 1 << (8 - length) {
                        tables.short[(code as usize) << (8 - length) | tail] = (symbol as u8, length as u8);
                        tail += 1;
                    }
                }
                (code, place) = (code + 1, place + 1);
            }
            symbol += 1;
        }
        tables.lengths[length].limit = code << (LONGEST - length);
        code <<= 1;
        length += 1;
    }
    tables
}

/// Appends the decoded string to `out`; `None` if `coded` is not valid. The result has at most 8/5 of the bytes.
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut rest = coded.iter();
    // Bits that are read and not decoded yet, beginning with the highest.
    let (mut bits, mut count) = (0_u64, 0_u32);
    loop {
        while count <= 56
            && let Some(byte) = rest.next()
        {
            bits |= u64::from(*byte) << (56 - count);
            count += 8;
        }
        let (symbol, length) = first_code(bits)?;
        if length > count {
            break;
        }
        // The symbol that ends a string is not a byte, and may not occur in one (RFC 7541 §5.2).
        out.push(u8::try_from(symbol).ok()?);
        bits <<= length;
        count -= length;
    }
    // The rest is padding: fewer than eight bits, all of them set (RFC 7541 §5.2).
    (count < 8 && bits == !(u64::MAX >> count)).then_some(())
}

/// Returns the symbol whose code `bits` begins with, and the length of the code.
fn first_code(bits: u64) -> Option<(u16, u32)> {
    let eight = usize::try_from(bits >> 56).ok()?;
    match TABLES.short.get(eight) {
        Some((symbol, length)) if *length > 0 => return Some((u16::from(*symbol), u32::from(*length))),
        _ => {}
    }
    let longest = u32::try_from(bits >> (64 - LONGEST)).ok()?;
    let (length, codes) = TABLES.lengths.iter().enumerate().skip(9).find(|(_, codes)| longest < codes.limit)?;
    let number = (longest >> (LONGEST - length)).checked_sub(codes.first)?;
    let symbol = TABLES.symbols.get(codes.place + usize::try_from(number).ok()?)?;
    Some((*symbol, u32::try_from(length).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(coded: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        decode(coded, &mut out).map(|()| out)
    }

    /// The code of `text`, padded.
    fn coded(text: &[u8]) -> Vec<u8> {
        let code = |byte: u8| {
            let length = usize::from(LENGTHS[usize::from(byte)]);
            let codes = &TABLES.lengths[length];
            let place = TABLES.symbols.iter().position(|symbol| *symbol == u16::from(byte)).unwrap();
            (codes.first + u32::try_from(place - codes.place).unwrap(), length)
        };
        let mut bits: Vec<bool> = Vec::new();
        for byte in text {
            let (code, length) = code(*byte);
            bits.extend((0..length).rev().map(|bit| code >> bit & 1 == 1));
        }
        bits.resize(bits.len().next_multiple_of(8), true);
        bits.chunks(8).map(|byte| byte.iter().fold(0, |all, bit| all << 1 | u8::from(*bit))).collect()
    }

    /// RFC 7541, Appendix C.4 and C.6.
    #[test]
    fn the_examples_of_the_rfc_are_decoded() {
        for (hex, text) in [
            ("f1e3c2e5f23a6ba0ab90f4ff", "www.example.com"),
            ("a8eb10649cbf", "no-cache"),
            ("25a849e95ba97d7f", "custom-key"),
            ("25a849e95bb8e8b4bf", "custom-value"),
            ("6402", "302"),
            ("aec3771a4b", "private"),
            ("d07abe941054d444a8200595040b8166e082a62d1bff", "Mon, 21 Oct 2013 20:13:21 GMT"),
            ("9d29ad171863c78f0b97c8e9ae82ae43d3", "https://www.example.com"),
        ] {
            let bytes: Vec<u8> =
                (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
            assert_eq!(decoded(&bytes).as_deref(), Some(text.as_bytes()), "{text}");
            assert_eq!(coded(text.as_bytes()), bytes, "{text}");
        }
    }

    #[test]
    fn every_byte_is_decoded_in_every_place() {
        let all: Vec<u8> = (0..=255).collect();
        for first in 0..8 {
            let text = [&b"0".repeat(first), &all[..]].concat();
            assert_eq!(decoded(&coded(&text)), Some(text));
        }
        assert_eq!(decoded(b""), Some(Vec::new()));
    }

    /// RFC 7541 §5.2: padding is a prefix of the end-of-string symbol, shorter than a byte; the symbol is an error.
    #[test]
    fn wrong_padding_and_the_end_symbol_are_errors() {
        for wrong in [&[0xff][..], &[0x1f, 0xff], &[0x18], &[0x00], &[0xff; 4], &[0xff, 0xff, 0xff, 0xff, 0xff]] {
            assert_eq!(decoded(wrong), None, "{wrong:x?}");
        }
        assert_eq!(decoded(&[0x1f]).as_deref(), Some(&b"a"[..]), "three bits of padding");
    }
}
