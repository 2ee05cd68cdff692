//! The many spellings of one path and one host, against a real nginx: a spelling that nginx turns away from a guarded
//! route is turned away by stickyd, too. Where stickyd is stricter, the row says so.

use std::fmt;

use crate::support::nginx::Nginx;
use crate::support::proxy::Proxy;
use crate::support::raw::{Raw, RawWorker, ok};

use Verdict::{Alike, Refused, Stricter};

/// How the two answers compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Both give the same status.
    Alike,
    /// Both refuse, one of them by 400.
    Refused,
    /// stickyd refuses what nginx lets through.
    Stricter,
    /// nginx refuses what stickyd lets through; no row may say so.
    Laxer,
}

impl Verdict {
    fn of(nginx: u16, stickyd: u16) -> Self {
        match (nginx, stickyd) {
            _ if nginx == stickyd => Self::Alike,
            (200, 400 | 403) => Self::Stricter,
            (400 | 403, 400 | 403) => Self::Refused,
            _ => Self::Laxer,
        }
    }
}

/// Targets at the host `own.example`.
const PATHS: &[(Verdict, &[u8])] = &[
    (Alike, b"/"),
    (Alike, b"/open"),
    (Alike, b"/admin"),
    (Alike, b"/admin/"),
    (Alike, b"/admin/x"),
    (Alike, b"/admin?x"),
    (Alike, b"/admin?"),
    (Alike, b"/administrator"),
    // Paths are case-sensitive.
    (Alike, b"/Admin"),
    (Alike, b"/ADMIN"),
    (Alike, b"/%41dmin"),
    // Unreserved characters in percent-encoding.
    (Alike, b"/%61dmin"),
    (Alike, b"/a%64min/x"),
    (Alike, b"/%61%64%6d%69%6e"),
    (Alike, b"/%61%64%6D%69%6E/"),
    (Alike, b"/admi%6e?x"),
    (Alike, b"/open/%7euser"),
    // Empty segments.
    (Alike, b"//admin"),
    (Alike, b"///admin///x"),
    (Alike, b"//%61dmin"),
    (Alike, b"//open"),
    (Alike, b"/open//admin"),
    (Alike, b"/open//x"),
    // Dot segments.
    (Alike, b"/./admin"),
    (Alike, b"/././admin/./x"),
    (Alike, b"/open/../admin"),
    (Alike, b"/open/x/../../admin"),
    (Alike, b"/open/./x/.././../admin/"),
    (Refused, b"//open/..//admin"),
    (Alike, b"/%2e/admin"),
    (Alike, b"/%2E/admin"),
    (Alike, b"/open/%2e%2e/admin"),
    (Alike, b"/open/.%2e/admin"),
    (Alike, b"/open/%2e./admin"),
    (Alike, b"/open/..%2fadmin"),
    (Alike, b"/open/../open"),
    (Alike, b"/open/..."),
    (Alike, b"/.well-known/admin"),
    (Alike, b"/open/.admin"),
    // A worker that does not follow dots is asked for the guarded path.
    (Stricter, b"/admin/.."),
    (Stricter, b"/admin/../open"),
    (Stricter, b"/admin/%2e%2e/open"),
    (Stricter, b"/admin/..%2fopen"),
    // Above the root.
    (Alike, b"/.."),
    (Alike, b"/../admin"),
    (Alike, b"/open/../../admin"),
    (Alike, b"/%2e%2e/admin"),
    (Alike, b"/%2e%2e%2fadmin"),
    (Alike, b"/admin/../.."),
    // Encoded slashes.
    (Alike, b"/admin%2fx"),
    (Alike, b"/admin%2F"),
    (Alike, b"/%2fadmin"),
    (Alike, b"/%2f%2fadmin"),
    (Alike, b"/open%2f..%2fadmin"),
    (Alike, b"/open%2fadmin"),
    // Parameters of segments.
    (Stricter, b"/admin;x"),
    (Stricter, b"/admin;x=1/y"),
    (Stricter, b"/admin;"),
    (Stricter, b"/;x/admin"),
    (Alike, b"/admin/x;y"),
    (Stricter, b"/admin%3bx"),
    (Stricter, b"/open/..;/admin"),
    (Stricter, b"/..;/admin"),
    (Alike, b"/open;x/y"),
    // Backslashes.
    (Stricter, b"/admin\\x"),
    (Stricter, b"/\\admin"),
    (Stricter, b"/admin%5cx"),
    (Stricter, b"/%5cadmin"),
    (Stricter, b"/open/..%5cadmin"),
    (Stricter, b"/open%5c..%5cadmin"),
    (Alike, b"/open%5cx"),
    // Double encoding.
    (Stricter, b"/%2561dmin"),
    (Stricter, b"/%252561dmin"),
    (Stricter, b"/admin%252fx"),
    (Stricter, b"/open/%252e%252e/admin"),
    (Stricter, b"/open/..%252fadmin"),
    (Alike, b"/100%25"),
    (Alike, b"/open/a%2520b"),
    // NUL, controls, ends of text.
    (Alike, b"/admin%00"),
    (Alike, b"/admin%00x"),
    (Alike, b"/open%00"),
    (Stricter, b"/admin%2500"),
    (Stricter, b"/admin%20"),
    (Stricter, b"/admin%0a"),
    (Stricter, b"/admin%0d%0a"),
    (Stricter, b"/%09admin"),
    (Stricter, b"/ad%7fmin"),
    (Stricter, b"/admin%3fx"),
    (Stricter, b"/admin%23x"),
    (Alike, b"/open%3fx"),
    // Malformed escapes.
    (Alike, b"/%"),
    (Alike, b"/admin%"),
    (Alike, b"/%6"),
    (Alike, b"/%zz"),
    (Alike, b"/%u0061dmin"),
    (Alike, b"/%6 1dmin"),
    // Not UTF-8: overlong forms, single bytes.
    (Stricter, b"/%c0%afadmin"),
    (Stricter, b"/%c1%a1dmin"),
    (Stricter, b"/%e0%81%a1dmin"),
    (Stricter, b"/%f0%80%81%a1dmin"),
    (Stricter, b"/open/%c0%ae%c0%ae/admin"),
    (Stricter, b"/ad%ffmin"),
    (Stricter, b"/admin%80"),
    (Alike, b"/open/caf%e9"),
    (Alike, b"/open/caf%c3%a9"),
    // What follows `//` may be taken for a host.
    (Stricter, b"//x/admin"),
    (Stricter, b"//own.example/admin/x"),
    (Stricter, b"/%5cx/admin"),
    // Absolute form.
    (Alike, b"http://own.example/admin"),
    (Alike, b"http://own.example/%61dmin"),
    (Alike, b"http://own.example//admin"),
    (Alike, b"http://own.example/./admin"),
    (Alike, b"http://own.example/open"),
    (Alike, b"http://own.example"),
    (Alike, b"HTTP://OWN.EXAMPLE/open"),
    (Alike, b"http://admin.example.com/"),
    (Alike, b"http://ADMIN.example.com.:80/"),
    (Alike, b"http://own.example:80/admin"),
];

/// Values of Host for the target `/`.
const HOSTS: &[(Verdict, &[u8])] = &[
    (Alike, b"own.example"),
    (Alike, b"admin.example.com"),
    (Alike, b"ADMIN.Example.COM"),
    (Alike, b"admin.example.com."),
    (Alike, b"Admin.example.com.:80"),
    (Alike, b"admin.example.com:80"),
    (Alike, b"admin.example.com:8443"),
    (Alike, b"admin.example.com:"),
    (Refused, b"  admin.example.com\t"),
    (Alike, b"admin.example.com.."),
    (Alike, b"admin..example.com"),
    (Alike, b"xadmin.example.com"),
    (Alike, b"admin.example.com.evil.example"),
    (Alike, b"a.internal.example.com"),
    (Alike, b"A.b.Internal.example.com.:1"),
    (Alike, b"internal.example.com"),
    (Refused, b".internal.example.com"),
    (Alike, b"admin.example.com/x"),
    (Alike, b"[2001:db8::a]"),
    (Alike, b"[2001:DB8::A]:80"),
    (Stricter, b"[2001:0db8:0:0:0:0:0:a]"),
    (Stricter, b"[2001:db8::0.0.0.10]"),
    (Alike, b"[2001:db8::b]"),
    (Alike, b"192.0.2.7"),
    (Alike, b"192.0.2.7:80"),
    (Stricter, b"192.0.519"),
    (Stricter, b"0xc0.0.2.7"),
    (Stricter, b"0300.0.2.7"),
    (Stricter, b"3221225991"),
    (Stricter, b"%61dmin.example.com"),
    (Stricter, b"user@admin.example.com"),
    (Stricter, b"[::1"),
];

const NGINX: &str = "
server {
    listen SOCKET default_server;
    location = /admin { deny all; }
    location /admin/ { deny all; }
    location / { return 200 own; }
}
server {
    listen SOCKET;
    server_name admin.example.com *.internal.example.com [2001:db8::a] 192.0.2.7;
    location / { deny all; }
}";

const ROUTES: &str = "
[[route]]
host = \"admin.example.com\"
upstream = \"app\"
deny = [\"0.0.0.0/0\"]
[[route]]
host = \"*.internal.example.com\"
upstream = \"app\"
deny = [\"0.0.0.0/0\"]
[[route]]
host = \"[2001:db8::a]\"
upstream = \"app\"
deny = [\"0.0.0.0/0\"]
[[route]]
host = \"192.0.2.7\"
upstream = \"app\"
deny = [\"0.0.0.0/0\"]
[[route]]
path = \"/admin\"
upstream = \"app\"
deny = [\"0.0.0.0/0\"]
[[route]]
upstream = \"app\"";

/// One request, and what nginx and stickyd answered.
struct Row {
    wanted: Verdict,
    request: Vec<u8>,
    nginx: u16,
    stickyd: u16,
}

impl Row {
    fn verdict(&self) -> Verdict {
        Verdict::of(self.nginx, self.stickyd)
    }
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (wanted, verdict) = (self.wanted, self.verdict());
        let line = self.request.escape_ascii();
        write!(f, "{line}: nginx {}, stickyd {}: {verdict:?}, not {wanted:?}", self.nginx, self.stickyd)
    }
}

#[test]
fn nginx_and_stickyd_judge_every_spelling_alike() {
    let nginx = Nginx::with(NGINX);
    let worker = RawWorker::answering(|_| ok("own"));
    let proxy = Proxy::with(&format!("[upstream.app]\nworkers = [\"{}\"]\n{ROUTES}", worker.address));
    let request = |target: &[u8], host: &[u8]| {
        [b"GET ", target, b" HTTP/1.1\r\nHost: ", host, b"\r\nConnection: close\r\n\r\n"].concat()
    };
    let paths = PATHS.iter().map(|(wanted, target)| (*wanted, request(target, b"own.example")));
    let hosts = HOSTS.iter().map(|(wanted, host)| (*wanted, request(b"/", host)));
    let rows: Vec<_> = paths
        .chain(hosts)
        .map(|(wanted, request)| {
            let nginx = nginx.connect().send(&request).answer().status();
            let stickyd = Raw::connect(proxy.address).send(&request).answer().status();
            Row { wanted, request, nginx, stickyd }
        })
        .collect();
    assert!(rows.len() >= 60);
    let wrong: Vec<_> = rows.iter().filter(|row| row.verdict() != row.wanted).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What reaches the worker is what the client wrote, whatever it was compared as.
#[test]
fn the_spelling_of_the_client_is_sent_on() {
    let worker = RawWorker::answering(|request| ok(request.target()));
    let routes = "[[route]]\npath = \"/app\"\nupstream = \"app\"\nallow = [\"127.0.0.1\"]\n\
                  [[route]]\nupstream = \"other\"";
    let proxy = Proxy::with(&format!(
        "[upstream.app]\nworkers = [\"{}\"]\n[upstream.other]\nworkers = [\"127.0.0.1:1\"]\n{routes}",
        worker.address
    ));
    for target in [
        "/app",
        "/%61pp",
        "//app/x",
        "/./app/",
        "/x/../app",
        "/app%2fx",
        "/app;v=1/x",
        "/app%5cx?a=%2F",
        "/app/a%20b",
        "/app/%252561",
    ] {
        assert_eq!(Raw::connect(proxy.address).get(target).text(), target);
    }
    assert_eq!(Raw::connect(proxy.address).get("/apple").status(), 503, "the other upstream has no worker");
}

/// The guards of both routes apply where a worker may read the path of either.
#[test]
fn the_stricter_of_two_readings_wins() {
    let worker = RawWorker::answering(|_| ok("a"));
    let routes = "[[route]]\npath = \"/free\"\nupstream = \"app\"\n\
                  [[route]]\nupstream = \"app\"\nallow = [\"192.0.2.0/24\"]";
    let proxy = Proxy::with(&format!("[upstream.app]\nworkers = [\"{}\"]\n{routes}", worker.address));
    for (target, status) in [
        ("/free", 200),
        ("/free/a%20b", 200),
        ("/fre%65", 200),
        ("/./free", 403),
        ("/free/../x", 403),
        ("/free/..%2fx", 403),
        ("/free%2f..%2fx", 403),
        ("/free;x", 403),
        ("/x", 403),
    ] {
        assert_eq!(Raw::connect(proxy.address).get(target).status(), status, "{target}");
    }
    assert_eq!(proxy.metric("stickyd_guarded_total{guard=\"network\",upstream=\"app\"}"), 6.0);
}

/// Where no route has a path, it does not matter what a path means.
#[test]
fn without_paths_in_routes_every_path_passes() {
    let worker = RawWorker::answering(|_| ok("a"));
    for routes in ["", "[[route]]\nhost = \"*.example\"\nupstream = \"app\"\ndeny = [\"192.0.2.1\"]"] {
        let proxy = Proxy::with(&format!("[upstream.app]\nworkers = [\"{}\"]\n{routes}", worker.address));
        for target in ["/%00", "/100%", "/../x", "/%c0%af"] {
            let request = format!("GET {target} HTTP/1.1\r\nHost: own.example\r\n\r\n");
            assert_eq!(Raw::connect(proxy.address).ask(&request).status(), 200, "{target}");
        }
    }
}
