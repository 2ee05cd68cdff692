//! What a client's frames cost: a look at the nine bytes each begins with, as they go by.
//!
//! The h2 crate answers or drops what means nothing (PING, SETTINGS, PRIORITY, WINDOW_UPDATE, unknown kinds) and never says
//! that it did, so floods of them cost its time for ever. [`Meter`] counts them, and the resets, and says when it is enough
//! (threats §2). Leaves out what h2 bounds itself: CONTINUATION, empty and tiny DATA, header lists, streams reset before
//! they were looked at, resets it had to send.

/// Counts begin anew after this many seconds.
const PERIOD_S: u32 = 30;

/// Streams a client may take back in one period. A page that is left takes back what it has open, a hundred or so.
const MAX_RESETS: u32 = 1_000;

/// Frames without use in one period: browsers send one in seconds.
const MAX_USELESS: u32 = 10_000;

/// Bytes we have sent that pay for one WINDOW_UPDATE: a client that reads may well send two for every frame it got.
const PAYS_WINDOW_UPDATE: u64 = 16;

/// The client's part of the connection preface (RFC 9113 §3.4).
const PREFACE: u32 = 24;

/// What became too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TooMuch {
    /// Streams taken back.
    Resets,
    /// Frames without use.
    Useless,
}

impl TooMuch {
    /// The word for it in metrics and logs.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Resets => "resets",
            Self::Useless => "useless",
        }
    }
}

/// Follows the frames of one client.
pub(super) struct Meter {
    /// Bytes before the next frame's head.
    skip: u32,
    head: [u8; 9],
    have: usize,
    began_s: u32,
    resets: u32,
    useless: u32,
    /// Bytes sent that have not paid for anything yet.
    credit: u64,
}

impl Meter {
    pub(super) fn new(now_s: u32) -> Self {
        Self { skip: PREFACE, head: [0; 9], have: 0, began_s: now_s, resets: 0, useless: 0, credit: 0 }
    }

    /// Takes note of bytes the client sent, however they are cut. Returns the resets among them, and what became too much.
    pub(super) fn read(&mut self, mut bytes: &[u8], now_s: u32) -> (u32, Option<TooMuch>) {
        if now_s.saturating_sub(self.began_s) >= PERIOD_S {
            (self.began_s, self.resets, self.useless) = (now_s, 0, 0);
        }
        let before = self.resets;
        loop {
            let skipped = bytes.len().min(self.skip as usize);
            // No more than `skip`, which is 32 bits.
            self.skip -= u32::try_from(skipped).unwrap_or(self.skip);
            bytes = bytes.get(skipped..).unwrap_or_default();
            let Some((first, rest)) = bytes.split_first() else { break };
            bytes = rest;
            if let Some(place) = self.head.get_mut(self.have) {
                *place = *first;
            }
            self.have += 1;
            if self.have == self.head.len() {
                self.have = 0;
                self.frame();
            }
        }
        let too_much = match (self.resets > MAX_RESETS, self.useless > MAX_USELESS) {
            (true, _) => Some(TooMuch::Resets),
            (false, true) => Some(TooMuch::Useless),
            (false, false) => None,
        };
        (self.resets.saturating_sub(before), too_much)
    }

    /// Takes note of bytes the client was sent.
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.credit = self.credit.saturating_add(bytes as u64);
    }

    /// A frame's head is whole (RFC 9113 §4.1).
    fn frame(&mut self) {
        const DATA: u8 = 0;
        const HEADERS: u8 = 1;
        const RST_STREAM: u8 = 3;
        const WINDOW_UPDATE: u8 = 8;
        let [a, b, c, kind, ..] = self.head;
        self.skip = u32::from_be_bytes([0, a, b, c]);
        match kind {
            DATA | HEADERS => {}
            RST_STREAM => self.resets += 1,
            WINDOW_UPDATE if self.credit >= PAYS_WINDOW_UPDATE => self.credit -= PAYS_WINDOW_UPDATE,
            _ => self.useless += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RST: [u8; 13] = [0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8];
    const UPDATE: [u8; 13] = [0, 0, 4, 8, 0, 0, 0, 0, 1, 0, 0, 0, 8];
    const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 3, 3, 3, 3, 3, 3, 3, 3];

    fn begun() -> Meter {
        let mut meter = Meter::new(0);
        assert_eq!(meter.read(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0), (0, None));
        meter
    }

    #[test]
    fn frames_are_found_however_they_are_cut() {
        // A payload full of what looks like resets.
        let data = [&[0, 0, 26, 0, 0, 0, 0, 0, 1][..], &RST, &RST].concat();
        let all = [&data[..], &RST, &PING, &data, &RST].concat();
        for cut in [1, 2, 5, 9, 10, 13, all.len()] {
            let mut meter = begun();
            let resets: u32 = all.chunks(cut).map(|piece| meter.read(piece, 0).0).sum();
            assert_eq!((resets, meter.useless), (2, 1), "{cut}");
        }
    }

    #[test]
    fn a_thousand_resets_in_half_a_minute_are_enough() {
        let mut meter = begun();
        assert_eq!(meter.read(&RST.repeat(1_000), 1), (1_000, None));
        assert_eq!(meter.read(&RST, 30), (1, None), "another half minute");
        assert_eq!(meter.read(&RST.repeat(1_000), 40), (1_000, Some(TooMuch::Resets)));
    }

    #[test]
    fn useless_frames_are_bounded_and_window_updates_are_paid_for() {
        assert_eq!(begun().read(&PING.repeat(10_000), 1), (0, None));
        assert_eq!(begun().read(&PING.repeat(10_001), 1), (0, Some(TooMuch::Useless)));
        assert_eq!(begun().read(&UPDATE.repeat(10_001), 1), (0, Some(TooMuch::Useless)));
        let mut reading = begun();
        reading.wrote(16 * 100_000);
        assert_eq!(reading.read(&UPDATE.repeat(100_000), 1), (0, None));
    }
}
