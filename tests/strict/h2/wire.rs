//! A client that sends the bytes of a case and records the answer of each stream.

use std::collections::BTreeMap;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::text::Case;
use crate::support::h2::frame;
use crate::support::wait::patience;

/// The stream of the request after every case.
const LAST: u32 = 1001;

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Status(u16),
    Reset,
}

/// What a client received on one connection.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) fates: BTreeMap<u32, Fate>,
    /// The request `/last` was answered.
    pub(super) last: bool,
    /// The code of a GOAWAY, if one came.
    pub(super) goaway: Option<u32>,
    /// The connection neither ended nor brought everything that was expected.
    pub(super) hung: bool,
}

pub(super) trait Io: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Io for T {}

/// A client's connection, plain or TLS.
pub(super) struct Wire(Pin<Box<dyn Io>>);

impl Wire {
    pub(super) fn over(io: impl Io + 'static) -> Self {
        Self(Box::pin(io))
    }

    /// Sends a case and reads until all its streams are answered or reset, or the connection ends. `half`: shuts down
    /// the writing side after the case.
    pub(super) async fn exchange(self, case: &Case, half: bool) -> Told {
        let (mut read, mut write) = tokio::io::split(self.0);
        let mut bytes = case.bytes.clone();
        if !case.has("alone") {
            let block = b"\x82\x87\x41\x01a\x04\x05/last";
            bytes.extend(frame(1, 5, LAST, block));
        }
        let writing = async {
            // This fails on a connection that has already been closed.
            let _ = (write.write_all(&bytes).await, write.flush().await);
            if half {
                let _ = write.shutdown().await;
            }
        };
        let mut told = Told::default();
        let reading = async {
            let mut ended = Vec::new();
            while let Some((kind, flags, stream, payload)) = next(&mut read).await {
                match kind {
                    1 => {
                        let Some(status) = status(&payload) else { continue };
                        if stream == LAST {
                            told.last = status == 200;
                        } else if status >= 200 {
                            told.fates.entry(stream).or_insert(Fate::Status(status));
                        }
                    }
                    // NO_ERROR after a complete answer: the rest of the body is not wanted.
                    3 => {
                        told.fates.entry(stream).or_insert(Fate::Reset);
                    }
                    7 => told.goaway = payload[4..].first_chunk().map(|code| u32::from_be_bytes(*code)),
                    _ => {}
                }
                if kind == 3 || (kind < 2 && flags & 1 == 1) {
                    ended.push(stream);
                }
                let last = case.has("alone") || ended.contains(&LAST);
                if last && case.streams.iter().all(|stream| ended.contains(stream)) {
                    break;
                }
            }
        };
        let both = async { tokio::join!(writing, reading) };
        let in_time = tokio::time::timeout(patience(), both).await;
        told.hung = in_time.is_err();
        told
    }
}

/// The next frame: kind, flags, stream and payload; `None` at any end of the connection.
async fn next(read: &mut (impl AsyncRead + Unpin)) -> Option<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    read.read_exact(&mut head).await.ok()?;
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    read.read_exact(&mut payload).await.ok()?;
    Some((head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
}

/// `:status` of a field block, indexed or as a literal; `None` for trailers.
fn status(mut block: &[u8]) -> Option<u16> {
    // Updates of the size of the dynamic table.
    while let [first, rest @ ..] = block
        && first >> 5 == 1
    {
        block = rest;
    }
    match block {
        [indexed @ 0x88..=0x8e, ..] => Some([200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)]),
        [0x08 | 0x18 | 0x48, 3, a, b, c, ..] => std::str::from_utf8(&[*a, *b, *c]).ok()?.parse().ok(),
        [0x08 | 0x18 | 0x48, length, rest @ ..] if length & 0x80 != 0 => huffman(&rest[..usize::from(length & 0x7f)]),
        _ => None,
    }
}

/// Three Huffman digits (RFC 7541 appendix B): five bits for 0 to 2, six for the others.
fn huffman(bytes: &[u8]) -> Option<u16> {
    let mut bits = bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| u16::from(byte >> at & 1)));
    let mut status = 0;
    for _ in 0..3 {
        let mut code = 0;
        for _ in 0..5 {
            code = code * 2 + bits.next()?;
        }
        let digit = if code < 3 { code } else { code * 2 + bits.next()? - 0x19 + 3 };
        status = status * 10 + digit;
    }
    Some(status)
}

#[test]
fn a_status_is_read_in_each_of_its_forms() {
    for (block, expected) in [
        (&b"\x88"[..], 200),
        (b"\x48\x03431", 431),
        (b"\x20\x3f\xe1", 0),
        // 302 and 501, from RFC 7541 appendix C.6 and encoded by hand.
        (b"\x48\x82\x64\x02", 302),
        (b"\x48\x82\x6c\x01", 501),
    ] {
        assert_eq!(status(block).unwrap_or(0), expected, "{block:x?}");
    }
}
