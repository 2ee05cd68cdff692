//! `drain` and `removed` of an upstream: how the sessions of a worker that is drained, put to maint or removed end.
//!
//! Leaves out when a worker is drained: that is its `admin`, or said at run time.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::file::Section;
use super::values::{duration, word};
use crate::tunnel::frames::CloseCode;

const GRACES: RangeInclusive<Duration> = Duration::from_secs(1)..=LONGEST_GRACE;
const CODES: &str = "1001 (going away), 1012 (service restart), 1013 (try again later), or 3000 to 4999 for your own";
const POLICIES: [(&str, Removed); 3] = [("keep", Removed::Keep), ("drain", Removed::Drain), ("close", Removed::Close)];

/// The longest grace of a drain.
pub const LONGEST_GRACE: Duration = Duration::from_secs(24 * 3600);

/// Bytes of a Close frame's reason at most (RFC 6455 §5.5: 125, and the code before it).
pub const LONGEST_REASON: usize = 123;

/// How sessions of a drained worker end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Drain {
    /// They are ended evenly over this time; 1 s to 24 h. `None`, the default: they stay until they end by themselves.
    pub grace: Option<Duration>,
    /// What tunnels are told.
    pub farewell: Farewell,
}

/// What a tunnel is told when an operator ends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Farewell {
    /// Of the Close frame; default 1012.
    pub code: CloseCode,
    /// Of the Close frame, up to 123 bytes; default none.
    pub reason: String,
}

impl Default for Farewell {
    fn default() -> Self {
        Self { code: CloseCode::SERVICE_RESTART, reason: String::new() }
    }
}

/// What becomes of the sessions of a worker that a reload removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Removed {
    /// They stay until they end by themselves.
    #[default]
    Keep,
    /// As of a drained one.
    Drain,
    /// They are ended at once.
    Close,
}

impl Removed {
    /// The word for it in the file and in logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Drain => "drain",
            Self::Close => "close",
        }
    }
}

/// Reads `drain`.
pub(super) fn read(mut section: Section<'_>) -> Drain {
    let mut drain = Drain { grace: section.take("grace").and_then(|item| duration(item, GRACES)), ..Drain::default() };
    if let Some(item) = section.take("code") {
        let (report, at) = (item.report, item.span.clone());
        if let Some(code) = item.integer::<u16>(0..=u64::from(u16::MAX)) {
            match CloseCode::new(code) {
                Ok(fit) if matches!(code, 1001 | 1012 | 1013 | 3000..) => drain.farewell.code = fit,
                _ => report.error_help(
                    &at,
                    format!("{code} is no code to end a drained session with"),
                    format!("write {CODES}"),
                ),
            }
        }
    }
    if let Some(reason) = section.text("reason", "a string") {
        if reason.value.len() > LONGEST_REASON {
            section.report.error(&reason.span, format!("a close frame has room for {LONGEST_REASON} bytes of reason"));
        }
        drain.farewell.reason = reason.value;
    }
    section.finish();
    drain
}

/// Reads `removed`.
pub(super) fn removed(section: &mut Section<'_>) -> Option<Removed> {
    let text = section.text("removed", "\"keep\", \"drain\" or \"close\"")?;
    word(section.report, "policy", &text, &POLICIES)
}
