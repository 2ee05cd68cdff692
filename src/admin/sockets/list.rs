//! The list of sockets: gathered, sorted and written on a thread of its own, and sent in pieces while it is being
//! written.
//!
//! Ten thousand sockets are some megabytes of JSON. Neither the data threads nor the control thread, which checks the
//! workers, take part in writing them; a data thread waits at most for one shard of the list, or one socket's texts, to
//! be copied. The thread runs at a low priority ([`NICE`]) and works in short turns, since operators can wait but
//! clients cannot. One list is written at a time. Each is bounded by its page, which is the most that is buffered for a
//! client that does not read.

use std::cell::RefCell;
use std::io;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame};
use serde::Serialize;
use tokio::sync::mpsc;

use super::super::{ApiRefusal, refuse};
use super::order::{SortEntry, SortOrder};
use super::view::{Row, Shown};
use crate::clock::{self, Seconds};
use crate::sockets::{Filter, SHARDS, Sockets};

/// Nice value that lowers the thread's priority: with this weight (110 of 1,024) it still gets a tenth of a busy core.
/// With a higher value it might be kept from running while it holds a shard's lock.
const NICE: i32 = 10;

/// Rows written per turn: some 4 µs. The scheduler grants a turn of milliseconds whatever the priority, so a data
/// thread that wakes up on the same core has to wait for the end of the turn; therefore turns are short.
const IN_A_ROW: usize = 4;

/// Rows written per turn on a core that other threads want all the time.
const IN_A_ROW_CROWDED: usize = 32;

/// Length of a rest on a crowded core; the timer slack is set to a minimum, since the default would double it.
const PAUSE: Duration = Duration::from_micros(50);

/// Number of sockets that are gathered in the time it takes to write one row.
const GATHERED: usize = 8;

/// A yield that takes longer than this shows that the core is shared with a thread that does not rest.
const CROWDED: Duration = Duration::from_millis(1);

/// Maximum number of lists that wait for their turn: one per connection.
const WAITING: usize = super::super::CONNECTIONS;

/// Usual size of a piece, in bytes: a list of the default length fits into one.
const LIST_PIECE_BYTES: usize = 64 * 1024;

/// Room for one more row at the end of a piece, in bytes; rows with long labels and user agents may exceed it.
const ROW: usize = 1024;

/// A request for one page of the list.
pub(crate) struct Wanted {
    pub(crate) filter: Filter,
    pub(crate) order: SortOrder,
    pub(crate) offset: usize,
    pub(crate) limit: usize,
}

struct ListJob {
    wanted: Wanted,
    pieces: mpsc::UnboundedSender<ListPiece>,
}

/// The thread that writes lists. It ends once all its handles are dropped, after the list it is writing.
#[derive(Clone)]
pub(crate) struct Lister(mpsc::Sender<ListJob>);

impl Lister {
    /// Starts the thread that writes lists.
    ///
    /// # Errors
    /// The operating system refused a thread.
    pub(crate) fn start(sockets: Arc<Sockets>) -> io::Result<Self> {
        let (jobs, mut asked) = mpsc::channel::<ListJob>(WAITING);
        std::thread::Builder::new().name("lists".to_owned()).spawn(move || {
            give_way();
            while let Some(job) = asked.blocking_recv() {
                // The requester may be gone already, or go away meanwhile.
                if !job.pieces.is_closed() {
                    write(&sockets, &job.wanted, Cut::new(job.pieces));
                }
            }
        })?;
        Ok(Self(jobs))
    }

    /// Returns the answer to a request, once its first piece is written.
    pub(crate) async fn list(&self, wanted: Wanted) -> Result<Response, ApiRefusal> {
        let stopping = || refuse(StatusCode::SERVICE_UNAVAILABLE, "stickyd is stopping");
        let (pieces, mut written) = mpsc::unbounded_channel();
        self.0.send(ListJob { wanted, pieces }).await.map_err(|_| stopping())?;
        let first = written.recv().await.ok_or_else(stopping)?;
        let body = match first.is_last {
            true => first.bytes.into(),
            false => Body::new(Pieces { first: Some(first), written, is_whole: false }),
        };
        Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
    }
}

/// Lowers the priority of this thread only. Linux takes "this process" for the calling thread (setpriority(2)).
fn give_way() {
    let lowered = rustix::process::getpriority_process(None)
        .and_then(|now| rustix::process::setpriority_process(None, now.saturating_add(NICE).min(19)));
    if let Err(error) = lowered {
        tracing::debug!(%error, "cannot lower the priority of the thread that writes lists");
    }
    // In nanoseconds. If it cannot be set, a list on a crowded machine just takes longer.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
}

/// Turns of work. After each, the thread yields the core, which costs nothing if no other thread wants it: seven times
/// quicker than a rest of fixed length, and as good for traffic (measured, tests/bench/sockets.py). But a thread that
/// yields gets the core back only after milliseconds if another thread never rests, and a list would take many seconds;
/// on such a crowded core it rests instead.
#[derive(Default)]
struct Turns {
    rows: usize,
    crowded: bool,
}

impl Turns {
    /// Records that this many rows, or as much other work, were done, and yields or rests at the end of a turn.
    fn did(&mut self, rows: usize) {
        self.rows += rows;
        if self.rows < if self.crowded { IN_A_ROW_CROWDED } else { IN_A_ROW } {
            return;
        }
        self.rows = 0;
        if self.crowded {
            return std::thread::park_timeout(PAUSE);
        }
        let began = Instant::now();
        std::thread::yield_now();
        self.crowded = began.elapsed() > CROWDED;
    }
}

/// Fields of a page that come before its rows.
#[derive(Serialize)]
struct Page {
    live: usize,
    total: usize,
    offset: usize,
    next_offset: Option<usize>,
}

/// Writes one page; stops early, with `None`, if the requester has gone away.
fn write(sockets: &Sockets, wanted: &Wanted, mut cut: Cut) -> Option<()> {
    let now_s = clock::now_s();
    let mut turns = Turns::default();
    let mut fitting = gather(sockets, wanted, now_s, &mut turns);
    let total = fitting.len();
    fitting.drain(..wanted.offset.min(total));
    fitting.truncate(wanted.limit);
    let next = wanted.offset.saturating_add(fitting.len());
    let next_offset = (next < total && !fitting.is_empty()).then_some(next);
    cut.json(&Page { live: sockets.len(), total, offset: wanted.offset, next_offset })?;
    cut.last.pop();
    cut.last.extend_from_slice(b",\"sockets\":[");
    let shown = RefCell::new(Shown::new(now_s));
    for (number, entry) in fitting.into_iter().enumerate() {
        if number > 0 {
            cut.last.push(b',');
        }
        cut.json(&Row { socket: &entry.socket, shown: &shown })?;
        turns.did(1);
    }
    cut.last.extend_from_slice(b"]}");
    cut.finish();
    Some(())
}

/// Returns all sockets that match the filter, in their order.
fn gather(sockets: &Sockets, wanted: &Wanted, now_s: Seconds, turns: &mut Turns) -> Vec<SortEntry> {
    let Wanted { filter, order, .. } = wanted;
    let mut all = Vec::new();
    for shard in 0..SHARDS {
        let (listed, begin) = (sockets.shard(shard), all.len());
        turns.did(listed.len() / GATHERED);
        let fitting = listed.into_iter().filter(|socket| filter.fits(socket, now_s));
        all.extend(fitting.map(|socket| order.entry(socket, now_s)));
        // Sorting shard by shard keeps turns short; the final sort then only merges runs that are in order already.
        all.get_mut(begin..).unwrap_or_default().sort_by(|one, other| order.compare(one, other));
    }
    all.sort_by(|one, other| order.compare(one, other));
    all
}

/// Consecutive bytes of a list.
struct ListPiece {
    bytes: Bytes,
    is_last: bool,
}

/// Cuts the written bytes into pieces, and passes them on.
struct Cut {
    last: Vec<u8>,
    pieces: mpsc::UnboundedSender<ListPiece>,
}

impl Cut {
    fn new(pieces: mpsc::UnboundedSender<ListPiece>) -> Self {
        Self { last: Vec::with_capacity(LIST_PIECE_BYTES), pieces }
    }

    /// Appends a whole value; `None` if the requester has gone away.
    fn json(&mut self, value: &impl Serialize) -> Option<()> {
        // This cannot fail: all keys are strings, and writing to memory has no errors.
        let _ = serde_json::to_writer(&mut self.last, value);
        if self.last.len() < LIST_PIECE_BYTES - ROW {
            return Some(());
        }
        let full = std::mem::replace(&mut self.last, Vec::with_capacity(LIST_PIECE_BYTES));
        self.pieces.send(ListPiece { bytes: full.into(), is_last: false }).ok()
    }

    fn finish(self) {
        let _ = self.pieces.send(ListPiece { bytes: self.last.into(), is_last: true });
    }
}

/// Body of an answer that is still being written.
struct Pieces {
    first: Option<ListPiece>,
    written: mpsc::UnboundedReceiver<ListPiece>,
    is_whole: bool,
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.is_whole {
            return Poll::Ready(None);
        }
        let piece = match self.first.take() {
            None => ready!(self.written.poll_recv(cx)),
            first => first,
        };
        let Some(ListPiece { bytes, is_last }) = piece else {
            // An incomplete list must not look like a complete one.
            return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())));
        };
        self.is_whole = is_last;
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use http_body_util::BodyExt;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::super::api::SocketsAnswer;
    use super::super::order::SORTS;
    use super::*;
    use crate::config::Address;
    use crate::cookie::WorkerId;
    use crate::metrics::Metrics;
    use crate::sockets::{New, SocketKind, Transport};
    use crate::upstream::worker::Worker;

    fn pieces(write: impl FnOnce(&mut Cut)) -> mpsc::UnboundedReceiver<ListPiece> {
        let (pieces, written) = mpsc::unbounded_channel();
        let mut cut = Cut::new(pieces);
        write(&mut cut);
        cut.finish();
        written
    }

    #[test]
    fn the_pieces_add_up_to_the_whole_list() {
        let mut whole = String::new();
        let mut written = pieces(|cut| {
            for number in 0..40_000_u32 {
                let row = number.to_string().repeat(usize::try_from(number % 7).unwrap());
                cut.json(&row).unwrap();
                whole += &format!("\"{row}\"");
            }
        });
        let pieces: Vec<ListPiece> = std::iter::from_fn(|| written.try_recv().ok()).collect();
        assert!(pieces.len() > 3 && pieces.iter().all(|piece| (1..=LIST_PIECE_BYTES).contains(&piece.bytes.len())));
        assert_eq!(pieces.iter().position(|piece| piece.is_last), Some(pieces.len() - 1));
        assert_eq!(pieces.iter().flat_map(|piece| &piece.bytes).copied().collect::<Vec<_>>(), whole.as_bytes());
    }

    #[tokio::test]
    async fn an_incomplete_list_is_an_error() {
        let whole = |written| Pieces { first: None, written, is_whole: false }.collect();
        let long = pieces(|cut| (0..3).for_each(|_| cut.json(&"x".repeat(LIST_PIECE_BYTES - 2)).unwrap()));
        assert_eq!(whole(long).await.unwrap().to_bytes().len(), 3 * LIST_PIECE_BYTES);
        let (sender, written) = mpsc::unbounded_channel();
        assert!(sender.send(ListPiece { bytes: "[".into(), is_last: false }).is_ok());
        drop(sender);
        assert!(whole(written).await.is_err());
    }

    /// Returns one page, assembled and parsed; as the type that the command line reads, it has the same fields.
    fn page(sockets: &Sockets, sort: &str, offset: usize, limit: usize) -> Value {
        let order = SortOrder::parse(sort).unwrap();
        let (pieces, mut written) = mpsc::unbounded_channel();
        write(sockets, &Wanted { filter: Filter::default(), order, offset, limit }, Cut::new(pieces));
        let whole: Vec<u8> = std::iter::from_fn(|| written.try_recv().ok()).flat_map(|piece| piece.bytes).collect();
        let written: Value = serde_json::from_slice(&whole).unwrap();
        let read: SocketsAnswer = serde_json::from_value(written.clone()).unwrap();
        assert_eq!(serde_json::to_value(read).unwrap(), written);
        written
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Each socket is on exactly one page, in the requested order, whatever shards the sockets are in.
        #[test]
        fn pages_are_one_sorted_list(
            messages in prop::collection::vec(0_u32..5, 1..500),
            sort in prop::sample::select(SORTS.map(str::to_owned).to_vec()),
            reverse: bool,
            limit in 1_usize..600,
        ) {
            let sockets = Sockets::new(1_000);
            let workers = ["w10", "w9", "w1"].map(|name| {
                let series = Metrics::new().worker("app", name);
                Worker::new("app", Address::Unix("/w".into()), name.to_owned(), WorkerId(1), series)
            });
            let open = |(number, messages): (usize, &u32)| {
                let worker = &workers[number % 3];
                let kind = SocketKind::Plain;
                let new = New { worker, session: None, transport: Transport::WebSocket, kind, sid: b"", facts: None };
                let listed = sockets.open(new);
                listed.socket().begins();
                listed.socket().up.moved(u64::from(*messages) * 10, *messages, clock::now_s());
                listed
            };
            let _open: Vec<_> = messages.iter().enumerate().map(open).collect();
            let sort = if reverse { format!("-{sort}") } else { sort };
            let (mut rows, mut offset) = (Vec::new(), Some(0));
            while let Some(at) = offset {
                let page = page(&sockets, &sort, at, limit);
                prop_assert_eq!(&page["total"], &json!(messages.len()));
                prop_assert_eq!(&page["live"], &json!(messages.len()));
                prop_assert_eq!(&page["offset"], &json!(at));
                let of_page = page["sockets"].as_array().unwrap();
                prop_assert_eq!(of_page.len(), limit.min(messages.len() - at));
                rows.extend(of_page.clone());
                offset = page["next_offset"].as_u64().map(|next| usize::try_from(next).unwrap());
            }
            let ids: HashSet<_> = rows.iter().map(|row| row["id"].to_string()).collect();
            prop_assert_eq!(ids.len(), messages.len());
            let name = sort.trim_start_matches('-');
            let key = |row: &Value| {
                let number = match name {
                    "messages" | "messages_up" => row["up"]["messages"].as_u64(),
                    "bytes" | "bytes_up" => row["up"]["bytes"].as_u64(),
                    _ => Some(0),
                };
                let worker = if name == "worker" { row["worker"].to_string() } else { String::new() };
                (number, worker)
            };
            let mut sorted: Vec<_> = rows.iter().map(key).collect();
            sorted.sort();
            if reverse {
                sorted.reverse();
            }
            prop_assert_eq!(rows.iter().map(key).collect::<Vec<_>>(), sorted);
        }
    }

    #[test]
    fn writing_stops_when_the_requester_has_left() {
        let (pieces, written) = mpsc::unbounded_channel();
        drop(written);
        let mut cut = Cut::new(pieces);
        let rows = (0..).take_while(|_| cut.json(&"a row").is_some()).count();
        assert!(rows <= LIST_PIECE_BYTES / "a row".len());
    }
}
