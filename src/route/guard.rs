//! Guards: reject requests before they reach a worker, by network, by the page that sends them (Origin), and by rate.
//!
//! A browser sends its user's cookies to any host that a page names, and the same-origin policy does not cover
//! WebSockets. So the page's origin is checked here for every WebSocket and Engine.IO request, preflights included. A
//! request without an Origin does not come from a page's script, with one exception: a `<script src>` (JSONP), which
//! browsers mark with `Sec-Fetch-Site`; for it the origin of the Referer counts. Rates are counted per client address
//! (IPv6 per /64) for a route, and in total for an upstream. A guard that is not configured costs nothing. Out of
//! scope: the application's own checks (`allowRequest`, `cors`), which work as before.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, StatusCode};

use super::access::AccessGuard;
use super::jwt::{HeadVerdict, JwtGuard};
use super::live_keys::{self, LiveKeys, Now, Refused};
use super::person::Person;
use super::users::Users;
use crate::affinity::ask::{RequestFacts, RequestKind};
use crate::client::Client;
use crate::clock::Millis;
use crate::config::guards::{Guards, Origin, Refuse, UserSource, default_port, split_port};
use crate::config::labels::LabelRules;
use crate::engine_io::{self, EngineQuery};
use crate::header_list::has_token;
use crate::jwt::{Claims, TokenFault};
use crate::keys::{AddressHash, Key};
use crate::metrics::GuardLabel;
use crate::networks::NetworkSet;
use crate::route::RouteMatch;
use crate::sockets::labels;
use crate::telemetry::say_full;
use crate::upstream::Upstream;
use crate::upstream::rate::{ADDRESSES, RateKind, RateLimits, SHARDS};

/// Why a guard rejects a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GuardRefusal {
    /// The client's network or the page's origin is not allowed.
    Forbidden(GuardLabel, Refuse),
    /// A rate limit is reached; the client may retry after this time.
    TooOften(GuardLabel, Duration),
    /// The token is not accepted.
    Token(TokenFault, Refuse),
    /// The keys that verify tokens are not known yet; the client may retry after this time.
    NoKeys(Duration),
    /// The user has as many sockets as allowed.
    TooMany(Refuse),
    /// The request has no user with the right password.
    NoPassword,
    /// Another service has refused the request with this status, 401 or 403.
    Denied(StatusCode),
    /// The guard has no verdict; the client may retry after this time.
    NoVerdict(Duration),
}

impl GuardRefusal {
    /// The guard that rejects the request.
    pub(crate) fn label(self) -> GuardLabel {
        match self {
            Self::Forbidden(label, _) | Self::TooOften(label, _) => label,
            Self::Token(fault, _) => GuardLabel::of_fault(fault),
            Self::NoKeys(_) => GuardLabel::JwtKeys,
            Self::TooMany(_) => GuardLabel::Users,
            Self::NoPassword => GuardLabel::Basic,
            Self::Denied(_) => GuardLabel::Auth,
            Self::NoVerdict(_) => GuardLabel::AuthFailed,
        }
    }

    /// The refusal of a token.
    pub(crate) fn of_token(why: Refused, refuse: Refuse) -> Self {
        match why {
            Refused::Fault(fault) => Self::Token(fault, refuse),
            Refused::NoKeys(wait) => Self::NoKeys(wait),
        }
    }
}

/// The live guard of a route.
pub struct RouteGuard {
    guards: Guards,
    limits: Arc<RateLimits>,
    pub(crate) jwt: Option<JwtGuard>,
    /// The live sockets of each user; `None` without a limit.
    pub(crate) users: Option<Arc<Users>>,
    /// Guards that have to wait for their verdict; `None` if there are none.
    pub(crate) access: Option<Arc<AccessGuard>>,
    /// Hashes the names of users, for their rates.
    hasher: RandomState,
    /// Claims that the labels of the upstream read.
    label_claims: Vec<String>,
}

/// What a request has shown to the guards that let it pass.
#[derive(Default)]
pub(crate) struct Passed {
    /// The client of the session that begins, if the route asks for tokens.
    pub(crate) person: Option<Arc<Person>>,
    /// Fields that tell the worker what its token says.
    pub(crate) fields: Vec<(HeaderName, HeaderValue)>,
    /// The session whose packets are to be judged.
    pub(crate) packets: Option<Key>,
}

impl RouteGuard {
    /// Creates the guard of a route, or `None` if it has none. The counts of the previous guard are kept if the rates
    /// are the same.
    pub(crate) fn follow(
        guards: &Guards,
        labels: &LabelRules,
        before: Option<&Arc<Self>>,
        known_keys: Option<&Arc<LiveKeys>>,
    ) -> Option<Arc<Self>> {
        if *guards == Guards::default() {
            return None;
        }
        let label_claims: Vec<_> = labels.iter().filter_map(|label| label.from.claim().map(str::to_owned)).collect();
        let is_same = |before: &&Arc<Self>| before.guards == *guards && before.label_claims == label_claims;
        if let Some(before) = before.filter(is_same) {
            return Some(before.clone());
        }
        // After a change of the rates, every address starts with a full bucket.
        let limits = before.filter(|before| before.guards.rate == guards.rate).map(|before| before.limits.clone());
        let limits = limits.unwrap_or_else(|| Arc::new(RateLimits::new(guards.rate, SHARDS, ADDRESSES)));
        let users = guards.users.as_ref().map(|limit| {
            let same = before.and_then(|before| before.users.clone()).filter(|users| users.limit() == limit);
            same.unwrap_or_else(|| Users::new(limit.clone()))
        });
        let by = [guards.users.as_ref().map(|limit| &limit.by), guards.rate_by.as_ref()];
        let of_limits = by.into_iter().flatten().filter_map(UserSource::claim).map(str::to_owned);
        let wanted: Vec<_> = label_claims.iter().cloned().chain(of_limits).collect();
        let jwt = guards.jwt.as_ref().map(|jwt| JwtGuard::new(jwt, wanted, known_keys));
        let access = AccessGuard::follow(guards, before.and_then(|before| before.access.as_ref()));
        let hasher = RandomState::new();
        Some(Arc::new(Self { guards: guards.clone(), limits, jwt, users, access, hasher, label_claims }))
    }

    /// Whether the guard concerns tokens or users.
    pub(crate) fn knows_clients(&self) -> bool {
        self.jwt.is_some() || self.users.is_some()
    }

    /// Whether tokens may come in packets.
    pub(crate) fn reads_packets(&self) -> bool {
        self.jwt.as_ref().is_some_and(|jwt| jwt.config.reads_packets())
    }

    /// Names the user of a request.
    fn user<B>(
        &self,
        by: &UserSource,
        upstream: &Upstream,
        request: &Request<B>,
        claims: Option<&Claims>,
    ) -> Option<String> {
        let claim = |name: &str| claims.and_then(|claims| claims.text(name));
        match by {
            UserSource::Claim(name) => claim(name),
            UserSource::Label(name) => {
                let label = upstream.config.labels.iter().find(|label| label.name == *name)?;
                let value = labels::value(&label.from, request.headers(), request.uri().query(), &claim)?;
                let text = String::from_utf8_lossy(&value).into_owned();
                Some(text).filter(|text| !text.is_empty())
            }
        }
    }

    fn judge<B>(&self, request: &Request<B>, asked: &GuardedRequest<'_>) -> Result<(), GuardRefusal> {
        let GuardedRequest { ask, client, own, .. } = asked;
        let Guards { allow, deny, allow_list, deny_list, .. } = &self.guards;
        let is_listed = |list: &Option<Arc<NetworkSet>>| {
            list.as_ref().is_some_and(|list| client.known && list.contains(client.address))
        };
        let is_open = allow.is_empty() && allow_list.is_none();
        let is_allowed = is_open || client.is_within(allow) || is_listed(allow_list);
        if !is_allowed || client.is_within(deny) || is_listed(deny_list) {
            return Err(GuardRefusal::Forbidden(GuardLabel::Network, Refuse::Http));
        }
        match &self.guards.origins {
            Some(origins) if is_session(request, ask) && !may(origins, request.headers(), *client, *own) => {
                Err(GuardRefusal::Forbidden(GuardLabel::Origin, self.guards.refuse_origins))
            }
            _ => Ok(()),
        }
    }
}

/// The host and port of the URL that a client asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Authority<'a> {
    /// The host, with a port if the client wrote one.
    pub host: &'a str,
    /// The port that a trusted proxy says the client used, for a host without one.
    pub port: Option<u16>,
}

/// What a guard needs to know of a request in addition to the request itself.
pub(crate) struct GuardedRequest<'a> {
    /// What the request asks for, as read from its head.
    pub ask: &'a RequestFacts,
    /// The client that sent the request.
    pub client: Client,
    /// The host and port that the client's request is for.
    pub own: Authority<'a>,
    /// The client's address, hashed with [`crate::affinity::pins::Keys::address`].
    pub key: AddressHash,
    /// The current time, in milliseconds ([`clock::now_ms`](crate::clock::now_ms)).
    pub now_ms: Millis,
    /// Finds the client of a session that began through a guard here.
    pub person: &'a dyn Fn(Key) -> Option<Arc<Person>>,
}

/// Checks a request against the guards of its route, of the routes that its path may be read as, and the limits of its
/// upstream, and counts rejections. Tokens come after rates, because the check of a signature costs more than a client
/// should be able to ask for.
///
/// # Errors
/// The reason for which the request is rejected.
pub(crate) fn check<B>(
    found: &RouteMatch<'_>,
    request: &Request<B>,
    asked: &GuardedRequest<'_>,
) -> Result<Option<Box<Passed>>, GuardRefusal> {
    let judged = found.guards().try_for_each(|watch| watch.judge(request, asked));
    let handshake = opens(found.upstream, request, asked.ask);
    let checked = judged
        .and_then(|()| check_rates(found, asked, handshake))
        .and_then(|()| check_tokens(found, request, asked, handshake));
    checked.inspect_err(|refusal| found.upstream.series().turned(refusal.label()))
}

/// Checks a request of a session that stickyd itself has refused: networks and rates hold for it as for any other.
/// Returns whether a page may read the answer: no guard refuses its origin.
///
/// # Errors
/// The reason for which the request is rejected.
pub(crate) fn check_told<B>(
    found: &RouteMatch<'_>,
    request: &Request<B>,
    asked: &GuardedRequest<'_>,
) -> Result<bool, GuardRefusal> {
    let judge = |readable, watch: &RouteGuard| match watch.judge(request, asked) {
        Err(GuardRefusal::Forbidden(GuardLabel::Origin, _)) => Ok(false),
        judged => judged.map(|()| readable),
    };
    let readable = found.guards().try_fold(true, judge);
    let checked = readable.and_then(|readable| check_rates(found, asked, false).map(|()| readable));
    checked.inspect_err(|refusal| found.upstream.series().turned(refusal.label()))
}

fn check_rates(found: &RouteMatch<'_>, asked: &GuardedRequest<'_>, handshake: bool) -> Result<(), GuardRefusal> {
    let upstream = found.upstream;
    let by_address = found.guards().filter(|watch| watch.guards.rate_by.is_none());
    let of_route =
        by_address.map(|watch| (&*watch.limits, asked.key, [GuardLabel::RateRequests, GuardLabel::RateHandshakes]));
    let of_all = upstream.limits.as_ref();
    let of_all = of_all
        .map(|limits| (&**limits, AddressHash::ALL, [GuardLabel::UpstreamRequests, GuardLabel::UpstreamHandshakes]));
    // The address's own limit comes first, so an address that exceeds it takes no tokens from the upstream's total.
    for (limits, key, labels) in of_route.chain(of_all) {
        take(upstream, limits, key, labels, asked, handshake)?;
    }
    Ok(())
}

/// Takes the tokens of one limit of a rate.
fn take(
    upstream: &Upstream,
    limits: &RateLimits,
    key: AddressHash,
    [requests, handshakes]: [GuardLabel; 2],
    asked: &GuardedRequest<'_>,
    handshake: bool,
) -> Result<(), GuardRefusal> {
    limits.take(key, handshake, asked.now_ms).map_err(|(what, wait)| {
        let why = match what {
            RateKind::Requests => requests,
            RateKind::Handshakes => handshakes,
        };
        say_full!(upstream = %upstream.config.name, limit = why.word(), client = %asked.client.address,
            "rate limit reached: requests are answered with 429");
        GuardRefusal::TooOften(why, wait)
    })
}

/// Checks the token of a request, and the limits of its user. Each guard must be content; what the request's own route
/// finds out is passed on.
fn check_tokens<B>(
    found: &RouteMatch<'_>,
    request: &Request<B>,
    asked: &GuardedRequest<'_>,
    handshake: bool,
) -> Result<Option<Box<Passed>>, GuardRefusal> {
    let mut passed = None;
    for watch in found.guards() {
        let is_own = found.watch.is_some_and(|own| std::ptr::eq(&**own, watch));
        let (mut claims, mut own) = (None, Passed::default());
        if let Some(jwt) = &watch.jwt {
            let refused = |why| GuardRefusal::of_token(why, jwt.refuse());
            let now = Now { ms: asked.now_ms, ..live_keys::now() };
            let path = request.uri().path();
            match jwt.judge(found.upstream, request, asked.ask, asked.person, now).map_err(refused)? {
                HeadVerdict::NotAsked => {}
                HeadVerdict::Admitted(good) => {
                    own.person = Some(Arc::new(Person::of_handshake(&good, &jwt.wanted(), path)));
                    own.fields = jwt.fields(&good);
                    claims = Some(good);
                }
                HeadVerdict::Pending(fault) if is_own => own.person = Some(Arc::new(Person::pending(path, fault))),
                HeadVerdict::Packets(key) if is_own => own.packets = Some(key),
                // The packets of two routes are not judged.
                HeadVerdict::Pending(_) | HeadVerdict::Packets(_) => {
                    return Err(refused(Refused::Fault(TokenFault::Malformed)));
                }
            }
        }
        check_user(watch, found.upstream, request, asked, claims.as_ref(), handshake)?;
        if is_own && watch.jwt.is_some() {
            passed = Some(Box::new(own));
        }
    }
    Ok(passed)
}

/// Checks the rate of a request's user, and the number of its sockets.
fn check_user<B>(
    watch: &RouteGuard,
    upstream: &Upstream,
    request: &Request<B>,
    asked: &GuardedRequest<'_>,
    claims: Option<&Claims>,
    handshake: bool,
) -> Result<(), GuardRefusal> {
    if let Some(by) = &watch.guards.rate_by {
        let user = watch.user(by, upstream, request, claims);
        let (key, labels) = match user {
            Some(user) => {
                let key = AddressHash::new(watch.hasher.hash_one(&user));
                (key, [GuardLabel::UserRequests, GuardLabel::UserHandshakes])
            }
            None => (asked.key, [GuardLabel::RateRequests, GuardLabel::RateHandshakes]),
        };
        take(upstream, &watch.limits, key, labels, asked, handshake)?;
    }
    if let Some(users) = watch.users.as_ref().filter(|_| handshake) {
        let user = watch.user(&users.limit().by, upstream, request, claims);
        if user.is_some_and(|user| users.is_full(&user)) {
            return Err(GuardRefusal::TooMany(users.limit().refuse));
        }
    }
    Ok(())
}

/// Whether the request is a handshake or an upgrade.
pub(crate) fn is_opening<B>(upstream: &Upstream, request: &Request<B>, ask: &RequestFacts) -> bool {
    ask.upgrade.is_some() || opens(upstream, request, ask)
}

/// Whether the request opens an Engine.IO session, or a WebSocket that belongs to no Engine.IO session.
fn opens<B>(upstream: &Upstream, request: &Request<B>, ask: &RequestFacts) -> bool {
    // A server that takes the first of several sids, which may be empty, may open a session.
    let may_open = || request.method() == hyper::Method::GET && ask.engine.is_some_and(EngineQuery::contradicts_itself);
    match ask.kind {
        RequestKind::Handshake => true,
        // The sid counts even if sids are not among the upstream's affinity rules.
        RequestKind::Ordinary | RequestKind::Birth => {
            let with_sid = ask.engine.is_some_and(|engine| engine.has_sid() && !engine.contradicts_itself());
            !with_sid && (ask.upgrade.is_some() || (ask.engine.is_some() && request.method() == hyper::Method::GET))
        }
        // A client can invent an id of another protocol, so its WebSocket counts. An Engine.IO sid is checked by the
        // worker before it opens anything.
        RequestKind::Session { .. } if ask.is_engine_io(upstream) => may_open(),
        RequestKind::Session { .. } => ask.upgrade.is_some(),
        RequestKind::UnknownSid => may_open(),
        RequestKind::Preflight(_) => false,
    }
}

/// Whether the page's origin matters: for any request that a worker could take for Engine.IO or for an upgrade.
fn is_session<B>(request: &Request<B>, ask: &RequestFacts) -> bool {
    let upgrade = || {
        let values = request.headers().get_all(header::UPGRADE);
        values.iter().any(|value| has_token(value.as_bytes(), b"websocket"))
    };
    let of_engine = matches!(
        ask.kind,
        RequestKind::Handshake
            | RequestKind::Session { .. }
            | RequestKind::UnknownSid
            | RequestKind::Preflight(Some(_))
    );
    of_engine || ask.upgrade.is_some() || upgrade() || engine_io::may_be_engine_io(request.uri().query())
}

/// Whether the page's origin is in the list, or the request does not come from a page.
fn may(origins: &[Origin], headers: &HeaderMap, client: Client, own: Authority<'_>) -> bool {
    let mut given = headers.get_all(header::ORIGIN).iter();
    let fits = |origin: &str| origins.iter().any(|rule| fits(rule, origin, client.secure, own));
    match (given.next().map(HeaderValue::to_str), given.next()) {
        (Some(Ok(origin)), None) => fits(origin),
        // There are two Origin fields, or one that is not text.
        (Some(_), _) => false,
        (None, _) => match headers.get("sec-fetch-site").map(HeaderValue::as_bytes) {
            Some(b"cross-site" | b"same-site") => {
                let referer = headers.get(header::REFERER).and_then(|value| value.to_str().ok());
                referer.and_then(origin_of).is_some_and(fits)
            }
            _ => true,
        },
    }
}

/// Returns the origin of the page that sent the request, if it is in the list.
pub(crate) fn allowed_origin(
    origins: &[Origin],
    headers: &HeaderMap,
    client: Client,
    own: Authority<'_>,
) -> Option<HeaderValue> {
    let mut given = headers.get_all(header::ORIGIN).iter();
    let (Some(origin), None) = (given.next(), given.next()) else { return None };
    let text = origin.to_str().ok()?;
    origins.iter().any(|rule| fits(rule, text, client.secure, own)).then(|| origin.clone())
}

/// The origin part of a URL: its scheme and authority.
fn origin_of(url: &str) -> Option<&str> {
    let start = url.find("://")? + 3;
    let end = url.get(start..)?.find(['/', '?', '#']).map_or(url.len(), |end| start + end);
    url.get(..end)
}

/// Whether an origin, as a browser writes it (RFC 6454 §6.1), matches a rule.
fn fits(rule: &Origin, origin: &str, secure: bool, own: Authority<'_>) -> bool {
    if *rule == Origin::Null {
        return origin == "null";
    }
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let (host, port) = split_port(authority);
    let scheme = scheme.to_ascii_lowercase();
    // `None` if the port is not a number.
    let number = |port: Option<&str>| match port {
        None => Some(default_port(&scheme)),
        Some(port) => port.parse().ok().map(Some),
    };
    let Some(given) = number(port) else { return false };
    match rule {
        Origin::Null => false,
        Origin::Same => {
            let (name, own_port) = split_port(own.host);
            // A proxy may name the port apart from the host, or only its own.
            let told = own_port.is_none() && own.port.is_some() && own.port == given;
            // A page loaded without TLS can have been altered on the way. If TLS ends before stickyd, the scheme is
            // unknown.
            let safe = !secure || scheme == "https";
            safe && !name.is_empty() && host.eq_ignore_ascii_case(name) && (told || number(own_port) == Some(given))
        }
        Origin::Site { scheme: wanted, host: rule, below, port } => {
            let end = host.len().checked_sub(rule.len()).filter(|start| (*start > 0) == *below);
            let named = end.and_then(|start| host.get(start..)).is_some_and(|end| end.eq_ignore_ascii_case(rule));
            scheme == *wanted && named && given == *port
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(scheme: &str, host: &str, port: Option<u16>) -> Origin {
        let below = host.starts_with('.');
        Origin::Site { scheme: scheme.to_owned(), host: host.to_owned(), below, port }
    }

    #[test]
    fn origins_match_configured_sites() {
        let (plain, below) = (site("https", "a.example", Some(443)), site("https", ".a.example", Some(443)));
        let odd = site("https", "a.example", Some(8443));
        let app = site("capacitor", "localhost", None);
        for (rule, origin, expected) in [
            (&plain, "https://a.example", true),
            (&plain, "HTTPS://A.Example", true),
            (&plain, "https://a.example:443", true),
            (&plain, "https://a.example:8443", false),
            (&plain, "http://a.example", false),
            (&plain, "https://b.a.example", false),
            (&plain, "https://a.example.evil.example", false),
            (&plain, "https://evil-a.example", false),
            (&plain, "https://a.example@evil.example", false),
            (&plain, "null", false),
            (&plain, "", false),
            (&below, "https://b.a.example", true),
            (&below, "https://c.b.a.example", true),
            (&below, "https://a.example", false),
            (&below, "https://.a.example", false),
            (&below, "https://ba.example", false),
            (&odd, "https://a.example:8443", true),
            (&odd, "https://a.example", false),
            (&odd, "https://a.example:x", false),
            (&app, "capacitor://localhost", true),
            (&app, "capacitor://localhost:1", false),
            (&Origin::Null, "null", true),
            (&Origin::Null, "https://a.example", false),
        ] {
            let own = Authority { host: "own.example", port: None };
            assert_eq!(fits(rule, origin, true, own), expected, "{rule:?} {origin}");
        }
    }

    #[test]
    fn same_origin_compares_host_port_and_scheme() {
        for (origin, secure, host, expected) in [
            ("https://a.example", true, "a.example", true),
            ("https://a.example", true, "A.example:443", true),
            ("http://a.example", true, "a.example", false),
            ("http://a.example", false, "a.example", true),
            ("https://a.example", false, "a.example", true),
            ("http://a.example:8080", false, "a.example:8080", true),
            ("http://a.example:8080", false, "a.example", false),
            ("http://a.example", false, "a.example:8080", false),
            ("https://[::1]:1", true, "[::1]:1", true),
            ("https://b.example", true, "a.example", false),
            ("https://", true, "", false),
            ("null", true, "null", false),
        ] {
            let own = Authority { host, port: None };
            assert_eq!(fits(&Origin::Same, origin, secure, own), expected, "{origin} {secure} {host}");
        }
        for (origin, host, port, expected) in [
            ("https://a.example:8443", "a.example", 8443, true),
            ("https://a.example:8444", "a.example", 8443, false),
            ("https://a.example", "a.example", 8443, true),
            ("https://a.example:8443", "a.example:1", 8443, false),
            ("https://b.example:8443", "a.example", 8443, false),
        ] {
            let own = Authority { host, port: Some(port) };
            assert_eq!(fits(&Origin::Same, origin, true, own), expected, "{origin} {host} {port}");
        }
    }

    #[test]
    fn scripts_without_an_origin_are_judged_by_their_referer() {
        let rules = [site("https", "a.example", Some(443))];
        let client = Client { address: [127, 0, 0, 1].into(), known: true, secure: true };
        let asks = |fields: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            may(&rules, &headers, client, Authority { host: "own.example", port: None })
        };
        assert!(asks(&[]), "not a browser");
        assert!(asks(&[("sec-fetch-site", "same-origin")]) && asks(&[("sec-fetch-site", "none")]));
        assert!(!asks(&[("sec-fetch-site", "cross-site")]));
        assert!(!asks(&[("sec-fetch-site", "cross-site"), ("referer", "https://evil.example/x?https://a.example")]));
        assert!(asks(&[("sec-fetch-site", "cross-site"), ("referer", "https://a.example/page?x")]));
        assert!(!asks(&[("origin", "https://a.example"), ("origin", "https://evil.example")]));
        assert!(!asks(&[("origin", "https://evil.example"), ("sec-fetch-site", "same-origin")]));
    }
}
