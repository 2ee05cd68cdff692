//! The table of requests: every case is refused or normalised, none is dangerous, and the simple proxy fails it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::client::{answers, exchange};
use super::recorder::Recorder;
use super::{broken, table};
use crate::support::proxy::Proxy;

/// The last request of each connection, sent after the case.
const LAST: &[u8] = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

struct Case {
    class: String,
    name: String,
    /// The expected result; the head of the table lists the words.
    wants: String,
    bytes: Vec<u8>,
}

impl Case {
    fn has(&self, word: &str) -> bool {
        self.wants.split(' ').any(|one| one == word)
    }

    fn value(&self, key: &str) -> Option<&str> {
        self.wants.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Refused,
    Normalised,
    Dangerous(String),
}

fn cases() -> Vec<Case> {
    let rows = table::read::<3>("requests.txt").into_iter();
    rows.map(|row| {
        let [class, name, wants] = row.columns;
        Case { class, name, wants, bytes: row.bytes }
    })
    .collect()
}

/// Runs one case. `half`: the client always shuts down its writing side.
fn run(case: &Case, proxy: SocketAddr, worker: &Recorder, half: bool) -> Verdict {
    let mut bytes = case.bytes.clone();
    if !case.has("alone") {
        bytes.extend_from_slice(LAST);
    }
    let got = exchange(proxy, &bytes, half || case.has("half"));
    let seen = match worker.since() {
        Ok(seen) => seen,
        Err(why) => return Verdict::Dangerous(why),
    };
    let answers = match answers(&got, case.bytes.starts_with(b"HEAD")) {
        Ok(answers) => answers,
        Err(why) => return Verdict::Dangerous(why),
    };
    let served = answers.iter().filter(|answer| answer.status == 200).count();
    let last = seen.iter().any(|request| request.target == "/last");
    let own: Vec<_> = seen.iter().filter(|request| request.target != "/last").collect();
    let most = case.value("n").map_or(1, |n| n.parse().unwrap());
    if own.len() > most || served > seen.len() {
        return Verdict::Dangerous(format!("{} requests and {served} answers of {most}", own.len()));
    }
    if let (Some(body), Some(first)) = (case.value("body"), own.first())
        && first.body != body.as_bytes()
    {
        return Verdict::Dangerous(format!("the body became {:?}", String::from_utf8_lossy(&first.body)));
    }
    if last && (case.has("refuse") || case.has("close")) {
        return Verdict::Dangerous("it read on after it".to_owned());
    }
    match (own.is_empty(), answers.first()) {
        (false, Some(answer)) if answer.status == 200 => Verdict::Normalised,
        (true, Some(answer)) if answer.status >= 400 => Verdict::Refused,
        (true, None) if case.has("mute") => Verdict::Refused,
        (requests, answer) => Verdict::Dangerous(format!("none arrived: {requests}, answer {answer:?}")),
    }
}

fn wanted(case: &Case, verdict: &Verdict) -> bool {
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

#[test]
fn no_request_of_the_table_is_dangerous() {
    let worker = Recorder::start();
    let proxy = Proxy::before(&[worker.address]);
    let (mut counts, mut wrong) = (Counts::new(), Vec::new());
    let cases = cases();
    for case in &cases {
        let verdict = run(case, proxy.address, &worker, false);
        count(&mut counts, case, &verdict);
        if !wanted(case, &verdict) {
            wrong.push(format!("{} | {} | {}: {verdict:?}", case.class, case.name, case.wants));
        }
    }
    show("stickyd", &counts);
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(cases.len() > 200, "{}", cases.len());
}

#[test]
fn the_table_shows_that_a_simple_proxy_is_broken() {
    let worker = Recorder::start();
    let proxy = broken::start(worker.address);
    let mut counts = Counts::new();
    let cases = cases();
    for case in &cases {
        count(&mut counts, case, &run(case, proxy, &worker, true));
    }
    show("the broken proxy", &counts);
    let dangerous: usize = counts.values().map(|row| row[2]).sum();
    assert!(dangerous * 2 > cases.len(), "{dangerous} of {}", cases.len());
}
