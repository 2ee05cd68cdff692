//! What workers do to a path before they look at it, step by step. Each step is pure, and returns `None` if it changes
//! nothing.

use super::Unreadable;

/// One thing that some workers do to a path.
type Step = fn(&[u8]) -> Result<Option<Vec<u8>>, Unreadable>;

/// Every step. Workers do them in various orders, so a path is read in all orders.
pub(super) const STEPS: [Step; 9] =
    [decode, backslashes, parameters, merge, dots, authority, cut, without_ignored, trimmed];

/// The steps of the normal form, in their order. All of nginx's are among them.
pub(super) const NORMAL: [Step; 5] = [decode, backslashes, parameters, merge, dots];

/// Percent-decodes once. Some workers decode twice, so the step may be done again.
fn decode(path: &[u8]) -> Result<Option<Vec<u8>>, Unreadable> {
    Ok(path.contains(&b'%').then(|| decoded(path, |_| true)).filter(|made| made != path))
}

/// Takes `\` for `/`, as Windows and the WHATWG URL parser (Node's `new URL`) do.
fn backslashes(path: &[u8]) -> Result<Option<Vec<u8>>, Unreadable> {
    let slash = |byte: &u8| if *byte == b'\\' { b'/' } else { *byte };
    Ok(path.contains(&b'\\').then(|| path.iter().map(slash).collect()))
}

/// Cuts `;parameters` off each segment (RFC 3986 §3.3), as Java's servlets do.
fn parameters(path: &[u8]) -> Result<Option<Vec<u8>>, Unreadable> {
    Ok(path.contains(&b';').then(|| map_segments(path, |segment| until(segment, |byte| byte == b';'))))
}

/// Drops empty segments: `//` counts as `/`.
fn merge(path: &[u8]) -> Result<Option<Vec<u8>>, Unreadable> {
    if !path.windows(2).any(|two| two == b"//") {
        return Ok(None);
    }
    let mut made = Vec::with_capacity(path.len());
    for &byte in path {
        if byte != b'/' || made.last() != Some(&b'/') {
            made.push(byte);
        }
    }
    Ok(Some(made))
}

/// Follows `.` and `..` (RFC 3986 §5.2.4). Above the root there is nothing.
fn dots(path: &[u8]) -> Result<Option<Vec<u8>>, Unreadable> {
    let segments = || path.split(|byte| *byte == b'/').skip(1);
    if path.first() != Some(&b'/') || !segments().any(is_dots) {
        return Ok(None);
    }
    let mut kept: Vec<&[u8]> = Vec::new();
    for segment in segments() {
        match segment {
            b"." => {}
            b".." => _ = kept.pop().ok_or(Unreadable::AboveRoot)?,
            other => kept.push(other),
        }
    }
    // A path that ends in a dot segment names a folder.
    if path.rsplit(|byte| *byte == b'/').next().is_some_and(is_dots) {
        kept.push(b"");
    }
    let mut made = Vec::with_capacity(path.len());
    for segment in kept {
        made.push(b'/');
        made.extend_from_slice(segment);
    }
    Ok(Some(made))
}

/// Takes what follows `//` for a host, as a URL parser does that is given the target alone.
fn authority(path: &[u8]) -> Result<Option<Vec<u8>>, Unreadable> {
    let Some(rest) = path.strip_prefix(b"//") else { return Ok(None) };
    let host = rest.iter().position(|byte| *byte != b'/').unwrap_or(rest.len());
    let rest = rest.get(host..).unwrap_or_default();
    let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
    let made = rest.get(end..).unwrap_or_default();
    Ok(Some(if made.is_empty() { b"/".to_vec() } else { made.to_vec() }))
}

/// Takes a decoded `?` or `#` for the end of the path.
fn cut(path: &[u8]) -> Result<Option<Vec<u8>>, Unreadable> {
    let made = until(path, |byte| matches!(byte, b'?' | b'#'));
    Ok((made.len() < path.len()).then(|| made.to_vec()))
}

/// Drops control characters and what is not UTF-8, as lenient decoders do.
fn without_ignored(path: &[u8]) -> Result<Option<Vec<u8>>, Unreadable> {
    let text = path.utf8_chunks().map(|chunk| chunk.valid());
    let made: String = text.flat_map(str::chars).filter(|one| !one.is_control()).collect();
    Ok((made.len() < path.len()).then(|| made.into_bytes()))
}

/// Drops spaces at the beginning and the end of each segment.
fn trimmed(path: &[u8]) -> Result<Option<Vec<u8>>, Unreadable> {
    Ok(path.contains(&b' ').then(|| map_segments(path, <[u8]>::trim_ascii)).filter(|made| made != path))
}

/// Whether a segment is `.` or `..`.
pub(super) fn is_dots(segment: &[u8]) -> bool {
    matches!(segment, b"." | b"..")
}

/// Whether each `%` is followed by two hexadecimal digits.
pub(super) fn has_valid_escapes(path: &[u8]) -> bool {
    let mut parts = path.split(|byte| *byte == b'%');
    parts.next();
    parts.all(|part| escaped(part).is_some())
}

/// Decodes all characters but those that structure a path: the others mean the same in both spellings (RFC 3986
/// §6.2.2.2 says so of the unreserved ones; the rest has no meaning in a path either).
pub(super) fn decode_unstructured(path: &[u8]) -> Vec<u8> {
    decoded(path, |byte| !br"%/\;?#".contains(&byte))
}

/// Whether the bytes contain an overlong form of UTF-8: a character in more bytes than it needs (RFC 3629 §3).
pub(super) fn has_overlong(bytes: &[u8]) -> bool {
    let follows = |byte: Option<&u8>, most: u8| byte.is_some_and(|byte| (0x80..=most).contains(byte));
    bytes.windows(2).any(|two| match two {
        [0xc0 | 0xc1, next] => follows(Some(next), 0xbf),
        [0xe0, next] => follows(Some(next), 0x9f),
        [0xf0, next] => follows(Some(next), 0x8f),
        _ => false,
    })
}

/// Decodes the escapes of those bytes for which `which` returns true.
fn decoded(path: &[u8], which: fn(u8) -> bool) -> Vec<u8> {
    let mut made = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, after)) = rest.split_first() {
        let one = (byte == b'%').then(|| escaped(after)).flatten().filter(|byte| which(*byte));
        made.push(one.unwrap_or(byte));
        rest = if one.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    made
}

/// The byte whose two hexadecimal digits these bytes begin with.
fn escaped(digits: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*digits.get(at)?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(0)? << 4 | digit(1)?)
}

/// The bytes before the first one for which `ends` returns true.
fn until(bytes: &[u8], ends: fn(u8) -> bool) -> &[u8] {
    bytes.split(|byte| ends(*byte)).next().unwrap_or_default()
}

fn map_segments(path: &[u8], change: fn(&[u8]) -> &[u8]) -> Vec<u8> {
    path.split(|byte| *byte == b'/').map(change).collect::<Vec<_>>().join(&b'/')
}
