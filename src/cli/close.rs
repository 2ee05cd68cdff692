//! `stickyd close`: closes one socket, or all that match a filter, at once or spread over a period, and shows the
//! progress.

use std::io::{BufRead, IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use hyper::Method;
use serde::Serialize;

use super::fleet_wide::{FleetArgs, close};
use super::progress::Progress;
use super::remote::{AdminClient, NO_BODY, RemoteArgs, RemoteError};
use super::sockets::Filters;
use super::table::{counted, span};
use crate::admin::api::{CloseAnswer, CloseManyOrder, CloseOneOrder, ClosedSocket, ClosingView, ClosingsAnswer, paths};

/// Interval between two queries of the progress.
pub(crate) const CLOSE_POLL: Duration = Duration::from_millis(500);

/// Arguments of `stickyd close`.
#[derive(Debug, Args)]
pub struct CloseCommand {
    /// Ids of sockets, as shown by `stickyd sockets`; with --fleet they may have the name of their stickyd, such as
    /// edge-1/k3v9q0d2m7xa
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
    /// Sockets of the whole fleet.
    #[command(flatten)]
    pub everywhere: FleetArgs,
    /// Connection to stickyd, and output format.
    #[command(flatten)]
    pub asking: RemoteArgs,
}

impl CloseCommand {
    /// Closes the sockets, shows the progress, and returns the exit code.
    pub fn run(&self) -> u8 {
        let admin = self.check().and_then(|()| self.asking.remote.find());
        if self.everywhere.fleet {
            let said = admin.and_then(|admin| match self.ids.is_empty() {
                true => close::many(self, &admin),
                false => close::each(self, &admin),
            });
            return self.asking.finish_fleet(said);
        }
        let said = admin.and_then(|admin| match self.ids.is_empty() {
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

    /// The order for one socket.
    pub(crate) fn order_of_one(&self) -> CloseOneOrder {
        CloseOneOrder { code: self.code, reason: self.reason.clone() }
    }

    /// The order for all sockets that match.
    pub(crate) fn order_of_many(&self) -> CloseManyOrder {
        CloseManyOrder {
            all: self.all,
            code: self.code,
            dry_run: false,
            reason: self.reason.clone(),
            spread: self.spread.clone(),
            filter: self.filters.given().into_iter().collect(),
        }
    }

    fn each(&self, admin: &AdminClient) -> Result<CloseOutcome, RemoteError> {
        let (order, mut closed) = (self.order_of_one(), Vec::new());
        for id in &self.ids {
            match admin.done(Method::POST, &paths::socket_close(id), Some(&order)) {
                Ok(one) => closed.push(one),
                Err(error) => return Err(error.after(&told(&CloseOutcome::Each { closed }))),
            }
        }
        Ok(CloseOutcome::Each { closed })
    }

    fn many(&self, admin: &AdminClient) -> Result<CloseOutcome, RemoteError> {
        let order = self.order_of_many();
        let ask = |order: &CloseManyOrder| admin.done::<CloseAnswer>(Method::POST, paths::SOCKETS_CLOSE, Some(order));
        if self.dry_run || !self.yes {
            let would = ask(&CloseManyOrder { dry_run: true, ..order.clone() })?;
            if self.dry_run {
                return Ok(CloseOutcome::Many(would));
            }
            confirm(would.matched)?;
        }
        let mut said = ask(&order)?;
        if self.spread.is_some() && !self.no_wait {
            follow(admin, &mut said)?;
        }
        Ok(CloseOutcome::Many(said))
    }
}

/// The result of the command, as printed with `--json`.
#[derive(Serialize)]
#[serde(untagged)]
enum CloseOutcome {
    /// The answers for sockets given by their ids.
    Each { closed: Vec<ClosedSocket> },
    /// The answer for sockets that a filter selects.
    Many(CloseAnswer),
}

/// Asks for confirmation, since a typing error could end thousands of sessions; without a terminal, `--yes` is
/// required.
pub(crate) fn confirm(matched: usize) -> Result<(), RemoteError> {
    let sockets = counted(matched as u64, "socket");
    if !std::io::stdin().is_terminal() {
        return Err(RemoteError::new(&format!("{sockets} would be closed: add --yes")));
    }
    let mut err = std::io::stderr();
    let _ = write!(err, "close {sockets}? [y/N] ").and_then(|()| err.flush());
    let mut answer = String::new();
    let _ = std::io::stdin().lock().read_line(&mut answer);
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(RemoteError::new("nothing was closed")),
    }
}

/// Waits until all sockets have been closed, and updates the answer.
fn follow(admin: &AdminClient, said: &mut CloseAnswer) -> Result<(), RemoteError> {
    let mut out = Progress::new();
    while let Some(closing) = &said.closing {
        let left = show(&mut out, closing);
        if left == 0 {
            break;
        }
        // Nothing else runs on this thread, so it may block.
        std::thread::park_timeout(CLOSE_POLL);
        let all: ClosingsAnswer = admin.done(Method::GET, paths::SOCKETS_CLOSE, NO_BODY)?;
        let found = all.closings.into_iter().find(|one| one.number == closing.number);
        if found.is_none() {
            out.end();
            let why = "this closing is no longer known: stickyd was restarted, or many others followed";
            return Err(RemoteError::new(why));
        }
        said.closing = found;
    }
    out.end();
    Ok(())
}

/// Shows the progress of a closing; returns how many sockets are left.
pub(crate) fn show(out: &mut Progress, closing: &ClosingView) -> usize {
    let (left, matched) = (closing.left, closing.matched);
    let ends = match out.is_terminal() {
        true => format!(", the last one within {}", span(closing.ends_in_s)),
        false => String::new(),
    };
    let done = matched.saturating_sub(left) as u64;
    out.show(done, matched as u64, format!("{left} of {} left{ends}", counted(matched as u64, "socket")));
    left
}

fn told(said: &CloseOutcome) -> String {
    match said {
        CloseOutcome::Each { closed } => closed.iter().map(|one| format!("closing {}\n", one.id)).collect(),
        CloseOutcome::Many(said) => told_of_many(said),
    }
}

pub(crate) fn told_of_many(said: &CloseAnswer) -> String {
    let count = |count: usize, what| counted(count as u64, what);
    let what = format!("{}, {}", count(said.tunnels, "tunnel"), count(said.polling, "polling session"));
    match &said.closing {
        None => format!("{} would be closed: {what}\n", count(said.matched, "socket")),
        Some(closing) if closing.left > 0 => format!(
            "{} of {} closed so far ({what}); the last one within {}\n",
            closing.told,
            count(said.matched, "socket"),
            span(closing.ends_in_s)
        ),
        Some(closing) => {
            format!("{} closed ({what}); {} had already ended\n", count(closing.told, "socket"), closing.gone)
        }
    }
}
