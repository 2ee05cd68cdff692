//! The page for browsers: files that are part of the program, served as they are, without a build step.
//!
//! The page is at `/`, its files below `/page/`. They hold no data, so they need no token; what the page shows comes
//! from the API, by the API's rules. Its policy (CSP) allows scripts and styles of this origin only: the one inline
//! script, the import map, is named by its hash. The files in `vendor/` are those of npm packages, byte for byte
//! (`tests/page/files.rs`). Left out: compression, since the page is loaded from near.

use std::fmt::Write as _;
use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};

/// Path of the page.
pub(crate) const ROOT: &str = "/";

/// Beginning of the paths of its files.
pub(crate) const BELOW: &str = "/page/";

const HTML: &str = include_str!("page/index.html");

/// One file below [`BELOW`].
struct PageFile {
    name: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
}

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// Makes the table of the files: in the source, and below [`BELOW`], each has the name that is given here.
macro_rules! page_files {
    ($($kind:ident $folder:literal $($name:literal)*;)*) => {
        [$($(PageFile { name: $name, kind: $kind, bytes: include_bytes!(concat!("page/", $folder, $name)) }),*),*]
    };
}

const DRAWING: &str = "image/svg+xml";

static FILES: [PageFile; 33] = page_files! {
    SCRIPT "" "api.js" "certificates.js" "charts.js" "config.js" "dialogs.js" "drawer.js" "events.js" "explain.js"
        "frames.js" "headline.js" "keys.js" "labels.js" "live.js" "main.js" "overview.js" "question.js"
        "rings.js" "routes.js" "say.js" "search.js" "sockets.js" "store.js" "ui.js" "words.js" "workers.js"
        "workerstate.js";
    SCRIPT "vendor/" "preact.mjs" "hooks.mjs" "htm.mjs" "uPlot.iife.min.js";
    STYLE "vendor/" "uPlot.min.css";
    STYLE "" "style.css";
    DRAWING "" "icon.svg";
};

/// Tags (RFC 9110 §8.8.3) of the page and of each file, and the policy of the page.
struct Tags {
    root: HeaderValue,
    files: Vec<HeaderValue>,
    policy: HeaderValue,
}

/// Computed at the first request for the page.
static TAGS: LazyLock<Tags> = LazyLock::new(|| Tags {
    root: tag(HTML.as_bytes()),
    files: FILES.iter().map(|file| tag(file.bytes)).collect(),
    policy: value(&policy(HTML)),
});

/// Whether a path is one of the page's own, which hold no data.
pub(crate) fn is_of_page(path: &str) -> bool {
    path == ROOT || path.starts_with(BELOW)
}

/// Returns the handlers of the page, with their paths.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> [(&'static str, MethodRouter<S>); 2] {
    [(ROOT, get(root)), ("/page/{file}", get(file))]
}

async fn root(headers: HeaderMap) -> Response {
    answer(&headers, &TAGS.root, "text/html; charset=utf-8", HTML.as_bytes())
}

async fn file(Path(name): Path<String>, headers: HeaderMap) -> Response {
    let known = FILES.iter().zip(&TAGS.files).find(|(file, _)| file.name == name);
    match known {
        Some((file, tag)) => answer(&headers, tag, file.kind, file.bytes),
        None => (StatusCode::NOT_FOUND, "the page has no such file\n").into_response(),
    }
}

/// Answers with the bytes, or with 304 if the browser has them. A browser asks each time (`no-cache`), so that a new
/// version of stickyd is never shown by parts of an old page.
fn answer(headers: &HeaderMap, tag: &HeaderValue, kind: &'static str, bytes: &'static [u8]) -> Response {
    let fixed: [(HeaderName, HeaderValue); 3] = [
        (header::ETAG, tag.clone()),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::CONTENT_SECURITY_POLICY, TAGS.policy.clone()),
    ];
    if has(headers, tag) {
        return (StatusCode::NOT_MODIFIED, fixed).into_response();
    }
    (fixed, [(header::CONTENT_TYPE, kind)], bytes).into_response()
}

/// Whether `If-None-Match` (RFC 9110 §13.1.2) names the tag.
fn has(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    let named = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let strong = |one: &str| one.strip_prefix("W/").unwrap_or(one).as_bytes() == tag.as_bytes();
    named.flat_map(|list| list.split(',')).map(str::trim).any(strong)
}

fn tag(bytes: &[u8]) -> HeaderValue {
    let mut text = String::from("\"");
    for byte in digest(&SHA256, bytes).as_ref() {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    value(&(text + "\""))
}

/// Returns the policy of the page: everything is of this origin, and the import map is known by its hash.
fn policy(html: &str) -> String {
    let map = html.split_once("<script type=\"importmap\">").and_then(|(_, rest)| rest.split_once("</script>"));
    let hash = base64(digest(&SHA256, map.map_or("", |(map, _)| map).as_bytes()).as_ref());
    format!(
        "default-src 'none'; script-src 'self' 'sha256-{hash}'; style-src 'self'; img-src 'self' data:; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// Encodes bytes as base64 with padding (RFC 4648 §4), as a policy has its hashes.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let at = |place: usize| u32::from(three.get(place).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            let digit = usize::try_from(bits >> (18 - 6 * place) & 63).unwrap_or(0);
            let digit = DIGITS.get(digit).copied().map_or('=', char::from);
            text.push(if place > three.len() { '=' } else { digit });
        }
    }
    text
}

/// Makes a header value of visible ASCII; it cannot fail.
fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_names_the_import_map_by_its_hash() {
        // printf '{"imports":{}}' | openssl dgst -sha256 -binary | base64
        let policy = policy("<script type=\"importmap\">{\"imports\":{}}</script>");
        assert!(policy.contains("'sha256-URrTy+Il/Nz0lHojVUx275hWqAWhkSF0VsHbUM4/6Hw='"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
    }

    #[test]
    fn base64_has_the_vectors_of_its_rfc() {
        let vectors =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("\u{7f}>?", "fz4/")];
        for (plain, encoded) in vectors {
            assert_eq!(base64(plain.as_bytes()), encoded, "{plain}");
        }
    }

    #[test]
    fn a_browser_that_has_a_file_is_told_so() {
        let tag = tag(b"x");
        let asked = |value: &str| has(&HeaderMap::from_iter([(header::IF_NONE_MATCH, super::value(value))]), &tag);
        let own = tag.to_str().unwrap();
        assert!(asked(own) && asked(&format!("\"a\", W/{own}")));
        assert!(!asked("\"a\"") && !has(&HeaderMap::new(), &tag));
    }

    #[test]
    fn every_import_of_the_page_is_a_file_of_it() {
        let texts = FILES.iter().filter(|file| file.name.ends_with(".js") && file.kind == SCRIPT);
        for (name, text) in texts.map(|file| (file.name, String::from_utf8_lossy(file.bytes))) {
            for import in text.lines().filter_map(|line| line.split_once(" from './")).map(|(_, rest)| rest) {
                let file = import.trim_end_matches('\'');
                assert!(FILES.iter().any(|one| one.name == file), "{name} imports {file}");
            }
        }
        for file in HTML.split("\"/page/").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(FILES.iter().any(|one| one.name == file), "index.html names {file}");
        }
    }
}
