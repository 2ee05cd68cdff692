//! Guards: reject requests before they reach a worker, by network, by the page that sends them (Origin), and by rate.
//!
//! Rates are counted per client address (IPv6 per /64) for a route, and in total for an upstream. A guard that is not
//! configured costs nothing. Left out: the application's own checks (`allowRequest`, `cors`), which work as before.

mod openings;
mod origins;
mod refusal;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;

use hyper::Request;
use hyper::header::{HeaderName, HeaderValue};

use super::access::AccessGuard;
use super::jwt::{HeadVerdict, JwtGuard};
use super::live_keys::{self, LiveKeys, Now, Refused};
use super::person::Person;
use super::spent::{SpentRates, SpentTokens};
use super::users::Users;
use crate::affinity::ask::RequestFacts;
use crate::client::Client;
use crate::clock::Millis;
use crate::config;
use crate::config::guards::{Guards, OverLimit, Refuse, UserSource};
use crate::config::labels::LabelRules;
use crate::fleet::Fleet;
use crate::jwt::{Claims, TokenFault};
use crate::keys::{AddressHash, Key};
use crate::metrics::GuardLabel;
use crate::networks::NetworkSet;
use crate::route::RouteMatch;
use crate::sockets::labels::{self, CertificateTexts};
use crate::telemetry::say_full;
use crate::upstream::Upstream;
use crate::upstream::rate::{ADDRESSES, RateKind, RateLimits, SHARDS};
pub(crate) use openings::is_opening;
use openings::opens;
pub(crate) use origins::{Authority, allowed_origin};
use origins::{is_session, may};
pub(crate) use refusal::GuardRefusal;

/// The live guard of a route.
pub struct RouteGuard {
    guards: Guards,
    limits: Arc<RateLimits>,
    pub(crate) jwt: Option<JwtGuard>,
    /// The live sockets of each user; `None` without a limit.
    pub(crate) users: Option<Arc<Users>>,
    /// Guards that have to wait for their verdict; `None` if there are none.
    pub(crate) access: Option<Arc<AccessGuard>>,
    /// What users have spent of its rates, for other stickyds.
    pub(crate) spent: SpentRates,
    /// Names the route, alike on all stickyds of a fleet.
    scope: String,
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
    /// The user of a handshake, if the fleet is to be asked whether it may have one more socket.
    pub(crate) user: Option<String>,
}

impl RouteGuard {
    /// Creates the guard of a route, or `None` if it has none. The counts of the previous guard are kept if the rates
    /// are the same.
    pub(crate) fn follow(
        route: &config::Route,
        labels: &LabelRules,
        before: Option<&Arc<Self>>,
        known_keys: Option<&Arc<LiveKeys>>,
    ) -> Option<Arc<Self>> {
        let guards = &route.guards;
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
        let scope = format!("{}{}", route.host.as_deref().unwrap_or_default(), route.path);
        let users = guards.users.as_ref().map(|limit| {
            let same = before.and_then(|before| before.users.clone()).filter(|users| users.limit() == limit);
            same.unwrap_or_else(|| Users::new(limit.clone(), &scope))
        });
        let by = [guards.users.as_ref().map(|limit| &limit.by), guards.rate_by.as_ref()];
        let of_limits = by.into_iter().flatten().filter_map(UserSource::claim).map(str::to_owned);
        let wanted: Vec<_> = label_claims.iter().cloned().chain(of_limits).collect();
        let jwt = guards.jwt.as_ref().map(|jwt| JwtGuard::new(jwt, wanted, known_keys));
        let access = AccessGuard::follow(guards, before.and_then(|before| before.access.as_ref()));
        let hasher = RandomState::new();
        Some(Arc::new(Self {
            guards: guards.clone(),
            limits,
            jwt,
            users,
            access,
            spent: SpentRates::default(),
            scope,
            hasher,
            label_claims,
        }))
    }

    /// Whether the guard concerns tokens or users.
    pub(crate) fn knows_clients(&self) -> bool {
        self.jwt.is_some() || self.users.is_some()
    }

    /// Whether its rates count by user.
    pub(crate) fn counts_users(&self) -> bool {
        self.guards.rate_by.is_some()
    }

    /// Names its rates among the stickyds of a fleet.
    pub(crate) fn rate_key(&self, fleet: &Fleet) -> [u8; 16] {
        fleet.user_key("rates", &self.scope).to_bytes()
    }

    /// Takes tokens of a user that were spent on another stickyd.
    pub(crate) fn charge(&self, user: AddressHash, spent: SpentTokens, now_ms: Millis) {
        self.limits.charge(user, [spent.requests, spent.handshakes], now_ms);
    }

    /// The key by which a user's rates count: the same on all stickyds of a fleet.
    fn bucket_of(&self, user: &str, fleet: Option<&Fleet>) -> AddressHash {
        match fleet {
            Some(fleet) => AddressHash::new(fleet.user_key(&self.scope, user).key().0),
            None => AddressHash::new(self.hasher.hash_one(user)),
        }
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
        certificate: Option<CertificateTexts<'_>>,
    ) -> Option<String> {
        let claim = |name: &str| claims.and_then(|claims| claims.text(name));
        match by {
            UserSource::Claim(name) => claim(name),
            UserSource::Label(name) => {
                let label = upstream.config.labels.iter().find(|label| label.name == *name)?;
                let value = labels::value(&label.from, request.headers(), request.uri().query(), &claim, certificate)?;
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
    /// The other stickyds, if this one is in a fleet.
    pub fleet: Option<&'a Fleet>,
    /// The client's certificate, if its connection was opened with one.
    pub certificate: Option<CertificateTexts<'a>>,
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
        own.user = check_user(watch, found.upstream, request, asked, claims.as_ref(), handshake)?;
        if is_own && (watch.jwt.is_some() || own.user.is_some()) {
            passed = Some(Box::new(own));
        }
    }
    Ok(passed)
}

/// Checks the rate of a request's user, and the number of its sockets. Returns the user if its sockets on other
/// stickyds matter, too.
fn check_user<B>(
    watch: &RouteGuard,
    upstream: &Upstream,
    request: &Request<B>,
    asked: &GuardedRequest<'_>,
    claims: Option<&Claims>,
    handshake: bool,
) -> Result<Option<String>, GuardRefusal> {
    if let Some(by) = &watch.guards.rate_by {
        let user = watch.user(by, upstream, request, claims, asked.certificate);
        let of_user = user.map(|user| watch.bucket_of(&user, asked.fleet));
        let (key, labels) = match of_user {
            Some(key) => (key, [GuardLabel::UserRequests, GuardLabel::UserHandshakes]),
            None => (asked.key, [GuardLabel::RateRequests, GuardLabel::RateHandshakes]),
        };
        take(upstream, &watch.limits, key, labels, asked, handshake)?;
        if of_user.is_some() && asked.fleet.is_some() {
            watch.spent.note(key, handshake);
        }
    }
    let refuses = |users: &&Arc<Users>| handshake && users.limit().over == OverLimit::Refuses;
    let Some(users) = watch.users.as_ref().filter(refuses) else { return Ok(None) };
    let user = watch.user(&users.limit().by, upstream, request, claims, asked.certificate);
    if user.as_ref().is_some_and(|user| users.is_full(user)) {
        return Err(GuardRefusal::TooMany(users.limit().refuse));
    }
    Ok(user)
}
