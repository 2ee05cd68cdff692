//! `[route.jwt]`: the tokens that a route asks for, their places in a request, and what happens to other clients.
//!
//! Key files are read and tried here, so that a file without a usable key is an error with a place. Left out: keys of a
//! server (`keys = "https://…"`), which `server::jwks` fetches while stickyd runs.

use std::sync::Arc;
use std::time::Duration;

use hyper::header::HeaderName;
use jsonwebtoken::{Algorithm, AlgorithmFamily};

use super::check::Context;
use super::error::Span;
use super::file::{ConfigItem, ConfigText, Section};
use super::guards::{REFUSE, Refuse};
use super::outbound::{self, OutboundTarget};
use super::values::{duration, word};
use super::{files, variables};
use crate::jwt::{KeySet, TokenTerms};

/// What a route asks of tokens. A reload applies it to requests that begin after it.
#[derive(Debug, PartialEq, Eq)]
pub struct Jwt {
    /// The keys that verify tokens.
    pub(crate) keys: KeySource,
    /// Places in which a token may be, in the order in which they are tried.
    pub from: Vec<TokenPlace>,
    /// What a token has to say.
    pub terms: TokenTerms,
    /// Header fields that tell workers the values of claims. No client can set them.
    pub headers: Vec<(HeaderName, String)>,
    /// How a client without a good token is refused; default: told.
    pub refuse: Refuse,
    /// Whether a socket is closed when its token expires; default: no.
    pub closes_expired: bool,
    /// Whether ordinary requests need a token, too; default: only handshakes and upgrades do.
    pub is_for_all: bool,
    /// Whether packets that cannot be read pass before a token has come; only with `auth:` in `from`. Default: no.
    pub passes_unreadable: bool,
}

/// Where the keys come from.
#[derive(Debug, PartialEq)]
pub(crate) enum KeySource {
    /// They are known: from a file or a secret.
    Known(Arc<KeySet>),
    /// They are fetched from the server that publishes them.
    Server(OutboundTarget),
}

impl Eq for KeySource {}

/// A place in which a token may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenPlace {
    /// A field of the payload of Socket.IO's CONNECT packet, `auth` in the client's options.
    Auth(String),
    /// A header field; `Authorization` begins with `Bearer`.
    Header(HeaderName),
    /// A query parameter of this name.
    Query(String),
    /// A cookie of this name.
    Cookie(String),
}

impl Jwt {
    /// Whether a token may be in a CONNECT packet, which is only seen after the handshake.
    pub fn reads_packets(&self) -> bool {
        self.auth_field().is_some()
    }

    /// The field of the CONNECT packet's payload that has the token.
    pub fn auth_field(&self) -> Option<&str> {
        self.from.iter().find_map(|place| match place {
            TokenPlace::Auth(field) => Some(field.as_str()),
            TokenPlace::Header(_) | TokenPlace::Query(_) | TokenPlace::Cookie(_) => None,
        })
    }
}

const LEEWAYS: std::ops::RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(600);
const LEEWAY: Duration = Duration::from_secs(30);

const ALGORITHMS: [(&str, Algorithm); 12] = [
    ("HS256", Algorithm::HS256),
    ("HS384", Algorithm::HS384),
    ("HS512", Algorithm::HS512),
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];

/// Fields that a route must not fill with claims: those that say where a message ends, and stickyd's own.
const RESERVED: [&str; 14] = [
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "origin",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-real-ip",
    "x-request-id",
];

/// Reads `[route.jwt]`, which may be missing.
pub(crate) fn read(context: &Context<'_>, route: &mut Section<'_>) -> Option<Arc<Jwt>> {
    let mut section = route.section("jwt", "a table headed [route.jwt]")?;
    let at = section.span.clone();
    let algorithms_at = section.key("algorithms");
    let algorithms = section.take("algorithms").map(|item| algorithms(context, item)).unwrap_or_default();
    let keys = keys(context, &mut section, &at, &algorithms, algorithms_at.as_ref());
    let from = section.take("from").and_then(|item| places(context, item));
    let from = from.unwrap_or_else(|| {
        vec![TokenPlace::Auth("token".to_owned()), TokenPlace::Header(hyper::header::AUTHORIZATION)]
    });
    let terms = TokenTerms {
        algorithms,
        issuers: section.take("issuer").map(|item| texts(item, "an issuer")).unwrap_or_default(),
        audiences: section.take("audience").map(|item| texts(item, "an audience")).unwrap_or_default(),
        claims: claims(&mut section),
        leeway_s: section.take("leeway").and_then(|item| duration(item, LEEWAYS)).unwrap_or(LEEWAY).as_secs(),
    };
    let headers_at = section.key("headers");
    let headers = headers(context, &mut section);
    let unreadable_at = section.key("unreadable");
    let mut choice = |key, what, words: &[(&'static str, bool)]| {
        let text = section.text(key, "a string")?;
        word(context.report, what, &text, words)
    };
    let closes_expired = choice("expire", "value of `expire`", &[("keep", false), ("close", true)]);
    let is_for_all = choice("on", "value of `on`", &[("handshakes", false), ("all", true)]);
    let unreadable = choice("unreadable", "value of `unreadable`", &[("refuse", false), ("pass", true)]);
    let refuse = section.text("refuse", "a string");
    let refuse = refuse.and_then(|text| word(context.report, "way to refuse", &text, &REFUSE));
    section.finish();
    let packets_only = from.iter().all(|place| matches!(place, TokenPlace::Auth(_)));
    if let (false, true, Some(at)) = (headers.is_empty(), packets_only, headers_at) {
        let message = "`headers` has no effect with nothing but `auth:` in `from`";
        let help = "workers have the handshake's headers before the CONNECT packet comes: use a label \
                    (labels = { user = \"jwt:sub\" }), or add \"header:authorization\" to `from`";
        context.report.error_help(&at, message, help);
    }
    if is_for_all == Some(true) && packets_only {
        let help =
            "ordinary requests have no CONNECT packet: add \"header:authorization\" or \"cookie:NAME\" to `from`";
        context.report.error_help(&at, "on = \"all\" needs a place in `from` that ordinary requests have", help);
    }
    if let (Some(at), false) = (unreadable_at, from.iter().any(|place| matches!(place, TokenPlace::Auth(_)))) {
        context.report.error_help(&at, "`unreadable` has no effect without `auth:` in `from`", "remove it");
    }
    Some(Arc::new(Jwt {
        keys: keys?,
        from,
        terms,
        headers,
        refuse: refuse.unwrap_or(Refuse::Told),
        closes_expired: closes_expired.unwrap_or(false),
        is_for_all: is_for_all.unwrap_or(false),
        passes_unreadable: unreadable.unwrap_or(false),
    }))
}

/// Reads where the keys are, and checks that they fit the algorithms.
fn keys(
    context: &Context<'_>,
    section: &mut Section<'_>,
    at: &Span,
    algorithms: &[Algorithm],
    algorithms_at: Option<&Span>,
) -> Option<KeySource> {
    const HELP: &str = "write keys = \"jwks.json\", keys = \"https://id.example.com/.well-known/jwks.json\" or \
                        secret_file = \"jwt.key\"";
    let keys = section.text("keys", "a path or a URL");
    let file = section.text("secret_file", "a path");
    let inline = section.text("secret", "a string");
    let ca = section.text("ca", "a path");
    if [&keys, &file, &inline].into_iter().flatten().count() > 1 {
        let message = "only one of `keys`, `secret_file` and `secret` can be used";
        context.report.error_help(at, message, "remove the others");
        return None;
    }
    let is_hmac = |one: &Algorithm| one.family() == AlgorithmFamily::Hmac;
    let misfit = |message: String, help: &str| {
        context.report.error_help(algorithms_at.unwrap_or(at), message, help);
        None
    };
    let secret = match (&file, &inline) {
        (Some(path), _) => Some(files::secret(context, path)?.0),
        (None, Some(text)) => Some(inline_secret(context, text)?),
        (None, None) => None,
    };
    if let Some(secret) = secret {
        if let Some(wrong) = algorithms.iter().find(|one| !is_hmac(one)) {
            let help = "a secret verifies HS256, HS384 and HS512; for others, name their public keys in `keys`";
            return misfit(format!("{wrong:?} does not fit a secret"), help);
        }
        return KeySet::from_secret(&secret).ok().map(|set| KeySource::Known(Arc::new(set)));
    }
    let Some(text) = keys else {
        context.report.error_help(at, "[route.jwt] needs keys", HELP);
        return None;
    };
    if text.value.contains("://") {
        if let Some(wrong) = algorithms.iter().find(|one| is_hmac(one)) {
            let help = "keys of a server are public: use secret_file = \"jwt.key\" for a shared secret";
            return misfit(format!("{wrong:?} does not fit keys of a server"), help);
        }
        return server(context, &text, ca.as_ref());
    }
    if let Some(ca) = &ca {
        context.report.error(&ca.span, "`ca` has no effect without a URL in `keys`");
    }
    let bytes = files::named(context, &text)?;
    let set = match KeySet::from_file(&bytes) {
        Ok(set) => set,
        Err(why) => {
            let help = "use a JWK set (JSON), or PEM text with public keys or certificates";
            return files::unusable(context, &text, &why, help);
        }
    };
    if !algorithms.is_empty() && !set.fits_any(algorithms) {
        let help = "name an algorithm of the keys, or leave `algorithms` out";
        return misfit(format!("no key of {} fits `algorithms`", text.value), help);
    }
    Some(KeySource::Known(Arc::new(set)))
}

fn inline_secret(context: &Context<'_>, text: &ConfigText) -> Option<Vec<u8>> {
    if variables::refuse(context, "`secret`", text, "write secret_file = \"jwt.key\": a file with the secret") {
        return None;
    }
    if text.value.len() < files::MIN_SECRET {
        let message = format!("`secret` has {} bytes; it needs at least {}", text.value.len(), files::MIN_SECRET);
        context.report.error_help(&text.span, message, "make one with: openssl rand -hex 32");
        return None;
    }
    let help = "put it into a file, and write secret_file = \"jwt.key\"";
    context.report.warn(&text.span, "the configuration itself contains the secret of tokens", help);
    Some(text.value.clone().into_bytes())
}

/// Reads the URL of a key server. Keys fetched by plain HTTP could be changed on the way, so it is allowed only to this
/// machine.
fn server(context: &Context<'_>, text: &ConfigText, ca: Option<&ConfigText>) -> Option<KeySource> {
    let url = outbound::url(context, &text.span, &text.value)?;
    let is_local = matches!(url.host(), Some("localhost" | "127.0.0.1" | "[::1]"));
    if url.scheme_str() != Some("https") && !is_local {
        let help = "write \"https://id.example.com/.well-known/jwks.json\"";
        context.report.error_help(&text.span, "keys must be fetched over https", help);
        return None;
    }
    outbound::target(context, &text.span, url, ca).map(KeySource::Server)
}

fn algorithms(context: &Context<'_>, item: ConfigItem<'_>) -> Vec<Algorithm> {
    let Some(items) = item.list("a list such as [\"ES256\"]", "an algorithm") else { return Vec::new() };
    let read = |item: ConfigItem<'_>| {
        let text = item.text("a string such as \"ES256\"")?;
        word(context.report, "algorithm", &text, &ALGORITHMS)
    };
    items.into_iter().filter_map(read).collect()
}

fn places(context: &Context<'_>, item: ConfigItem<'_>) -> Option<Vec<TokenPlace>> {
    let at = item.span.clone();
    let items = item.list("a list such as [\"auth:token\", \"header:authorization\"]", "a place of the token")?;
    if items.is_empty() {
        context.report.error_help(&at, "`from` names no place", "write from = [\"auth:token\"]");
    }
    let places: Vec<_> =
        items.into_iter().filter_map(|item| place(context, &item.text("a string such as \"query:token\"")?)).collect();
    if places.iter().filter(|place| matches!(place, TokenPlace::Auth(_))).count() > 1 {
        context.report.error_help(&at, "only one `auth:` can be in `from`", "remove the others");
    }
    Some(places)
}

fn place(context: &Context<'_>, text: &ConfigText) -> Option<TokenPlace> {
    let help = "write \"auth:token\", \"header:authorization\", \"query:token\" or \"cookie:jwt\"";
    let (kind, key) = text.value.split_once(':').unwrap_or((&text.value, ""));
    let fits = (1..=128).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    let found = match kind {
        "auth" if fits => Some(TokenPlace::Auth(key.to_owned())),
        "header" if fits => HeaderName::try_from(key).ok().map(TokenPlace::Header),
        "cookie" if fits => Some(TokenPlace::Cookie(key.to_owned())),
        "query" if fits => {
            let help = "logs of other proxies and the Referer field contain the query: prefer auth: or a header";
            context.report.warn(&text.span, "a token in the query can be read in logs", help);
            Some(TokenPlace::Query(key.to_owned()))
        }
        _ => None,
    };
    if found.is_none() {
        context.report.error_help(&text.span, format!("`{}` is not a place of a token", text.value), help);
    }
    found
}

/// Reads a text, or a list of texts.
fn texts(item: ConfigItem<'_>, one: &str) -> Vec<String> {
    if !item.is_list() {
        return item.text("a string, or a list of strings").map(|text| text.value).into_iter().collect();
    }
    let items = item.list("a list of strings", one).unwrap_or_default();
    items.into_iter().filter_map(|item| item.text("a string")).map(|text| text.value).collect()
}

fn claims(section: &mut Section<'_>) -> Vec<(String, Vec<String>)> {
    let Some(table) = section.section("claims", "a table such as { role = [\"agent\"] }") else { return Vec::new() };
    table.named().into_iter().map(|(name, item)| (name.value, texts(item, "a value of the claim"))).collect()
}

fn headers(context: &Context<'_>, section: &mut Section<'_>) -> Vec<(HeaderName, String)> {
    let Some(table) = section.section("headers", "a table such as { \"x-user-id\" = \"sub\" }") else {
        return Vec::new();
    };
    let mut headers = Vec::new();
    for (name, item) in table.named() {
        let Some(claim) = item.text("the name of a claim, such as \"sub\"") else { continue };
        let lower = name.value.to_ascii_lowercase();
        let is_reserved = RESERVED.contains(&&*lower) || lower.starts_with("x-forwarded-") || lower.starts_with("sec-");
        match HeaderName::try_from(&*lower) {
            Ok(field) if !is_reserved => headers.push((field, claim.value)),
            _ => {
                let message = format!("the header `{}` cannot carry a claim", name.value);
                context.report.error_help(&name.span, message, "use a name of your own, such as x-user-id");
            }
        }
    }
    headers
}
