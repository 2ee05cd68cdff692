//! `drain` and `removed` of an upstream: how the sessions of a worker end that is drained, put into maint or removed.
//!
//! Left out: when a worker is drained; that is set by its `admin` key, or at run time.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::file::Section;
use super::values::{duration, word};
use crate::websocket::frames::CloseCode;

const GRACES: RangeInclusive<Duration> = Duration::from_secs(1)..=LONGEST_GRACE;
const CODES: &str = "1001 (going away), 1012 (service restart), 1013 (try again later), or 3000 to 4999 for your own";
const POLICIES: [(&str, RemovedPolicy); 3] =
    [("keep", RemovedPolicy::Keep), ("drain", RemovedPolicy::Drain), ("close", RemovedPolicy::Close)];

/// The longest grace of a drain.
pub(crate) const LONGEST_GRACE: Duration = Duration::from_secs(24 * 3600);

/// Maximum length of a Close frame's reason, in bytes (RFC 6455 §5.5: 125, including the two bytes of the code).
pub(crate) const LONGEST_REASON: usize = 123;

/// How sessions of a drained worker end. A reload applies it to drains that begin later.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Drain {
    /// Sessions are ended at an even rate over this time; 1 s to 24 h. `None`, the default: they stay until they end by
    /// themselves.
    pub grace: Option<Duration>,
    /// Code and reason of the Close frame that ends tunnels.
    pub farewell: CloseNotice,
}

/// Code and reason of the Close frame that is sent when an operator ends a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloseNotice {
    /// Status code of the Close frame; default 1012.
    pub code: CloseCode,
    /// Reason in the Close frame, up to 123 bytes; default: empty.
    pub reason: String,
}

impl Default for CloseNotice {
    fn default() -> Self {
        Self { code: CloseCode::SERVICE_RESTART, reason: String::new() }
    }
}

/// How the sessions of a worker end that a reload removes. The reload that removes the worker applies it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RemovedPolicy {
    /// The sessions stay until they end by themselves.
    #[default]
    Keep,
    /// The sessions end like those of a drained worker.
    Drain,
    /// The sessions are ended at once.
    Close,
}

impl RemovedPolicy {
    /// The policy's name in the file and in logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Drain => "drain",
            Self::Close => "close",
        }
    }
}

/// Reads the `drain` table of an upstream.
pub(crate) fn read(mut section: Section<'_>) -> Drain {
    let mut drain = Drain { grace: section.take("grace").and_then(|item| duration(item, GRACES)), ..Drain::default() };
    if let Some(item) = section.take("code") {
        let (report, at) = (item.report, item.span.clone());
        if let Some(code) = item.integer::<u16>(0..=u64::from(u16::MAX)) {
            match CloseCode::new(code) {
                Ok(fit) if matches!(code, 1001 | 1012 | 1013 | 3000..) => drain.farewell.code = fit,
                _ => report.error_help(
                    &at,
                    format!("{code} is not allowed as the close code of a drain"),
                    format!("write {CODES}"),
                ),
            }
        }
    }
    if let Some(reason) = section.text("reason", "a string") {
        if reason.value.len() > LONGEST_REASON {
            section.report.error(&reason.span, format!("`reason` must have at most {LONGEST_REASON} bytes"));
        }
        drain.farewell.reason = reason.value;
    }
    section.finish();
    drain
}

/// Reads the `removed` key of an upstream.
pub(crate) fn removed(section: &mut Section<'_>) -> Option<RemovedPolicy> {
    let text = section.text("removed", "\"keep\", \"drain\" or \"close\"")?;
    word(section.report, "policy", &text, &POLICIES)
}
