//! `[upstream.NAME] offline_queue`: messages for users whose clients are away (docs/offline-queue.md).
//!
//! Only a label that clients cannot choose says who a user is; otherwise one client could read the messages of another.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::check::Context;
use super::error::Span;
use super::file::Section;
use super::labels::{LabelRules, LabelSource};
use super::upstream::ReadUpstream;
use super::values::duration;

const KEEPS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(90 * 24 * 3600);
const PER_USER: RangeInclusive<u64> = 1..=100_000;
const TOTALS: RangeInclusive<u64> = 1..=1_000_000_000;

/// The queue of an upstream for users whose clients are away. A reload applies it to messages that come later, and to
/// sockets that begin later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfflineQueue {
    /// Name of the label that says which user a socket belongs to.
    pub label: String,
    /// How long a message is kept, 1 s to 90 days; default 7 days.
    pub keep: Duration,
    /// Maximum number of messages per user, 1 to 100,000; default 1,000.
    pub per_user: u64,
    /// Maximum number of messages of all users, 1 to 1,000,000,000; default 1,000,000.
    pub total: u64,
}

/// Reads `offline_queue`; returns it with its place.
pub(crate) fn read(section: &mut Section<'_>, labels: &LabelRules) -> Option<(OfflineQueue, Span)> {
    let mut table = section.section("offline_queue", "a table such as { label = \"user\" }")?;
    let (report, at) = (table.report, table.span.clone());
    let label = table.required("label", "the name of a label", "\"user\"");
    let keep = table.take("keep").and_then(|item| duration(item, KEEPS));
    let per_user = table.integer("per_user", PER_USER);
    let total = table.integer("total", TOTALS);
    table.finish();
    let label = label?;
    match labels.iter().find(|rule| rule.name == label.value).map(|rule| &rule.from) {
        Some(LabelSource::Claim(_) | LabelSource::Certificate(_) | LabelSource::Backend) => {}
        Some(from @ (LabelSource::Query(_) | LabelSource::Cookie(_) | LabelSource::Header(_))) => {
            let place = match from {
                LabelSource::Query(_) => "a query parameter",
                LabelSource::Cookie(_) => "a cookie",
                _ => "a header field",
            };
            let message = format!(
                "the label `{}` comes from {place}, which clients choose: they would get the messages of other users",
                label.value
            );
            let help = "take the label from a verified token, from the client's certificate or from the backend: \
                        labels = { user = \"jwt:sub\" }, { user = \"certificate:subject\" } or { user = \"backend\" }";
            report.error_help(&label.span, message, help);
        }
        None => {
            let message = format!("the upstream has no label `{}`", label.value);
            report.error_help(
                &label.span,
                message,
                "write labels = { user = \"jwt:sub\" } or { user = \"backend\" }, with the name of the label",
            );
        }
    }
    let queue = OfflineQueue {
        label: label.value,
        keep: keep.unwrap_or(Duration::from_secs(7 * 24 * 3600)),
        per_user: per_user.unwrap_or(1_000),
        total: total.unwrap_or(1_000_000),
    };
    Some((queue, at))
}

/// Reports queues without a fleet, in whose Redis they would be kept.
pub(crate) fn need_a_fleet(context: &Context<'_>, upstreams: &[ReadUpstream], has_fleet: bool) {
    for at in upstreams.iter().filter(|_| !has_fleet).filter_map(|read| read.offline_queue.as_ref()) {
        let message = "`offline_queue` needs a Redis to keep its messages in, and there is no [fleet]";
        context.report.error_help(at, message, "add [fleet] with redis = \"redis://redis.internal:6379\"");
    }
}
