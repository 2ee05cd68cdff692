//! Finding the owner of a session nobody has pinned (design.md §3.1), by asking workers that refuse foreign sids without
//! side effects: after a restart of stickyd, for a client of another stickyd, after the table was full.
//!
//! The rules, each because the other way ends sessions: pass on only after an explicit refusal; never decide by silence
//! (an owner with nothing to say is silent); never send one GET or POST to two workers; a POST or upgrade never waits for
//! a GET. Workers without proof of life are asked last; one that is left over when all others refused is the owner by
//! elimination, two are waited for. Only what ends in "nobody knows it" costs the budget.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Frame, Incoming};
use hyper::http::{request, response};
use hyper::{Method, Request, Response, StatusCode};

use super::budget::{Budget, Misses};
use super::pins::Key;
use super::probe::{self, Verdict};
use super::{Choice, first_guess, forget, hold, pin};
use crate::clock;
use crate::config::Limits;
use crate::metrics::{Discovery, Source};
use crate::proxy::Job;
use crate::proxy::ask::Kind;
use crate::proxy::body::{Answer, Outgoing, Reply};
use crate::proxy::forward::{self, Missed};
use crate::proxy::record::Record;
use crate::proxy::respond::{self, Problem};
use crate::state::{Room, Shared};
use crate::telemetry::say_full;
use crate::tunnel;
use crate::upstream::connect::{ConnectError, Lease};
use crate::upstream::worker::{Count, Oracle, Worker};

/// How long a request waits for the budget, or for silent workers to speak, before it gets a 503.
const PATIENCE: Duration = Duration::from_secs(5);

/// A body that is held for replay must be whole within this: it takes room that all share.
const HOLD: Duration = Duration::from_secs(30);

/// Between two looks while waiting.
const LOOK: Duration = Duration::from_millis(50);

/// A worker that grants an upgrade of a session it does not know ends it within this time.
const HANG_UP: Duration = Duration::from_millis(150);

/// How long verdicts hold for requests that join a search. A search lasts as long as its slowest request, a poll for a
/// whole pingInterval, and by then a worker that was silent may speak.
const FRESH: Duration = Duration::from_secs(1);

/// What discovery remembers, all threads together. Locked for a few operations per *discovery*, never for a pinned
/// request.
pub struct Discoveries {
    budget: Mutex<Budget>,
    misses: Mutex<Misses<Key>>,
    /// With how many requests take part in each.
    searches: Mutex<HashMap<Key, (usize, Arc<Search>)>>,
}

type Verdicts = Vec<(Arc<Worker>, Verdict)>;

/// What requests of one sid share while they look for its owner.
#[derive(Default)]
struct Search {
    /// What all workers said to the probe, and when; asked once for all who come within [`FRESH`].
    verdicts: tokio::sync::Mutex<Option<(Instant, Verdicts)>>,
    /// Serials of workers that refused the real sid.
    refused: Mutex<Vec<u64>>,
    /// Where a GET waits: the first guess of the POST that will wake it.
    silent: Mutex<Option<Arc<Worker>>>,
}

impl Discoveries {
    /// Nothing known, full budgets.
    pub fn new(limits: &Limits) -> Self {
        Self {
            budget: Mutex::new(Budget::new(limits.discoveries_per_address, limits.discoveries)),
            misses: Mutex::default(),
            searches: Mutex::default(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is kept here stays meaningful whatever panicked: counts and caches.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A token, given back when the session is found.
struct Token<'a> {
    shared: &'a Shared,
    address: u64,
    found: bool,
}

impl Drop for Token<'_> {
    fn drop(&mut self) {
        if self.found {
            lock(&self.shared.discoveries.budget).give_back(self.address, clock::now_ms());
        }
    }
}

/// A request's share in a search; the last one out takes it off the list.
struct Joined<'a> {
    shared: &'a Shared,
    key: Key,
    search: Arc<Search>,
}

impl<'a> Joined<'a> {
    fn new(shared: &'a Shared, key: Key) -> Self {
        let mut searches = lock(&shared.discoveries.searches);
        let (joined, search) = searches.entry(key).or_default();
        *joined += 1;
        Self { shared, key, search: search.clone() }
    }
}

impl Drop for Joined<'_> {
    fn drop(&mut self) {
        let mut searches = lock(&self.shared.discoveries.searches);
        if let Entry::Occupied(mut entry) = searches.entry(self.key) {
            entry.get_mut().0 -= 1;
            if entry.get().0 == 0 {
                entry.remove();
            }
        }
    }
}

/// Finds the session's owner with this very request, and answers it.
pub async fn find(job: &Job, key: Key, request: Request<Outgoing>, record: &mut Record) -> Response<Reply> {
    let shared = &job.conn.thread.shared;
    let series = job.upstream.series();
    if lock(&shared.discoveries.misses).knows(&key, clock::now_ms()) {
        series.discovered(Discovery::Remembered);
        return respond::session_unknown(&job.ask);
    }
    let Some(mut token) = take_token(shared, job).await else {
        say_full!("the discovery budget is spent: sessions nobody knows come too fast ([limits] discoveries)");
        series.discovered(Discovery::OverBudget);
        return respond::problem(Problem::Full("too many unknown sessions"));
    };
    let copies = Copies::of(job, request);
    let joined = Joined::new(shared, key);
    let mut hunt = Hunt::new(job, key, &joined.search, copies);
    let (result, response) = hunt.run(record).await;
    token.found = hunt.proven || result == Discovery::Undecided;
    series.discovered(result);
    response
}

async fn take_token<'a>(shared: &'a Shared, job: &Job) -> Option<Token<'a>> {
    let address = shared.keys.address(job.client.key());
    let deadline = Instant::now() + PATIENCE;
    loop {
        if lock(&shared.discoveries.budget).take(address, clock::now_ms()) {
            return Some(Token { shared, address, found: false });
        }
        if Instant::now() >= deadline {
            return None;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// One request looking for its session.
struct Hunt<'a> {
    job: &'a Job,
    key: Key,
    search: &'a Search,
    copies: Copies,
    /// The last refusal, to be forwarded when it stays the last.
    last: Option<(response::Parts, VecDeque<Frame<Bytes>>, Answer)>,
    /// A worker refused without a word that could be forwarded: 101, then the end.
    hung_up: bool,
    eliminated: bool,
    /// Something says that a session is looked for at all: a worker's claim or refusal, or there is nobody to ask but one.
    known: bool,
    /// A worker accepted it, and it is `known`. Nothing less is free of charge, or a made-up sid on any page that answers
    /// would be asked of all workers at no cost.
    proven: bool,
}

/// What one attempt came to.
enum Step {
    /// The request is answered.
    Done(Discovery, Response<Reply>),
    /// Explicitly refused.
    Refused,
    /// It could not be reached; nothing was sent.
    Unreached,
    /// Nobody listens there: whatever it knew, it cannot be asked any more.
    Closed,
}

impl<'a> Hunt<'a> {
    fn new(job: &'a Job, key: Key, search: &'a Search, copies: Copies) -> Self {
        Self { job, key, search, copies, last: None, hung_up: false, eliminated: false, known: false, proven: false }
    }

    async fn run(&mut self, record: &mut Record) -> (Discovery, Response<Reply>) {
        let deadline = Instant::now() + PATIENCE;
        let candidates = self.candidates();
        self.known = candidates.len() == 1;
        if let Some(guess) = self.open_guess() {
            self.known = true;
            if let Err(problem) = self.copies.hold(self.job).await {
                return (Discovery::NoRoom, respond::problem(problem));
            }
            if let Step::Done(result, response) = self.attempt(&guess, record).await {
                return (result, response);
            }
        }
        let verdicts = self.verdicts(&candidates).await;
        self.heed(&verdicts);
        let left = verdicts.into_iter().filter(|(worker, verdict)| self.is_worth_asking(worker, *verdict));
        let (asked, silent): (Vec<_>, Vec<_>) = left.partition(|(_, verdict)| *verdict != Verdict::Silent);
        // A body is held only where a second worker may have to get it: made-up sids do not fill the room of all.
        if asked.len() + silent.len() > 1
            && let Err(problem) = self.copies.hold(self.job).await
        {
            return (Discovery::NoRoom, respond::problem(problem));
        }
        let mut silent = silent.into_iter().map(|(worker, _)| worker).collect();
        if let Some(done) = self.walk(asked, &mut silent, record).await {
            return done;
        }
        if let Some(done) = self.wait_for(silent, deadline, record).await {
            return done;
        }
        self.nobody(record).await
    }

    /// Workers that serve their own sessions, the likeliest first.
    fn candidates(&self) -> Vec<Arc<Worker>> {
        let job = self.job;
        let guess = first_guess(&job.upstream, &job.ask, job.client);
        let members = job.upstream.members.iter().map(|member| &member.worker);
        let mut workers: Vec<_> = guess.iter().chain(members).filter(|worker| worker.serves()).cloned().collect();
        let mut seen = Vec::with_capacity(workers.len());
        workers.retain(|worker| {
            let new = !seen.contains(&worker.serial);
            seen.push(worker.serial);
            new
        });
        workers
    }

    /// A worker worth the real request before anybody is probed: where this sid's GET is waiting.
    fn open_guess(&self) -> Option<Arc<Worker>> {
        if self.job.ask.is_poll() {
            return None;
        }
        lock(&self.search.silent).clone().filter(|worker| worker.serves())
    }

    /// What the workers say to the probe; asked once for all requests of the sid that come together.
    async fn verdicts(&self, candidates: &[Arc<Worker>]) -> Verdicts {
        if let [only] = candidates {
            return vec![(only.clone(), Verdict::Alive)];
        }
        // Whoever comes second waits for the first one's answers, a second at most; if that one leaves, it asks itself.
        let mut known = self.search.verdicts.lock().await;
        if let Some((when, verdicts)) = &*known
            && when.elapsed() < FRESH
        {
            return verdicts.clone();
        }
        let verdicts = probe::ask_all(self.job, &self.copies.head, candidates).await;
        *known = Some((Instant::now(), verdicts.clone()));
        verdicts
    }

    /// Remembers what probes showed.
    fn heed(&mut self, verdicts: &[(Arc<Worker>, Verdict)]) {
        for (worker, verdict) in verdicts {
            if *verdict == Verdict::Refuses {
                self.remember_refusal(worker);
            }
            self.known |= matches!(verdict, Verdict::Owns | Verdict::Refuses);
        }
    }

    /// A worker that refused this sid in so many words is not asked again, unless it now claims it.
    fn is_worth_asking(&self, worker: &Worker, verdict: Verdict) -> bool {
        verdict == Verdict::Owns || !self.has_refused(worker)
    }

    /// The real request, one worker after the other: the claimed owner, then those whose probes say nothing. Those that
    /// cannot be reached just now have said nothing, and join the silent ones.
    async fn walk(
        &mut self,
        mut asked: Vec<(Arc<Worker>, Verdict)>,
        silent: &mut Vec<Arc<Worker>>,
        record: &mut Record,
    ) -> Option<(Discovery, Response<Reply>)> {
        asked.sort_by_key(|(_, verdict)| *verdict != Verdict::Owns);
        for (worker, verdict) in asked {
            if !self.is_worth_asking(&worker, verdict) {
                continue;
            }
            match self.attempt(&worker, record).await {
                Step::Done(result, response) => return Some((result, response)),
                Step::Unreached => silent.push(worker),
                Step::Refused | Step::Closed => {}
            }
        }
        None
    }

    /// Silent workers: one is the owner by elimination; several are asked again until all but one have spoken.
    async fn wait_for(
        &mut self,
        mut silent: Vec<Arc<Worker>>,
        deadline: Instant,
        record: &mut Record,
    ) -> Option<(Discovery, Response<Reply>)> {
        loop {
            silent.retain(|worker| worker.serves() && !self.has_refused(worker));
            if silent.len() < 2 {
                break;
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return Some((Discovery::Undecided, respond::problem(Problem::Undecided)));
            };
            let asked = probe::ask_all(self.job, &self.copies.head, &silent);
            let Ok(verdicts) = tokio::time::timeout(left, asked).await else { continue };
            let spoke: Verdicts = verdicts.into_iter().filter(|(_, verdict)| *verdict != Verdict::Silent).collect();
            if spoke.is_empty() {
                // Those that cannot be reached are silent at once.
                tokio::time::sleep(LOOK.min(left)).await;
            }
            self.heed(&spoke);
            silent.retain(|worker| !spoke.iter().any(|(known, _)| Arc::ptr_eq(known, worker)));
            if let Some(done) = self.walk(spoke, &mut silent, record).await {
                return Some(done);
            }
        }
        let owner = silent.pop()?;
        // Pinned before it answers: it may stay silent for long, and the session's other requests belong there, too.
        self.eliminated = true;
        let pinned_here = self.pin(&owner);
        match self.attempt(&owner, record).await {
            Step::Done(result, response) => Some((result, response)),
            // The pin stays: nobody else can be the owner.
            Step::Unreached => Some((Discovery::Undecided, respond::problem(Problem::Undecided))),
            Step::Refused | Step::Closed => {
                if pinned_here {
                    forget(&self.job.conn.thread.shared, self.key);
                }
                None
            }
        }
    }

    /// Everybody refused: the last refusal is the client's answer, and is remembered for a second.
    async fn nobody(&mut self, record: &mut Record) -> (Discovery, Response<Reply>) {
        if self.last.is_none() && !self.hung_up {
            // All refused the probe only; the client gets the words of the likeliest worker for its own request. Should
            // that be acceptance all the same, it proves nothing.
            self.known = false;
            if let Some(worker) = self.candidates().into_iter().find(|worker| self.has_refused(worker))
                && let Step::Done(result, response) = self.attempt(&worker, record).await
            {
                return (result, response);
            }
        }
        let shared = &self.job.conn.thread.shared;
        if !lock(&shared.discoveries.misses).remember(self.key, clock::now_ms()) {
            say_full!("too many unknown sessions to remember: each is looked for again");
        }
        let series = self.job.upstream.series();
        let Some((parts, held, answer)) = self.last.take() else {
            series.refusals_own.inc();
            return (Discovery::Unknown, respond::session_unknown(&self.job.ask));
        };
        series.refusals_forwarded.inc();
        (Discovery::Unknown, forward::release(parts, held, answer))
    }

    /// Sends the real request to one worker. Its acceptance pins the session there.
    async fn attempt(&mut self, worker: &Arc<Worker>, record: &mut Record) -> Step {
        let job = self.job;
        let Some(request) = self.copies.next() else {
            return Step::Done(
                Discovery::Failed,
                respond::problem(Problem::Full("the body is too large to be sent again")),
            );
        };
        job.upstream.series().attempts.inc();
        let waiting = job.ask.is_poll().then(|| Waiting::at(self.search, worker));
        let attempted = forward::attempt(job, worker, request).await;
        drop(waiting);
        let (response, lease, in_flight) = match attempted {
            Ok(answered) => answered,
            Err(Missed::Connect(error, back)) => {
                self.copies.take_back(back);
                return if matches!(error, ConnectError::Refused) { Step::Closed } else { Step::Unreached };
            }
            Err(missed) => return Step::Done(Discovery::Failed, forward::problem_of(&missed)),
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return self.switch(worker, response, lease, record).await;
        }
        let (parts, incoming) = response.into_parts();
        let mut answer = Answer::new(incoming, lease, job.conn.thread.clone());
        let mut held = VecDeque::new();
        if parts.status == StatusCode::BAD_REQUEST {
            match forward::refuses(parts.status, &mut answer, &mut held).await {
                Err(problem) => return Step::Done(Discovery::Failed, respond::problem(problem)),
                Ok(false) => {}
                Ok(true) => {
                    self.remember_refusal(worker);
                    self.last = Some((parts, held, answer));
                    return Step::Refused;
                }
            }
        }
        Step::Done(self.result(), self.release(worker, parts, held, answer, in_flight, record))
    }

    /// A 101 is acceptance, with one exception: socketioxide grants every upgrade and hangs up on a sid it does not know.
    /// Where probes cannot tell, a 101 counts only once the worker has spoken or stayed for a moment.
    async fn switch(
        &mut self,
        worker: &Arc<Worker>,
        response: Response<Incoming>,
        lease: Box<Lease>,
        record: &mut Record,
    ) -> Step {
        let Some(mut granted) = tunnel::check(self.job, response, lease).await else {
            worker.series.broken.inc();
            return Step::Done(Discovery::Failed, respond::problem(Problem::BadGateway));
        };
        if worker.oracle() != Oracle::Usable && granted.ends_within(HANG_UP).await {
            self.remember_refusal(worker);
            self.hung_up = true;
            return Step::Refused;
        }
        let choice = self.accepted(worker, record);
        Step::Done(self.result(), tunnel::open(self.job, choice, granted, record))
    }

    fn release(
        &mut self,
        worker: &Arc<Worker>,
        parts: response::Parts,
        held: VecDeque<Frame<Bytes>>,
        answer: Answer,
        in_flight: Count,
        record: &mut Record,
    ) -> Response<Reply> {
        // Only success proves ownership: a middleware of a stranger may answer 403 or 429 before it looks at the sid.
        let choice = if parts.status.is_success() {
            self.accepted(worker, record)
        } else {
            record.decided(worker, Source::Discovered);
            Choice { worker: worker.clone(), why: Source::Discovered, seat: None, hold: None, cookie: None }
        };
        record.answered(worker, parts.status, in_flight, choice.hold);
        forward::release(parts, held, answer)
    }

    fn accepted(&mut self, worker: &Arc<Worker>, record: &mut Record) -> Choice {
        self.proven = self.may_pin() && (self.known || self.last.is_some());
        record.decided(worker, Source::Discovered);
        let healed = lock(&self.search.refused).len() as u64;
        self.job.upstream.series().refusals_healed.inc_by(healed);
        self.pin(worker);
        let hold = self.may_pin().then(|| hold(&self.job.conn.thread.shared, self.key)).flatten();
        Choice { worker: worker.clone(), why: Source::Discovered, seat: None, hold, cookie: None }
    }

    fn result(&self) -> Discovery {
        if self.eliminated { Discovery::Eliminated } else { Discovery::Found }
    }

    /// A preflight never creates a pin, and the answer to a HEAD or OPTIONS shows no refusal to go by.
    fn may_pin(&self) -> bool {
        let method = self.copies.head.method();
        matches!(self.job.ask.kind, Kind::Session { .. }) && (method == Method::GET || method == Method::POST)
    }

    /// `true`: it was not pinned before.
    fn pin(&self, worker: &Arc<Worker>) -> bool {
        let (job, ttl) = (self.job, self.job.upstream.session_ttl());
        self.may_pin() && pin(&job.conn.thread.shared, self.key, job.client, worker.session(), ttl)
    }

    fn remember_refusal(&self, worker: &Worker) {
        let mut refused = lock(&self.search.refused);
        if !refused.contains(&worker.serial) {
            refused.push(worker.serial);
        }
    }

    fn has_refused(&self, worker: &Worker) -> bool {
        lock(&self.search.refused).contains(&worker.serial)
    }
}

/// Says where this sid's GET waits, for as long as it does.
struct Waiting<'a>(&'a Search);

impl<'a> Waiting<'a> {
    fn at(search: &'a Search, worker: &Arc<Worker>) -> Self {
        *lock(&search.silent) = Some(worker.clone());
        Self(search)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        *lock(&self.0.silent) = None;
    }
}

/// A request that may be sent more than once, once its body is held; only once when that is not held, or too large.
struct Copies {
    head: Request<Outgoing>,
    body: Body,
    room: Room,
}

enum Body {
    Held(Bytes),
    /// Streams to the first worker asked; gone after that.
    Once(Option<Outgoing>),
    /// The same, because it is too large to be held.
    TooLarge(Option<Outgoing>),
}

impl Copies {
    fn of(job: &Job, request: Request<Outgoing>) -> Self {
        let (parts, body) = request.into_parts();
        let body = if body.is_end_stream() { Body::Held(Bytes::new()) } else { Body::Once(Some(body)) };
        let room = Room::none(&job.conn.thread.shared);
        Self { head: Request::from_parts(parts, Outgoing::EMPTY), body, room }
    }

    /// Holds the body, up to the upstream's largest payload and within the room of all, unless it is on its way already.
    async fn hold(&mut self, job: &Job) -> Result<(), Problem> {
        let Body::Once(once) = &mut self.body else { return Ok(()) };
        let Some(body) = once.take() else { return Ok(()) };
        let held = Self::read(body, &mut self.room, job.upstream.max_replay());
        self.body = tokio::time::timeout(HOLD, held).await.map_err(|_| Problem::Slow)??;
        Ok(())
    }

    async fn read(mut body: Outgoing, room: &mut Room, limit: usize) -> Result<Body, Problem> {
        let mut held = Vec::new();
        while !body.is_end_stream() {
            let too_large = body.size_hint().lower().saturating_add(held.len() as u64) > limit as u64;
            if too_large || held.len() > limit {
                return Ok(Body::TooLarge(Some(body.after(held.into()))));
            }
            let Some(frame) = body.frame().await else { break };
            let frame = frame.map_err(|_| Problem::BadRequest("the body broke off"))?;
            let Ok(data) = frame.into_data() else { continue };
            if !room.grow(data.len()) {
                say_full!("no room to hold request bodies for replay ([limits] replay_bytes)");
                return Err(Problem::Full("too many request bodies are held"));
            }
            held.extend_from_slice(&data);
        }
        Ok(Body::Held(held.into()))
    }

    /// A request that was not sent.
    fn take_back(&mut self, request: Request<Outgoing>) {
        if let Body::Once(stream) | Body::TooLarge(stream) = &mut self.body {
            *stream = Some(request.into_body());
        }
    }

    fn next(&mut self) -> Option<Request<Outgoing>> {
        let body = match &mut self.body {
            Body::Held(bytes) => Outgoing::Held(bytes.clone()),
            Body::Once(stream) | Body::TooLarge(stream) => stream.take()?,
        };
        Some(Request::from_parts(copy_head(&self.head), body))
    }
}

fn copy_head(request: &Request<Outgoing>) -> request::Parts {
    let mut copy = Request::new(());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy.into_parts().0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::affinity::pins::Keys;
    use crate::config;

    #[test]
    fn the_last_one_out_ends_a_search() {
        let config = config::for_command_line(&["127.0.0.1:8000".into()], &["127.0.0.1:8001".into()]).unwrap();
        let shared = Shared::new(&config, vec![1; 32], Keys::random().unwrap());
        let key = shared.keys.key("app", b"sid");
        let (one, two) = (Joined::new(&shared, key), Joined::new(&shared, key));
        assert!(Arc::ptr_eq(&one.search, &two.search));
        // As if another thread were between its count and its `Arc`.
        let late = one.search.clone();
        drop(one);
        assert_eq!(lock(&shared.discoveries.searches).len(), 1);
        drop(two);
        assert!(lock(&shared.discoveries.searches).is_empty());
        drop(late);
    }
}
