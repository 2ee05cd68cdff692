//! `--fleet`: a command at every stickyd of the fleet, the answers of all, and the names of those that are missing.
//!
//! The stickyd that the command talks to passes the request on. A missing answer is named and makes the exit code 1;
//! what the others did stays done. Left out: what each command asks for.

pub(crate) mod close;
pub(crate) mod drain;
pub(crate) mod sockets;
pub(crate) mod stats;
pub(crate) mod workers;

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use hyper::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::remote::{AdminClient, NO_BODY, RemoteError};
use crate::admin::api::{ErrorAnswer, FleetOrderBody, FleetOrdersAnswer, FleetReplyView, paths};

/// Status of an answer that says: what was asked for is not here.
const NOT_HERE: u16 = 404;

/// Option of the commands that can ask the whole fleet.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct FleetArgs {
    /// Do this at every stickyd of the fleet ([fleet] in the file); exit code 1 if one of them does not answer
    #[arg(long)]
    pub fleet: bool,
}

/// What the stickyds of the fleet answered to one request.
#[derive(Serialize)]
#[serde(transparent)]
pub(crate) struct FleetSaid(FleetOrdersAnswer);

/// A successful answer, and the stickyd that gave it.
pub(crate) struct FromStickyd<T> {
    /// Its name; with its number if another one has the same.
    pub(crate) stickyd: String,
    pub(crate) node: String,
    pub(crate) answer: T,
}

impl<T> FromStickyd<T> {
    /// The word by which commands find this stickyd: its name, or its number if another one has the same name.
    pub(crate) fn place(&self) -> &str {
        if self.stickyd.contains(' ') { &self.node } else { &self.stickyd }
    }
}

impl FleetSaid {
    /// Asks all stickyds for what is at a path.
    pub(crate) fn get(admin: &AdminClient, path: &str) -> Result<Self, RemoteError> {
        Self::get_at(admin, None, path)
    }

    /// Asks all stickyds for what is at a path, or the one that is named.
    pub(crate) fn get_at(admin: &AdminClient, at: Option<&str>, path: &str) -> Result<Self, RemoteError> {
        admin.done(Method::GET, &paths::of_fleet(at, path), NO_BODY).map(Self)
    }

    /// Sends a write to all stickyds, or to the one that is named.
    pub(crate) fn order(
        admin: &AdminClient,
        at: Option<&str>,
        path: String,
        body: Option<&impl Serialize>,
    ) -> Result<Self, RemoteError> {
        let body = body.map(serde_json::to_value).transpose().map_err(|error| RemoteError::new(&error.to_string()))?;
        let order = FleetOrderBody { at: at.map(str::to_owned), body, path };
        admin.done(Method::POST, paths::FLEET_ORDERS, Some(&order)).map(Self)
    }

    /// The successful answers.
    ///
    /// # Errors
    /// There is none; the message has the reasons of all stickyds.
    pub(crate) fn answers<T: DeserializeOwned>(&self) -> Result<Vec<FromStickyd<T>>, RemoteError> {
        let mut all = Vec::new();
        for one in self.0.answers.iter().filter(|one| is_success(one)) {
            let stickyd = self.label(&one.name, &one.node);
            let answer = T::deserialize(&one.answer).map_err(|error| {
                RemoteError(format!("error: {stickyd} answered what this version of stickyd does not know: {error}"))
            })?;
            all.push(FromStickyd { stickyd, node: one.node.clone(), answer });
        }
        if all.is_empty() {
            return Err(self.nothing());
        }
        Ok(all)
    }

    /// The error if no stickyd has done what was asked for.
    fn nothing(&self) -> RemoteError {
        let mut reasons: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for one in &self.0.answers {
            reasons.entry(reason(&one.answer)).or_default().push(self.label(&one.name, &one.node));
        }
        let mut reasons = reasons.into_iter();
        let text = match (reasons.next(), reasons.next()) {
            (Some((only, _)), None) => format!("error: {only}"),
            (Some(first), Some(second)) => {
                let line = |(why, names): (String, Vec<String>)| format!("\n  {}: {why}", names.join(", "));
                let lines: String = [first, second].into_iter().chain(reasons).map(line).collect();
                format!("error: no stickyd has done it{lines}")
            }
            (None, _) => "error: no stickyd has done it".to_owned(),
        };
        RemoteError(if self.0.silent.is_empty() { text } else { format!("{text}\n{}", self.summary()) })
    }

    /// Whether an answer is missing, or an error. That something is not there is no error where another has it.
    pub(crate) fn is_partial(&self) -> bool {
        !self.0.silent.is_empty() || self.0.answers.iter().any(|one| !is_success(one) && one.status != NOT_HERE)
    }

    /// How many stickyds have answered, and which ones have not; one line.
    pub(crate) fn summary(&self) -> String {
        let failed = self.0.answers.iter().filter(|one| !is_success(one) && one.status != NOT_HERE);
        let failed =
            failed.map(|one| format!("{} has failed: {}", self.label(&one.name, &one.node), reason(&one.answer)));
        let silent = self.0.silent.iter().map(|one| format!("{} {}", self.label(&one.name, &one.node), one.why));
        let missing: Vec<_> = failed.chain(silent).collect();
        let end = if missing.is_empty() { String::new() } else { format!(": {}", missing.join("; ")) };
        // With several requests one stickyd has several answers.
        let answered: BTreeSet<_> = self.0.answers.iter().map(|one| &one.node).collect();
        let asked: BTreeSet<_> = answered.iter().copied().chain(self.0.silent.iter().map(|one| &one.node)).collect();
        format!("{} of {} stickyds answered{end}\n", answered.len(), asked.len())
    }

    /// One line per stickyd that has nothing of the kind.
    pub(crate) fn absences(&self) -> String {
        let absent = self.0.answers.iter().filter(|one| one.status == NOT_HERE);
        absent.map(|one| format!("{}: {}\n", self.label(&one.name, &one.node), reason(&one.answer))).collect()
    }

    /// Both together, of requests that went to one stickyd each.
    pub(crate) fn with(mut self, other: Self) -> Self {
        self.0.answers.extend(other.0.answers);
        self.0.silent.extend(other.0.silent);
        self.0.asked += other.0.asked;
        self
    }

    fn label(&self, name: &str, node: &str) -> String {
        let answered = self.0.answers.iter().map(|one| (&one.name, &one.node));
        let all = answered.chain(self.0.silent.iter().map(|one| (&one.name, &one.node)));
        if all.into_iter().any(|(other, of)| other == name && of != node) {
            format!("{name} ({node})")
        } else {
            name.to_owned()
        }
    }
}

fn is_success(one: &FleetReplyView) -> bool {
    (200..300).contains(&one.status)
}

/// The reason in the answer to a request that failed.
fn reason(answer: &Value) -> String {
    match serde_json::from_value::<ErrorAnswer>(answer.clone()) {
        Ok(said) => said.error,
        Err(_) => answer.as_str().map_or_else(|| answer.to_string(), str::to_owned),
    }
}

/// What a command prints.
pub(crate) struct FleetText {
    /// What the stickyds answered, printed with `--json`.
    pub(crate) said: FleetSaid,
    pub(crate) text: String,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(answers: Value, silent: Value) -> FleetSaid {
        let asked = answers.as_array().unwrap().len() + silent.as_array().unwrap().len();
        FleetSaid(serde_json::from_value(json!({"answers": answers, "asked": asked, "silent": silent})).unwrap())
    }

    fn answer(name: &str, status: u16, answer: Value) -> Value {
        json!({"answer": answer, "name": name, "node": format!("{name}{status}"), "own": false, "status": status})
    }

    #[test]
    fn a_silent_stickyd_is_named_and_makes_it_partial() {
        let silent = json!([{"name": "d", "node": "1", "why": "was silent for 5 s"}]);
        let all = said(json!([answer("a", 200, json!(1)), answer("b", 200, json!(2))]), silent);
        assert_eq!(
            (all.summary().as_str(), all.is_partial()),
            ("2 of 3 stickyds answered: d was silent for 5 s\n", true)
        );
        let numbers: Vec<u32> = all.answers::<u32>().unwrap().into_iter().map(|one| one.answer).collect();
        assert_eq!(numbers, [1, 2]);
    }

    #[test]
    fn what_is_not_at_one_stickyd_is_no_failure() {
        let none = json!({"error": "no such worker"});
        let all = said(json!([answer("a", 200, json!(1)), answer("b", 404, none.clone())]), json!([]));
        assert_eq!((all.summary().as_str(), all.is_partial()), ("2 of 2 stickyds answered\n", false));
        assert_eq!(all.absences(), "b: no such worker\n");
        let all = said(json!([answer("a", 404, none.clone()), answer("b", 404, none.clone())]), json!([]));
        assert_eq!(all.answers::<u32>().err().unwrap().to_string(), "error: no such worker");
        let all = said(json!([answer("a", 404, none), answer("b", 409, json!({"error": "busy"}))]), json!([]));
        let error = all.answers::<u32>().err().unwrap().to_string();
        assert_eq!(error, "error: no stickyd has done it\n  b: busy\n  a: no such worker");
    }

    #[test]
    fn a_refusal_is_a_failure_and_equal_names_are_told_apart() {
        let all = said(json!([answer("a", 200, json!(1)), answer("a", 403, json!("text"))]), json!([]));
        assert!(
            all.is_partial() && all.summary().ends_with("answered: a (a403) has failed: text\n"),
            "{}",
            all.summary()
        );
    }
}
