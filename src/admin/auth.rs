//! Authorization of reads and writes over the admin listener (docs/reference/threats.md §2.10, "admin").

use std::net::IpAddr;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::api::paths;
use super::layers::AuditedRequest;
use super::page;
use crate::config::Secret;

/// Header field that every write must carry.
pub(crate) const OWN_FIELD: &str = "x-stickyd";

/// Header field of every answer: what its peer may do, which the page shows ([`AdminAuth::access`]).
const ACCESS: HeaderName = HeaderName::from_static("x-stickyd-access");

/// Access rules of one address of the admin listener.
pub(crate) struct AdminAuth {
    reach: Reach,
    tokens: AdminTokens,
    /// Names that the Host of a request without a token may have, in lower case.
    hosts: Vec<String>,
}

/// The bearer tokens of the admin listener; each is another one.
#[derive(Clone, Default)]
pub(crate) struct AdminTokens {
    /// The token for everything.
    pub(crate) write: Option<Secret>,
    /// The token that can only read.
    pub(crate) read: Option<Secret>,
    /// The token that can only send messages to clients.
    pub(crate) emit: Option<Secret>,
}

/// What the bearer of a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AdminRole {
    Writes,
    Reads,
    Emits,
}

impl AdminTokens {
    /// Returns the role of a request's bearer; `None`: it bears no token, or a wrong one.
    fn role(&self, headers: &HeaderMap) -> Option<AdminRole> {
        let all = [(&self.write, AdminRole::Writes), (&self.read, AdminRole::Reads), (&self.emit, AdminRole::Emits)];
        let bears =
            |(token, _): &(&Option<Secret>, AdminRole)| token.as_ref().is_some_and(|token| bears(headers, token));
        all.into_iter().find(bears).map(|(_, role)| role)
    }
}

/// Paths at which messages are sent to clients.
const EMITTING: [&str; 3] = [paths::BROADCAST, paths::EMIT, paths::QUEUE];

/// Set of peers that can connect to the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Processes that may open the socket's file: its mode stands for the token. All other rules apply, because a
    /// forwarded socket (`ssh -L 9145:/var/lib/stickyd/admin.sock host`) can be reached by a browser.
    Unix,
    /// Every process of this machine, including browsers.
    Loopback,
    /// The whole network: reading needs the token, too.
    Network,
}

impl Reach {
    /// Returns the name of this kind of peer in the audit line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Unix => "unix",
            Self::Loopback => "loopback",
            Self::Network => "network",
        }
    }
}

/// User id of the process at the other end of a unix socket, as the kernel knows it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AdminPeer(pub(crate) Option<u32>);

/// The sender of a request, for handlers that pass it on.
#[derive(Debug, Clone)]
pub(crate) struct AdminOperator(pub(crate) String);

/// What a request ordered for the fleet; goes with the answer, for the audit line.
#[derive(Debug, Clone)]
pub(crate) struct OrderedPath {
    pub(crate) path: String,
    /// The only stickyd that it was for.
    pub(crate) at: Option<String>,
}

type AuthRefusal = (StatusCode, &'static str);

impl AdminAuth {
    pub(crate) fn new(reach: Reach, tokens: AdminTokens, hosts: Vec<String>) -> Self {
        Self { reach, tokens, hosts }
    }

    /// Returns the set of peers that can connect to the listener.
    pub(crate) fn reach(&self) -> Reach {
        self.reach
    }

    /// Returns the sender of a request for events: only what is certain, and never a secret.
    fn operator(&self, request: &Request) -> String {
        match self.tokens.role(request.headers()) {
            Some(AdminRole::Writes) => return "the bearer of the token".to_owned(),
            Some(AdminRole::Reads) => return "the bearer of the read token".to_owned(),
            Some(AdminRole::Emits) => return "the bearer of the emit token".to_owned(),
            None => {}
        }
        match request.extensions().get::<AdminPeer>() {
            Some(AdminPeer(Some(0))) => "root".to_owned(),
            Some(AdminPeer(Some(uid))) => format!("user id {uid}"),
            _ => "a program on this machine".to_owned(),
        }
    }

    fn refuses(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Option<AuthRefusal> {
        let mut hosts = headers.get_all(header::HOST).iter();
        let host = hosts.next();
        if hosts.next().is_some() {
            return Some((StatusCode::FORBIDDEN, "there must be one Host header\n"));
        }
        let reads = method == Method::GET || method == Method::HEAD;
        // A link in a chat or a mail may open the page, which then has an origin of its own.
        let opens = reads && uri.path() == page::ROOT && is_navigation(headers);
        if !opens && is_of_another_site(headers) {
            return Some((StatusCode::FORBIDDEN, "requests from pages of other sites are not allowed\n"));
        }
        if reads && uri.path() == paths::HEALTH {
            // Its answer shows only whether stickyd serves.
            return None;
        }
        let role = self.tokens.role(headers);
        // A page that was lured here (DNS rebinding) does not know the token. On the network nothing goes without it.
        if role.is_none() && self.reach != Reach::Network && !self.is_own(host, uri) {
            let why = "without a token, Host must be an IP address, localhost or one of [admin] hosts\n";
            return Some((StatusCode::FORBIDDEN, why));
        }
        match self.reach {
            Reach::Unix | Reach::Loopback if reads => None,
            // The page asks for the token, and sends it with its requests to the API.
            Reach::Network if reads && page::is_of_page(uri.path()) => None,
            Reach::Unix => refuses_write(headers, false),
            Reach::Loopback | Reach::Network => self
                .refuses_over_tcp(role, reads, method, uri)
                .map_or_else(|| if reads { None } else { refuses_write(headers, true) }, Some),
        }
    }

    /// Rejects what the token of a request does not allow.
    fn refuses_over_tcp(
        &self,
        role: Option<AdminRole>,
        reads: bool,
        method: &Method,
        uri: &Uri,
    ) -> Option<AuthRefusal> {
        let emits = method == Method::POST && EMITTING.contains(&uri.path());
        let can_be_allowed = reads || self.tokens.write.is_some() || (emits && self.tokens.emit.is_some());
        match role {
            Some(AdminRole::Writes) => None,
            Some(AdminRole::Reads) if reads => None,
            Some(AdminRole::Emits) if emits => None,
            Some(AdminRole::Reads) => Some((StatusCode::FORBIDDEN, "this token can only read\n")),
            Some(AdminRole::Emits) => Some((StatusCode::FORBIDDEN, "this token can only send messages to clients\n")),
            None if !can_be_allowed => Some((StatusCode::FORBIDDEN, "writes over TCP need [admin] token_file\n")),
            None => Some((StatusCode::UNAUTHORIZED, "wrong or missing bearer token\n")),
        }
    }

    /// Returns what the peer may do, for the page: `operate`, or `look` and why not more.
    fn access(&self, headers: &HeaderMap) -> &'static str {
        match self.tokens.role(headers) {
            _ if self.reach == Reach::Unix => "operate",
            Some(AdminRole::Writes) => "operate",
            Some(AdminRole::Reads | AdminRole::Emits) => "look; read-token",
            None if self.tokens.write.is_none() => "look; no-token",
            None if headers.contains_key(header::AUTHORIZATION) => "look; wrong-token",
            None => "look; token-needed",
        }
    }

    /// Whether the request names this listener in a way that no foreign DNS server can point here. The authority of a
    /// target in absolute form counts like a Host (RFC 9112 §3.2.2).
    fn is_own(&self, host: Option<&HeaderValue>, uri: &Uri) -> bool {
        let host = host.and_then(|host| host.to_str().ok());
        let authority = uri.authority().map(Authority::as_str);
        host.is_some_and(|host| is_own_host(host, &self.hosts))
            && authority.is_none_or(|name| is_own_host(name, &self.hosts))
    }
}

/// Rejects a write that a form of another site could send: it must have a content type that forms cannot have, and a
/// header field of stickyd's own. Either makes a browser send a preflight first, which stickyd does not answer. Over
/// the unix socket the content type may be left out, because nearly all writes have no body.
fn refuses_write(headers: &HeaderMap, needs_type: bool) -> Option<AuthRefusal> {
    let own = headers.get(OWN_FIELD).is_some_and(|value| value == "1");
    let kind = headers.get(header::CONTENT_TYPE);
    let essence = kind.and_then(|kind| kind.to_str().ok()).and_then(|kind| kind.split(';').next());
    let is_json = essence.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"));
    if !is_json && (needs_type || (kind.is_some() && own)) {
        return Some((StatusCode::UNSUPPORTED_MEDIA_TYPE, "writes need Content-Type: application/json\n"));
    }
    (!own).then_some((StatusCode::FORBIDDEN, "writes need the header field X-Stickyd: 1\n"))
}

/// Whether a browser marks the request as coming from a page of another origin.
fn is_of_another_site(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).map_or(&b""[..], HeaderValue::as_bytes);
    let foreign = |origin: &HeaderValue| origin.as_bytes().strip_prefix(b"http://") != Some(host);
    let apart = |site: &HeaderValue| site != "same-origin" && site != "none";
    headers.get_all(header::ORIGIN).iter().any(foreign) || headers.get_all("sec-fetch-site").iter().any(apart)
}

/// Whether a browser opens the address as a document of its own, not as a part of another page.
fn is_navigation(headers: &HeaderMap) -> bool {
    let is = |name: &str, value: &str| headers.get(name).is_some_and(|given| given == value);
    is("sec-fetch-mode", "navigate") && is("sec-fetch-dest", "document")
}

/// Rejects what the rules do not allow, before any handler runs; keeps with the answer what was asked, for the audit
/// line.
pub(crate) async fn check(State(guard): State<Arc<AdminAuth>>, mut request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut asked = AuditedRequest { method, path, operator: guard.operator(&request) };
    request.extensions_mut().insert(AdminOperator(asked.operator.clone()));
    let access = guard.access(request.headers());
    let mut response = match guard.refuses(request.method(), request.uri(), request.headers()) {
        Some(refusal) => refusal.into_response(),
        None => next.run(request).await,
    };
    if let Some(OrderedPath { path, at }) = response.extensions_mut().remove() {
        let path = path.split('?').next().unwrap_or_default();
        let at = at.map_or_else(|| "every stickyd of the fleet".to_owned(), |name| format!("the stickyd {name}"));
        asked.path = format!("{path} at {at}");
    }
    response.extensions_mut().insert(asked);
    response.headers_mut().insert(ACCESS, HeaderValue::from_static(access));
    response
}

/// Whether a Host is an IP address, `localhost` or one of `hosts`. Any other name could be pointed at this listener by
/// a foreign DNS server.
pub(crate) fn is_own_host(host: &str, hosts: &[String]) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').unwrap_or((rest, "?")),
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let is_port = |port: &str| port.bytes().all(|digit| digit.is_ascii_digit());
    if !port.is_empty() && !port.strip_prefix(':').is_some_and(is_port) {
        return false;
    }
    // A final dot makes a name absolute; it is the same name.
    let name = name.strip_suffix('.').unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok()
        || hosts.iter().any(|own| name.eq_ignore_ascii_case(own))
}

fn bears(headers: &HeaderMap, token: &Secret) -> bool {
    // RFC 9110 §11.1: the scheme is case-insensitive, and one or more spaces follow it.
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.as_bytes().split_at_checked("Bearer ".len()));
    given.is_some_and(|(scheme, given)| {
        scheme.eq_ignore_ascii_case(b"Bearer ") && verify_slices_are_equal(given.trim_ascii_start(), &token.0).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_known_names_are_own_hosts() {
        let hosts = ["stickyd".to_owned()];
        for host in [
            "127.0.0.1",
            "127.0.0.1:9145",
            "[::1]:9145",
            "localhost:1",
            "10.0.0.1",
            "Stickyd:9145",
            "localhost.",
            "stickyd.:1",
        ] {
            assert!(is_own_host(host, &hosts), "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example", "", "evil.example:9145", "stickyd.evil.example"] {
            assert!(!is_own_host(host, &hosts), "{host}");
        }
        for host in
            ["localhost:evil", "localhost:1:2", "[::1]evil.example", "[::1", "evil@localhost", ".", "localhost.."]
        {
            assert!(!is_own_host(host, &hosts), "{host}");
        }
        assert!(!is_own_host("stickyd", &[]));
    }

    #[test]
    fn the_scheme_of_a_token_is_case_insensitive() {
        let token = Secret(b"0123456789abcdef".to_vec());
        let given = |value: &str| {
            let field = HeaderValue::from_str(value).unwrap();
            bears(&HeaderMap::from_iter([(header::AUTHORIZATION, field)]), &token)
        };
        for right in ["Bearer 0123456789abcdef", "bearer 0123456789abcdef", "BEARER  0123456789abcdef"] {
            assert!(given(right), "{right}");
        }
        for wrong in ["Bearer", "Bearer ", "0123456789abcdef", "Basic 0123456789abcdef", "Bearer 0123456789ABCDEF"] {
            assert!(!given(wrong), "{wrong}");
        }
    }
}
