//! HTTP/1.1 requests as the strictest reader reads them (RFC 9110, RFC 9112): what has more than one reading is wrong.

/// A request with exactly one meaning.
#[derive(Debug)]
pub struct Message {
    pub method: String,
    pub target: Vec<u8>,
    /// The version, `1.0` or `1.1`.
    pub version: &'static str,
    /// Names in lower case, values without the white space around them; in the order they came.
    pub fields: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, Vec<u8>)>,
    /// The number of bytes of the request.
    pub length: usize,
}

impl Message {
    /// Every value of a field.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields.iter().filter(move |(one, _)| one == name).map(|(_, value)| &value[..])
    }

    /// The only value of a field.
    pub fn one(&self, name: &str) -> Option<&[u8]> {
        let mut values = self.fields.iter().filter(|(one, _)| one == name);
        let first = values.next().map(|(_, value)| &value[..]);
        assert!(values.next().is_none(), "{name} twice in {self:?}");
        first
    }
}

/// The result of reading some bytes.
#[derive(Debug)]
pub enum Read {
    Whole(Message),
    /// Possibly the beginning of a request.
    Partial,
    Wrong(&'static str),
}

/// Reads the request at the beginning of `bytes`.
pub fn read(bytes: &[u8]) -> Read {
    match try_read(bytes) {
        Ok(message) => Read::Whole(message),
        Err("") => Read::Partial,
        Err(why) => Read::Wrong(why),
    }
}

const PARTIAL: &str = "";

fn try_read(bytes: &[u8]) -> Result<Message, &'static str> {
    let (line, mut at) = line(bytes, 0)?;
    let parts: Vec<&[u8]> = line.split(|&b| b == b' ').collect();
    let &[method, target, version] = &parts[..] else { return Err("request line") };
    if !is_token(method) {
        return Err("method");
    }
    if target.is_empty() || !target.iter().all(|&b| b > 0x20 && b != 0x7f) || target.contains(&b'#') {
        return Err("target");
    }
    let version = match version {
        b"HTTP/1.1" => "1.1",
        b"HTTP/1.0" => "1.0",
        _ => return Err("version"),
    };
    let fields = read_fields(bytes, &mut at)?;
    let mut message = Message {
        method: String::from_utf8_lossy(method).into_owned(),
        target: target.to_vec(),
        version,
        fields,
        body: Vec::new(),
        trailers: Vec::new(),
        length: 0,
    };
    let lengths: Vec<_> = message.all("content-length").map(<[u8]>::to_vec).collect();
    let codings: Vec<_> = message.all("transfer-encoding").map(<[u8]>::to_ascii_lowercase).collect();
    match (&lengths[..], &codings[..]) {
        ([], []) => {}
        ([length], []) => {
            if length.is_empty() || length.len() > 18 || !length.iter().all(u8::is_ascii_digit) {
                return Err("length");
            }
            let length: usize = String::from_utf8_lossy(length).parse().map_err(|_| "length")?;
            message.body = bytes.get(at..at + length).ok_or(PARTIAL)?.to_vec();
            at += length;
        }
        ([], [coding]) if coding == b"chunked" => read_chunks(bytes, &mut at, &mut message)?,
        _ => return Err("framing"),
    }
    message.length = at;
    Ok(message)
}

fn read_chunks(bytes: &[u8], at: &mut usize, message: &mut Message) -> Result<(), &'static str> {
    loop {
        let (size, next) = line(bytes, *at)?;
        *at = next;
        if size.is_empty() || size.len() > 15 || !size.iter().all(u8::is_ascii_hexdigit) {
            return Err("chunk size");
        }
        let size = usize::from_str_radix(&String::from_utf8_lossy(size), 16).map_err(|_| "chunk size")?;
        if size == 0 {
            message.trailers = read_fields(bytes, at)?;
            return Ok(());
        }
        message.body.extend_from_slice(bytes.get(*at..*at + size).ok_or(PARTIAL)?);
        *at += size;
        match bytes.get(*at..*at + 2) {
            Some(b"\r\n") => *at += 2,
            Some(_) => return Err("chunk end"),
            None => return Err(PARTIAL),
        }
    }
}

fn read_fields(bytes: &[u8], at: &mut usize) -> Result<Vec<(String, Vec<u8>)>, &'static str> {
    let mut fields = Vec::new();
    loop {
        let (line, next) = line(bytes, *at)?;
        *at = next;
        if line.is_empty() {
            return Ok(fields);
        }
        let colon = line.iter().position(|&b| b == b':').ok_or("no colon")?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if !is_token(name) {
            return Err("field name");
        }
        if !value.iter().all(|&b| b == b'\t' || (b >= 0x20 && b != 0x7f)) {
            return Err("field value");
        }
        fields.push((String::from_utf8_lossy(name).to_ascii_lowercase(), value.to_vec()));
    }
}

/// A line without its end, and where the next one begins. Lines end with CR LF, and neither may be anywhere else.
fn line(bytes: &[u8], at: usize) -> Result<(&[u8], usize), &'static str> {
    let rest = bytes.get(at..).ok_or(PARTIAL)?;
    let end = rest.iter().position(|&b| b == b'\n');
    let line = end.map_or(rest, |end| &rest[..end]);
    let bare = line.iter().position(|&b| b == b'\r');
    match (end, bare) {
        (Some(_), Some(cr)) if cr + 1 == line.len() => Ok((&line[..cr], at + line.len() + 1)),
        (Some(_), _) => Err("line end"),
        (None, Some(cr)) if cr + 1 < line.len() => Err("line end"),
        (None, _) => Err(PARTIAL),
    }
}

fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}
