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

/// A frame's kind (RFC 9113 §6.9).
const WINDOW_UPDATE: u8 = 8;

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

/// What a piece of what the client sent brought.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heard {
    /// Streams taken back.
    pub(super) resets: u32,
    /// Bytes by which the connection's window was opened for us.
    pub(super) window: u64,
    /// What has become too much.
    pub(super) too_much: Option<TooMuch>,
}

/// Bytes of a frame's head (RFC 9113 §4.1); with a WINDOW_UPDATE's increment (§6.9).
const HEAD: usize = 9;
const UPDATE: usize = HEAD + 4;

/// Follows the frames of one client.
pub(super) struct Meter {
    /// Bytes before the next frame's head.
    skip: u32,
    /// Its head; and its increment, if it is a WINDOW_UPDATE of the connection.
    head: [u8; UPDATE],
    have: usize,
    began_s: u32,
    resets: u32,
    useless: u32,
    /// Opened since the last read.
    window: u64,
    /// Bytes sent that have not paid for anything yet.
    credit: u64,
}

impl Meter {
    pub(super) fn new(now_s: u32) -> Self {
        Self { skip: PREFACE, head: [0; UPDATE], have: 0, began_s: now_s, resets: 0, useless: 0, window: 0, credit: 0 }
    }

    /// Takes note of bytes the client sent, however they are cut.
    pub(super) fn read(&mut self, mut bytes: &[u8], now_s: u32) -> Heard {
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
            if self.have == HEAD && !self.opens_connection() {
                self.have = 0;
                self.frame();
            } else if self.have == UPDATE {
                self.have = 0;
                let [.., a, b, c, d] = self.head;
                // The first bit is reserved.
                self.window += u64::from(u32::from_be_bytes([a & 0x7f, b, c, d]));
                self.frame();
                self.skip = 0;
            }
        }
        let too_much = match (self.resets > MAX_RESETS, self.useless > MAX_USELESS) {
            (true, _) => Some(TooMuch::Resets),
            (false, true) => Some(TooMuch::Useless),
            (false, false) => None,
        };
        Heard { resets: self.resets.saturating_sub(before), window: std::mem::take(&mut self.window), too_much }
    }

    /// A head that is there is a WINDOW_UPDATE's of the whole connection, as long as one is.
    fn opens_connection(&self) -> bool {
        matches!(self.head, [0, 0, 4, WINDOW_UPDATE, _, a, b, c, d, ..] if [a & 0x7f, b, c, d] == [0; 4])
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
    const UPDATE_OF_ONE: [u8; 13] = [0, 0, 4, 8, 0, 0, 0, 0, 1, 0, 0, 0, 8];
    const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 3, 3, 3, 3, 3, 3, 3, 3];

    fn heard(resets: u32, too_much: Option<TooMuch>) -> Heard {
        Heard { resets, too_much, window: 0 }
    }

    fn begun() -> Meter {
        let mut meter = Meter::new(0);
        assert_eq!(meter.read(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0), Heard::default());
        meter
    }

    #[test]
    fn frames_are_found_however_they_are_cut() {
        // A payload full of what looks like resets.
        let data = [&[0, 0, 26, 0, 0, 0, 0, 0, 1][..], &RST, &RST].concat();
        let all = [&data[..], &RST, &PING, &data, &RST].concat();
        for cut in [1, 2, 5, 9, 10, 13, all.len()] {
            let mut meter = begun();
            let resets: u32 = all.chunks(cut).map(|piece| meter.read(piece, 0).resets).sum();
            assert_eq!((resets, meter.useless), (2, 1), "{cut}");
        }
    }

    #[test]
    fn the_connections_window_is_followed_however_frames_are_cut() {
        // A stream's, the connection's twice (once with the reserved bits set), and what only looks like one.
        let opens = [0, 0, 4, 8, 0, 0x80, 0, 0, 0, 0x80, 1, 0, 0];
        let data = [&[0, 0, 13, 0, 0, 0, 0, 0, 1][..], &opens].concat();
        let all = [&UPDATE_OF_ONE[..], &opens, &data, &[0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 7], &RST].concat();
        for cut in [1, 2, 5, 9, 10, 12, 13, all.len()] {
            let mut meter = begun();
            let heard: Vec<_> = all.chunks(cut).map(|piece| meter.read(piece, 0)).collect();
            let window: u64 = heard.iter().map(|heard| heard.window).sum();
            let resets: u32 = heard.iter().map(|heard| heard.resets).sum();
            assert_eq!((window, resets, meter.useless), (65_536 + 7, 1, 3), "{cut}");
        }
    }

    #[test]
    fn a_thousand_resets_in_half_a_minute_are_enough() {
        let mut meter = begun();
        assert_eq!(meter.read(&RST.repeat(1_000), 1), heard(1_000, None));
        assert_eq!(meter.read(&RST, 30), heard(1, None), "another half minute");
        assert_eq!(meter.read(&RST.repeat(1_000), 40), heard(1_000, Some(TooMuch::Resets)));
    }

    #[test]
    fn useless_frames_are_bounded_and_window_updates_are_paid_for() {
        assert_eq!(begun().read(&PING.repeat(10_000), 1), heard(0, None));
        assert_eq!(begun().read(&PING.repeat(10_001), 1), heard(0, Some(TooMuch::Useless)));
        assert_eq!(begun().read(&UPDATE_OF_ONE.repeat(10_001), 1), heard(0, Some(TooMuch::Useless)));
        let mut reading = begun();
        reading.wrote(16 * 100_000);
        assert_eq!(reading.read(&UPDATE_OF_ONE.repeat(100_000), 1), heard(0, None));
    }
}
