//! A message: what is wrong or over, since when, what it means, and what to type. Pure.
//!
//! Problems of one kind in one upstream share a paragraph. A message always has a title and a text, however many
//! problems it has and however long their words are; receivers with shorter limits cut the text, not the title.

use std::time::{Duration, SystemTime};

use super::incidents::{Note, NoteState, ProblemEnd};
use crate::printable::blanked;

/// What is sent to a receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// Number that no other message of this stickyd has.
    pub(crate) id: String,
    /// When it was written.
    pub(crate) at: SystemTime,
    /// Name of this stickyd.
    pub(crate) host: String,
    pub(crate) tone: Tone,
    /// One line for all problems.
    pub(crate) title: String,
    /// Paragraphs, each for problems of one kind.
    pub(crate) paragraphs: Vec<String>,
    /// The problems, for receivers that are programs.
    pub(crate) parts: Vec<MessagePart>,
}

/// What kind of news a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// At least one problem has begun.
    Problem,
    /// Some problems still last.
    Reminder,
    /// All problems in it are over.
    Resolved,
    /// There is nothing wrong.
    Test,
}

impl Tone {
    /// Returns the word for this tone in JSON.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Problem => "problem",
            Self::Reminder => "reminder",
            Self::Resolved => "resolved",
            Self::Test => "test",
        }
    }
}

/// One problem in a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MessagePart {
    pub(crate) note: Note,
    /// When the problem began.
    pub(crate) since: SystemTime,
    /// What is wrong or over, in one line.
    pub(crate) what: String,
}

/// Maximum number of problems of one kind that are named; the others are counted.
const NAMED: usize = 10;

/// Longest text of a reason, in characters: an error of a configuration may be long.
const LONGEST: usize = 600;

impl Message {
    /// Writes a message of notes; `now` is the moment of the notes' clock at `at`. `None` without notes.
    pub(crate) fn of(id: String, host: &str, at: SystemTime, now: Duration, notes: &[Note]) -> Option<Self> {
        let mut groups: Vec<Vec<&Note>> = Vec::new();
        for note in notes {
            let alike = |group: &&mut Vec<&Note>| group.first().is_some_and(|first| are_alike(first, note));
            match groups.iter_mut().find(alike) {
                Some(group) => group.push(note),
                None => groups.push(vec![note]),
            }
        }
        let since = |note: &Note| at.checked_sub(now.saturating_sub(note.since)).unwrap_or(at);
        let mut titles: Vec<_> = groups.iter().map(|group| headline(group)).collect();
        let first = (!titles.is_empty()).then(|| titles.remove(0))?;
        let title = match titles.as_slice() {
            [] => first,
            [second] => format!("{first}; {second}"),
            more => format!("{first}; and {} more", more.len()),
        };
        let states = |wanted: fn(&NoteState) -> bool| notes.iter().any(|note| wanted(&note.state));
        let tone = if states(|state| *state == NoteState::Begun) {
            Tone::Problem
        } else if states(|state| *state == NoteState::Lasts) {
            Tone::Reminder
        } else {
            Tone::Resolved
        };
        let part = |note: &Note| MessagePart { note: note.clone(), since: since(note), what: sentence(note) };
        Some(Self {
            id,
            at,
            host: host.to_owned(),
            tone,
            title: blanked(&title),
            paragraphs: groups.iter().map(|group| paragraph(group, &since)).collect(),
            parts: notes.iter().map(part).collect(),
        })
    }

    /// Writes a message without a problem.
    pub(crate) fn test(id: String, host: &str, at: SystemTime) -> Self {
        let text = "Nothing is wrong: `stickyd notify test` has sent this message. Messages about problems will say \
                    what is wrong, since when, what it means, and what to type.";
        Self {
            id,
            at,
            host: host.to_owned(),
            tone: Tone::Test,
            title: "test message".to_owned(),
            paragraphs: vec![text.to_owned()],
            parts: Vec::new(),
        }
    }

    /// Writes a message that no problem is left.
    pub(crate) fn all_well(id: String, host: &str, at: SystemTime) -> Self {
        let title = "no problem is left".to_owned();
        Self { tone: Tone::Resolved, title, paragraphs: Vec::new(), ..Self::test(id, host, at) }
    }

    /// Adds a sentence about messages that were left out.
    pub(crate) fn closing(&mut self, sentence: String) {
        self.paragraphs.push(sentence);
    }

    /// The whole text without the title.
    pub(crate) fn text(&self) -> String {
        self.paragraphs.join("\n\n")
    }

    /// The title with the name of this stickyd.
    pub(crate) fn subject(&self) -> String {
        format!("[{}] {}", self.host, self.title)
    }
}

fn are_alike(one: &Note, other: &Note) -> bool {
    std::mem::discriminant(&one.state) == std::mem::discriminant(&other.state)
        && (one.problem.key.event, &one.problem.key.upstream) == (other.problem.key.event, &other.problem.key.upstream)
}

/// The title of problems of one kind.
fn headline(group: &[&Note]) -> String {
    let Some(first) = group.first() else { return String::new() };
    let what = match group.len() {
        1 => first.problem.what.clone(),
        count => format!("{count} {}", first.problem.many),
    };
    match &first.state {
        NoteState::Begun => what,
        NoteState::Lasts => format!("still: {what}"),
        NoteState::Over(_) if group.len() == 1 => sentence(first),
        NoteState::Over(_) => format!("over: {what}"),
    }
}

/// One problem in one line, without its beginning.
fn sentence(note: &Note) -> String {
    let Note { problem, lasted, times, .. } = note;
    let lasted = span(*lasted);
    let again = if *times > 1 { format!(" ({times} times)") } else { String::new() };
    let line = match &note.state {
        NoteState::Over(ProblemEnd { how, detail }) if detail.is_empty() => format!("{how} after {lasted}{again}"),
        NoteState::Over(ProblemEnd { how, detail }) => format!("{how} after {lasted}{again} ({detail})"),
        NoteState::Begun | NoteState::Lasts if problem.why.is_empty() => format!("{}{again}", problem.what),
        NoteState::Begun | NoteState::Lasts => format!("{}{again}: {}", problem.what, problem.why),
    };
    let line = blanked(&line);
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

fn paragraph(group: &[&Note], since: &dyn Fn(&Note) -> SystemTime) -> String {
    let mut lines: Vec<_> = group.iter().take(NAMED).map(|note| line(note, since(note))).collect();
    if group.len() > NAMED {
        lines.push(format!("- and {} more", group.len() - NAMED));
    }
    let Some(last) = group.last() else { return String::new() };
    let is_over = matches!(last.state, NoteState::Over(_));
    let sessions: u64 = group.iter().map(|note| note.problem.sessions).sum();
    if sessions > 0 && !is_over {
        let those = if group.len() == 1 { "it" } else { "them" };
        lines.push(match sessions {
            1 => format!("1 session was on {those}."),
            _ => format!("{sessions} sessions were on {those}."),
        });
    }
    if !last.problem.meaning.is_empty() && !is_over {
        lines.push(format!("{}.", last.problem.meaning));
    }
    if !last.problem.todo.is_empty() && !is_over {
        lines.push(format!("Type: {}", last.problem.todo));
    }
    lines.join("\n")
}

fn line(note: &Note, since: SystemTime) -> String {
    let began = humantime::format_rfc3339_seconds(since);
    match note.state {
        NoteState::Over(_) => format!("- {} (it began at {began})", sentence(note)),
        NoteState::Begun | NoteState::Lasts => {
            format!("- {} (since {began}, {})", sentence(note), span(note.lasted))
        }
    }
}

/// A span of time in whole seconds, with its two largest units: `4m 12s`.
pub(crate) fn span(time: Duration) -> String {
    let text = humantime::format_duration(Duration::from_secs(time.as_secs())).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}
