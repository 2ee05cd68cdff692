//! `stickyd notify`: the receivers of notifications and what became of the last messages, and test messages.

use clap::{Args, Subcommand};
use hyper::Method;

use super::remote::{RemoteArgs, RemoteError};
use super::table::{Column, TableArgs, cell, span, table};
use crate::admin::api::notify::{LastOutcomeView, NotifyAnswer, NotifyTestAnswer, NotifyTestOrder, ReceiverView};
use crate::admin::api::paths;

/// Arguments of `stickyd notify`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct NotifyCommand {
    /// What to do, instead of showing the receivers.
    #[command(subcommand)]
    pub action: Option<NotifyAction>,
    /// Form of the table.
    #[command(flatten)]
    pub tables: TableArgs,
    /// Connection to stickyd, and output format.
    #[command(flatten)]
    pub asking: RemoteArgs,
}

/// What can be done with receivers.
#[derive(Debug, Subcommand)]
pub enum NotifyAction {
    /// Send a test message to one receiver, or to all, and report what became of it
    ///
    /// Exit code 1 if a message was not taken.
    ///
    /// Example: stickyd notify test discord
    Test(NotifyTestCommand),
}

/// Arguments of `stickyd notify test`.
#[derive(Debug, Args)]
pub struct NotifyTestCommand {
    /// Name of the receiver, as `stickyd notify` lists it [default: all]
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Connection to stickyd, and output format.
    #[command(flatten)]
    pub asking: RemoteArgs,
}

impl NotifyCommand {
    /// Runs the command and returns the exit code.
    pub fn run(&self) -> u8 {
        match &self.action {
            Some(NotifyAction::Test(test)) => test.run(),
            None => self.asking.show(paths::NOTIFY, |said| notify(said, self.tables.width())),
        }
    }
}

impl NotifyTestCommand {
    fn run(&self) -> u8 {
        let order = NotifyTestOrder { to: self.name.clone() };
        let said = self.asking.remote.find();
        let said: Result<NotifyTestAnswer, RemoteError> =
            said.and_then(|admin| admin.done(Method::POST, paths::NOTIFY_TEST, Some(&order)));
        let failed = said.as_ref().is_ok_and(|said| said.results.iter().any(|one| one.error.is_some()));
        self.asking.finish(said, outcomes).max(u8::from(failed))
    }
}

fn outcomes(said: &NotifyTestAnswer) -> String {
    let line = |one: &crate::admin::api::notify::TestView| match &one.error {
        None => format!("{}: sent in {} ms\n", one.to, one.ms),
        Some(error) => format!("{}: not sent: {error}\n", one.to),
    };
    said.results.iter().map(line).collect()
}

fn notify(said: &NotifyAnswer, width: Option<u16>) -> String {
    let mut text = match said.receivers.is_empty() {
        true => "There is no receiver: add [[notify.to]] to the configuration file.\n".to_owned(),
        false => receivers(&said.receivers, width),
    };
    if let Some(beat) = &said.heartbeat {
        let last = beat.last.as_ref().map_or_else(|| "not sent yet".to_owned(), outcome);
        text.push_str(&format!("\nHeartbeat to {} every {}: {last}\n", beat.host, span(beat.every_s)));
    }
    for problem in &said.problems {
        let told = if problem.told { "told" } else { "not told yet" };
        text.push_str(&format!("\n{} for {} ({told})", problem.what, span(problem.for_s)));
    }
    if said.problems.is_empty() { text } else { text + "\n" }
}

fn receivers(all: &[ReceiverView], width: Option<u16>) -> String {
    let columns = [
        Column::text("NAME", 0),
        Column::text("KIND", 1),
        Column::text("HOST", 2),
        Column::amount("WAITING", 0),
        Column::text("LAST OUTCOME", 0),
    ];
    let row = |one: &ReceiverView| {
        let last = one.last.as_ref().map(outcome);
        vec![one.name.clone(), one.kind.clone(), one.host.clone(), one.waiting.to_string(), cell(last.as_ref())]
    };
    table(&columns, &all.iter().map(row).collect::<Vec<_>>(), width)
}

fn outcome(last: &LastOutcomeView) -> String {
    let why = last.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    format!("{} {} ago{why}", last.result, span(last.ago_s))
}
