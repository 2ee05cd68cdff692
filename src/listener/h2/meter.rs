//! Counts frames by which a client may cause unlimited work, from the nine bytes that each frame begins with.
//!
//! The h2 crate answers or drops frames that have no effect (PING, SETTINGS, PRIORITY, WINDOW_UPDATE, unknown types)
//! and does not report them, so floods of them would cost its time without end. [`Meter`] counts them, and the resets,
//! and reports when there are too many (docs/reference/threats.md §2.5). It also counts streams that had to be reset
//! because of the client's mistakes. Not counted is what h2 or the filter limits: header lists, small DATA, streams
//! that were reset before they were accepted.

use crate::clock::Seconds;

/// Length of a counting period in seconds; all counts restart with each period.
const PERIOD_S: u32 = 30;

/// Maximum number of streams that a client may reset in one period. A page that is left resets what it has open, a
/// hundred or so.
const MAX_RESETS: u32 = 1_000;

/// Maximum number of frames without effect in one period; browsers send one every few seconds.
const MAX_USELESS: u32 = 10_000;

/// Maximum number of malformed and refused requests in one period. Each costs a reset, and none reaches a worker.
const MAX_MALFORMED: u32 = 600;

/// Maximum number of other resets in one period that mistakes of the client force us to send (MadeYouReset).
const MAX_FORCED: u32 = 100;

/// Number of bytes sent to the client that pay for one WINDOW_UPDATE: a client that reads may well send two for every
/// frame that it received.
const PAYS_WINDOW_UPDATE: u64 = 16;

/// Length of the client's connection preface in bytes (RFC 9113 §3.4).
const PREFACE: u32 = 24;

/// Frame type of WINDOW_UPDATE (RFC 9113 §6.9).
const WINDOW_UPDATE: u8 = 8;

/// The limit that a client has exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TooMuch {
    /// Too many streams were reset by the client.
    Resets,
    /// Too many frames had no effect.
    Useless,
    /// Too many streams had to be reset because of the client's mistakes.
    Mistakes,
}

impl TooMuch {
    /// Name of the limit in metrics and logs.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Resets => "resets",
            Self::Useless => "useless",
            Self::Mistakes => "mistakes",
        }
    }
}

/// Contents of a piece of the client's bytes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heard {
    /// Number of streams that the client has reset.
    pub(crate) resets: u32,
    /// Bytes by which the client has opened the connection's window for us.
    pub(crate) window: u64,
    /// The limit that is exceeded by now, if any.
    pub(crate) too_much: Option<TooMuch>,
}

/// Length of a frame header in bytes (RFC 9113 §4.1).
const HEAD: usize = 9;
/// Length of a WINDOW_UPDATE in bytes: its header and its increment (RFC 9113 §6.9).
const UPDATE: usize = HEAD + 4;

/// Follows the frames that one client sends.
pub(crate) struct Meter {
    /// Number of bytes to skip before the next frame header.
    skip: u32,
    /// Header of the current frame; and the increment, if it is a WINDOW_UPDATE of the connection.
    head: [u8; UPDATE],
    have: usize,
    began_s: Seconds,
    resets: u32,
    useless: u32,
    malformed: u32,
    forced: u32,
    /// Bytes by which the window was opened since the last read.
    window: u64,
    /// Bytes sent that have not paid for a WINDOW_UPDATE yet.
    credit: u64,
}

impl Meter {
    pub(crate) fn new(now_s: Seconds) -> Self {
        Self {
            skip: PREFACE,
            head: [0; UPDATE],
            have: 0,
            began_s: now_s,
            resets: 0,
            useless: 0,
            malformed: 0,
            forced: 0,
            window: 0,
            credit: 0,
        }
    }

    /// Counts the frames in bytes that the client sent, in pieces of any size.
    pub(crate) fn read(&mut self, mut bytes: &[u8], now_s: Seconds) -> Heard {
        self.begin_period(now_s);
        let before = self.resets;
        loop {
            let skipped = bytes.len().min(self.skip as usize);
            // `skipped` is at most `skip`, which has 32 bits.
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
        let too_much = self.too_much();
        Heard { resets: self.resets.saturating_sub(before), window: std::mem::take(&mut self.window), too_much }
    }

    /// Counts requests with malformed heads.
    pub(crate) fn malformed(&mut self, count: u32, now_s: Seconds) -> Option<TooMuch> {
        self.begin_period(now_s);
        self.malformed = self.malformed.saturating_add(count);
        self.too_much()
    }

    /// Counts a reset that we sent, if its code (RFC 9113 §7) blames the client.
    pub(crate) fn sent_reset(&mut self, code: u32, now_s: Seconds) -> Option<TooMuch> {
        const PROTOCOL_ERROR: u32 = 1;
        const FLOW_CONTROL_ERROR: u32 = 3;
        const STREAM_CLOSED: u32 = 5;
        const REFUSED_STREAM: u32 = 7;
        self.begin_period(now_s);
        match code {
            PROTOCOL_ERROR | FLOW_CONTROL_ERROR | STREAM_CLOSED => self.forced = self.forced.saturating_add(1),
            REFUSED_STREAM => self.malformed = self.malformed.saturating_add(1),
            _ => {}
        }
        self.too_much()
    }

    fn begin_period(&mut self, now_s: Seconds) {
        if now_s.since(self.began_s) >= PERIOD_S {
            (self.began_s, self.resets, self.useless) = (now_s, 0, 0);
            (self.malformed, self.forced) = (0, 0);
        }
    }

    fn too_much(&self) -> Option<TooMuch> {
        if self.resets > MAX_RESETS {
            Some(TooMuch::Resets)
        } else if self.useless > MAX_USELESS {
            Some(TooMuch::Useless)
        } else if self.malformed > MAX_MALFORMED || self.forced > MAX_FORCED {
            Some(TooMuch::Mistakes)
        } else {
            None
        }
    }

    /// Returns whether the current header is that of a WINDOW_UPDATE of the whole connection, with the right length.
    fn opens_connection(&self) -> bool {
        matches!(self.head, [0, 0, 4, WINDOW_UPDATE, _, a, b, c, d, ..] if [a & 0x7f, b, c, d] == [0; 4])
    }

    /// Credits bytes that were sent to the client.
    pub(crate) fn wrote(&mut self, bytes: usize) {
        self.credit = self.credit.saturating_add(bytes as u64);
    }

    /// Counts a frame whose header is complete (RFC 9113 §4.1).
    fn frame(&mut self) {
        const DATA: u8 = 0;
        const HEADERS: u8 = 1;
        const RST_STREAM: u8 = 3;
        let [a, b, c, kind, flags, ..] = self.head;
        self.skip = u32::from_be_bytes([0, a, b, c]);
        match kind {
            // An empty frame that does not end its stream (RFC 9113 §6.1).
            DATA if self.skip == 0 && flags & 1 == 0 => self.useless += 1,
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
        let mut meter = Meter::new(Seconds::new(0));
        assert_eq!(meter.read(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Seconds::new(0)), Heard::default());
        meter
    }

    #[test]
    fn frames_are_found_in_pieces_of_any_size() {
        // A payload full of bytes that look like resets.
        let data = [&[0, 0, 26, 0, 0, 0, 0, 0, 1][..], &RST, &RST].concat();
        let all = [&data[..], &RST, &PING, &data, &RST].concat();
        for cut in [1, 2, 5, 9, 10, 13, all.len()] {
            let mut meter = begun();
            let resets: u32 = all.chunks(cut).map(|piece| meter.read(piece, Seconds::new(0)).resets).sum();
            assert_eq!((resets, meter.useless), (2, 1), "{cut}");
        }
    }

    #[test]
    fn the_connections_window_is_followed_in_pieces_of_any_size() {
        // One update of a stream, two of the connection (one with the reserved bits set), and data that only looks like
        // one.
        let opens = [0, 0, 4, 8, 0, 0x80, 0, 0, 0, 0x80, 1, 0, 0];
        let data = [&[0, 0, 13, 0, 0, 0, 0, 0, 1][..], &opens].concat();
        let all = [&UPDATE_OF_ONE[..], &opens, &data, &[0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 7], &RST].concat();
        for cut in [1, 2, 5, 9, 10, 12, 13, all.len()] {
            let mut meter = begun();
            let heard: Vec<_> = all.chunks(cut).map(|piece| meter.read(piece, Seconds::new(0))).collect();
            let window: u64 = heard.iter().map(|heard| heard.window).sum();
            let resets: u32 = heard.iter().map(|heard| heard.resets).sum();
            assert_eq!((window, resets, meter.useless), (65_536 + 7, 1, 3), "{cut}");
        }
    }

    #[test]
    fn more_than_a_thousand_resets_in_a_period_are_too_many() {
        let mut meter = begun();
        assert_eq!(meter.read(&RST.repeat(1_000), Seconds::new(1)), heard(1_000, None));
        assert_eq!(meter.read(&RST, Seconds::new(30)), heard(1, None), "a new period has begun");
        assert_eq!(meter.read(&RST.repeat(1_000), Seconds::new(40)), heard(1_000, Some(TooMuch::Resets)));
    }

    #[test]
    fn useless_frames_are_bounded_and_window_updates_are_paid_for() {
        assert_eq!(begun().read(&PING.repeat(10_000), Seconds::new(1)), heard(0, None));
        assert_eq!(begun().read(&PING.repeat(10_001), Seconds::new(1)), heard(0, Some(TooMuch::Useless)));
        assert_eq!(begun().read(&UPDATE_OF_ONE.repeat(10_001), Seconds::new(1)), heard(0, Some(TooMuch::Useless)));
        let mut reading = begun();
        reading.wrote(16 * 100_000);
        assert_eq!(reading.read(&UPDATE_OF_ONE.repeat(100_000), Seconds::new(1)), heard(0, None));
    }
}
