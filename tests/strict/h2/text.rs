//! Reads the table `tests/data/strict/h2.txt`, whose head describes its syntax.

use std::path::Path;

use crate::support::h2::frame;

/// The largest payload of a frame unless SETTINGS allow more (RFC 9113 §4.2).
const MOST: usize = 16_384;

/// One line of the table, as frames.
pub(super) struct Case {
    pub(super) class: String,
    pub(super) name: String,
    pub(super) wants: String,
    /// What the client sends, except for `/last`.
    pub(super) bytes: Vec<u8>,
    /// Streams for which an answer or a reset is expected.
    pub(super) streams: Vec<u32>,
}

impl Case {
    pub(super) fn has(&self, word: &str) -> bool {
        self.wants.split(' ').any(|one| one == word)
    }

    pub(super) fn values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.wants.split(' ').filter_map(move |word| word.strip_prefix(key)?.strip_prefix('='))
    }

    pub(super) fn value(&self, key: &str) -> Option<&str> {
        self.wants.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }
}

pub(super) fn cases() -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/strict/h2.txt");
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(case).collect()
}

fn case(line: &str) -> Case {
    let [class, name, wants, frames] = line.splitn(4, " | ").collect::<Vec<_>>()[..] else { panic!("columns: {line}") };
    let mut case = Case {
        class: class.to_owned(),
        name: name.to_owned(),
        wants: wants.to_owned(),
        bytes: Vec::new(),
        streams: Vec::new(),
    };
    if !case.has("bare") {
        case.bytes = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, b"")].concat();
    }
    for item in repeated(frames).split(" ; ") {
        add(&mut case, item);
    }
    if case.has("open") {
        case.streams.clear();
    }
    case
}

fn add(case: &mut Case, item: &str) {
    let (head, rest) = item.split_once(' ').unwrap_or((item, ""));
    if head == "raw" {
        return case.bytes.extend(unescaped(rest));
    }
    if let Some(head) = head.strip_prefix('F') {
        let [kind, flags, stream] = head.split(',').map(|n| n.parse::<u32>().unwrap()).collect::<Vec<_>>()[..] else {
            panic!("{item}")
        };
        let (kind, flags) = (u8::try_from(kind).unwrap(), u8::try_from(flags).unwrap());
        // A malformed head may get no answer; a head that should pass gets one, which is waited for.
        if kind == 1 && case.has("pass") {
            // The stream id without its reserved bit.
            case.streams.push(stream & 0x7fff_ffff);
        }
        return case.bytes.extend(frame(kind, flags, stream, &unescaped(rest)));
    }
    let digits = head.find(|c: char| c.is_ascii_digit()).unwrap_or_else(|| panic!("{item}"));
    let (letters, stream) = (&head[..digits], head[digits..].parse().unwrap());
    let end = u8::from(letters.contains('e'));
    let more = letters.contains('m');
    match letters.as_bytes()[0] {
        b'H' => {
            if !case.streams.contains(&stream) {
                case.streams.push(stream);
            }
            case.bytes.extend(block(1, end, stream, &fields(rest), more));
        }
        b'C' => case.bytes.extend(block(9, 0, stream, &fields(rest), more)),
        b'D' => case.bytes.extend(frame(0, end, stream, &unescaped(rest))),
        _ => panic!("no such frame: {item}"),
    }
}

/// A field block, in as many frames as it needs.
fn block(kind: u8, flags: u8, stream: u32, block: &[u8], more: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let mut pieces: Vec<_> = block.chunks(MOST).collect();
    if pieces.is_empty() {
        pieces.push(&[]);
    }
    for (n, piece) in pieces.iter().enumerate() {
        let end = if n + 1 == pieces.len() && !more { 4 } else { 0 };
        let (kind, flags) = if n == 0 { (kind, flags) } else { (9, 0) };
        out.extend(frame(kind, flags | end, stream, piece));
    }
    out
}

/// Literals without indexing and without Huffman (RFC 7541 §6.2.2); after `~` bytes are taken unchanged.
fn fields(text: &str) -> Vec<u8> {
    let text = text.replace("$G", ":method=GET $R").replace("$P", ":method=POST $R");
    let text = text.replace("$R", ":scheme=https :authority=a :path=/a");
    let text = text.replace("$C", ":method=CONNECT :protocol=websocket :scheme=https :authority=a :path=/a");
    let mut out = Vec::new();
    for token in text.split(' ').filter(|token| !token.is_empty()) {
        if let Some(raw) = token.strip_prefix('~') {
            out.extend(unescaped(raw));
            continue;
        }
        let (name, value) = token.split_once('=').unwrap_or_else(|| panic!("no field: {token}"));
        out.push(0);
        for text in [name, value] {
            let bytes = unescaped(text);
            integer(bytes.len(), &mut out);
            out.extend(bytes);
        }
    }
    out
}

/// An integer with a prefix of 7 bits (RFC 7541 §5.1).
fn integer(mut value: usize, out: &mut Vec<u8>) {
    if value < 127 {
        return out.push(u8::try_from(value).unwrap());
    }
    out.push(127);
    value -= 127;
    while value >= 128 {
        out.push(u8::try_from(value % 128).unwrap() | 128);
        value /= 128;
    }
    out.push(u8::try_from(value).unwrap());
}

pub(super) fn unescaped(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'\\' {
            out.push(*first);
            continue;
        }
        let (byte, used) = match after[0] {
            b's' => (b' ', 1),
            b'r' => (b'\r', 1),
            b'n' => (b'\n', 1),
            b't' => (b'\t', 1),
            b'0' => (0, 1),
            b'\\' => (b'\\', 1),
            b'x' => (u8::from_str_radix(std::str::from_utf8(&after[1..3]).unwrap(), 16).unwrap(), 3),
            other => panic!("no escape: {other}"),
        };
        out.push(byte);
        rest = &after[used..];
    }
    out
}

/// Expands `{x*9}` to nine times `x`, in which `#` becomes the number of the repetition.
fn repeated(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(start) = rest.find('{') {
        let end = start + rest[start..].find('}').unwrap();
        let (what, times) = rest[start + 1..end].rsplit_once('*').unwrap();
        out.push_str(&rest[..start]);
        for n in 0..times.parse::<usize>().unwrap() {
            out.push_str(&what.replace('#', &n.to_string()));
        }
        rest = &rest[end + 1..];
    }
    out + rest
}
