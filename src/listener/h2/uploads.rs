//! What the client may still send on each stream, and what waits there.
//!
//! The h2 crate ends the connection for a frame on a stream that the client has ended, and for many small DATA frames
//! that a worker does not take. So the filter follows the client's half of every stream with more than a head. Small
//! DATA frames wait in h2 up to a number; further ones wait here as plain bytes, until the stream's reader has caught
//! up or they have become a large frame. How many bytes may wait, the windows decide, as for any DATA.

use std::cell::{Cell, RefCell};
use std::task::Waker;

use super::frames::{self, DATA, WINDOW_UPDATE};

/// Payload size in bytes below which a DATA frame is small: h2 needs about as much memory for each frame.
pub(super) const SMALL: usize = 256;

/// Maximum number of small frames of one stream that wait in h2.
const SMALL_WAITING: u32 = 32;

/// Number of bytes at which held bytes become a DATA frame.
const HELD: usize = 4_096;

/// Maximum number of empty DATA frames on one stream. They have no effect (RFC 9113 §6.1), and are not needed.
const EMPTY: u32 = 1_000;

/// Maximum number of streams that were reset and whose late frames are still ignored (RFC 9113 §5.1).
const RESET_REMEMBERED: usize = 64;

/// Maximum number of resets whose code is to be changed.
const CODES: usize = 64;

/// The client's half of one stream.
#[derive(Debug)]
struct StreamUpload {
    stream: u32,
    /// Whether the stream was reset.
    is_reset: bool,
    /// Whether the client has reset it.
    is_left: bool,
    /// Number of small DATA frames that its reader has not taken.
    small: u32,
    /// Number of empty DATA frames so far.
    empty: u32,
    /// Bytes that are not handed to h2 yet.
    held: Vec<u8>,
}

impl StreamUpload {
    fn new(stream: u32, is_reset: bool) -> Self {
        Self { stream, is_reset, is_left: false, small: 0, empty: 0, held: Vec::new() }
    }
}

/// The state of the client's half of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UploadState {
    Open,
    /// stickyd has reset the stream: what comes is ignored.
    Reset,
    /// The client has reset the stream, which h2 may still have: what comes is dropped.
    Left,
    /// The client has ended it, or never began it.
    Unknown,
}

/// What becomes of a small DATA frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SmallFrame {
    /// It goes on to h2 as it is.
    Passes,
    /// Its bytes are held.
    Held,
}

/// All halves of one connection that are open or were reset lately.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    /// In the order of their streams.
    all: RefCell<Vec<StreamUpload>>,
    /// Whether bytes may be held for any stream.
    holds: Cell<bool>,
    /// Whether held bytes are to be handed to h2.
    release: Cell<bool>,
    /// Waker of the connection's task while bytes are held.
    reader: RefCell<Option<Waker>>,
    /// Streams whose header list was too large, until they are accepted.
    too_large: RefCell<Vec<u32>>,
    /// Streams whose next reset is to have this code.
    codes: RefCell<Vec<(u32, u32)>>,
    /// Bytes of the windows that are to be given back, by stream; 0 stands for the connection.
    credits: RefCell<Vec<(u32, u32)>>,
}

impl Uploads {
    /// Adds a stream that the client has begun and not ended; returns false if there are `most` already. h2 refuses
    /// streams earlier, but ignores those that come after its GOAWAY.
    pub(super) fn try_open(&self, stream: u32, most: usize) -> bool {
        let mut all = self.all.borrow_mut();
        if all.len() >= most {
            return false;
        }
        if all.last().is_none_or(|last| last.stream < stream) {
            all.push(StreamUpload::new(stream, false));
        }
        true
    }

    /// Removes a stream that the client has ended, unless stickyd has reset it; returns the bytes that are held for it.
    pub(super) fn end(&self, stream: u32) -> Vec<u8> {
        let mut all = self.all.borrow_mut();
        match place(&all, stream) {
            Some(at) if all.get(at).is_some_and(|upload| !upload.is_reset) => all.remove(at).held,
            Some(at) => all.get_mut(at).map(|upload| std::mem::take(&mut upload.held)).unwrap_or_default(),
            None => Vec::new(),
        }
    }

    /// Returns the state of the client's half.
    pub(super) fn half(&self, stream: u32) -> UploadState {
        let half = self.with(stream, |upload| match (upload.is_reset, upload.is_left) {
            (false, _) => UploadState::Open,
            (true, false) => UploadState::Reset,
            (true, true) => UploadState::Left,
        });
        half.unwrap_or(UploadState::Unknown)
    }

    /// Notes that the client has reset the stream.
    pub(super) fn mark_left(&self, stream: u32) {
        if self.mark_reset(stream) {
            self.with(stream, |upload| upload.is_left = true);
        }
    }

    /// Notes that stickyd resets the stream; returns false if that is known.
    pub(super) fn mark_reset(&self, stream: u32) -> bool {
        let mut all = self.all.borrow_mut();
        match all.binary_search_by_key(&stream, |upload| upload.stream) {
            Ok(at) => match all.get_mut(at) {
                Some(upload) if !upload.is_reset => {
                    upload.is_reset = true;
                    // h2 ignores the bytes, but counts them in the connection's window.
                    self.release.set(self.release.get() | !upload.held.is_empty());
                }
                _ => return false,
            },
            Err(at) => {
                all.insert(at, StreamUpload::new(stream, true));
            }
        }
        if all.iter().filter(|upload| upload.is_reset).count() > RESET_REMEMBERED
            && let Some(oldest) = all.iter().position(|upload| upload.is_reset && upload.held.is_empty())
        {
            all.remove(oldest);
        }
        true
    }

    /// Counts an empty DATA frame; returns false if there were too many on this stream.
    pub(super) fn try_empty(&self, stream: u32) -> bool {
        self.with(stream, |upload| {
            upload.empty = upload.empty.saturating_add(1);
            upload.empty <= EMPTY || upload.is_reset
        })
        .unwrap_or(true)
    }

    /// Decides about a small DATA frame; if it is held, so is `data`.
    pub(super) fn small(&self, stream: u32, data: &[u8]) -> SmallFrame {
        self.with(stream, |upload| {
            if upload.is_reset || upload.held.is_empty() && upload.small < SMALL_WAITING {
                upload.small = upload.small.saturating_add(1);
                return SmallFrame::Passes;
            }
            upload.held.extend_from_slice(data);
            self.holds.set(true);
            self.release.set(self.release.get() | (upload.held.len() >= HELD));
            SmallFrame::Held
        })
        .unwrap_or(SmallFrame::Passes)
    }

    /// Returns what is held for a stream, whose next bytes may then go on to h2.
    pub(super) fn take_held(&self, stream: u32) -> Vec<u8> {
        self.with(stream, |upload| std::mem::take(&mut upload.held)).unwrap_or_default()
    }

    /// Notes that the stream's reader has taken a DATA frame of this size.
    pub(super) fn took(&self, stream: u32, bytes: usize) {
        if bytes >= SMALL {
            return;
        }
        let caught_up = self.with(stream, |upload| {
            upload.small = upload.small.saturating_sub(1);
            upload.small < SMALL_WAITING / 2 && !upload.held.is_empty()
        });
        if caught_up == Some(true) && !self.release.replace(true) {
            self.reader.take().into_iter().for_each(Waker::wake);
        }
    }

    /// Appends the held bytes that h2 is to have now, as DATA frames.
    pub(super) fn release(&self, out: &mut Vec<u8>) {
        if !self.release.replace(false) {
            return;
        }
        for upload in self.all.borrow_mut().iter_mut() {
            let is_due = upload.is_reset || upload.small < SMALL_WAITING / 2 || upload.held.len() >= HELD;
            if is_due && !upload.held.is_empty() {
                upload.small = upload.small.saturating_add(u32::from(upload.held.len() < SMALL));
                frames::write(out, DATA, 0, upload.stream, &std::mem::take(&mut upload.held));
            }
        }
    }

    /// Sets the waker of the task that hands held bytes to h2.
    pub(super) fn set_reader(&self, waker: &Waker) {
        if self.holds.get() {
            self.holds.set(self.all.borrow().iter().any(|upload| !upload.held.is_empty()));
            *self.reader.borrow_mut() = self.holds.get().then(|| waker.clone());
        }
    }

    /// Notes that a stream's header list was too large.
    pub(super) fn mark_too_large(&self, stream: u32) {
        self.too_large.borrow_mut().push(stream);
    }

    /// Returns whether the header list of a stream that h2 has accepted was too large.
    pub(super) fn take_too_large(&self, stream: impl Fn() -> u32) -> bool {
        let mut all = self.too_large.borrow_mut();
        if all.is_empty() {
            return false;
        }
        // What h2 refused is older than what it accepts.
        let stream = stream();
        let found = all.contains(&stream);
        all.retain(|one| *one > stream);
        found
    }

    /// Sets the code of the next reset of a stream.
    pub(super) fn set_code(&self, stream: u32, code: u32) {
        let mut codes = self.codes.borrow_mut();
        if codes.len() >= CODES {
            codes.remove(0);
        }
        codes.push((stream, code));
    }

    /// Returns whether the code of some reset is to be changed.
    pub(super) fn has_codes(&self) -> bool {
        !self.codes.borrow().is_empty()
    }

    /// Returns the code that a reset is to have instead of its own.
    pub(super) fn take_code(&self, stream: u32) -> Option<u32> {
        let mut codes = self.codes.borrow_mut();
        let at = codes.iter().position(|(one, _)| *one == stream)?;
        Some(codes.remove(at).1)
    }

    /// Gives back a part of the windows, for bytes that h2 does not see.
    pub(super) fn credit(&self, stream: u32, bytes: usize) {
        let Some(bytes) = u32::try_from(bytes).ok().filter(|bytes| *bytes > 0) else { return };
        let mut credits = self.credits.borrow_mut();
        for one in [0, stream] {
            if one == 0 || self.half(one) == UploadState::Open {
                match credits.iter_mut().find(|(known, _)| *known == one) {
                    Some((_, sum)) => *sum = sum.saturating_add(bytes).min(i32::MAX.unsigned_abs()),
                    None => credits.push((one, bytes)),
                }
            }
        }
    }

    /// Returns whether parts of windows are to be given back.
    pub(super) fn has_credits(&self) -> bool {
        !self.credits.borrow().is_empty()
    }

    /// Appends the WINDOW_UPDATE frames that give back parts of windows.
    pub(super) fn write_credits(&self, out: &mut Vec<u8>) {
        for (stream, bytes) in self.credits.take() {
            if stream == 0 || self.half(stream) == UploadState::Open {
                frames::write(out, WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes());
            }
        }
    }

    fn with<T>(&self, stream: u32, change: impl FnOnce(&mut StreamUpload) -> T) -> Option<T> {
        let mut all = self.all.borrow_mut();
        let at = place(&all, stream)?;
        all.get_mut(at).map(change)
    }
}

fn place(all: &[StreamUpload], stream: u32) -> Option<usize> {
    all.binary_search_by_key(&stream, |upload| upload.stream).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn released(uploads: &Uploads) -> Vec<u8> {
        let mut out = Vec::new();
        uploads.release(&mut out);
        out
    }

    #[test]
    fn small_frames_are_held_until_the_reader_has_caught_up() {
        let uploads = Uploads::default();
        assert!(uploads.try_open(1, 9) && uploads.try_open(3, 9));
        for _ in 0..SMALL_WAITING {
            assert_eq!(uploads.small(1, b"a"), SmallFrame::Passes);
        }
        assert_eq!((uploads.small(1, b"b"), uploads.small(1, b"c")), (SmallFrame::Held, SmallFrame::Held));
        assert_eq!(uploads.small(3, b"x"), SmallFrame::Passes, "each stream has its own number");
        (0..=SMALL_WAITING / 2).for_each(|_| uploads.took(1, 1));
        assert_eq!(released(&uploads), [0, 0, 2, 0, 0, 0, 0, 0, 1, b'b', b'c']);
        assert_eq!(released(&uploads), b"", "only once");
    }

    #[test]
    fn many_held_bytes_become_one_frame() {
        let uploads = Uploads::default();
        uploads.try_open(1, 9);
        let passed = (0..SMALL_WAITING + 4_095).filter(|_| uploads.small(1, b"a") == SmallFrame::Passes).count();
        assert_eq!((passed, released(&uploads).len()), (32, 0));
        assert_eq!(uploads.small(1, b"a"), SmallFrame::Held);
        assert_eq!(released(&uploads).len(), 9 + HELD);
        uploads.small(1, b"z");
        assert_eq!(uploads.end(1), b"z", "the end brings what is left");
        assert_eq!(uploads.half(1), UploadState::Unknown);
    }

    #[test]
    fn streams_that_were_reset_are_remembered_for_a_while() {
        let uploads = Uploads::default();
        uploads.try_open(1, 9);
        assert!(uploads.mark_reset(1) && !uploads.mark_reset(1));
        (3..=129).step_by(2).for_each(|stream| assert!(uploads.mark_reset(stream)));
        assert_eq!(
            (uploads.half(1), uploads.half(3), uploads.half(129)),
            (UploadState::Unknown, UploadState::Reset, UploadState::Reset)
        );
    }

    #[test]
    fn entries_are_bounded() {
        let uploads = Uploads::default();
        let opened = (1..20_000).step_by(2).filter(|stream| uploads.try_open(*stream, 1_000)).count();
        assert_eq!(opened, 1_000);
        let fine = (0..5_000).filter(|_| uploads.try_empty(1)).count();
        assert_eq!(fine, 1_000);
        (0..1_000).for_each(|stream| uploads.set_code(stream, 5));
        assert_eq!((uploads.take_code(1), uploads.take_code(999), uploads.take_code(999)), (None, Some(5), None));
    }

    #[test]
    fn padding_is_given_back_to_both_windows() {
        let uploads = Uploads::default();
        uploads.try_open(1, 9);
        uploads.credit(1, 7);
        uploads.credit(1, 1);
        let mut out = Vec::new();
        uploads.write_credits(&mut out);
        assert_eq!(out, [0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 4, 8, 0, 0, 0, 0, 1, 0, 0, 0, 8]);
        assert!(!uploads.has_credits());
    }
}
