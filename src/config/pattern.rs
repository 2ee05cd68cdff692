//! Patterns that affinity rules are written in: of a path, of a place in a JSON text, of a body's beginning. Parsed once,
//! at `check`; matching is pure, allocates nothing but what it finds, and is bounded by what it is given.
//!
//! Left out: regular expressions. Segments and one placeholder say what the protocols need, and cannot be slow.

/// Where the id stands in a pattern.
const ID: &str = "{id}";

/// Steps of a JSON path at most; no protocol known has more than three.
pub const MAX_JSON_STEPS: usize = 8;

/// A path, segment by segment: `/jobs/{id}/*`. `*` stands for one segment, `/**` at the beginning or at the end for any
/// number of them, `a|b` for one or the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    written: String,
    segments: Vec<Segment>,
    /// Any number of segments may stand before.
    front: bool,
    /// Any number may stand behind.
    back: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    One(String),
    Of(Vec<String>),
    Any,
    Id,
}

impl Segment {
    fn fits(&self, segment: &str) -> bool {
        match self {
            Self::One(text) => text == segment,
            Self::Of(texts) => texts.iter().any(|text| text == segment),
            // An empty one (`//`, a trailing `/`) stands for nothing.
            Self::Any | Self::Id => !segment.is_empty(),
        }
    }
}

impl PathPattern {
    /// Reads a pattern; the error is the words for what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let Some(rest) = text.strip_prefix('/') else { return Err("a path begins with /") };
        if !text.bytes().all(|b| b.is_ascii_graphic() && !b"?#%".contains(&b)) {
            return Err("a path has no spaces, no query and no %-escapes");
        }
        let mut parts: Vec<&str> = rest.split('/').collect();
        let front = parts.first() == Some(&"**");
        if front {
            parts.remove(0);
        }
        let back = parts.last() == Some(&"**");
        if back {
            parts.pop();
        }
        if front && back {
            return Err("`**` stands at the beginning or at the end, not at both");
        }
        let segments = parts.iter().map(|part| segment(part)).collect::<Result<Vec<_>, _>>()?;
        if segments.iter().filter(|segment| **segment == Segment::Id).count() > 1 {
            return Err("`{id}` stands for one segment, once");
        }
        Ok(Self { written: text.to_owned(), segments, front, back })
    }

    /// Fits nothing.
    pub fn none() -> Self {
        Self { written: String::new(), segments: vec![Segment::Of(Vec::new())], front: false, back: false }
    }

    /// As it was written.
    pub fn written(&self) -> &str {
        &self.written
    }

    /// Whether it says where an id stands.
    pub fn has_id(&self) -> bool {
        self.segments.contains(&Segment::Id)
    }

    /// The same, fitting everything below, too: what belongs to an id belongs to its owner.
    pub fn and_below(self) -> Self {
        Self { back: !self.front, ..self }
    }

    /// Whether the path fits.
    pub fn fits(&self, path: &str) -> bool {
        self.walk(path).is_some()
    }

    /// The segment where the id stands, as it was sent.
    pub fn id<'p>(&self, path: &'p str) -> Option<&'p str> {
        self.walk(path)?
    }

    /// What stands before the first segment that is not fixed; `None` where anything may.
    pub fn fixed(&self) -> Option<String> {
        let fixed = |segment: &Segment| match segment {
            Segment::One(text) => Some(format!("/{text}")),
            Segment::Of(_) | Segment::Any | Segment::Id => None,
        };
        (!self.front).then(|| self.segments.iter().map_while(fixed).collect())
    }

    fn walk<'p>(&self, path: &'p str) -> Option<Option<&'p str>> {
        let rest = path.strip_prefix('/')?;
        let mut id = None;
        let mut keep = |segment: &Segment, part: &'p str| {
            if *segment == Segment::Id {
                id = Some(part);
            }
            segment.fits(part)
        };
        if self.front {
            let mut parts = rest.rsplit('/');
            for segment in self.segments.iter().rev() {
                if !keep(segment, parts.next()?) {
                    return None;
                }
            }
            return Some(id);
        }
        let mut parts = rest.split('/');
        for segment in &self.segments {
            if !keep(segment, parts.next()?) {
                return None;
            }
        }
        (self.back || parts.next().is_none()).then_some(id)
    }
}

fn segment(part: &str) -> Result<Segment, &'static str> {
    match part {
        "**" => Err("`**` stands at the beginning or at the end of a path"),
        "*" => Ok(Segment::Any),
        ID => Ok(Segment::Id),
        _ if part.contains(['{', '}']) => Err("the one placeholder is {id}, and it is a whole segment"),
        _ if part.contains('*') => Err("`*` is a whole segment"),
        _ if part.contains('|') => Ok(Segment::Of(part.split('|').map(str::to_owned).collect())),
        _ => Ok(Segment::One(part.to_owned())),
    }
}

/// A place in a JSON text: `result.items.0.id`; a number is a place in an array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonPath(Vec<String>);

impl JsonPath {
    /// Reads a path; the error is the words for what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let steps: Vec<_> = text.split('.').map(str::to_owned).collect();
        if steps.iter().any(|step| step.is_empty() || step.contains(char::is_control)) {
            return Err("it is names of fields with a dot between them: json:result.id".to_owned());
        }
        if steps.len() > MAX_JSON_STEPS {
            return Err(format!("it has {} steps, and {MAX_JSON_STEPS} is the most", steps.len()));
        }
        Ok(Self(steps))
    }

    /// From the outside in.
    pub fn steps(&self) -> &[String] {
        &self.0
    }
}

/// The beginning of a body, with the id in it: `event: endpoint\ndata: *sessionId={id}`. `*` stands for anything inside a
/// line; a line's end fits `\n` and `\r\n`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Before the id.
    before: Vec<Piece>,
    /// The byte the id ends before; without one, whatever cannot be in an id.
    end: Option<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    Byte(u8),
    LineEnd,
    /// Anything up to the byte behind it, inside a line.
    Skip,
}

/// What a beginning of a body says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen<T> {
    /// It may still come.
    NeedMore,
    /// This is it.
    Found(T),
    /// It never will.
    Never,
}

impl Template {
    /// Reads a template; the error is the words for what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let Some((before, after)) = text.split_once(ID) else { return Err("it says with {id} where the id stands") };
        if after.contains(ID) {
            return Err("{id} stands in it once");
        }
        if before.contains("**") || before.ends_with('*') {
            return Err("behind a `*` stands what ends it");
        }
        let piece = |byte: u8| match byte {
            b'*' => Piece::Skip,
            b'\n' => Piece::LineEnd,
            byte => Piece::Byte(byte),
        };
        let before = before.bytes().filter(|byte| *byte != b'\r').map(piece).collect();
        Ok(Self { before, end: after.bytes().next() })
    }

    /// Fits nothing.
    pub fn none() -> Self {
        Self { before: vec![Piece::Skip], end: None }
    }

    /// The id in the beginning of a body.
    pub fn find<'b>(&self, body: &'b [u8]) -> Seen<&'b [u8]> {
        let at = match skip(&self.before, body) {
            Seen::Found(at) => at,
            Seen::NeedMore => return Seen::NeedMore,
            Seen::Never => return Seen::Never,
        };
        let rest = body.get(at..).unwrap_or_default();
        let ends = |byte: &u8| Some(*byte) == self.end || (self.end.is_none() && ends_id(*byte));
        match rest.iter().position(ends) {
            Some(0) => Seen::Never,
            Some(end) => Seen::Found(rest.get(..end).unwrap_or_default()),
            None => Seen::NeedMore,
        }
    }
}

/// No id has these.
fn ends_id(byte: u8) -> bool {
    byte.is_ascii_whitespace() || b"\"'&<>,;#".contains(&byte)
}

/// Where the pieces end in `body`. A skip takes the first place from which what follows it fits.
fn skip(pieces: &[Piece], body: &[u8]) -> Seen<usize> {
    let Some(star) = pieces.iter().position(|piece| *piece == Piece::Skip) else { return fixed(pieces, body, 0) };
    let (before, after) = (pieces.get(..star).unwrap_or_default(), pieces.get(star + 1..).unwrap_or_default());
    let mut at = match fixed(before, body, 0) {
        Seen::Found(at) => at,
        other => return other,
    };
    let next = after.iter().position(|piece| *piece == Piece::Skip).unwrap_or(after.len());
    let (near, far) = (after.get(..next).unwrap_or_default(), after.get(next..).unwrap_or_default());
    loop {
        match fixed(near, body, at) {
            Seen::Found(end) => {
                return match skip(far, body.get(end..).unwrap_or_default()) {
                    Seen::Found(more) => Seen::Found(end + more),
                    other => other,
                };
            }
            Seen::NeedMore => return Seen::NeedMore,
            Seen::Never => match body.get(at) {
                None => return Seen::NeedMore,
                Some(b'\n') => return Seen::Never,
                Some(_) => at += 1,
            },
        }
    }
}

fn fixed(pieces: &[Piece], body: &[u8], mut at: usize) -> Seen<usize> {
    for piece in pieces {
        let Some(byte) = body.get(at) else { return Seen::NeedMore };
        match piece {
            Piece::Byte(wanted) if wanted == byte => at += 1,
            Piece::LineEnd if *byte == b'\n' => at += 1,
            Piece::LineEnd if *byte == b'\r' => match body.get(at + 1) {
                None => return Seen::NeedMore,
                Some(b'\n') => at += 2,
                Some(_) => return Seen::Never,
            },
            Piece::Byte(_) | Piece::LineEnd | Piece::Skip => return Seen::Never,
        }
    }
    Seen::Found(at)
}

#[cfg(test)]
mod tests;
