//! `[notify]`: the receivers of messages about problems, how soon they get them, and how often.
//!
//! Receivers come from the configuration only. Their addresses and passwords are secrets and come from files; `Debug`
//! shows none of them. Left out: what a problem is (`crate::notify::watch`), and the delivery.

mod mail;

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::check::Context;
use super::error::Span;
use super::file::{ConfigItem, ConfigText, Section};
use super::values::{duration, suggest, word};
use super::{OutboundTarget, Secret, files, outbound};
use mail::mail;
pub(crate) use mail::{MailSecurity, MailSettings};

/// Settings of notifications. A reload applies them; messages that wait for a receiver of the same name are kept.
#[derive(Debug, PartialEq)]
pub struct NotifyRules {
    /// Time that a problem must last before it is told, and that its end must last; default 30 s.
    pub after: Duration,
    /// Time for which further problems are collected into one message; default 10 s.
    pub group: Duration,
    /// Interval between reminders of a problem that lasts; default 6 h. `None`: there are none.
    pub remind: Option<Duration>,
    /// Maximum number of messages to one receiver per hour; default 20.
    pub per_hour: u32,
    /// Name of this stickyd in messages; default: the name of the machine.
    pub name: String,
    /// Regular request by which an outside watcher knows that stickyd lives.
    pub(crate) heartbeat: Option<Heartbeat>,
    /// Receivers of messages, with unique names.
    pub(crate) to: Vec<Receiver>,
}

impl Default for NotifyRules {
    fn default() -> Self {
        Self {
            after: Duration::from_secs(30),
            group: Duration::from_secs(10),
            remind: Some(Duration::from_secs(6 * 3600)),
            per_hour: 20,
            name: String::new(),
            heartbeat: None,
            to: Vec::new(),
        }
    }
}

/// A regular GET request to an outside watcher.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Heartbeat {
    pub(crate) target: OutboundTarget,
    pub(crate) every: Duration,
}

/// One receiver of messages.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Receiver {
    /// Name in metrics, logs and commands; default: its kind, numbered from the second one on.
    pub(crate) name: String,
    /// Topics that it is told about; default: all.
    pub(crate) topics: Vec<Topic>,
    pub(crate) by: Carrier,
}

/// How a receiver gets its messages.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Carrier {
    /// JSON by POST, signed with the secret if there is one.
    Webhook(OutboundTarget, Option<Secret>),
    Discord(OutboundTarget),
    /// Slack, and what speaks its format: Mattermost, Rocket.Chat.
    Slack(OutboundTarget),
    /// A topic of ntfy, with its access token.
    Ntfy(OutboundTarget, Option<Secret>),
    Mail(Box<MailSettings>),
}

impl Carrier {
    /// Returns the word for this kind of receiver in the file.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Webhook(..) => "webhook",
            Self::Discord(_) => "discord",
            Self::Slack(_) => "slack",
            Self::Ntfy(..) => "ntfy",
            Self::Mail(_) => "mail",
        }
    }

    /// Returns the host that messages are sent to.
    pub(crate) fn host(&self) -> &str {
        match self {
            Self::Webhook(target, _) | Self::Discord(target) | Self::Slack(target) | Self::Ntfy(target, _) => {
                target.host()
            }
            Self::Mail(mail) => &mail.host,
        }
    }
}

/// What a message is about; a receiver may choose topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Topic {
    /// A worker is down, restarts too often, or uses too much CPU or memory.
    Worker,
    /// No worker of an upstream takes new sessions.
    Upstream,
    /// There are too few sockets, or their number has dropped.
    Sockets,
    /// Workers refuse requests of sessions.
    Sessions,
    /// A certificate is about to expire, or a changed one cannot be used.
    Certificate,
    /// The file is not the running configuration.
    Config,
    /// A DNS name of workers does not resolve.
    Dns,
}

impl Topic {
    /// Words of the topics in the file and in messages.
    pub(crate) const WORDS: [(&'static str, Self); 7] = [
        ("worker", Self::Worker),
        ("upstream", Self::Upstream),
        ("sockets", Self::Sockets),
        ("sessions", Self::Sessions),
        ("certificate", Self::Certificate),
        ("config", Self::Config),
        ("dns", Self::Dns),
    ];

    /// Returns the word for this topic.
    pub(crate) fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, topic)| *topic == self).map_or("", |(word, _)| word)
    }
}

const AFTERS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(24 * 3600);
const GROUPS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(600);
const REMINDERS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(30 * 24 * 3600);
/// Shortest interval between reminders: a minute, which is short enough for a trial.
const SHORTEST_REMINDER: Duration = Duration::from_secs(60);
const BEATS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);

/// Maximum number of receivers: each may have a message under way at any time.
const RECEIVERS: usize = 32;

/// Kinds of receivers, as the file names them.
const KINDS: [&str; 5] = ["webhook", "discord", "slack", "ntfy", "mail"];

/// Reads the `[notify]` table.
pub(crate) fn read(context: &Context<'_>, root: &mut Section<'_>) -> Arc<NotifyRules> {
    let mut rules = NotifyRules { name: machine(), ..NotifyRules::default() };
    let Some(mut section) = root.section("notify", "a table") else { return Arc::new(rules) };
    let at = section.span.clone();
    let mut time = |key, range| section.take(key).and_then(|item| duration(item, range));
    rules.after = time("after", AFTERS).unwrap_or(rules.after);
    rules.group = time("group", GROUPS).unwrap_or(rules.group);
    let remind = section.take("remind");
    rules.remind = remind.map_or(rules.remind, reminder);
    rules.per_hour = section.integer("per_hour", 1..=1_000).unwrap_or(rules.per_hour);
    if let Some(name) = section.text("name", "a string such as \"web-1\"") {
        check_name(context, &name);
        rules.name = name.value;
    }
    if let Some(table) = section.section("heartbeat", "a table such as { url_file = \"beat.url\", every = \"60s\" }") {
        rules.heartbeat = heartbeat(context, table);
    }
    let items = section.take("to").and_then(|item| item.list("a list of tables, each headed [[notify.to]]", "`to`"));
    let receivers = items.unwrap_or_default();
    if receivers.len() > RECEIVERS {
        let message = format!("there are {} receivers; the maximum is {RECEIVERS}", receivers.len());
        context.report.error(&at, message);
    }
    if receivers.is_empty() && rules.heartbeat.is_none() {
        let help = "add [[notify.to]] and below it discord = { url_file = \"discord.url\" }";
        context.report.warn(&at, "[notify] has no receiver, so nothing is sent", help);
    }
    section.finish();
    for item in receivers {
        if let Some((receiver, at)) = receiver(context, item) {
            add(context, &mut rules.to, receiver, &at);
        }
    }
    Arc::new(rules)
}

/// The name of this machine, as the kernel has it.
pub(crate) fn machine() -> String {
    let name = files::read(std::path::Path::new("/proc/sys/kernel/hostname")).unwrap_or_default();
    let name = String::from_utf8_lossy(&name).trim().to_owned();
    if name.is_empty() { "stickyd".to_owned() } else { name }
}

fn reminder(item: ConfigItem<'_>) -> Option<Duration> {
    let (report, at) = (item.report, item.span.clone());
    let remind = duration(item, REMINDERS)?;
    if remind > Duration::ZERO && remind < SHORTEST_REMINDER {
        report.error_help(&at, "`remind` must be at least 1m", "write \"0s\" for no reminders");
    }
    (remind > Duration::ZERO).then_some(remind)
}

fn check_name(context: &Context<'_>, name: &ConfigText) {
    if name.value.is_empty() || name.value.chars().count() > 64 || name.value.chars().any(char::is_control) {
        let help = "use 1 to 64 characters, such as \"web-1\"";
        context.report.error_help(&name.span, "`name` is empty, too long, or has control characters", help);
    }
}

fn heartbeat(context: &Context<'_>, mut section: Section<'_>) -> Option<Heartbeat> {
    let target = outbound::secret_target(context, &mut section);
    let every = section.take("every").and_then(|item| duration(item, BEATS));
    section.finish();
    Some(Heartbeat { target: target?, every: every.unwrap_or(Duration::from_secs(60)) })
}

/// Reads one `[[notify.to]]`; a receiver without a name has an empty one.
fn receiver(context: &Context<'_>, item: ConfigItem<'_>) -> Option<(Receiver, Span)> {
    let mut section = item.section("[[notify.to]]", "a table")?;
    let at = section.span.clone();
    let name = section.text("name", "a string such as \"ops\"");
    let topics = section.take("events").and_then(|item| topics(context, item));
    let given: Vec<_> = KINDS.into_iter().filter_map(|kind| Some((kind, section.key(kind)?))).collect();
    let carriers: Vec<_> = KINDS.into_iter().filter_map(|kind| carrier(context, &mut section, kind)).collect();
    section.finish();
    match given.as_slice() {
        [] => {
            let help = "write one of webhook, discord, slack, ntfy and mail, such as \
                        discord = { url_file = \"discord.url\" }";
            context.report.error_help(&at, "[[notify.to]] has no receiver", help);
        }
        [_] => {}
        [_, (kind, at), ..] => {
            let message = format!("[[notify.to]] has a second receiver, `{kind}`");
            context.report.error_help(at, message, "write a [[notify.to]] for each");
        }
    }
    if let Some(name) = &name {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
        if name.value.is_empty() || name.value.len() > 32 || !name.value.chars().all(fits) {
            let message = format!("`{}` is not a valid name of a receiver", name.value);
            context.report.error_help(&name.span, message, "use 1 to 32 of a-z, 0-9, - and _");
        }
    }
    let by = carriers.into_iter().next()?;
    let all = || Topic::WORDS.iter().map(|(_, topic)| *topic).collect();
    let at = name.as_ref().map_or(at, |name| name.span.clone());
    let name = name.map(|name| name.value).unwrap_or_default();
    Some((Receiver { name, topics: topics.unwrap_or_else(all), by }, at))
}

/// Adds a receiver under a name of its own.
fn add(context: &Context<'_>, all: &mut Vec<Receiver>, mut receiver: Receiver, at: &Span) {
    let is_taken = |all: &[Receiver], name: &str| all.iter().any(|other| other.name == name);
    if receiver.name.is_empty() {
        let kind = receiver.by.word();
        let names = std::iter::once(kind.to_owned()).chain((2..).map(|number| format!("{kind}-{number}")));
        receiver.name = names.into_iter().find(|name| !is_taken(all, name)).unwrap_or_default();
    } else if is_taken(all, &receiver.name) {
        let message = format!("there are two receivers named `{}`", receiver.name);
        context.report.error_help(at, message, "give each a name of its own");
    }
    all.push(receiver);
}

fn topics(context: &Context<'_>, item: ConfigItem<'_>) -> Option<Vec<Topic>> {
    let at = item.span.clone();
    let items = item.list("a list of topics such as [\"worker\", \"upstream\"]", "a topic")?;
    let texts: Vec<_> = items.into_iter().filter_map(|item| item.text("a string such as \"worker\"")).collect();
    if texts.is_empty() {
        context.report.error_help(&at, "`events` is empty, so nothing would be sent", "leave it out for all topics");
    }
    let known: Vec<_> = texts.iter().filter_map(|text| word(context.report, "topic", text, &Topic::WORDS)).collect();
    Some(known)
}

fn carrier(context: &Context<'_>, section: &mut Section<'_>, kind: &'static str) -> Option<Carrier> {
    let expected = match kind {
        "mail" => "a table such as { smtp = \"smtp.example.com:587\", from = \"…\", to = [\"…\"] }",
        _ => "a table such as { url_file = \"hook.url\" }",
    };
    let mut table = section.section(kind, expected)?;
    if kind == "mail" {
        return mail(context, table).map(Box::new).map(Carrier::Mail);
    }
    let target = outbound::secret_target(context, &mut table);
    let carrier = match kind {
        "webhook" => {
            let secret = table.text("secret_file", "a path").map(|path| files::secret(context, &path));
            target.map(|target| Carrier::Webhook(target, secret.flatten()))
        }
        "ntfy" => {
            let token = table.text("token_file", "a path").map(|path| files::secret_text(context, &path, 1));
            let token = token.flatten().map(|token| Secret(token.into_bytes()));
            target.map(|target| Carrier::Ntfy(target, token))
        }
        "discord" => target.map(Carrier::Discord),
        _ => target.map(Carrier::Slack),
    };
    table.finish();
    carrier
}

/// Finds the receiver with a name, for commands.
///
/// # Errors
/// Describes which names there are.
pub(crate) fn find<'r>(rules: &'r NotifyRules, name: &str) -> Result<&'r Receiver, String> {
    let names: Vec<_> = rules.to.iter().map(|receiver| receiver.name.as_str()).collect();
    let found = rules.to.iter().find(|receiver| receiver.name == name);
    found.ok_or_else(|| format!("there is no receiver named `{name}`: {}", suggest(name, &names)))
}
