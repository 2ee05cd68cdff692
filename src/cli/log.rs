//! `stickyd log`: shows or changes the log level of a running stickyd.

use clap::Args;
use hyper::Method;

use super::remote::{NO_BODY, RemoteArgs};
use super::table::{cell, list};
use crate::admin::api::{LogAnswer, LogOrder, paths};

/// Arguments of `stickyd log`.
#[derive(Debug, Args)]
pub struct LogCommand {
    /// New level: error, warn, info, debug, trace, off, or directives such as info,stickyd::affinity=debug
    #[arg(value_name = "LEVEL", conflicts_with = "reset")]
    pub level: Option<String>,
    /// Return to the level in the file or in RUST_LOG
    #[arg(long)]
    pub reset: bool,
    /// Connection to stickyd, and output format.
    #[command(flatten)]
    pub asking: RemoteArgs,
}

impl LogCommand {
    /// Shows or sets the level, and returns the exit code.
    pub fn run(&self) -> u8 {
        let said = self.asking.remote.find().and_then(|admin| match (&self.level, self.reset) {
            (None, false) => admin.done(Method::GET, paths::LOG, NO_BODY),
            (level, _) => admin.done(Method::PUT, paths::LOG, Some(&LogOrder { level: level.clone() })),
        });
        self.asking.finish(said, log)
    }
}

fn log(said: &LogAnswer) -> String {
    list(&[("level", format!("{} (from {})", said.level, said.from)), ("file", cell(Some(&said.file)))])
}
