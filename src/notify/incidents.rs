//! When a problem is told: after it has lasted, together with others, again while it lasts, and when it is over.
//!
//! Pure: time is an argument. Once per second the caller hands over every problem that there is at this moment, and
//! gets the notes of one message when it is time for one. A problem that ends before it has lasted is never told. One
//! that comes and goes stays the same incident until it has been absent for long enough: the more often it came back
//! in the last ten minutes, the longer. So a worker that flaps makes two messages, and not two per flap.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::config::NotifyRules;
use crate::config::notify::Topic;

/// Time since the start of the notifier.
pub(crate) type Moment = Duration;

/// Identity of a problem.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ProblemKey {
    pub(crate) topic: Topic,
    /// Word for the kind of problem: `worker_down`.
    pub(crate) event: &'static str,
    /// Upstream that has the problem; empty if there is none.
    pub(crate) upstream: String,
    /// What has the problem: a worker, a label with its value, a certificate; may be empty.
    pub(crate) subject: String,
}

/// A problem at one moment, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) key: ProblemKey,
    /// Time that it must last before it is told; `None`: that of the rules.
    pub(crate) hold: Option<Duration>,
    /// What is wrong: "app/w3 is down".
    pub(crate) what: String,
    /// The same for a number of subjects, such as "workers of app are down"; the number comes before it.
    pub(crate) many: String,
    /// Why, or how much: "connects are refused"; may be empty.
    pub(crate) why: String,
    /// Number of sessions that are affected.
    pub(crate) sessions: u64,
    /// What it means: "3 of 4 workers of app are left".
    pub(crate) meaning: String,
    /// Command to type next.
    pub(crate) todo: String,
    /// Number by which its end can be explained, such as the worker's generation.
    pub(crate) mark: u64,
}

/// What a note says about its problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoteState {
    Begun,
    /// The problem still lasts.
    Lasts,
    Over(ProblemEnd),
}

/// How a problem has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProblemEnd {
    /// What is true now: "app/w3 is up again".
    pub(crate) how: String,
    /// Further words; may be empty.
    pub(crate) detail: String,
}

/// One problem in a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) state: NoteState,
    pub(crate) problem: Problem,
    /// When the problem began.
    pub(crate) since: Moment,
    /// How long it has lasted.
    pub(crate) lasted: Duration,
    /// How often it has begun in the last ten minutes or so.
    pub(crate) times: u32,
}

/// A problem that lasts, or is absent for too short a time to be over.
struct Incident {
    problem: Problem,
    since: Moment,
    /// Since when it is absent.
    absent: Option<Moment>,
    /// When it was last told; `None`: not yet.
    told: Option<Moment>,
    times: u32,
}

/// Time for which an ended incident is remembered.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Time that a problem which came back must be absent before it is over; further returns multiply it.
const CALM: Duration = Duration::from_secs(60);

/// Largest factor of [`CALM`].
const CALMS: u32 = 5;

/// Age at which a problem that does not yet last long enough joins a message about others of its kind.
const COMPANION: Duration = Duration::from_secs(5);

/// Maximum number of incidents, and of ended ones that are remembered.
const INCIDENTS: usize = 4_096;

/// All incidents, and the notes of the next message.
#[derive(Default)]
pub(crate) struct Incidents {
    all: BTreeMap<ProblemKey, Incident>,
    /// Ended incidents: when, and how often they had begun.
    ended: BTreeMap<ProblemKey, (Moment, u32)>,
    notes: Vec<Note>,
    /// When the first of `notes` was made.
    opened: Option<Moment>,
    /// Notes since the last [`Self::take_news`].
    news: Vec<Note>,
    /// Number of problems that were left out, because there are too many.
    pub(crate) left_out: u64,
}

impl Incidents {
    /// Takes in every problem of this moment, and `over`, which explains the end of one. Returns the notes of a message
    /// if it is time for one.
    pub(crate) fn observe(
        &mut self,
        now: Moment,
        rules: &NotifyRules,
        problems: Vec<Problem>,
        over: &dyn Fn(&Problem) -> ProblemEnd,
    ) -> Vec<Note> {
        let present: BTreeSet<_> = problems.iter().map(|problem| problem.key.clone()).collect();
        for problem in problems {
            self.begin(now, problem);
        }
        let absent: Vec<_> = self.all.keys().filter(|key| !present.contains(key)).cloned().collect();
        absent.iter().for_each(|key| self.end(now, rules, key, over));
        self.tell(now, rules);
        self.ended.retain(|_, (at, _)| now.saturating_sub(*at) < REMEMBERED);
        match self.opened {
            Some(opened) if now >= opened.saturating_add(rules.group) => self.flush(now, rules),
            _ => Vec::new(),
        }
    }

    /// Returns the notes that wait for their message.
    pub(crate) fn flush(&mut self, now: Moment, rules: &NotifyRules) -> Vec<Note> {
        self.join_companions(now, rules);
        self.opened = None;
        let notes = std::mem::take(&mut self.notes);
        // Of a problem that began and ended meanwhile, only the end is told.
        let is_over = |key: &ProblemKey| {
            notes.iter().any(|note| matches!(note.state, NoteState::Over(_)) && note.problem.key == *key)
        };
        notes
            .iter()
            .filter(|note| matches!(note.state, NoteState::Over(_)) || !is_over(&note.problem.key))
            .cloned()
            .collect()
    }

    /// Returns a note for each problem that was told and lasts.
    pub(crate) fn lasting(&self, now: Moment) -> Vec<Note> {
        let told = self.all.values().filter(|incident| incident.told.is_some());
        told.map(|incident| incident.note(NoteState::Lasts, now)).collect()
    }

    fn begin(&mut self, now: Moment, problem: Problem) {
        if let Some(incident) = self.all.get_mut(&problem.key) {
            if incident.absent.take().is_some() {
                incident.times = incident.times.saturating_add(1);
            }
            // The mark and the sessions are those of the beginning.
            let (mark, sessions) = (incident.problem.mark, incident.problem.sessions.max(problem.sessions));
            incident.problem = Problem { mark, sessions, ..problem };
            return;
        }
        if self.all.len() >= INCIDENTS {
            self.left_out += 1;
            return;
        }
        let times = self.ended.remove(&problem.key).map_or(0, |(_, times)| times).saturating_add(1);
        self.all.insert(problem.key.clone(), Incident { problem, since: now, absent: None, told: None, times });
    }

    fn end(&mut self, now: Moment, rules: &NotifyRules, key: &ProblemKey, over: &dyn Fn(&Problem) -> ProblemEnd) {
        let Some(incident) = self.all.get_mut(key) else { return };
        let absent = *incident.absent.get_or_insert(now);
        if incident.told.is_some() && now.saturating_sub(absent) < incident.calm(rules) {
            return;
        }
        let Some(incident) = self.all.remove(key) else { return };
        if self.ended.len() < INCIDENTS {
            self.ended.insert(key.clone(), (now, incident.times));
        }
        if incident.told.is_some() {
            let note = incident.note(NoteState::Over(over(&incident.problem)), absent);
            self.add(now, note);
        }
    }

    /// Tells problems that have lasted, and reminds of others.
    fn tell(&mut self, now: Moment, rules: &NotifyRules) {
        let mut notes = Vec::new();
        for incident in self.all.values_mut().filter(|incident| incident.absent.is_none()) {
            let state = match incident.told {
                None if now.saturating_sub(incident.since) >= incident.problem.hold.unwrap_or(rules.after) => {
                    NoteState::Begun
                }
                Some(told) if rules.remind.is_some_and(|remind| now.saturating_sub(told) >= remind) => NoteState::Lasts,
                _ => continue,
            };
            incident.told = Some(now);
            notes.push(incident.note(state, now));
        }
        notes.into_iter().for_each(|note| self.add(now, note));
    }

    /// Adds problems that are like those in the message but have not lasted as long: they are news at the same time.
    fn join_companions(&mut self, now: Moment, rules: &NotifyRules) {
        let kinds: Vec<_> = self.notes.iter().filter(|note| note.state == NoteState::Begun).map(kind_of).collect();
        let mut notes = Vec::new();
        for incident in self.all.values_mut() {
            let kind = (incident.problem.key.event, incident.problem.key.upstream.clone());
            let hold = incident.problem.hold.unwrap_or(rules.after);
            let is_old = now.saturating_sub(incident.since) >= COMPANION.min(hold);
            if incident.told.is_none() && incident.absent.is_none() && is_old && kinds.contains(&kind) {
                incident.told = Some(now);
                notes.push(incident.note(NoteState::Begun, now));
            }
        }
        self.news.extend(notes.iter().cloned());
        self.notes.extend(notes);
    }

    /// Returns the notes that were made since the last call, whether or not their message is complete.
    pub(crate) fn take_news(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.news)
    }

    /// Every problem that there is, and whether it was told.
    pub(crate) fn present(&self) -> impl Iterator<Item = (&Problem, Moment, bool)> {
        self.all.values().map(|incident| (&incident.problem, incident.since, incident.told.is_some()))
    }

    fn add(&mut self, now: Moment, note: Note) {
        self.opened.get_or_insert(now);
        self.news.push(note.clone());
        self.notes.push(note);
    }
}

fn kind_of(note: &Note) -> (&'static str, String) {
    (note.problem.key.event, note.problem.key.upstream.clone())
}

impl Incident {
    fn note(&self, state: NoteState, now: Moment) -> Note {
        let lasted = now.saturating_sub(self.since);
        Note { state, problem: self.problem.clone(), since: self.since, lasted, times: self.times }
    }

    /// Time that the problem must be absent to be over.
    fn calm(&self, rules: &NotifyRules) -> Duration {
        match self.times {
            0 | 1 => rules.after,
            times => rules.after.max(CALM).saturating_mul((times - 1).min(CALMS)),
        }
    }
}

#[cfg(test)]
mod tests;
