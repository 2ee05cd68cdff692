//! Patterns used in affinity rules: for a path, for a place in a JSON text, for the beginning of a body. They are
//! parsed once, at `check`. Matching is pure, allocates only for the patterns' results, and its cost is bounded by the
//! input.
//!
//! Left out: regular expressions. Segments and one placeholder are enough for the protocols, and cannot be slow.

use crate::engine_io;

/// Placeholder for the id in a pattern.
const ID: &str = "{id}";

/// Maximum number of steps in a JSON path; no known protocol needs more than three.
pub(crate) const MAX_JSON_STEPS: usize = 8;

/// A pattern for paths, segment by segment: `/jobs/{id}/*`. `*` matches one segment, `/**` at the beginning or at the
/// end matches any number of segments, and `a|b` matches either word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    written: String,
    segments: Vec<Segment>,
    /// Whether any number of segments may come before.
    front: bool,
    /// Whether any number of segments may follow.
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
    /// Whether a segment of a request's path fits; words are compared as workers decode them.
    fn fits(&self, segment: &str) -> bool {
        let is = |text: &String| text == segment || (segment.contains('%') && is_encoded(text, segment));
        match self {
            Self::One(text) => is(text),
            Self::Of(texts) => texts.iter().any(is),
            // An empty segment (`//`, a trailing `/`) does not match.
            Self::Any | Self::Id => !segment.is_empty(),
        }
    }
}

/// Whether a segment is a word in percent-encoding.
fn is_encoded(word: &str, segment: &str) -> bool {
    engine_io::decode(segment.as_bytes(), b'+').is_some_and(|decoded| *decoded == *word.as_bytes())
}

impl PathPattern {
    /// Parses a pattern; the error is a message about what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let Some(rest) = text.strip_prefix('/') else { return Err("a path begins with /") };
        if !text.bytes().all(|b| b.is_ascii_graphic() && !b"?#%".contains(&b)) {
            return Err("a path must not have spaces, a query or %-escapes");
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
            return Err("`**` is allowed at the beginning or at the end, not at both");
        }
        let segments = parts.iter().map(|part| segment(part)).collect::<Result<Vec<_>, _>>()?;
        if segments.iter().filter(|segment| **segment == Segment::Id).count() > 1 {
            return Err("`{id}` is allowed only once");
        }
        Ok(Self { written: text.to_owned(), segments, front, back })
    }

    /// A pattern that matches no path.
    pub fn none() -> Self {
        Self { written: String::new(), segments: vec![Segment::Of(Vec::new())], front: false, back: false }
    }

    /// The pattern as it was written.
    pub fn written(&self) -> &str {
        &self.written
    }

    /// Whether the pattern contains `{id}`.
    pub fn has_id(&self) -> bool {
        self.segments.contains(&Segment::Id)
    }

    /// A pattern that also matches every path below the matched one: resources below an id belong to its owner, too.
    pub fn and_below(self) -> Self {
        Self { back: !self.front, ..self }
    }

    /// Whether the pattern matches the path.
    pub fn fits(&self, path: &str) -> bool {
        self.walk(path).is_some()
    }

    /// The segment of the path that `{id}` matches, as it was sent.
    pub fn id<'p>(&self, path: &'p str) -> Option<&'p str> {
        self.walk(path)?
    }

    /// The fixed segments at the beginning; `None` if the pattern begins with `/**`.
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
        "**" => Err("`**` is allowed only at the beginning or at the end of a path"),
        "*" => Ok(Segment::Any),
        ID => Ok(Segment::Id),
        _ if part.contains(['{', '}']) => Err("the only placeholder is {id}, and it must be a whole segment"),
        _ if part.contains('*') => Err("`*` must be a whole segment"),
        _ if part.contains('|') => Ok(Segment::Of(part.split('|').map(str::to_owned).collect())),
        _ => Ok(Segment::One(part.to_owned())),
    }
}

/// A place in a JSON text: `result.items.0.id`; a number is an index into an array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonPath(Vec<String>);

impl JsonPath {
    /// Parses a path; the error is a message about what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let steps: Vec<_> = text.split('.').map(str::to_owned).collect();
        if steps.iter().any(|step| step.is_empty() || step.contains(char::is_control)) {
            return Err("write names of fields separated by dots: json:result.id".to_owned());
        }
        if steps.len() > MAX_JSON_STEPS {
            return Err(format!("it has {} steps; the maximum is {MAX_JSON_STEPS}", steps.len()));
        }
        Ok(Self(steps))
    }

    /// The steps of the path, from the outermost to the innermost.
    pub fn steps(&self) -> &[String] {
        &self.0
    }
}

/// The beginning of a body, with the id in it: `event: endpoint\ndata: *sessionId={id}`. `*` matches anything inside a
/// line; a line end matches `\n` and `\r\n`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Pieces of the template before the id.
    before: Vec<TemplatePiece>,
    /// The byte that follows the id; `None`: the id ends at any byte that cannot be in an id.
    end: Option<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TemplatePiece {
    Byte(u8),
    LineEnd,
    /// Any bytes inside a line, up to the piece that follows.
    Skip,
}

/// Result of matching a template with the beginning of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PatternMatch<T> {
    /// More of the body is needed: it may still match.
    NeedMore,
    /// The body matches, with this result.
    Found(T),
    /// The body does not match, whatever follows.
    Never,
}

impl Template {
    /// Parses a template; the error is a message about what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let Some((before, after)) = text.split_once(ID) else { return Err("it needs {id} in the place of the id") };
        if after.contains(ID) {
            return Err("{id} is allowed only once");
        }
        if before.contains("**") || before.ends_with('*') {
            return Err("a `*` must be followed by the text that ends it");
        }
        let piece = |byte: u8| match byte {
            b'*' => TemplatePiece::Skip,
            b'\n' => TemplatePiece::LineEnd,
            byte => TemplatePiece::Byte(byte),
        };
        let before = before.bytes().filter(|byte| *byte != b'\r').map(piece).collect();
        Ok(Self { before, end: after.bytes().next() })
    }

    /// A template for presets that fail to parse; a user's template is never equal to it.
    pub fn none() -> Self {
        Self { before: vec![TemplatePiece::Skip], end: None }
    }

    /// Finds the id in the beginning of a body.
    pub fn find<'b>(&self, body: &'b [u8]) -> PatternMatch<&'b [u8]> {
        let at = match skip(&self.before, body) {
            PatternMatch::Found(at) => at,
            PatternMatch::NeedMore => return PatternMatch::NeedMore,
            PatternMatch::Never => return PatternMatch::Never,
        };
        let rest = body.get(at..).unwrap_or_default();
        let ends = |byte: &u8| Some(*byte) == self.end || (self.end.is_none() && ends_id(*byte));
        match rest.iter().position(ends) {
            Some(0) => PatternMatch::Never,
            Some(end) => PatternMatch::Found(rest.get(..end).unwrap_or_default()),
            None => PatternMatch::NeedMore,
        }
    }
}

/// Whether the byte cannot be part of an id, and so ends it.
fn ends_id(byte: u8) -> bool {
    byte.is_ascii_whitespace() || b"\"'&<>,;#".contains(&byte)
}

/// Matches the pieces with `body` and returns where they end. A skip ends at the first place from which the pieces
/// after it match.
fn skip(pieces: &[TemplatePiece], body: &[u8]) -> PatternMatch<usize> {
    let Some(star) = pieces.iter().position(|piece| *piece == TemplatePiece::Skip) else {
        return fixed(pieces, body, 0);
    };
    let (before, after) = (pieces.get(..star).unwrap_or_default(), pieces.get(star + 1..).unwrap_or_default());
    let mut at = match fixed(before, body, 0) {
        PatternMatch::Found(at) => at,
        other => return other,
    };
    let next = after.iter().position(|piece| *piece == TemplatePiece::Skip).unwrap_or(after.len());
    let (near, far) = (after.get(..next).unwrap_or_default(), after.get(next..).unwrap_or_default());
    loop {
        match fixed(near, body, at) {
            PatternMatch::Found(end) => {
                return match skip(far, body.get(end..).unwrap_or_default()) {
                    PatternMatch::Found(more) => PatternMatch::Found(end + more),
                    other => other,
                };
            }
            PatternMatch::NeedMore => return PatternMatch::NeedMore,
            PatternMatch::Never => match body.get(at) {
                None => return PatternMatch::NeedMore,
                Some(b'\n') => return PatternMatch::Never,
                Some(_) => at += 1,
            },
        }
    }
}

fn fixed(pieces: &[TemplatePiece], body: &[u8], mut at: usize) -> PatternMatch<usize> {
    for piece in pieces {
        let Some(byte) = body.get(at) else { return PatternMatch::NeedMore };
        match piece {
            TemplatePiece::Byte(wanted) if wanted == byte => at += 1,
            TemplatePiece::LineEnd if *byte == b'\n' => at += 1,
            TemplatePiece::LineEnd if *byte == b'\r' => match body.get(at + 1) {
                None => return PatternMatch::NeedMore,
                Some(b'\n') => at += 2,
                Some(_) => return PatternMatch::Never,
            },
            TemplatePiece::Byte(_) | TemplatePiece::LineEnd | TemplatePiece::Skip => return PatternMatch::Never,
        }
    }
    PatternMatch::Found(at)
}

#[cfg(test)]
mod tests;
