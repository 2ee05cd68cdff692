//! Ends of heads and bodies, in pieces of every size.

use proptest::prelude::*;

use super::*;

/// The place where a head ends, fed in pieces of this size.
fn head_end(bytes: &[u8], size: usize) -> Option<usize> {
    let mut scan = HeadScan::default();
    let mut at = 0;
    for piece in bytes.chunks(size) {
        if let Some(end) = scan.end_in(piece) {
            return Some(at + end);
        }
        at += piece.len();
    }
    None
}

#[test]
fn a_head_ends_at_its_first_blank_line() {
    for (head, rest) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET /next HTTP/1.1\r\n\r\n"),
        ("GET / HTTP/1.1\nHost: a\n\n", "\n\n"),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n", "x"),
        ("\r\n\n\r\nGET / HTTP/1.1\r\n\r\n", ""),
        ("GET / HTTP/1.1\r\nX: \r\r\n \r\n\r\n", ""),
    ] {
        let all = [head, rest].concat();
        for size in 1..=all.len() {
            assert_eq!(head_end(all.as_bytes(), size), Some(head.len()), "{all:?} by {size}");
        }
    }
    for part in ["", "\r\n\r\n\r\n", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\n\r", "a\r\r\n\t\n"] {
        assert_eq!(head_end(part.as_bytes(), 1), None, "{part:?}");
    }
}

#[test]
fn only_a_plain_length_that_covers_them_lets_bytes_follow_a_head() {
    let head = |fields: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
    for fields in [
        "Content-Length: 17",
        "content-length: 17\r\nX: 1",
        "CoNTENT-Length: 017",
        "X: 1\nContent-Length: 17\nY: 2",
        "Content-Length: 999999999999999999",
    ] {
        assert!(is_body_as_long(head(fields).as_bytes(), 17), "{fields}");
    }
    for fields in [
        "Content-Length: 16",
        "Content-Length:17",
        "Content-Length: 17 ",
        "Content-Length: 17, 17",
        "Content-Length: +17",
        "Content-Length: ",
        "Content-Length: 9999999999999999999",
        "Content-Length : 17",
        "X-Content-Length: 17",
        "Content_Length: 17",
        "X: Content-Length: 17",
        "Content-Length: 17\r\nTransfer-Encoding: chunked",
        "transfer_encoding: x\r\nContent-Length: 17",
        "Length: 17",
        "X: 1",
    ] {
        assert!(!is_body_as_long(head(fields).as_bytes(), 17), "{fields}");
    }
    assert!(!is_body_as_long(b"ength: 17\r\n\r\n", 1));
    assert!(!is_body_as_long(b"\nContent-Length: 17", 1));
}

proptest! {
    /// One piece takes the short way, pieces of one byte do not.
    #[test]
    fn a_head_in_one_piece_ends_where_it_ends_byte_by_byte(bytes in "[aG\r\n]{0,40}") {
        prop_assert_eq!(head_end(bytes.as_bytes(), 100), head_end(bytes.as_bytes(), 1));
    }
}

/// How many of the bytes belong to the chunked body, fed in pieces of this size, and whether it is over.
fn chunks_end(bytes: &[u8], size: usize) -> Result<(usize, bool), ControlInExtension> {
    let mut scan = BodyScan::Chunked(ChunkScan::default());
    let mut at = 0;
    for piece in bytes.chunks(size) {
        let taken = scan.take(piece)?;
        at += taken;
        if taken < piece.len() {
            break;
        }
    }
    Ok((at, scan.is_over()))
}

#[test]
fn a_chunked_body_ends_after_its_trailers() {
    for body in [
        "0\r\n\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        "5;a=\"b;c\"\t\r\n\r\n\r\n\r\r\n00\r\n\r\n",
        "A \r\n0123456789\r\n0;x\r\nX: 1\r\nY: 2\r\n\r\n",
    ] {
        let all = [body, "GET / HTTP/1.1\r\n\r\n"].concat();
        for size in 1..=all.len() {
            assert_eq!(chunks_end(all.as_bytes(), size), Ok((body.len(), true)), "{all:?} by {size}");
        }
    }
    for part in ["", "5", "5\r\nhel", "5\r\nhello\r\n", "0\r\n", "0\r\nX: 1\r\n", "g\r\n", "fffffffffffffffff\r\n"] {
        assert_eq!(chunks_end(part.as_bytes(), 1), Ok((part.len(), false)), "{part:?}");
    }
}

/// RFC 9112 §7.1.1: an extension consists of tokens and quoted strings, which contain no control characters.
#[test]
fn control_characters_in_extensions_are_found() {
    for control in (0..=0x1f).chain([0x7f]).filter(|byte| !matches!(byte, b'\t' | b'\r')) {
        for before in ["5;a", "5 ", "0;a=\""] {
            let all = [before.as_bytes(), &[control], b"b\r\nhello\r\n0\r\n\r\n"].concat();
            for size in [1, 2, 100] {
                assert_eq!(chunks_end(&all, size), Err(ControlInExtension), "{control:#x}");
            }
        }
    }
    assert_eq!(chunks_end(b"1\r\n\0\r\n0\r\nX: \0\r\n\r\n", 1), Ok((17, true)), "data and trailers are hyper's");
}

#[test]
fn a_body_with_a_length_ends_after_it() {
    let mut scan = BodyScan::Length(5);
    assert_eq!((scan.take(b"hel"), scan.is_over()), (Ok(3), false));
    assert_eq!((scan.take(b"lo, world"), scan.is_over()), (Ok(2), true));
    assert_eq!(scan.take(b"x"), Ok(0));
    assert_eq!(BodyScan::Length(u64::MAX).take(b"x"), Ok(1));
    let mut scan = BodyScan::Length(5);
    assert!(!scan.try_skip(6) && scan.try_skip(3));
    assert_eq!((scan.take(b"lo, world"), scan.is_over()), (Ok(2), true));
    assert!(!BodyScan::Chunked(ChunkScan::default()).try_skip(1));
}

proptest! {
    #[test]
    fn ends_do_not_depend_on_the_pieces(bytes in proptest::collection::vec(
        prop_oneof![Just(b'\r'), Just(b'\n'), Just(b';'), Just(b'0'), any::<u8>()], 0..60), size in 1..9_usize)
    {
        prop_assert_eq!(head_end(&bytes, size), head_end(&bytes, 100));
        prop_assert_eq!(chunks_end(&bytes, size), chunks_end(&bytes, 100));
    }
}
