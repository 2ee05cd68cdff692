//! `stickyd drain --fleet`, and maint and ready: the admin state of a worker at every stickyd.

use std::time::Instant;

use super::super::drain::{DRAIN_POLL, DrainCommand, WorkerTarget, show, told};
use super::super::progress::Progress;
use super::super::remote::{AdminClient, NO_BODY, RemoteError};
use super::{FleetSaid, FleetText, FromStickyd};
use crate::admin::api::{DrainView, GraceOrder, WorkerView, WorkersAnswer, paths};

/// Sets the admin state at all stickyds that know the worker.
pub(crate) fn say(target: &WorkerTarget, word: &str) -> Result<FleetText, RemoteError> {
    let (said, answers) = send(&target.asking.remote.find()?, target, word, None)?;
    let text = words(&said, &answers);
    Ok(FleetText { said, text })
}

/// Drains the worker everywhere, and waits if requested.
pub(crate) fn drain(command: &DrainCommand, order: Option<&GraceOrder>) -> Result<FleetText, RemoteError> {
    let admin = command.target.asking.remote.find()?;
    let (said, answers) = send(&admin, &command.target, "drain", order)?;
    let text = words(&said, &answers);
    if !command.wait {
        return Ok(FleetText { said, text });
    }
    follow(command, &admin, answers)?;
    let done = match said.is_partial() {
        true => "drained at the stickyds that answered: they have no session left",
        false => "drained: no session is left",
    };
    let text = format!("{done}\n{}", said.absences());
    Ok(FleetText { said, text })
}

type WorkerAnswers = Vec<FromStickyd<WorkerView>>;

fn send(
    admin: &AdminClient,
    target: &WorkerTarget,
    word: &str,
    order: Option<&GraceOrder>,
) -> Result<(FleetSaid, WorkerAnswers), RemoteError> {
    let path = paths::worker_state(&target.worker.0, &target.worker.1, word);
    let said = match order {
        Some(order) => FleetSaid::order(admin, None, path, Some(order))?,
        None => FleetSaid::order(admin, None, path, NO_BODY)?,
    };
    let answers = said.answers()?;
    Ok((said, answers))
}

fn words(said: &FleetSaid, answers: &WorkerAnswers) -> String {
    let lines = answers.iter().map(|one| format!("{}: {}", one.stickyd, told(&one.answer)));
    lines.collect::<String>() + &said.absences()
}

/// Waits until no stickyd has a session at the worker.
fn follow(command: &DrainCommand, admin: &AdminClient, mut seen: WorkerAnswers) -> Result<(), RemoteError> {
    let (began, mut out) = (Instant::now(), Progress::new());
    loop {
        if let Some(ready) = seen.iter().find(|one| one.answer.drain.is_none()) {
            let why = format!("the drain was cancelled: the worker is ready again at {}", ready.stickyd);
            return Err(RemoteError::new(&why));
        }
        let all = sum(&seen);
        show(&mut out, &all);
        if all.sessions_left == 0 && all.tunnels_left == 0 {
            out.end();
            return Ok(());
        }
        if command.timeout.is_some_and(|timeout| began.elapsed() > timeout) {
            out.end();
            return Err(RemoteError::new("timed out with sessions left; the drain continues"));
        }
        // Nothing else runs on this thread, so it may block.
        std::thread::park_timeout(DRAIN_POLL);
        let said = FleetSaid::get(admin, paths::WORKERS)?;
        let now = said.answers::<WorkersAnswer>()?;
        if let Some(lost) = seen.iter().find(|one| !now.iter().any(|other| other.node == one.node)) {
            out.end();
            let why = format!("whether {} still has sessions is not known; the drain continues", lost.stickyd);
            return Err(RemoteError(format!("error: {why}\n{}", said.summary())));
        }
        // A worker that the file no longer names disappears with its last session.
        seen = now.into_iter().filter_map(|one| of_target(&command.target, one)).collect();
    }
}

fn of_target(target: &WorkerTarget, one: FromStickyd<WorkersAnswer>) -> Option<FromStickyd<WorkerView>> {
    let FromStickyd { stickyd, node, answer } = one;
    let answer = answer.workers.into_iter().find(|one| target.is(one))?;
    Some(FromStickyd { stickyd, node, answer })
}

fn sum(seen: &[FromStickyd<WorkerView>]) -> DrainView {
    let drains: Vec<&DrainView> = seen.iter().filter_map(|one| one.answer.drain.as_ref()).collect();
    let of = |count: fn(&DrainView) -> u32| drains.iter().map(|one| count(one)).sum();
    DrainView {
        ends_in_s: drains.iter().filter_map(|one| one.ends_in_s).max(),
        grace_s: drains.iter().filter_map(|one| one.grace_s).max(),
        sessions_at_start: of(|one| one.sessions_at_start),
        sessions_left: of(|one| one.sessions_left),
        since_s: drains.iter().map(|one| one.since_s).max().unwrap_or(0),
        tunnels_left: of(|one| one.tunnels_left),
    }
}
