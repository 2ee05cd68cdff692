//! docs/reference/threats.md §2 for HTTP/2: every case of the table is refused or becomes one plain request over
//! HTTP/1, and none is dangerous. A deliberately simple translation fails the same table.
//!
//! One connection per case: its frames, then the request `/last`, which shows whether the connection goes on. The judge
//! of HTTP/1 reads what the worker received.

mod broken;
mod text;
mod wire;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use self::text::Case;
use self::wire::{Fate, Told, Wire};
use super::judge::Seen;
use super::recorder::Recorder;
use crate::support::h2::Secured;
use crate::support::wait::wait_for;

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Refused,
    Normalised,
    Dangerous(String),
}

/// The verdict on one case, from what the client and the worker received.
fn judge(case: &Case, told: &Told, seen: Result<Vec<Seen>, String>) -> Verdict {
    let seen = match seen {
        Ok(seen) => seen,
        Err(why) => return Verdict::Dangerous(why),
    };
    let own: Vec<_> = seen.iter().filter(|request| request.target != "/last").collect();
    let most = case.value("n").map_or(1, |n| n.parse().unwrap());
    if own.len() > most || told.hung {
        return Verdict::Dangerous(format!("{} requests of {most}; {told:?}", own.len()));
    }
    if let Some(why) = own.first().and_then(|first| differs(case, first)) {
        return Verdict::Dangerous(why);
    }
    let served = told.fates.values().filter(|fate| matches!(fate, Fate::Status(200..300))).count();
    // The recorder grants no upgrade, so a successful CONNECT would be a tunnel that no worker has granted.
    if served > own.len() || (served > 0 && case.has("connect")) {
        return Verdict::Dangerous(format!("{served} answered of {}: {told:?}", own.len()));
    }
    if case.has("live") != told.last && (case.has("live") || case.has("dead")) {
        return Verdict::Dangerous(format!("the connection is not as it should be: {told:?}"));
    }
    let status =
        told.fates.values().find_map(|fate| if let Fate::Status(status) = fate { Some(*status) } else { None });
    if let Some(wanted) = case.value("status")
        && status.is_none_or(|status| status.to_string() != wanted)
    {
        return Verdict::Dangerous(format!("not {wanted}: {told:?}"));
    }
    if own.is_empty() { Verdict::Refused } else { Verdict::Normalised }
}

/// How the worker's request differs from the one that the case should become.
fn differs(case: &Case, seen: &Seen) -> Option<String> {
    let all =
        |name: &str| seen.fields.iter().filter(|field| field.0 == name).map(|field| &*field.1).collect::<Vec<_>>();
    if case.value("body").is_some_and(|body| seen.body != text::unescaped(body)) {
        return Some(format!("another body: {seen:?}"));
    }
    if case.value("path").is_some_and(|path| seen.target != path) {
        return Some(format!("another target: {seen:?}"));
    }
    for wanted in case.values("has") {
        let (name, value) = wanted.split_once(':').unwrap();
        if all(name) != [value.replace('_', " ")] {
            return Some(format!("{name} is {:?}, not {value}", all(name)));
        }
    }
    case.values("no").find(|name| !all(name).is_empty()).map(|name| format!("{name} is there: {:?}", all(name)))
}

fn is_wanted(case: &Case, verdict: &Verdict) -> bool {
    match verdict {
        Verdict::Refused => !case.has("pass"),
        Verdict::Normalised => !case.has("refuse"),
        Verdict::Dangerous(_) => false,
    }
}

type Counts = BTreeMap<String, [usize; 3]>;

fn count(counts: &mut Counts, case: &Case, verdict: &Verdict) {
    let place = match verdict {
        Verdict::Refused => 0,
        Verdict::Normalised => 1,
        Verdict::Dangerous(_) => 2,
    };
    counts.entry(case.class.clone()).or_default()[place] += 1;
}

fn show(title: &str, counts: &Counts) {
    println!("{title}: class, refused, normalised, dangerous");
    for (class, [refused, normalised, dangerous]) in counts {
        println!("  {class:<24} {refused:>4} {normalised:>4} {dangerous:>4}");
    }
    let sum = |place: usize| counts.values().map(|row| row[place]).sum::<usize>();
    println!("  {:<24} {:>4} {:>4} {:>4}", "all", sum(0), sum(1), sum(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_stream_of_the_table_is_dangerous() {
    let worker = Recorder::start();
    let stickyd = Secured::before(&[worker.address], "");
    let (mut counts, mut wrong) = (Counts::new(), Vec::new());
    let cases = text::cases();
    for case in &cases {
        let wire = Wire::over(stickyd.offering(&[b"h2"]).await);
        let told = wire.exchange(case, false).await;
        let verdict = tokio::task::block_in_place(|| {
            // Wait until everything that is still on its way to the worker has arrived or is given up.
            wait_for("the connection is gone", || stickyd.proxy().metric("stickyd_client_connections") == 0.0);
            wait_for("no stream is left", || stickyd.proxy().metric("stickyd_http2_streams") == 0.0);
            judge(case, &told, worker.since())
        });
        count(&mut counts, case, &verdict);
        if !is_wanted(case, &verdict) {
            wrong.push(format!("{} | {} | {}: {verdict:?}", case.class, case.name, case.wants));
        }
    }
    show("stickyd", &counts);
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(cases.len() > 150, "{}", cases.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_table_shows_that_a_simple_translation_is_broken() {
    let worker = Recorder::start();
    let proxy: SocketAddr = broken::start(worker.address);
    let mut counts = Counts::new();
    let cases = text::cases();
    for case in &cases {
        let wire = Wire::over(tokio::net::TcpStream::connect(proxy).await.unwrap());
        let told = wire.exchange(case, true).await;
        let verdict = tokio::task::block_in_place(|| judge(case, &told, worker.since()));
        count(&mut counts, case, &verdict);
    }
    show("the broken translation", &counts);
    let dangerous: usize = counts.values().map(|row| row[2]).sum();
    assert!(dangerous * 3 > cases.len(), "{dangerous} of {}", cases.len());
}
