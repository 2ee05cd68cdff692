//! `/api/v1/live`: everything a page shows, as a stream of server-sent events: a snapshot, then a sample per second and
//! each event as it happens. `/api/v1/history`: the samples of a span.
//!
//! A sample is written once for all viewers, who share its bytes. A viewer that is too slow gets a new snapshot, so
//! that nothing is buffered for it except a few pieces. The stream ends as soon as stickyd stops, after the event that
//! says so. Left out: what a worker or stickyd itself looks like (`workers`, `status`).

use std::collections::HashMap;
use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame};
use serde::Serialize;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{Api, ApiRefusal, events, refuse, sessions, status, workers};
use crate::events::{ENTRIES, EventEntry, EventFilter, EventKind};
use crate::history::{
    HistoryQuery, HistoryRange, LiveSample, MOST_NUMBERS, Numbers, OTHERS, UPSTREAM_NUMBERS, WORKER_NUMBERS,
    push_number, quoted, sum,
};

/// Maximum number of streams; a quarter of the connections, so that others always find room.
pub(crate) const STREAMS: usize = 16;

/// Number of past events in a snapshot.
const PAST: usize = 100;

/// Number of pieces that wait for a viewer that does not read.
const PIECES: usize = 4;

/// Interval between comments, so that a dead connection is noticed and a proxy does not close a silent one.
const COMMENT: Duration = Duration::from_secs(15);

/// Time at a stop to wait for the event that says so.
const LAST_EVENT: Duration = Duration::from_millis(200);

/// The streams of all viewers.
pub(crate) struct Viewers(Arc<Semaphore>);

impl Default for Viewers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(STREAMS)))
    }
}

/// `GET /api/v1/history?range=…&upstream=…&worker=…`: the samples of a span.
pub(crate) async fn history(
    State(api): State<Api>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Response, ApiRefusal> {
    sessions::known(&query, &["range", "upstream", "worker"])?;
    let (upstream, worker) = (query.get("upstream").cloned(), query.get("worker").cloned());
    let wanted = HistoryQuery { range: range(&query)?, upstream, worker, most: 4 * MOST_NUMBERS };
    let json = api.shared.history.json(&wanted);
    Ok(([(header::CONTENT_TYPE, "application/json")], json).into_response())
}

/// `GET /api/v1/live?range=…`: the live stream.
pub(crate) async fn stream(
    State(api): State<Api>,
    headers: HeaderMap,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Response, Response> {
    sessions::known(&query, &["range"]).map_err(IntoResponse::into_response)?;
    let range = range(&query).map_err(IntoResponse::into_response)?;
    let seat = api.viewers.0.clone().try_acquire_owned().map_err(|_| full())?;
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.trim().parse().ok());
    let (pieces, written) = mpsc::channel(PIECES);
    let viewer = Viewer { api: api.clone(), range, last, pieces, _seat: seat };
    // It ends by itself when stickyd stops, after it has said so.
    api.tasks.spawn_local(viewer.serve());
    let fields =
        [(header::CONTENT_TYPE, "text/event-stream"), (header::HeaderName::from_static("x-accel-buffering"), "no")];
    Ok((fields, Body::new(LivePieces(written))).into_response())
}

fn range(query: &HashMap<String, String>) -> Result<HistoryRange, ApiRefusal> {
    let word = query.get("range").map_or("5m", String::as_str);
    HistoryRange::of(word).ok_or_else(|| {
        refuse(StatusCode::UNPROCESSABLE_ENTITY, format!("`range` must be 5m, 1h or 24h, but it is `{word}`"))
    })
}

fn full() -> Response {
    let why = format!("there are {STREAMS} live streams already: close one, or try again in some seconds");
    let mut answer = refuse(StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    answer.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("5"));
    answer
}

/// The body of a stream: pieces as they are written.
struct LivePieces(mpsc::Receiver<Bytes>);

impl HttpBody for LivePieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

/// One viewer of the stream.
struct Viewer {
    api: Api,
    range: HistoryRange,
    /// Id of the last event that the viewer has seen.
    last: Option<u64>,
    pieces: mpsc::Sender<Bytes>,
    _seat: OwnedSemaphorePermit,
}

/// Why a round of a stream is over.
enum RoundEnd {
    /// The viewer fell behind, and gets a new snapshot.
    Behind,
    /// The viewer is gone, or stickyd stops.
    Over,
}

impl Viewer {
    async fn serve(mut self) {
        loop {
            let (latest, samples) = self.api.shared.history.subscribe();
            let wanted = EventFilter { after: self.last, ..EventFilter::default() };
            let limit = if self.last.is_some() { ENTRIES } else { PAST };
            let (page, told) = self.api.shared.events.page_and_subscribe(&wanted, limit);
            self.last = Some(page.last);
            let hello = self.hello(&latest, &page.events).await;
            if !self.send(frame("hello", Some(page.last), &hello)).await {
                return;
            }
            if let RoundEnd::Over = self.follow(samples, told).await {
                return;
            }
        }
    }

    async fn follow(
        &mut self,
        mut samples: Receiver<Arc<LiveSample>>,
        mut told: Receiver<Arc<EventEntry>>,
    ) -> RoundEnd {
        let mut comments = interval(COMMENT);
        comments.set_missed_tick_behavior(MissedTickBehavior::Delay);
        comments.reset();
        loop {
            let piece = tokio::select! {
                biased;
                event = told.recv() => match event {
                    Ok(event) if event.kind == EventKind::Stopping => {
                        let piece = self.event(&event);
                        let _ = self.pieces.try_send(piece);
                        return RoundEnd::Over;
                    }
                    Ok(event) => self.event(&event),
                    Err(RecvError::Lagged(_)) => return RoundEnd::Behind,
                    Err(RecvError::Closed) => return RoundEnd::Over,
                },
                sample = samples.recv() => match sample {
                    Ok(sample) => sample.frame.get_or_init(|| sample_frame(&sample)).clone(),
                    Err(RecvError::Lagged(_)) => return RoundEnd::Behind,
                    Err(RecvError::Closed) => return RoundEnd::Over,
                },
                _ = comments.tick() => Bytes::from_static(b":\n\n"),
                () = self.api.stopping.cancelled() => {
                    self.say_last(&mut told).await;
                    return RoundEnd::Over;
                }
                () = self.pieces.closed() => return RoundEnd::Over,
            };
            if !self.send(piece).await {
                return RoundEnd::Over;
            }
        }
    }

    /// Passes on events up to the one that says that stickyd stops.
    async fn say_last(&mut self, told: &mut Receiver<Arc<EventEntry>>) {
        while let Ok(Ok(event)) = timeout(LAST_EVENT, told.recv()).await {
            let piece = self.event(&event);
            if self.pieces.try_send(piece).is_err() || event.kind == EventKind::Stopping {
                return;
            }
        }
    }

    fn event(&mut self, event: &EventEntry) -> Bytes {
        self.last = Some(event.id);
        frame("event", Some(event.id), &json(&events::view(event)))
    }

    /// Sends a piece, which waits for a viewer that does not read, but not for a stickyd that stops.
    async fn send(&self, piece: Bytes) -> bool {
        match self.pieces.try_send(piece) {
            Ok(()) => true,
            Err(TrySendError::Closed(_)) => false,
            Err(TrySendError::Full(piece)) => {
                let sent = self.api.stopping.run_until_cancelled(self.pieces.send(piece)).await;
                sent.is_some_and(|sent| sent.is_ok())
            }
        }
    }

    /// Returns the snapshot that a viewer begins with.
    async fn hello(&self, latest: &LiveSample, past: &[Arc<EventEntry>]) -> String {
        let status = status::show(State(self.api.clone())).await.0;
        let workers = workers::list(State(self.api.clone())).await.0.workers;
        let query = HistoryQuery { range: self.range, upstream: None, worker: None, most: MOST_NUMBERS };
        let events: Vec<_> = past.iter().map(|event| events::view(event)).collect();
        // The parts in text are long, so that they are joined and not parsed again.
        format!(
            "{{\"events\":{},\"every_s\":{},\"history\":{},\"numbers\":{},\"series\":{},\"states\":{},\
             \"status\":{},\"t\":{},\"upstream_numbers\":{},\"upstream_series\":{},\"workers\":{}}}",
            json(&events),
            latest.every_s(),
            self.api.shared.history.json(&query),
            json(&WORKER_NUMBERS),
            series(latest),
            states(latest),
            json(&status),
            crate::history::now_s(),
            json(&UPSTREAM_NUMBERS),
            upstream_series(latest),
            json(&workers),
        )
    }
}

fn json(part: &impl Serialize) -> String {
    // This cannot fail: all keys are strings, and no number is infinite.
    serde_json::to_string(part).unwrap_or_default()
}

/// Returns a message of the stream. JSON has no line breaks, so that its data is one line.
fn frame(name: &str, id: Option<u64>, json: &str) -> Bytes {
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    Bytes::from(format!("event: {name}\n{id}data: {json}\n\n"))
}

fn sample_frame(sample: &LiveSample) -> Bytes {
    let mut json = format!("{{\"t\":{},\"workers\":[", sample.t);
    let mut others = None::<Numbers>;
    let mut is_first = true;
    let mut push = |json: &mut String, serial: u32, numbers: &[f32]| {
        json.push_str(if is_first { "[" } else { ",[" });
        is_first = false;
        let _ = write!(json, "{serial}");
        for number in numbers {
            json.push(',');
            push_number(json, *number);
        }
        json.push(']');
    };
    for (serial, worker) in &sample.workers {
        if *serial == OTHERS {
            others = Some(sum(others, &worker.numbers));
        } else {
            push(&mut json, *serial, &worker.numbers);
        }
    }
    if let Some(others) = others {
        push(&mut json, OTHERS, &others);
    }
    json.push_str("],\"upstreams\":[");
    for (index, (serial, upstream)) in sample.upstreams.iter().enumerate() {
        json.push_str(if index == 0 { "[" } else { ",[" });
        let _ = write!(json, "{serial}");
        for number in upstream.numbers {
            json.push(',');
            push_number(&mut json, number);
        }
        json.push(']');
    }
    json.push(']');
    if sample.has_new_series {
        let _ = write!(json, ",\"series\":{},\"upstream_series\":{}", series(sample), upstream_series(sample));
    }
    if sample.has_new_states {
        let _ = write!(json, ",\"states\":{}", states(sample));
    }
    json.push('}');
    frame("sample", None, &json)
}

/// Returns what the serials of workers mean, as JSON.
fn series(sample: &LiveSample) -> String {
    let own = sample.workers.iter().filter(|(serial, _)| *serial != OTHERS);
    let mut all: Vec<String> = own
        .map(|(serial, worker)| {
            let (upstream, name) = &worker.key;
            let (upstream, name) = (quoted(Some(upstream)), quoted(Some(name)));
            format!("{{\"serial\":{serial},\"upstream\":{upstream},\"worker\":{name}}}")
        })
        .collect();
    if all.len() < sample.workers.len() {
        all.push(format!("{{\"serial\":{OTHERS},\"upstream\":null,\"worker\":null}}"));
    }
    format!("[{}]", all.join(","))
}

/// Returns what the serials of upstreams mean, as JSON.
fn upstream_series(sample: &LiveSample) -> String {
    let one = |(serial, upstream): &(u32, crate::history::SampledUpstream)| {
        format!("{{\"serial\":{serial},\"upstream\":{}}}", quoted(Some(&upstream.name)))
    };
    format!("[{}]", sample.upstreams.iter().map(one).collect::<Vec<_>>().join(","))
}

/// Returns the states of all workers with a series of their own, as JSON.
fn states(sample: &LiveSample) -> String {
    let own = sample.workers.iter().filter(|(serial, _)| *serial != OTHERS);
    let all = own.map(|(serial, worker)| {
        let state = &worker.state;
        let left = state.drain_left.map_or_else(|| "null".to_owned(), |left| left.to_string());
        format!(
            "{{\"admin\":\"{}\",\"drain_left\":{left},\"ejected\":{},\"health\":\"{}\",\"serial\":{serial}}}",
            state.admin, state.ejected, state.health
        )
    });
    format!("[{}]", all.collect::<Vec<_>>().join(","))
}
