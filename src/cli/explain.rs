//! `stickyd explain` and `stickyd pin`: which worker would get a request and why, and which one has a session.

use clap::{Args, ValueEnum};

use super::remote::RemoteArgs;
use super::table::{cell, counted, list, span};
use super::workers::state;
use crate::admin::api::{DecisionView, ExplainAnswer, PinAnswer, paths};

/// Arguments of `stickyd pin`.
#[derive(Debug, Args)]
pub struct PinCommand {
    /// Id of the session, as in the query of its requests
    #[arg(value_name = "SID")]
    pub sid: String,
    /// Upstream of the session; may be left out if there is only one
    #[arg(short, long, value_name = "NAME")]
    pub upstream: Option<String>,
    /// Affinity rule that the id belongs to [default: socket.io, or else the first rule]
    #[arg(short, long, value_name = "NAME")]
    pub rule: Option<String>,
    /// Connection to stickyd, and output format.
    #[command(flatten)]
    pub asking: RemoteArgs,
}

impl PinCommand {
    /// Runs the command and returns the exit code.
    pub fn run(&self) -> u8 {
        let given = [("sid", Some(&self.sid)), ("upstream", self.upstream.as_ref()), ("rule", self.rule.as_ref())];
        self.asking.show(&query(paths::PINS, given), pin)
    }
}

fn pin(said: &PinAnswer) -> String {
    let worker = match said.ended {
        true => "none: an operator ended the session".to_owned(),
        false if said.worker.is_none() => "one that this stickyd does not know".to_owned(),
        false => cell(said.worker.as_ref()),
    };
    if said.source == "redis" {
        let life = format!("{} after its last activity", span(said.ttl_s));
        let source = "the fleet's Redis: another stickyd has pinned it".to_owned();
        return list(&[("worker", worker), ("found in", source), ("lives for", life)]);
    }
    let held = match (said.holds, said.tunnel) {
        (0, _) => "nothing".to_owned(),
        (1, true) => "a tunnel".to_owned(),
        (holds, true) => format!("{} and a tunnel", counted(holds.saturating_sub(1), "poll")),
        (holds, false) => counted(holds, "poll"),
    };
    let mut rows = vec![
        ("worker", worker),
        ("pinned for", span(said.age_s.map(u64::from))),
        ("held by", held),
        ("idle for", span(said.idle_s)),
        ("expires in", span(said.expires_in_s)),
    ];
    if said.drain_ends_in_s.is_some() {
        rows.push(("ended by drain in", span(said.drain_ends_in_s)));
    }
    list(&rows)
}

/// Kinds of requests without a sid.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ExplainKind {
    /// A new Socket.IO session
    Session,
    /// An ordinary HTTP request
    Request,
}

/// Arguments of `stickyd explain`.
#[derive(Debug, Args)]
pub struct ExplainCommand {
    /// Upstream of the request; may be left out if there is only one
    #[arg(short, long, value_name = "NAME")]
    pub upstream: Option<String>,
    /// Id of the session that the request belongs to, or of a socket (`follow`)
    #[arg(short, long)]
    pub sid: Option<String>,
    /// Affinity rule that the id belongs to [default: socket.io, or else the first rule]
    #[arg(short, long, value_name = "NAME")]
    pub rule: Option<String>,
    /// Affinity cookie of stickyd in the request, as its value or as name=value
    #[arg(long, value_name = "COOKIE")]
    pub cookie: Option<String>,
    /// Address of the client
    #[arg(long, value_name = "IP")]
    pub address: Option<String>,
    /// Kind of request, if it has no sid or the upstream has `follow` [default: session]
    #[arg(short, long)]
    pub kind: Option<ExplainKind>,
    /// Connection to stickyd, and output format.
    #[command(flatten)]
    pub asking: RemoteArgs,
}

impl ExplainCommand {
    /// Runs the command and returns the exit code.
    pub fn run(&self) -> u8 {
        let kind = self.kind.map(|kind| match kind {
            ExplainKind::Session => "session".to_owned(),
            ExplainKind::Request => "request".to_owned(),
        });
        let given = [
            ("upstream", self.upstream.as_ref()),
            ("sid", self.sid.as_ref()),
            ("rule", self.rule.as_ref()),
            ("cookie", self.cookie.as_ref()),
            ("address", self.address.as_ref()),
            ("kind", kind.as_ref()),
        ];
        self.asking.show(&query(paths::EXPLAIN, given), explain)
    }
}

fn explain(said: &ExplainAnswer) -> String {
    let worker = |decision: &DecisionView| match &decision.state {
        None => "none".to_owned(),
        Some(of) => format!("{} ({})", cell(decision.worker.as_ref()), state(&of.health, &of.admin, of.ejected)),
    };
    let now = &said.now;
    let mut rows = vec![("upstream", said.upstream.clone()), ("worker", worker(now)), ("why", now.words.clone())];
    if let Some(rule) = said.rule.as_ref().filter(|rule| *rule != "socket.io") {
        rows.push(("rule", rule.clone()));
    }
    if said.cookie == "not ours" {
        rows.push(("cookie", "foreign or forged: treated as absent".to_owned()));
    }
    if let Some(then) = &said.if_it_died {
        let title = if now.worker.is_none() { "its next session" } else { "if it died" };
        rows.extend([(title, worker(then)), ("why", then.words.clone())]);
    }
    list(&rows)
}

/// Returns a path with those parameters that are given.
fn query<const N: usize>(path: &str, parameters: [(&str, Option<&String>); N]) -> String {
    paths::with_query(path, parameters.into_iter().filter_map(|(name, value)| Some((name, value?))))
}
