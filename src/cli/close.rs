//! `stickyd close`: closes one socket, or all that match a filter, at once or spread over a period, and shows the
//! progress.

#![allow(clippy::indexing_slicing, reason = "a field that a JSON value lacks is null: nothing panics")]

use std::io::{BufRead, IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use hyper::Method;
use serde_json::{Map, Value, json};

use super::progress::Progress;
use super::remote::{AdminClient, RemoteArgs, RemoteError, encoded};
use super::sockets::Filters;
use super::table::{cell, span};

/// Interval between two queries of the progress.
const CLOSE_POLL: Duration = Duration::from_millis(500);

/// Arguments of `stickyd close`.
#[derive(Debug, Args)]
pub struct Close {
    /// Ids of sockets, as shown by `stickyd sockets`
    #[arg(value_name = "ID")]
    pub ids: Vec<String>,
    /// Filters that select the sockets.
    #[command(flatten)]
    pub filters: Filters,
    /// Close all live sockets
    #[arg(long)]
    pub all: bool,
    /// Code of the Close frame [default: 1012, after which clients reconnect]
    #[arg(long, value_name = "CODE")]
    pub code: Option<u16>,
    /// Reason in the Close frame, up to 123 bytes
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Close the sockets one by one, evenly over this time, such as 60s or 5m, at most 24h
    #[arg(long, value_name = "TIME")]
    pub spread: Option<String>,
    /// Do not wait for the end of the spread
    #[arg(long, requires = "spread")]
    pub no_wait: bool,
    /// Only show how many sockets would be closed
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask for confirmation
    #[arg(short, long)]
    pub yes: bool,
    /// Connection to stickyd, and output format.
    #[command(flatten)]
    pub asking: RemoteArgs,
}

impl Close {
    /// Closes the sockets, shows the progress, and returns the exit code.
    pub fn run(&self) -> u8 {
        let said = self.check().and_then(|()| self.asking.remote.find()).and_then(|admin| match self.ids.is_empty() {
            true => self.many(&admin),
            false => self.each(&admin),
        });
        self.asking.finish(said, told)
    }

    fn check(&self) -> Result<(), RemoteError> {
        let some = !self.filters.given().is_empty();
        match (self.ids.is_empty(), some, self.all) {
            (true, false, false) => {
                Err(RemoteError::new("no sockets selected: use IDs, a filter such as --label store=7, or --all"))
            }
            (true, true, false) | (true, false, true) => Ok(()),
            (false, false, false) if self.spread.is_none() && !self.dry_run => Ok(()),
            (false, false, false) => Err(RemoteError::new("--spread and --dry-run need a filter or --all")),
            _ => Err(RemoteError::new("IDs, a filter and --all cannot be combined")),
        }
    }

    /// Returns the Close code and reason as fields of a request body.
    fn words(&self) -> Map<String, Value> {
        let mut body = Map::new();
        body.extend(self.code.map(|code| ("code".to_owned(), code.into())));
        body.extend(self.reason.as_ref().map(|reason| ("reason".to_owned(), reason.clone().into())));
        body
    }

    fn each(&self, admin: &AdminClient) -> Result<Value, RemoteError> {
        let body = Value::Object(self.words());
        let close =
            |id: &String| admin.done(Method::POST, &format!("/api/v1/sockets/{}/close", encoded(id)), Some(&body));
        let closed = self.ids.iter().map(close).collect::<Result<Vec<_>, _>>()?;
        Ok(json!({ "closed": closed }))
    }

    fn many(&self, admin: &AdminClient) -> Result<Value, RemoteError> {
        let mut body = self.words();
        body.extend(self.filters.given().into_iter().map(|(name, value)| (name, Value::from(value))));
        body.extend(self.spread.as_ref().map(|spread| ("spread".to_owned(), spread.clone().into())));
        body.extend(self.all.then(|| ("all".to_owned(), true.into())));
        let ask = |body: &Map<String, Value>| {
            admin.done(Method::POST, "/api/v1/sockets/close", Some(&Value::Object(body.clone())))
        };
        if self.dry_run || !self.yes {
            let mut dry = body.clone();
            dry.insert("dry_run".to_owned(), true.into());
            let would = ask(&dry)?;
            if self.dry_run {
                return Ok(would);
            }
            confirm(&cell(&would["matched"]))?;
        }
        let said = ask(&body)?;
        if self.spread.is_some() && !self.no_wait { follow(admin, said) } else { Ok(said) }
    }
}

/// Asks for confirmation, since a typing error could end thousands of sessions; without a terminal, `--yes` is
/// required.
fn confirm(matched: &str) -> Result<(), RemoteError> {
    if !std::io::stdin().is_terminal() {
        return Err(RemoteError::new(&format!("{matched} sockets would be closed: add --yes")));
    }
    let mut err = std::io::stderr();
    let _ = write!(err, "close {matched} sockets? [y/N] ").and_then(|()| err.flush());
    let mut answer = String::new();
    let _ = std::io::stdin().lock().read_line(&mut answer);
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(RemoteError::new("nothing was closed")),
    }
}

/// Waits until all sockets have been closed; returns the last answer.
fn follow(admin: &AdminClient, mut said: Value) -> Result<Value, RemoteError> {
    let mut out = Progress::new();
    loop {
        let closing = &said["closing"];
        let of = |key: &str| closing[key].as_u64().unwrap_or(0);
        let ends = if out.is_terminal() {
            format!(", the last one within {}", span(&closing["ends_in_s"]))
        } else {
            String::new()
        };
        out.show(
            of("matched") - of("left"),
            of("matched"),
            format!("{} of {} sockets left{ends}", of("left"), of("matched")),
        );
        if of("left") == 0 {
            out.end();
            return Ok(said);
        }
        // Nothing else runs on this thread, so it may block.
        std::thread::park_timeout(CLOSE_POLL);
        let all = admin.done(Method::GET, "/api/v1/sockets/close", None)?;
        let found = all["closings"].as_array().into_iter().flatten().find(|one| one["number"] == closing["number"]);
        let Some(found) = found.cloned() else {
            out.end();
            return Err(RemoteError::new(
                "this closing is no longer known: stickyd was restarted, or many others followed",
            ));
        };
        said["closing"] = found;
    }
}

fn told(said: &Value) -> String {
    if let Some(closed) = said["closed"].as_array() {
        let line = |one: &Value| format!("closing {}\n", cell(&one["id"]));
        return closed.iter().map(line).collect();
    }
    let what = format!("{} tunnels, {} polling sessions", cell(&said["tunnels"]), cell(&said["polling"]));
    let closing = &said["closing"];
    match closing["left"].as_u64() {
        _ if said["dry_run"] == true => format!("{} sockets would be closed: {what}\n", cell(&said["matched"])),
        Some(left) if left > 0 => format!(
            "{} of {} sockets closed so far ({what}); the last one within {}\n",
            cell(&closing["told"]),
            cell(&said["matched"]),
            span(&closing["ends_in_s"])
        ),
        _ => format!(
            "{} sockets closed ({what}); {} had already ended\n",
            cell(&closing["told"]),
            cell(&closing["gone"])
        ),
    }
}
