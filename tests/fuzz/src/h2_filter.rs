//! The filter between an HTTP/2 client and the h2 crate: no mistake of one request changes what becomes of the others.
//!
//! Input: a byte that says what follows. Either any bytes of a client, of which the filter must make the same whether
//! they come in one piece or in many. Or choices of requests, valid and malformed ones, whose fields use HPACK's table
//! in all ways, and of other mistakes in one stream: then exactly the valid requests reach stickyd, with their fields.

use std::collections::VecDeque;
use std::pin::pin;

use ::bytes::Bytes;
use hyper::Response;
use stickyd::testing::listener::{Filtered, builder, filtered};
use tokio::io::{AsyncWriteExt, DuplexStream};

use super::bytes::Choices;
use super::{proxied, still};

/// A request that has reached stickyd: its path, and its fields in order.
type Reached = (String, Vec<(Vec<u8>, Vec<u8>)>);

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes that fit into the pipe between both sides.
const ROOM: usize = 1 << 22;

/// Checks either kind of input.
pub fn check(data: &[u8]) {
    let mut choices = Choices(data);
    if choices.byte() & 1 != 0 {
        let cut = choices.below(1 << 16);
        return in_pieces(choices.0, cut);
    }
    let sent = Sent::of(&mut choices);
    assert_eq!(reached(&sent.bytes), sent.expected);
}

/// Any bytes: their pieces make no difference.
fn in_pieces(bytes: &[u8], cut: usize) {
    let all = [PREFACE, bytes].concat();
    let whole = filtered(&[&all]);
    let (first, second) = all.split_at(cut % (all.len() + 1));
    assert_eq!(filtered(&[first, second]), whole, "cut at {}", first.len());
    if all.len() < 4_000 {
        assert_eq!(filtered(&all.chunks(1).collect::<Vec<_>>()), whole, "byte by byte");
    }
}

/// Names and values, and whether a request with them is valid.
const FIELDS: [(&[u8], &[u8], bool); 14] = [
    (b"x-a", b"1", true),
    (b"x-b", b"", true),
    (b"x-latin", b"caf\xe9", true),
    (b"cookie", b"a=1", true),
    (b"te", b"trailers", true),
    (b"x-long", &[b'y'; 900], true),
    (b"X-Upper", b"1", false),
    (b"", b"", false),
    (b"x-a", b"\x01", false),
    (b"x-c", b"\x7f1", false),
    (b"connection", b"close", false),
    (b":unknown", b"1", false),
    (b":path", b"/late", false),
    (b"te", b"gzip", false),
];

/// What a client sends, and what has to reach stickyd.
struct Sent {
    bytes: Vec<u8>,
    expected: Vec<Reached>,
    table: Table,
    stream: u32,
    resets: u32,
}

/// The client's HPACK table: indices of [`FIELDS`], the newest first.
struct Table {
    entries: VecDeque<usize>,
    most: usize,
}

impl Table {
    fn insert(&mut self, field: usize) {
        self.entries.push_front(field);
        let size = |field: &usize| 32 + FIELDS[*field].0.len() + FIELDS[*field].1.len();
        while self.entries.iter().map(size).sum::<usize>() > self.most {
            self.entries.pop_back();
        }
    }
}

impl Sent {
    fn of(choices: &mut Choices<'_>) -> Self {
        let table = Table { entries: VecDeque::new(), most: 4_096 };
        let mut sent = Self { bytes: PREFACE.to_vec(), expected: Vec::new(), table, stream: 1, resets: 0 };
        frame(&mut sent.bytes, 4, 0, 0, &[]);
        for _ in 0..40 {
            if choices.is_over() {
                break;
            }
            match choices.byte() % 4 {
                0..3 => sent.request(choices),
                _ => sent.mistake(choices),
            }
        }
        // The last one uses all of the table that it may.
        let known: Vec<_> = (0..sent.table.entries.len()).filter(|at| FIELDS[sent.table.entries[*at]].2).collect();
        let mut block = sent.head();
        let mut fields = Vec::new();
        for at in known {
            integer(&mut block, 0x80, 7, 62 + at);
            fields.push(sent.table.entries[at]);
        }
        sent.block(&block, 5, None);
        sent.expect(&fields);
        sent
    }

    /// The pseudo-headers of the next request.
    fn head(&self) -> Vec<u8> {
        let mut block = b"\x82\x87\x01\x01a\x04".to_vec();
        string(&mut block, format!("/{}", self.stream).as_bytes());
        block
    }

    fn expect(&mut self, fields: &[usize]) {
        let mut fields: Vec<_> =
            fields.iter().map(|field| (FIELDS[*field].0.to_vec(), FIELDS[*field].1.to_vec())).collect();
        fields.sort();
        self.expected.push((format!("/{}", self.stream), fields));
        self.stream += 2;
    }

    /// A request with some fields.
    fn request(&mut self, choices: &mut Choices<'_>) {
        let (mut block, mut fields) = (Vec::new(), Vec::new());
        if choices.byte().is_multiple_of(8) {
            self.table.most = 300 + choices.below(3_700);
            integer(&mut block, 0x20, 5, self.table.most);
            let size = |field: &usize| 32 + FIELDS[*field].0.len() + FIELDS[*field].1.len();
            while self.table.entries.iter().map(size).sum::<usize>() > self.table.most {
                self.table.entries.pop_back();
            }
        }
        let head = self.head();
        block.extend(head);
        for _ in 0..choices.byte() % 6 {
            let field = choices.below(FIELDS.len());
            fields.push(self.field(&mut block, field, choices));
        }
        let ends = choices.byte() & 1;
        let cut = (choices.byte() & 1 != 0).then(|| choices.below(block.len() + 1));
        let stream = self.stream;
        self.block(&block, ends | 4, cut);
        if fields.iter().all(|field| FIELDS[*field].2) {
            self.expect(&fields);
        } else {
            self.stream += 2;
        }
        if ends == 0 {
            self.rest(stream, choices);
        }
    }

    /// Writes a field in one of the ways of RFC 7541 §6; an entry of the table may be another field.
    fn field(&mut self, block: &mut Vec<u8>, field: usize, choices: &mut Choices<'_>) -> usize {
        let way = choices.byte() % 4;
        if way == 3 && !self.table.entries.is_empty() {
            let at = choices.below(self.table.entries.len());
            integer(block, 0x80, 7, 62 + at);
            return self.table.entries[at];
        }
        let (name, value, _) = FIELDS[field];
        let known = self.table.entries.iter().position(|entry| FIELDS[*entry].0 == name);
        let (first, bits) = [(0x00, 4), (0x10, 4), (0x40, 6), (0x40, 6)][usize::from(way)];
        match known.filter(|_| choices.byte() & 1 != 0) {
            Some(at) => integer(block, first, bits, 62 + at),
            None => {
                block.push(first);
                string(block, name);
            }
        }
        string(block, value);
        if bits == 6 {
            self.table.insert(field);
        }
        field
    }

    /// A field block, in two frames if it is cut.
    fn block(&mut self, block: &[u8], flags: u8, cut: Option<usize>) {
        match cut {
            None => frame(&mut self.bytes, 1, flags, self.stream, block),
            Some(at) => {
                frame(&mut self.bytes, 1, flags & 1, self.stream, &block[..at]);
                frame(&mut self.bytes, 9, 4, self.stream, &block[at..]);
            }
        }
    }

    /// More of a request: DATA of several kinds, and an end.
    fn rest(&mut self, stream: u32, choices: &mut Choices<'_>) {
        for _ in 0..choices.byte() % 50 {
            let size = choices.of(&[0, 1, 2, 255, 256, 600]);
            let padded = [&[3][..], &vec![b'x'; size], &[0; 3]].concat();
            match choices.byte() % 3 {
                0 => frame(&mut self.bytes, 0, 8, stream, &padded),
                _ => frame(&mut self.bytes, 0, 0, stream, &padded[1..=size]),
            }
        }
        match choices.byte() % 4 {
            0 => frame(&mut self.bytes, 0, 1, stream, b"end"),
            1 => {
                let field = choices.below(FIELDS.len());
                let mut block = Vec::new();
                self.field(&mut block, field, choices);
                frame(&mut self.bytes, 1, 4 | choices.byte() & 1, stream, &block);
            }
            // h2 allows only twenty of them before it has handed out the stream.
            2 if self.resets < 15 => {
                self.resets += 1;
                frame(&mut self.bytes, 3, 0, stream, &[0, 0, 0, 8]);
            }
            _ => {}
        }
    }

    /// A mistake on a stream that has been.
    fn mistake(&mut self, choices: &mut Choices<'_>) {
        let begun = usize::try_from(self.stream / 2).expect("a small number");
        if begun == 0 {
            return;
        }
        let stream = 1 + 2 * u32::try_from(choices.below(begun)).expect("a small number");
        match choices.byte() % 6 {
            0 => frame(&mut self.bytes, 8, 0, stream, &[0; 4]),
            1 => frame(&mut self.bytes, 2, 0, stream, &[&stream.to_be_bytes()[..], &[1]].concat()),
            2 => frame(&mut self.bytes, 2, 0, stream, &[0; 3]),
            3 => frame(&mut self.bytes, 0, 0, stream, b"late"),
            4 => {
                let field = choices.below(FIELDS.len());
                let mut block = Vec::new();
                self.field(&mut block, field, choices);
                frame(&mut self.bytes, 1, 5, stream, &block);
            }
            _ => (0..choices.byte()).for_each(|_| frame(&mut self.bytes, 0, 0, stream, b"")),
        }
    }
}

/// The requests that reach stickyd.
fn reached(bytes: &[u8]) -> Vec<Reached> {
    let (mut client, io) = tokio::io::duplex(ROOM);
    still::run(pin!(client.write_all(bytes))).expect("there is room").expect("the pipe is open");
    let mut all = Vec::new();
    let error = still::run(pin!(serve(io, &mut all)));
    assert!(error.is_none(), "the connection has ended: {error:?} after {all:?}\n{}", shown(bytes));
    all.sort();
    all.sort_by_key(|(path, _)| path[1..].parse::<u32>().unwrap_or(0));
    all
}

/// The frames as text, one per line.
fn shown(bytes: &[u8]) -> String {
    let (mut rest, mut text) = (&bytes[PREFACE.len()..], String::new());
    while let Some((head, after)) = rest.split_at_checked(9) {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let payload = &after[..length.min(after.len())];
        text += &format!("kind {} flags {} stream {}: {}\n", head[3], head[4], head[8], payload.escape_ascii());
        rest = &after[payload.len()..];
    }
    text
}

/// Serves the connection until it ends.
async fn serve(io: DuplexStream, all: &mut Vec<Reached>) -> Option<h2::Error> {
    let conn = proxied::conn(proxied::STRANGER.parse().expect("an address"), true, true);
    let mut h2 = match builder(&conn).handshake::<_, Bytes>(Filtered::new(io)).await {
        Ok(h2) => h2,
        Err(error) => return Some(error),
    };
    while let Some(next) = h2.accept().await {
        let (request, mut respond) = match next {
            Ok(next) => next,
            Err(error) => return Some(error),
        };
        let fields = request.headers().iter().map(|(name, value)| (name.as_str().into(), value.as_bytes().to_vec()));
        let mut fields: Vec<(Vec<u8>, Vec<u8>)> = fields.collect();
        fields.sort();
        all.push((request.uri().path().to_owned(), fields));
        // This fails if the client has reset the stream.
        let _ = respond.send_response(Response::new(()), true);
    }
    None
}

/// A frame (RFC 9113 §4.1).
fn frame(all: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("a small one").to_be_bytes();
    all.extend_from_slice(&length[1..]);
    all.extend_from_slice(&[kind, flags]);
    all.extend_from_slice(&stream.to_be_bytes());
    all.extend_from_slice(payload);
}

/// A string without Huffman coding (RFC 7541 §5.2).
fn string(block: &mut Vec<u8>, text: &[u8]) {
    integer(block, 0, 7, text.len());
    block.extend_from_slice(text);
}

/// An integer in the lowest bits of a byte, and more bytes if it does not fit (RFC 7541 §5.1).
fn integer(block: &mut Vec<u8>, first: u8, bits: u32, value: usize) {
    let most = (1_usize << bits) - 1;
    let byte = |value: usize| u8::try_from(value).expect("seven bits");
    if value < most {
        return block.push(first | byte(value));
    }
    block.push(first | byte(most));
    let mut rest = value - most;
    while rest >= 128 {
        block.push(byte(rest % 128) | 128);
        rest /= 128;
    }
    block.push(byte(rest));
}
