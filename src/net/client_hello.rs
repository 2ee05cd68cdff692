//! Where the first message of a TLS client ends, so that nothing is done for a handshake before its ClientHello is
//! complete.
//!
//! Only lengths are read here: the headers of records and of the one handshake message in them (RFC 8446 §4 and §5.1).
//! Whether the message is valid is decided by rustls, which therefore also gets everything that is not a ClientHello.

/// Maximum bytes of a ClientHello with its record headers. Usual ones have 500 to 1,900 bytes; a ticket with a client's
/// certificate chain adds some thousands.
pub(crate) const MAX_HELLO: usize = 16 * 1024;

/// The record type of handshake messages.
const HANDSHAKE: u8 = 22;

/// The handshake message type of a ClientHello.
const CLIENT_HELLO: u8 = 1;

/// Bytes of a record header, and of the header of a handshake message.
const RECORD_HEADER: usize = 5;
const MESSAGE_HEADER: usize = 4;

/// Follows a ClientHello while it arrives; each record is looked at once.
#[derive(Debug, Default)]
pub(crate) struct HelloScan {
    /// Number of bytes before the first record that has not arrived completely.
    at: usize,
    /// Bytes of the message in the records before that one.
    have: usize,
    /// The header of the message, as far as it has arrived.
    header: [u8; MESSAGE_HEADER],
}

impl HelloScan {
    /// Whether `bytes`, which is everything that has arrived, contains a whole ClientHello, or cannot become one.
    pub(crate) fn look_for_end(&mut self, bytes: &[u8]) -> bool {
        loop {
            let rest = bytes.get(self.at..).unwrap_or_default();
            let length = match rest {
                [] | [HANDSHAKE] => return false,
                [HANDSHAKE, 3, _, high, low, ..] => usize::from(u16::from_be_bytes([*high, *low])),
                [HANDSHAKE, 3, ..] => return false,
                _ => return true,
            };
            let Some(part) = rest.get(RECORD_HEADER..RECORD_HEADER + length) else { return false };
            if part.is_empty() || self.add_part(part) {
                return true;
            }
            self.at += RECORD_HEADER + length;
        }
    }

    /// Adds the content of one record. Returns whether the message is complete, or is not a ClientHello.
    fn add_part(&mut self, part: &[u8]) -> bool {
        for (place, byte) in self.header.iter_mut().skip(self.have).zip(part) {
            *place = *byte;
        }
        self.have += part.len();
        let [kind, length @ ..] = self.header;
        let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        kind != CLIENT_HELLO || (self.have >= MESSAGE_HEADER && self.have >= MESSAGE_HEADER + length)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hello(length: usize) -> Vec<u8> {
        let bytes = u32::try_from(length).unwrap().to_be_bytes();
        [&[CLIENT_HELLO, bytes[1], bytes[2], bytes[3]], vec![7; length].as_slice()].concat()
    }

    /// The message in records with at most `size` bytes each.
    fn records(message: &[u8], size: usize) -> Vec<u8> {
        let record = |part: &[u8]| {
            let length = u16::try_from(part.len()).unwrap().to_be_bytes();
            [&[HANDSHAKE, 3, 1], length.as_slice(), part].concat()
        };
        message.chunks(size).flat_map(record).collect()
    }

    proptest! {
        #[test]
        fn a_hello_is_over_with_its_last_byte(length in 0..600_usize, size in 1..700_usize, step in 1..50_usize) {
            let bytes = records(&hello(length), size);
            let mut scan = HelloScan::default();
            for end in (1..bytes.len()).step_by(step) {
                prop_assert!(!scan.look_for_end(&bytes[..end]), "{} of {}", end, bytes.len());
            }
            prop_assert!(scan.look_for_end(&bytes));
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut scan = HelloScan::default();
            for end in 0..bytes.len() {
                scan.look_for_end(&bytes[..end]);
            }
        }
    }

    #[test]
    fn what_is_not_a_hello_is_over_at_once() {
        for bytes in [&b"G"[..], b"\x80", b"\x16G", b"\x15\x03", b"\x16\x03\x01\x00\x00", b"\x16\x03\x01\x00\x01\x02"] {
            assert!(HelloScan::default().look_for_end(bytes), "{bytes:?}");
        }
        for bytes in [&b""[..], b"\x16", b"\x16\x03", b"\x16\x03\x01\x02\x00", b"\x16\x03\x01\x00\x02\x01"] {
            assert!(!HelloScan::default().look_for_end(bytes), "{bytes:?}");
        }
    }
}
