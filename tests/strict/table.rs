//! The tables of `tests/data/strict`, one case per line: columns between ` | `, the last of which are bytes.
//!
//! In bytes `⏎` is CRLF, `\r \n \t \0 \\ \xNN` have their usual meaning, `{x*1000}` is a thousand times `x`, and `$G`
//! and `$P` begin a GET and a POST with request line and Host.

use std::path::Path;

/// The columns of a line, with the last one as bytes.
pub(super) struct Row<const N: usize> {
    pub(super) columns: [String; N],
    pub(super) bytes: Vec<u8>,
}

/// Every row of a table, without comments and empty lines.
pub(super) fn read<const N: usize>(name: &str) -> Vec<Row<N>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/strict").join(name);
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let row = |line: &str| {
        let mut parts = line.splitn(N + 1, " | ").map(str::to_owned);
        let columns = std::array::from_fn(|_| parts.next().unwrap_or_else(|| panic!("too few columns: {line}")));
        let bytes = bytes(&parts.next().unwrap_or_else(|| panic!("no bytes: {line}")));
        Row { columns, bytes }
    };
    lines.map(row).collect()
}

fn bytes(text: &str) -> Vec<u8> {
    let text =
        text.replace("$G", "GET / HTTP/1.1⏎Host: a⏎").replace("$P", "POST / HTTP/1.1⏎Host: a⏎").replace('⏎', "\r\n");
    let mut out = Vec::new();
    let mut rest = text.as_str();
    while let Some(first) = rest.chars().next() {
        let used = match first {
            '\\' => escape(rest, &mut out),
            '{' => repeat(rest, &mut out),
            _ => None,
        };
        let used = used.unwrap_or_else(|| {
            out.extend_from_slice(&rest.as_bytes()[..first.len_utf8()]);
            first.len_utf8()
        });
        rest = &rest[used..];
    }
    out
}

fn escape(text: &str, out: &mut Vec<u8>) -> Option<usize> {
    let (byte, used) = match text.as_bytes().get(1)? {
        b'r' => (b'\r', 2),
        b'n' => (b'\n', 2),
        b't' => (b'\t', 2),
        b'0' => (0, 2),
        b'\\' => (b'\\', 2),
        b'x' => (u8::from_str_radix(text.get(2..4)?, 16).unwrap(), 4),
        other => panic!("no escape: {other}"),
    };
    out.push(byte);
    Some(used)
}

fn repeat(text: &str, out: &mut Vec<u8>) -> Option<usize> {
    let end = text.find('}')?;
    let (what, times) = text.get(1..end)?.rsplit_once('*')?;
    for n in 0..times.parse::<usize>().ok()? {
        out.extend_from_slice(what.replace('#', &n.to_string()).as_bytes());
    }
    Some(end + 1)
}
