//! The files of the page as the admin listener serves them: kinds, tags, policy; and the vendored libraries, byte for
//! byte.

use std::fs;
use std::path::Path;

use crate::support::proxy::Binary;
use crate::support::raw::{Raw, RawWorker};

const VENDOR: &str = "src/admin/page/vendor";

/// Each vendored file, and the file of an npm package that it is.
const VENDORED: [(&str, &str); 8] = [
    ("preact.mjs", "preact/dist/preact.mjs"),
    ("hooks.mjs", "preact/hooks/dist/hooks.mjs"),
    ("htm.mjs", "htm/dist/htm.mjs"),
    ("uPlot.iife.min.js", "uplot/dist/uPlot.iife.min.js"),
    ("uPlot.min.css", "uplot/dist/uPlot.min.css"),
    ("preact.LICENSE", "preact/LICENSE"),
    ("htm.LICENSE", "htm/LICENSE"),
    ("uplot.LICENSE", "uplot/LICENSE"),
];

#[test]
fn vendored_libraries_are_those_of_the_npm_packages() {
    for (own, theirs) in VENDORED {
        let theirs = Path::new("tests/clients/node_modules").join(theirs);
        let package = fs::read(&theirs).unwrap_or_else(|error| panic!("{}: {error}: run tests/run", theirs.display()));
        assert!(fs::read(Path::new(VENDOR).join(own)).unwrap() == package, "{own} differs from {}", theirs.display());
    }
    let mut files: Vec<_> = fs::read_dir(VENDOR).unwrap().map(|file| file.unwrap().file_name()).collect();
    files.sort();
    let mut known: Vec<_> = VENDORED.iter().map(|(own, _)| std::ffi::OsString::from(own)).collect();
    known.sort();
    assert_eq!(files, known, "each vendored file is compared");
}

#[test]
fn the_page_has_a_strict_policy_and_tags() {
    let worker = RawWorker::named("a");
    let binary = Binary::with(&format!("state_dir = \".\"\n[upstream.app]\nworkers = [\"{}\"]", worker.address));
    let get = |path: &str, fields: &str| {
        Raw::connect_unix(&binary.admin()).ask(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n"))
    };
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/page/main.js", "text/javascript; charset=utf-8"),
        ("/page/preact.mjs", "text/javascript; charset=utf-8"),
        ("/page/style.css", "text/css; charset=utf-8"),
        ("/page/icon.svg", "image/svg+xml"),
    ] {
        let answer = get(path, "");
        assert_eq!((answer.status(), answer.header("content-type")), (200, Some(kind)), "{path}");
        assert_eq!(answer.header("cache-control"), Some("no-cache"), "{path}");
        let policy = answer.header("content-security-policy").unwrap();
        for part in [
            "default-src 'none'",
            "script-src 'self' 'sha256-",
            "style-src 'self'",
            "img-src 'self' data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{path}");
        }
        let tag = answer.header("etag").unwrap().to_owned();
        let again = get(path, &format!("If-None-Match: {tag}\r\n"));
        assert_eq!((again.status(), again.body.len()), (304, 0), "{path}");
        assert_eq!(again.header("etag"), Some(tag.as_str()), "{path}");
    }
    assert_eq!(get("/page/nothing.js", "").status(), 404);
    let api = get("/api/v1/status", "");
    assert_eq!(api.header("cache-control"), Some("no-store"), "answers of the API are never kept");
    assert!(api.header("content-security-policy").unwrap().starts_with("default-src 'none'; frame-ancestors"));
}

#[test]
fn a_link_may_open_the_page_but_nothing_else() {
    let worker = RawWorker::named("a");
    let binary = Binary::with(&format!("state_dir = \".\"\n[upstream.app]\nworkers = [\"{}\"]", worker.address));
    let from_elsewhere = |path: &str, how: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: cross-site\r\n{how}\r\n");
        Raw::connect_unix(&binary.admin()).ask(&request).status()
    };
    let opened = "Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n";
    assert_eq!(from_elsewhere("/", opened), 200);
    assert_eq!(from_elsewhere("/", "Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: iframe\r\n"), 403);
    assert_eq!(from_elsewhere("/", "Sec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: script\r\n"), 403);
    assert_eq!(from_elsewhere("/api/v1/status", opened), 403);
    assert_eq!(from_elsewhere("/page/main.js", opened), 403);
}
