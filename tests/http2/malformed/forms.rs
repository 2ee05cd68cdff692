//! The forms of malformed requests (RFC 9113 §8.1.1, §8.2, §8.3; RFC 8441 §4), and of other mistakes in one stream.

use super::{BAD_REQUEST, CONNECT, Coding, END_HEADERS, END_STREAM, Fate, GET, POST, PROTOCOL_ERROR, WHOLE};
use super::{block, literal};
use crate::support::h2::frame;

/// What is sent on the stream, and how the stream ends.
pub(super) type Form = (String, Box<dyn Fn(u32) -> Vec<u8>>, Fate);

fn whole(what: &str, head: Vec<u8>, fate: Fate) -> Form {
    (what.to_owned(), Box::new(move |stream| frame(1, WHOLE, stream, &head)), fate)
}

/// A head with one more field.
fn with(coding: Coding, name: &[u8], value: &[u8], fate: Fate) -> Form {
    let what = format!("{coding:?} {}: {}", name.escape_ascii(), value.escape_ascii());
    whole(&what, [block(coding, GET), literal(coding, name, value)].concat(), fate)
}

/// A head with another value of a pseudo-header; without one, the field is left out.
fn instead(coding: Coding, fields: &[(&str, &str)], name: &str, value: Option<&[u8]>, fate: Fate) -> Form {
    let what =
        format!("{coding:?} {name} = {:?} in {}", value.map(|value| value.escape_ascii().to_string()), fields[0].1);
    let field = |&(one, old): &(&str, &str)| match value {
        Some(value) if one == name => literal(coding, one.as_bytes(), value),
        None if one == name => Vec::new(),
        _ => literal(coding, one.as_bytes(), old.as_bytes()),
    };
    whole(&what, fields.iter().flat_map(field).collect(), fate)
}

/// RFC 9113 §8.2: fields, and §8.3: pseudo-header fields.
fn malformed_heads(coding: Coding) -> Vec<Form> {
    let mut forms = Vec::new();
    for name in [&b""[..], b"Upper", b"a b", b"a:b", b"a\x00", b"a\x7f", b"caf\xe9", b"a\"b", b"a(b", b"\x80"] {
        forms.push(with(coding, name, b"1", PROTOCOL_ERROR));
    }
    for value in [&b"a\0b"[..], b"a\rb", b"a\nb", b"a\r\nb: c", b"\x01", b"a\x1fb", b"a\x7fb"] {
        forms.push(with(coding, b"x-value", value, PROTOCOL_ERROR));
    }
    for (name, value) in [
        ("connection", "close"),
        ("connection", "upgrade"),
        ("proxy-connection", "keep-alive"),
        ("keep-alive", "timeout=5"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        ("te", "trailers, deflate"),
        (":status", "200"),
        (":status", "x"),
        (":unknown", "1"),
        (":", "1"),
        (":Path", "/"),
        (":path", "/after"),
        (":method", "GET"),
        (":authority", "localhost"),
        (":protocol", "websocket"),
        ("content-length", "1"),
        ("content-length", "x"),
    ] {
        forms.push(with(coding, name.as_bytes(), value.as_bytes(), PROTOCOL_ERROR));
    }
    forms.push(with(coding, b"host", b"other", BAD_REQUEST));
    for (name, value) in [
        (":method", &b""[..]),
        (":method", b"G T"),
        (":method", b"GET\0"),
        (":method", b"G\xe9T"),
        (":path", b""),
        (":path", b"x"),
        (":path", b"/a b"),
        (":path", b"/\0"),
        (":path", b"/\x7f"),
        (":path", b"/caf\xe9"),
        (":path", b"/ HTTP/1.1\r\nx: y"),
        (":authority", b""),
        (":authority", b"a b"),
        (":authority", b"caf\xe9"),
        (":authority", b"a\nb"),
        (":scheme", b""),
        (":scheme", b"ht tp"),
        (":scheme", b"\xe9"),
    ] {
        forms.push(instead(coding, GET, name, Some(value), PROTOCOL_ERROR));
    }
    for name in [":method", ":scheme", ":path"] {
        forms.push(instead(coding, GET, name, None, PROTOCOL_ERROR));
    }
    forms.push(instead(coding, GET, ":authority", None, BAD_REQUEST));
    let after = [&[("x", "y")][..], GET].concat();
    forms.push(whole("a pseudo-header field after a regular one", block(coding, &after), PROTOCOL_ERROR));
    for twice in GET {
        forms.push(whole(&format!("{} twice", twice.0), block(coding, &[&[*twice][..], GET].concat()), PROTOCOL_ERROR));
    }
    forms
}

/// RFC 9113 §8.5 and RFC 8441 §4.
fn malformed_connects(coding: Coding) -> Vec<Form> {
    let mut forms = Vec::new();
    for name in [":scheme", ":path"] {
        forms.push(instead(coding, CONNECT, name, None, PROTOCOL_ERROR));
    }
    for value in [&b"web socket"[..], b"\xe9", b"a\0"] {
        forms.push(instead(coding, CONNECT, ":protocol", Some(value), PROTOCOL_ERROR));
    }
    forms.push(instead(coding, CONNECT, ":method", Some(b"GET"), PROTOCOL_ERROR));
    let plain = [(":method", "CONNECT"), (":authority", "localhost:443")];
    forms.push(whole("CONNECT with a path", block(coding, &[&plain[..], &[(":path", "/")]].concat()), PROTOCOL_ERROR));
    let scheme = [(":scheme", "https")];
    forms.push(whole("CONNECT with a scheme", block(coding, &[&plain[..], &scheme].concat()), PROTOCOL_ERROR));
    forms
}

/// Requests whose mistake is not in one head (RFC 9113 §5.1, §6.9, §8.1).
fn malformed_courses(coding: Coding) -> Vec<Form> {
    let post = move |more: &[(&str, &str)]| block(coding, &[POST, more].concat());
    let form = |what: &str, fate, course: Box<dyn Fn(u32) -> Vec<u8>>| (what.to_owned(), course, fate);
    let body = move |length: &'static str, flags, bytes: &'static [u8]| -> Box<dyn Fn(u32) -> Vec<u8>> {
        let head = post(&[("content-length", length)]);
        Box::new(move |stream| [frame(1, END_HEADERS, stream, &head), frame(0, flags, stream, bytes)].concat())
    };
    let trailers = move |flags, fields: &'static [(&'static str, &'static str)]| -> Box<dyn Fn(u32) -> Vec<u8>> {
        let head = post(&[]);
        Box::new(move |stream| {
            let block = block(coding, fields);
            [frame(1, END_HEADERS, stream, &head), frame(0, 0, stream, b"x"), frame(1, flags, stream, &block)].concat()
        })
    };
    let then = move |more: fn(u32) -> Vec<u8>| -> Box<dyn Fn(u32) -> Vec<u8>> {
        let head = post(&[]);
        Box::new(move |stream| [frame(1, END_HEADERS, stream, &head), more(stream)].concat())
    };
    vec![
        form("fewer bytes than announced", PROTOCOL_ERROR, body("5", END_STREAM, b"abc")),
        form("more bytes than announced", PROTOCOL_ERROR, body("2", 0, b"abc")),
        form("a pseudo-header in trailers", PROTOCOL_ERROR, trailers(WHOLE, &[(":path", "/")])),
        form("a pseudo-header after a trailer", PROTOCOL_ERROR, trailers(WHOLE, &[("x", "y"), (":method", "GET")])),
        form("a status in trailers", PROTOCOL_ERROR, trailers(WHOLE, &[(":status", "200")])),
        form("a capital in trailers", PROTOCOL_ERROR, trailers(WHOLE, &[("Upper", "1")])),
        form("a connection field in trailers", PROTOCOL_ERROR, trailers(WHOLE, &[("connection", "close")])),
        form("a control byte in trailers", PROTOCOL_ERROR, trailers(WHOLE, &[("x", "a\x01")])),
        form("trailers without an end", PROTOCOL_ERROR, trailers(END_HEADERS, &[("x", "y")])),
        form("a window update of 0", PROTOCOL_ERROR, then(|stream| frame(8, 0, stream, &[0; 4]))),
        form("a window above its maximum", Fate::Reset(3), then(|stream| frame(8, 0, stream, &[0x7f, 255, 255, 255]))),
        form(
            "a stream that depends on itself",
            PROTOCOL_ERROR,
            then(|stream| frame(2, 0, stream, &[&stream.to_be_bytes()[..], &[1]].concat())),
        ),
        form("a priority of the wrong size", Fate::Reset(6), then(|stream| frame(2, 0, stream, &[0; 4]))),
        form(
            "more DATA than the window",
            Fate::Reset(3),
            // Several windows, because some of it may be on its way to the worker, which opens the window again.
            then(|stream| frame(0, 0, stream, &[b'x'; 16_384]).repeat(20)),
        ),
        form("many empty DATA frames", Fate::Reset(11), then(|stream| frame(0, 0, stream, b"").repeat(1_001))),
    ]
}

fn split(form: Form) -> Form {
    let (what, course, fate) = form;
    let in_two = move |stream| {
        let bytes: Vec<u8> = course(stream);
        let block = &bytes[9..];
        let (first, rest) = block.split_at(block.len() / 2);
        [frame(1, END_STREAM, stream, first), frame(9, END_HEADERS, stream, rest)].concat()
    };
    (format!("{what}, continued"), Box::new(in_two), fate)
}

pub(super) fn all_forms() -> Vec<Form> {
    let mut forms = Vec::new();
    for coding in [Coding::Plain, Coding::Indexed] {
        forms.extend(malformed_heads(coding));
        forms.extend(malformed_connects(coding));
        forms.extend(malformed_courses(coding));
        forms.extend(malformed_heads(coding).into_iter().map(split));
    }
    forms
}
