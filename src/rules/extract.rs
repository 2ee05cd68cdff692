//! Extracts an id from a response, at the place that a rule names. All functions are pure and total: any bytes that a
//! worker can send have a result, and none cause a panic. Recursion is only as deep as a rule's path, and the caller
//! bounds the input.

use std::fmt;

use hyper::header::{self, HeaderMap};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::config::pattern::{JsonPath, PatternMatch, Template};
use crate::config::rules::AnswerPlace;
use crate::engine_io::{self, MAX_ID};

/// Returns the id in the head of a response.
pub(crate) fn in_head(place: &AnswerPlace, headers: &HeaderMap) -> Option<Vec<u8>> {
    match place {
        AnswerPlace::Header(name) => {
            let value = headers.get(name)?.as_bytes().trim_ascii();
            (1..=MAX_ID).contains(&value.len()).then(|| value.to_vec())
        }
        AnswerPlace::SetCookie(name) => set_cookie(headers, name),
        AnswerPlace::Location => location(headers.get(header::LOCATION)?.as_bytes()),
        AnswerPlace::Json(_) | AnswerPlace::Prefix(_) | AnswerPlace::OpenPacket => None,
    }
}

/// Value of a cookie in `Set-Cookie`, decoded; the last of several, as in a browser. An empty value deletes the cookie
/// and is not an id.
fn set_cookie(headers: &HeaderMap, name: &str) -> Option<Vec<u8>> {
    let pairs = headers.get_all(header::SET_COOKIE).iter().map(|value| {
        let value = value.as_bytes();
        value.split(|b| *b == b';').next().unwrap_or_default().trim_ascii()
    });
    let mut values = pairs.filter_map(|pair| pair.strip_prefix(name.as_bytes())?.trim_ascii_start().strip_prefix(b"="));
    engine_io::decode(values.next_back()?.trim_ascii(), b'+').map(Into::into)
}

/// Last path segment of a `Location`, absolute or relative, decoded.
fn location(value: &[u8]) -> Option<Vec<u8>> {
    let end = value.iter().position(|b| b"?#".contains(b)).unwrap_or(value.len());
    let path = value.get(..end)?;
    let path = path.strip_suffix(b"/").unwrap_or(path);
    // If an address has no path, its host must not be taken for a path segment.
    let path = match path.windows(3).position(|window| window == b"://") {
        Some(scheme) => {
            let rest = path.get(scheme + 3..)?;
            rest.get(rest.iter().position(|b| *b == b'/')?..)?
        }
        None => path,
    };
    engine_io::decode(path.rsplit(|b| *b == b'/').next()?, b'+').map(Into::into)
}

/// Finds an id at the beginning of a body, by a template of the text before it. `whole`: the body is complete.
pub(crate) fn behind(template: &Template, body: &[u8], whole: bool) -> PatternMatch<Vec<u8>> {
    let found = match template.find(body) {
        PatternMatch::NeedMore if whole => template.find(&[body, b"\n"].concat()).into_owned(),
        seen => seen.into_owned(),
    };
    match found {
        PatternMatch::Found(raw) => match engine_io::decode(&raw, b' ') {
            Some(id) => PatternMatch::Found(id.into()),
            None => PatternMatch::Never,
        },
        seen => seen,
    }
}

impl PatternMatch<&[u8]> {
    fn into_owned(self) -> PatternMatch<Vec<u8>> {
        match self {
            Self::Found(bytes) => PatternMatch::Found(bytes.to_vec()),
            Self::NeedMore => PatternMatch::NeedMore,
            Self::Never => PatternMatch::Never,
        }
    }
}

/// Returns a field of the JSON value at the beginning of a body: its text, or its digits. The value must be complete;
/// what follows it is ignored. If a field is repeated, the last one counts, as in JavaScript.
pub(crate) fn json(path: &JsonPath, body: &[u8]) -> PatternMatch<String> {
    let read =
        |body: &[u8]| (FieldPath { steps: path.steps() }).deserialize(&mut serde_json::Deserializer::from_slice(body));
    match read(body) {
        Ok(Some(text)) => PatternMatch::Found(text),
        Ok(None) => PatternMatch::Never,
        Err(error) if engine_io::is_cut(&error, body, read) => PatternMatch::NeedMore,
        Err(_) => PatternMatch::Never,
    }
}

/// Follows the steps of a path and skips everything else. `serde_json` skips without recursion, so the recursion is
/// only as deep as the path is long.
#[derive(Clone, Copy)]
struct FieldPath<'p> {
    steps: &'p [String],
}

impl<'de> DeserializeSeed<'de> for FieldPath<'_> {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for FieldPath<'_> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<String>()? {
            match self.steps.split_first() {
                Some((step, steps)) if *step == key => found = map.next_value_seed(FieldPath { steps })?,
                _ => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let (mut found, mut index) = (None, 0_usize);
        let wanted = self.steps.split_first().and_then(|(step, steps)| Some((step.parse::<usize>().ok()?, steps)));
        loop {
            match wanted {
                Some((place, steps)) if place == index => match seq.next_element_seed(FieldPath { steps })? {
                    Some(value) => found = value,
                    None => return Ok(found),
                },
                _ if seq.next_element::<IgnoredAny>()?.is_none() => return Ok(found),
                _ => {}
            }
            index += 1;
        }
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok((self.steps.is_empty() && (1..=MAX_ID).contains(&text.len())).then(|| text.to_owned()))
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Self::Value, E> {
        Ok(self.steps.is_empty().then(|| number.to_string()))
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Self::Value, E> {
        Ok(self.steps.is_empty().then(|| number.to_string()))
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Self::Value, E> {
        Ok(self.steps.is_empty().then(|| number.to_string()))
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bytes<E: serde::de::Error>(self, _: &[u8]) -> Result<Self::Value, E> {
        Err(E::custom("bytes in JSON"))
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        fields.iter().map(pair).collect()
    }

    #[test]
    fn ids_are_found_in_heads() {
        let all = headers(&[
            ("x-job-id", " 42 "),
            ("set-cookie", "a=1; Path=/"),
            ("set-cookie", "job=x%2Fy; HttpOnly"),
            ("location", "https://a.test:8080/files/0f%209?x=/y#z"),
        ]);
        let find = |place: &AnswerPlace| in_head(place, &all).map(|id| String::from_utf8(id).unwrap());
        assert_eq!(find(&AnswerPlace::Header(HeaderName::from_static("x-job-id"))).as_deref(), Some("42"));
        assert_eq!(find(&AnswerPlace::Header(HeaderName::from_static("x-none"))), None);
        assert_eq!(find(&AnswerPlace::SetCookie("job".to_owned())).as_deref(), Some("x/y"));
        assert_eq!(find(&AnswerPlace::SetCookie("jo".to_owned())), None);
        assert_eq!(find(&AnswerPlace::Location).as_deref(), Some("0f 9"));
        for (value, id) in [
            ("/files/7/", Some("7")),
            ("7", Some("7")),
            ("//a.test/7", Some("7")),
            ("https://a.test", None),
            ("https://a.test/", None),
            ("/", None),
        ] {
            assert_eq!(location(value.as_bytes()).as_deref(), id.map(str::as_bytes), "{value}");
        }
        let long = "x".repeat(MAX_ID + 1);
        assert_eq!(in_head(&AnswerPlace::Header(HeaderName::from_static("x-a")), &headers(&[("x-a", &long)])), None);
        assert_eq!(
            in_head(&AnswerPlace::SetCookie("a".to_owned()), &headers(&[("set-cookie", "a=; Max-Age=0")])),
            None
        );
    }

    fn field(path: &str, body: &str) -> PatternMatch<String> {
        json(&JsonPath::parse(path).unwrap(), body.as_bytes())
    }

    #[test]
    fn fields_are_found_in_json() {
        let found = |text: &str| PatternMatch::Found(text.to_owned());
        assert_eq!(field("id", r#"{"id":"a\u00e9"}"#), found("aé"));
        assert_eq!(field("id", r#"{"id":42}trailing"#), found("42"));
        assert_eq!(field("id", r#"{"id":-1}"#), found("-1"));
        assert_eq!(field("a.b.1.c", r#"{"x":[{}],"a":{"b":[0,{"c":"y","d":1}],"z":null}}"#), found("y"));
        assert_eq!(field("0.clientId", r#"[{"clientId":"k"},{"clientId":"l"}]"#), found("k"));
        assert_eq!(field("id", r#"{"id":"a","id":"b"}"#), found("b"));
        for never in
            [r#"{"id":""}"#, r#"{"id":null}"#, r#"{"id":{}}"#, r#"{"ID":"a"}"#, "[]", "1", r#""id""#, "x", "{]"]
        {
            assert_eq!(field("id", never), PatternMatch::Never, "{never}");
        }
        for more in ["", "{", r#"{"id":"a"#, r#"{"id":"a""#, r#"{"a":[[["#] {
            assert_eq!(field("id", more), PatternMatch::NeedMore, "{more}");
        }
        assert_eq!(field("id", &format!(r#"{{"id":"{}"}}"#, "x".repeat(MAX_ID + 1))), PatternMatch::Never);
    }

    #[test]
    fn deep_json_needs_no_stack() {
        let deep = format!(r#"{{"a":{}{},"id":"k"}}"#, "[".repeat(200_000), "]".repeat(200_000));
        assert_eq!(field("id", &deep), PatternMatch::Found("k".to_owned()));
        assert_eq!(field("a.0.0", &deep), PatternMatch::Never);
    }

    #[test]
    fn ids_are_found_by_templates() {
        let template = Template::parse("id: {id}").unwrap();
        assert_eq!(behind(&template, b"id: a%20b", false), PatternMatch::NeedMore);
        assert_eq!(behind(&template, b"id: a%20b", true), PatternMatch::Found(b"a b".to_vec()));
        assert_eq!(behind(&template, b"id: ", true), PatternMatch::Never);
        assert_eq!(behind(&template, b"no", true), PatternMatch::Never);
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_result(
            body in proptest::collection::vec(any::<u8>(), 0..200),
            path in "[a-c0-2]{1,2}(\\.[a-c0-2]{1,2}){0,3}",
        ) {
            let path = JsonPath::parse(&path).unwrap();
            if let PatternMatch::Found(id) = json(&path, &body) {
                prop_assert!((1..=MAX_ID).contains(&id.len()));
            }
        }

        #[test]
        fn an_id_is_found_only_in_complete_json(id in "[a-zA-Z0-9 \"\\\\é]{1,20}", before in "[a-z]{0,3}") {
            let first = serde_json::json!([-1.5e-30, {"x": before}]);
            let body = serde_json::json!({ "k": first, "r": {"a": [null, {"id": id}]} }).to_string();
            let path = JsonPath::parse("r.a.1.id").unwrap();
            for cut in 0..body.len() {
                prop_assert_eq!(json(&path, &body.as_bytes()[..cut]), PatternMatch::NeedMore);
            }
            prop_assert_eq!(json(&path, body.as_bytes()), PatternMatch::Found(id));
        }
    }
}
