//! A strict parser of received requests, independent of stickyd's: it accepts nothing that two parsers could read
//! differently.

/// An upper bound for the head of a request at a worker.
const LARGEST_HEAD: usize = 64 * 1024;

/// A request as the worker received it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) fields: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

/// The first request of `bytes` and its length; `None`: it is not complete.
///
/// # Errors
/// Why another parser could read it differently, or what it contains that stickyd must not let through.
pub(super) fn request(bytes: &[u8]) -> Result<Option<(Seen, usize)>, String> {
    let begin = &bytes[..bytes.len().min(LARGEST_HEAD)];
    let Some(end) = find(begin, b"\r\n\r\n") else {
        let large = begin.len() == LARGEST_HEAD;
        return if large { Err("a head without an end".to_owned()) } else { Ok(None) };
    };
    let mut lines = lines(&bytes[..end])?.into_iter();
    let (method, target) = request_line(&lines.next().unwrap_or_default())?;
    let fields = lines.map(|line| field(&line)).collect::<Result<Vec<_>, _>>()?;
    check_fields(&fields)?;
    let Some((body, length)) = body(&fields, &bytes[end + 4..])? else { return Ok(None) };
    if target.contains("smuggled") {
        return Err(format!("{target} was not a request"));
    }
    Ok(Some((Seen { method, target, fields, body }, end + 4 + length)))
}

fn lines(head: &[u8]) -> Result<Vec<String>, String> {
    let mut lines = Vec::new();
    let text = String::from_utf8_lossy(head);
    for line in text.split("\r\n") {
        if line.bytes().any(|b| (b < 0x20 && b != b'\t') || b == 0x7f) {
            return Err(format!("a control byte in {line:?}"));
        }
        lines.push(line.to_owned());
    }
    Ok(lines)
}

fn request_line(line: &str) -> Result<(String, String), String> {
    let [method, target, version] = line.split(' ').collect::<Vec<_>>()[..] else {
        return Err(format!("a request line of other than three words: {line:?}"));
    };
    if !is_token(method) || ["CONNECT", "TRACE", "PRI"].contains(&method) {
        return Err(format!("method {method:?}"));
    }
    let origin = target.starts_with('/') || (target == "*" && method == "OPTIONS");
    if !origin || target.contains('#') || target.contains('\t') {
        return Err(format!("target {target:?}"));
    }
    if version != "HTTP/1.1" {
        return Err(format!("version {version:?}"));
    }
    Ok((method.to_owned(), target.to_owned()))
}

fn field(line: &str) -> Result<(String, String), String> {
    let (name, value) = line.split_once(':').ok_or_else(|| format!("no field: {line:?}"))?;
    if !is_token(name) {
        return Err(format!("a field's name: {name:?}"));
    }
    Ok((name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()))
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

fn check_fields(fields: &[(String, String)]) -> Result<(), String> {
    for (name, value) in fields {
        let plain = name.replace('_', "-");
        let hop = plain == "keep-alive" || plain.starts_with("proxy") || plain == "x-nominated" || plain == "expect";
        let twin = name.contains('_') && ["content-length", "transfer-encoding", "te", "connection"].contains(&&*plain);
        let te = name == "te" && value != "trailers";
        let upgrade = (name == "upgrade" && value != "websocket") || plain == "http2-settings";
        let connection = name == "connection" && !["Upgrade", "close"].contains(&&**value);
        if hop || twin || te || upgrade || connection || value.contains("spoofed") {
            return Err(format!("{name}: {value}"));
        }
    }
    let count = |name: &str| fields.iter().filter(|field| field.0 == name).count();
    if count("host") != 1 || count("x-forwarded-for") > 1 {
        return Err("not one Host, or more than one X-Forwarded-For".to_owned());
    }
    if count("upgrade") > 0 && count("sec-websocket-key") != 1 {
        return Err("an upgrade without one key".to_owned());
    }
    if (count("upgrade") > 0) != fields.iter().any(|(name, value)| name == "connection" && value == "Upgrade") {
        return Err("half an upgrade".to_owned());
    }
    let host = &fields.iter().find(|field| field.0 == "host").unwrap().1;
    if host.bytes().any(|b| !(b.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=:[]".contains(&b))) {
        return Err(format!("Host {host:?}"));
    }
    Ok(())
}

fn body(fields: &[(String, String)], rest: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    let all = |name: &str| fields.iter().filter(|field| field.0 == name).map(|field| &*field.1).collect::<Vec<_>>();
    match (&all("content-length")[..], &all("transfer-encoding")[..]) {
        ([], []) => Ok(Some((Vec::new(), 0))),
        ([length], []) => {
            if length.is_empty()
                || !length.bytes().all(|b| b.is_ascii_digit())
                || (length.len() > 1 && length.starts_with('0'))
            {
                return Err(format!("Content-Length: {length}"));
            }
            let length: usize = length.parse().map_err(|_| format!("Content-Length: {length}"))?;
            Ok(rest.get(..length).map(|body| (body.to_vec(), length)))
        }
        ([], ["chunked"]) => chunks(rest),
        (lengths, codings) => Err(format!("lengths {lengths:?}, codings {codings:?}")),
    }
}

fn chunks(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(line) = line(&bytes[at..]) else { return Ok(None) };
        let digits = std::str::from_utf8(line).ok().filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()));
        let size = digits.and_then(|text| usize::from_str_radix(text, 16).ok());
        let size = size.ok_or_else(|| format!("a chunk's size: {:?}", String::from_utf8_lossy(line)))?;
        at += line.len() + 2;
        if size == 0 {
            return Ok(trailers(&bytes[at..])?.map(|length| (body, at + length)));
        }
        let Some(chunk) = bytes.get(at..at.saturating_add(size).saturating_add(2)) else { return Ok(None) };
        if !chunk.ends_with(b"\r\n") {
            return Err("a chunk of another size than it says".to_owned());
        }
        body.extend_from_slice(&chunk[..size]);
        at += size + 2;
    }
}

fn trailers(bytes: &[u8]) -> Result<Option<usize>, String> {
    let mut at = 0;
    loop {
        let Some(line) = line(&bytes[at..]) else { return Ok(None) };
        at += line.len() + 2;
        if line.is_empty() {
            return Ok(Some(at));
        }
        let (name, value) = field(&lines(line)?[0])?;
        let plain = name.replace('_', "-");
        let forbidden =
            ["content-length", "transfer-encoding", "host", "connection", "upgrade", "te", "trailer", "cookie"];
        if forbidden.contains(&&*plain) || value.contains("spoofed") {
            return Err(format!("the trailer {name}: {value}"));
        }
    }
}

fn line(bytes: &[u8]) -> Option<&[u8]> {
    bytes.get(..find(bytes, b"\r\n")?)
}

pub(super) fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

#[test]
fn the_judge_accepts_only_what_has_one_reading() {
    let good = b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\nrest";
    let (seen, length) = request(good).unwrap().unwrap();
    assert_eq!((&*seen.body, &good[length..]), (&b"x"[..], &b"rest"[..]));
    assert_eq!(request(b"GET / HTTP/1.1\r\nHost: a\r\n"), Ok(None));
    for bad in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a\r\nx\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nHost: b\r\n\r\n",
        "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        assert!(request(bad.as_bytes()).is_err(), "{bad}");
    }
}
