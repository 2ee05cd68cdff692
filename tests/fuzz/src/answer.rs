//! A worker's answer: where its head and its body end, and what they contain.
//!
//! The result must be the same in one piece and in many. hyper's client reads the bytes as well: what stickyd accepts,
//! hyper must accept with the same status, fields, body and trailers. stickyd may refuse more than hyper does.
//!
//! Input: a byte of switches, two that say where the bytes are cut in two, and what the worker sends before it closes.

use std::pin::pin;

use ::bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::header::HeaderMap;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use stickyd::testing::upstream::{BodyStep, Unread};
use stickyd::testing::upstream::{Coming, HEAD_BYTES, HEAD_FIELDS};
use tokio::io::AsyncWriteExt;

use super::bytes::Choices;
use super::still;

/// The result of reading an answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Read {
    /// The status; 0 if there was no head.
    pub status: u16,
    /// The fields, without those that belong to the connection.
    pub fields: HeaderMap,
    /// The part of the body that came.
    pub body: Vec<u8>,
    /// The trailers after the body.
    pub trailers: HeaderMap,
    /// Whether the answer came to its end.
    pub whole: bool,
}

/// Compares both readers on one input.
pub fn check(data: &[u8]) {
    let mut choices = Choices(data);
    let (to_head, cut) = (choices.byte() & 1 != 0, choices.below(1 << 16));
    both(choices.0, to_head, cut);
}

/// Reads an answer in one piece and in many; the result of one piece.
pub fn both(bytes: &[u8], to_head: bool, cut: usize) -> Read {
    let whole = ours(&[bytes], to_head);
    let (first, second) = bytes.split_at(cut % (bytes.len() + 1));
    assert_eq!(ours(&[first, second], to_head), whole, "cut at {}", first.len());
    if bytes.len() < 10_000 {
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(ours(&single, to_head), whole, "byte by byte");
    }
    let theirs = hypers(bytes, to_head);
    // 101 is different: hyper ends there.
    if whole.status != 0 && whole.status != 101 {
        assert_eq!((whole.status, &whole.fields), (theirs.status, &theirs.fields));
        assert!(theirs.body.starts_with(&whole.body), "{whole:?} {theirs:?}");
        if whole.whole {
            assert_eq!(whole, theirs);
        }
    }
    whole
}

/// Reads an answer as stickyd does, in these pieces; then the connection ends.
pub fn ours(pieces: &[&[u8]], to_head: bool) -> Read {
    let (mut read, mut coming, mut pieces) = (Read::default(), Coming::new(to_head), pieces.iter());
    let (head, rest) = loop {
        let Some(piece) = pieces.next() else { return read };
        match coming.feed(piece, &mut HeaderMap::new()) {
            Ok(Some(whole)) => break whole,
            Ok(None) => {}
            Err(_) => return read,
        }
    };
    read.status = head.status.as_u16();
    read.fields = plain(head.fields);
    let mut unread = Unread::new(head.length, rest);
    loop {
        match unread.advance() {
            Ok(BodyStep::Frame(frame)) => match frame.into_data() {
                Ok(data) => read.body.extend_from_slice(&data),
                Err(frame) => read.trailers = frame.into_trailers().expect("a frame is one of the two"),
            },
            Ok(BodyStep::End) => break,
            Ok(BodyStep::More) => match pieces.next() {
                Some(piece) => unread.came(Bytes::copy_from_slice(piece)),
                None if unread.closed().is_ok() => {}
                None => return read,
            },
            Err(_) => return read,
        }
    }
    read.whole = true;
    read
}

/// Removes fields that the two readers treat differently.
fn plain(mut fields: HeaderMap) -> HeaderMap {
    for name in ["content-length", "transfer-encoding", "connection", "keep-alive"] {
        fields.remove(name);
    }
    fields
}

/// Reads an answer as hyper's client does.
fn hypers(bytes: &[u8], to_head: bool) -> Read {
    let (io, mut worker) = tokio::io::duplex(bytes.len() + 4096);
    let mut read = Read::default();
    let exchange = async {
        let mut builder = hyper::client::conn::http1::Builder::new();
        builder.max_buf_size(HEAD_BYTES).max_header_size(HEAD_BYTES).max_headers(HEAD_FIELDS);
        let Ok((mut sender, connection)) = builder.handshake(TokioIo::new(io)).await else { return };
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.method_mut() = if to_head { Method::HEAD } else { Method::GET };
        let asked = async {
            let Ok(mut answer) = sender.send_request(request).await else { return };
            read.status = answer.status().as_u16();
            read.fields = plain(std::mem::take(answer.headers_mut()));
            while let Some(frame) = answer.frame().await {
                let Ok(frame) = frame else { return };
                match frame.into_data() {
                    Ok(data) => read.body.extend_from_slice(&data),
                    Err(frame) => read.trailers = frame.into_trailers().expect("a frame is one of the two"),
                }
            }
            read.whole = true;
        };
        let answered = async {
            // After the request, because hyper rejects an answer that was not asked for.
            let _ = tokio::io::AsyncReadExt::read(&mut worker, &mut [0; 4096]).await;
            let _ = worker.write_all(bytes).await;
            drop(worker);
        };
        let connection = async {
            let _ = connection.await;
        };
        all(asked, answered, connection).await;
    };
    still::run(pin!(exchange).as_mut());
    read
}

/// Runs all three futures to their ends.
async fn all(first: impl Future<Output = ()>, second: impl Future<Output = ()>, third: impl Future<Output = ()>) {
    let (mut first, mut second, mut third) = (pin!(first), pin!(second), pin!(third));
    let mut over = [false; 3];
    std::future::poll_fn(|cx| {
        over[0] = over[0] || first.as_mut().poll(cx).is_ready();
        over[1] = over[1] || second.as_mut().poll(cx).is_ready();
        over[2] = over[2] || third.as_mut().poll(cx).is_ready();
        if over == [true; 3] { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}
