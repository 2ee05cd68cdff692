//! A message in the format of each kind of receiver, within that receiver's limits. Pure.
//!
//! Limits: Discord takes 256 characters of a title and 4,096 of a description (Discord, "Embed Limits"); Slack splits
//! texts beyond 4,000 ("chat.postMessage"), which counts after the escapes of its markup; ntfy takes
//! 4,096 bytes of a text and makes a larger one an attachment ("Limitations"). No text is ever empty: Discord answers
//! an empty message with an error, and others drop it.

use std::time::SystemTime;

use aws_lc_rs::hmac;
use serde_json::{Value, json};

use super::incidents::NoteState;
use super::message::{Message, MessagePart, Tone};
use crate::config::Secret;

const DISCORD_TITLE: usize = 256;
const DISCORD_TEXT: usize = 4_096;
const SLACK_TITLE: usize = 250;
const SLACK_ALL: usize = 4_000;
const NTFY_TITLE: usize = 200;
const NTFY_TEXT: usize = 4_000;
const MAIL_TITLE: usize = 200;

/// Stands for a text that would be empty.
const NOTHING: &str = "(no text)";

/// The message as Discord takes it: one embed, whose colour shows the tone. It mentions no one.
pub(super) fn discord(message: &Message) -> Value {
    let color = match message.tone {
        Tone::Problem => 0xd9_30_25,
        Tone::Reminder => 0xe3_74_00,
        Tone::Resolved => 0x18_80_38,
        Tone::Test => 0x1a_73_e8,
    };
    json!({
        "allowed_mentions": { "parse": [] },
        "embeds": [{
            "color": color,
            "description": cut(&code(&message.text()), DISCORD_TEXT),
            "timestamp": rfc3339(message.at),
            "title": cut(&message.subject(), DISCORD_TITLE),
        }],
    })
}

/// The message as Slack, Mattermost and Rocket.Chat take it.
pub(super) fn slack(message: &Message) -> Value {
    let sign = match message.tone {
        Tone::Problem => ":red_circle:",
        Tone::Reminder => ":large_orange_circle:",
        Tone::Resolved => ":large_green_circle:",
        Tone::Test => ":large_blue_circle:",
    };
    let head = format!("{sign} *{}*\n", cut_escaped(&message.subject(), SLACK_TITLE, slack_escape));
    let room = SLACK_ALL.saturating_sub(utf16(&head));
    let text = cut_escaped(&code(&message.text()), room, slack_escape);
    json!({ "text": head + &text })
}

/// The three characters that Slack's markup reserves ("Escaping text").
fn slack_escape(c: char) -> Option<&'static str> {
    match c {
        '&' => Some("&amp;"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        _ => None,
    }
}

/// The message as ntfy takes it: title, tags, priority and text.
pub(super) struct NtfyMessage {
    pub(super) title: String,
    pub(super) tags: &'static str,
    pub(super) priority: &'static str,
    pub(super) text: String,
}

/// The message as ntfy takes it. Titles travel in a header, so they are ASCII.
pub(super) fn ntfy(message: &Message) -> NtfyMessage {
    let (tags, priority) = match message.tone {
        Tone::Problem => ("rotating_light", "high"),
        Tone::Reminder => ("hourglass", "default"),
        Tone::Resolved => ("white_check_mark", "default"),
        Tone::Test => ("wave", "low"),
    };
    let title: String =
        message.subject().chars().map(|c| if matches!(c, ' '..='~') { c } else { '?' }).take(NTFY_TITLE).collect();
    let mut text = message.text();
    while text.len() > NTFY_TEXT {
        text = cut(&text, text.chars().count().saturating_sub(text.len() - NTFY_TEXT).max(1));
    }
    NtfyMessage { title, tags, priority, text: non_empty(&text).to_owned() }
}

/// The message for a program.
pub(super) fn webhook(message: &Message) -> Value {
    json!({
        "at": rfc3339(message.at),
        "host": message.host,
        "id": message.id,
        "kind": message.tone.word(),
        "problems": message.parts.iter().map(problem).collect::<Vec<_>>(),
        "text": non_empty(&message.text()),
        "title": non_empty(&message.title),
        "version": 1,
    })
}

fn problem(part: &MessagePart) -> Value {
    let problem = &part.note.problem;
    let (state, end) = match &part.note.state {
        NoteState::Begun => ("begun", None),
        NoteState::Lasts => ("lasts", None),
        NoteState::Over(end) => ("over", Some(&end.how)),
    };
    json!({
        "end": end,
        "event": problem.key.event,
        "lasted_s": part.note.lasted.as_secs(),
        "meaning": problem.meaning,
        "sessions": problem.sessions,
        "since": rfc3339(part.since),
        "state": state,
        "subject": problem.key.subject,
        "times": part.note.times,
        "todo": problem.todo,
        "topic": problem.key.topic.word(),
        "upstream": Some(&problem.key.upstream).filter(|name| !name.is_empty()),
        "what": part.what,
        "why": problem.why,
    })
}

/// Subject and text of a mail.
pub(super) fn mail(message: &Message) -> (String, String) {
    let sign = if message.tone == Tone::Resolved { "resolved: " } else { "" };
    let subject = cut(&format!("[{}] {sign}{}", message.host, message.title), MAIL_TITLE);
    let text = format!(
        "{}\n\n{}\n\n-- \nstickyd on {}, {}\n",
        message.title,
        message.text(),
        message.host,
        rfc3339(message.at)
    );
    (subject, text.replace('\n', "\r\n"))
}

/// The value of `X-Stickyd-Signature`: HMAC-SHA256 of the body, in hexadecimal digits.
pub(super) fn signature(secret: &Secret, body: &[u8]) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret.0), body);
    let digits: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={digits}")
}

/// The text with its commands marked as code.
fn code(text: &str) -> String {
    let line = |line: &str| match line.strip_prefix("Type: ") {
        Some(command) => format!("Type: `{command}`"),
        None => line.to_owned(),
    };
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

fn non_empty(text: &str) -> &str {
    if text.trim().is_empty() { NOTHING } else { text }
}

/// The text with at most `most` characters (as UTF-16 counts them, which Discord and Slack do), never empty.
fn cut(text: &str, most: usize) -> String {
    cut_escaped(text, most, |_| None)
}

/// The escaped text with at most `most` characters, never empty and never cut within an escape.
fn cut_escaped(text: &str, most: usize, escape: fn(char) -> Option<&'static str>) -> String {
    const CUT: &str = " … (cut)";
    let room = most.saturating_sub(utf16(CUT));
    let (mut whole, mut used, mut kept) = (String::new(), 0, 0);
    for c in non_empty(text).chars() {
        let before = whole.len();
        match escape(c) {
            Some(entity) => whole.push_str(entity),
            None => whole.push(c),
        }
        used += whole.get(before..).map_or(0, utf16);
        if used <= room {
            kept = whole.len();
        }
        if used > most {
            whole.truncate(kept);
            return whole + CUT;
        }
    }
    whole
}

/// Number of characters as UTF-16 counts them.
fn utf16(text: &str) -> usize {
    text.encode_utf16().count()
}

#[cfg(test)]
mod tests;
