//! `stickyd fleet`: the stickyds that share a Redis, what differs among them, and the rights that Redis has to give.

use std::io::{self, Write};
use std::path::Path;

use clap::Args;
use hyper::Method;

use super::FILE;
use super::remote::{NO_BODY, RemoteArgs, RemoteError};
use super::table::{Column, TableArgs, cell, list, span, table};
use crate::admin::api::{FleetAnswer, FleetMemberView, paths};
use crate::config;
use crate::fleet;

const COLUMNS: [Column; 11] = [
    Column::text("NAME", 0),
    Column::text("VERSION", 1),
    Column::amount("UP", 2),
    Column::amount("SOCKETS", 0),
    Column::amount("SESSIONS", 0),
    Column::amount("WORKERS UP", 0),
    Column::amount("REDIS P50/P99 MS", 2),
    Column::amount("WRITTEN", 3),
    Column::amount("LOOKED UP", 3),
    Column::amount("FOUND", 3),
    Column::amount("CLOCK", 4),
];

/// Arguments of `stickyd fleet`.
#[derive(Debug, Args)]
pub struct FleetCommand {
    /// Connection to stickyd, and output format.
    #[command(flatten)]
    pub asking: RemoteArgs,
    /// Width of the table.
    #[command(flatten)]
    pub shape: TableArgs,
    /// Exit with 1 if something differs, or if Redis does not answer
    #[arg(long)]
    pub check: bool,
    /// Print the line of a Redis user with the rights that stickyd needs, for users.acl, and exit
    #[arg(long, conflicts_with = "check")]
    pub acl: bool,
}

impl FleetCommand {
    /// Runs the command and returns the exit code.
    pub fn run(&self) -> u8 {
        if self.acl {
            return self.print_acl();
        }
        let said: Result<FleetAnswer, RemoteError> =
            self.asking.remote.find().and_then(|admin| admin.done(Method::GET, paths::FLEET, NO_BODY));
        let fails = self.check && said.as_ref().is_ok_and(is_wrong);
        self.asking.finish(said, |said| words(said, self.shape.width())).max(u8::from(fails))
    }

    fn print_acl(&self) -> u8 {
        let file = self.asking.remote.config.as_deref().unwrap_or_else(|| Path::new(FILE));
        let line = config::load_with_warnings(file).map_err(|errors| errors.to_string()).and_then(|(config, _)| {
            let none = || format!("error: {} has no [fleet]", file.display());
            let fleet = config.fleet.ok_or_else(none)?;
            let user = fleet.redis.iter().find_map(|address| address.username.clone());
            Ok(fleet::acl(user.as_deref().unwrap_or("stickyd"), &fleet.prefix))
        });
        match line {
            Ok(line) => u8::from(writeln!(io::stdout(), "{line}").is_err()),
            Err(error) => {
                let _ = writeln!(io::stderr(), "{error}");
                1
            }
        }
    }
}

fn is_wrong(said: &FleetAnswer) -> bool {
    !said.differences.is_empty() || said.redis.iter().any(|redis| redis.state != "up")
}

fn words(said: &FleetAnswer, width: Option<u16>) -> String {
    let rows: Vec<_> = said.members.iter().map(row).collect();
    let mut text = table(&COLUMNS, &rows, width);
    text.push('\n');
    let redis = said.redis.iter().map(|redis| {
        let error = redis.error.as_ref().map_or_else(String::new, |error| format!(": {error}"));
        (redis.address.as_str(), format!("{}{error}", redis.state))
    });
    text.push_str(&list(&redis.collect::<Vec<_>>()));
    if !said.differences.is_empty() {
        text.push_str("\nWHAT DIFFERS\n");
        said.differences.iter().for_each(|one| text.push_str(&format!("  {one}\n")));
    }
    text
}

fn row(member: &FleetMemberView) -> Vec<String> {
    let name = if member.own { format!("{} (this one)", member.name) } else { member.name.clone() };
    let Some(seen) = &member.summary else {
        return [name, "another secret".to_owned()]
            .into_iter()
            .chain((2..COLUMNS.len()).map(|_| cell(None::<u64>)))
            .collect();
    };
    let up = seen.workers.iter().filter(|worker| worker.health == "up").count();
    vec![
        name,
        seen.version.clone(),
        span(seen.uptime_s),
        seen.sockets.to_string(),
        seen.sessions.to_string(),
        format!("{up}/{}", seen.workers.len()),
        format!("{:.1}/{:.1}", seen.redis_p50_ms, seen.redis_p99_ms),
        seen.written.to_string(),
        seen.looked_up.to_string(),
        seen.found.to_string(),
        format!("{:+.1} s", seen.skew_ms as f64 / 1e3),
    ]
}
