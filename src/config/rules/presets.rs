//! The rules built into stickyd, each with its name in `affinity`. Facts and their captures are in
//! docs/reference/protocols.md §1 and §3.

use std::time::Duration;

use hyper::Method;
use hyper::header::{self, HeaderName};

use super::{AnswerPlace, EndRule, Learn, LookupRule, On, Protocol, RefusalRule, Rule, RuleGuard, Spot};
use crate::config::pattern::{JsonPath, PathPattern, Template};

/// A function that makes a preset.
type Make = fn() -> Rule;

/// Every preset by its name.
pub(crate) const PRESETS: [(&str, Make); 7] = [
    ("socket.io", socket_io),
    ("sockjs", sockjs),
    ("signalr", signalr),
    ("mcp", mcp),
    ("phoenix", phoenix),
    ("cometd", cometd),
    ("tus", tus),
];

/// The rules of `"auto"`: `socket.io`, whose query is unmistakable, and others with a guard. `mcp` does without the
/// older HTTP+SSE, whose first event could be any application's.
pub(crate) fn automatic() -> [Rule; 4] {
    let mut mcp = Rule { guard: Some(RuleGuard::Mcp), ..mcp() };
    mcp.learn.retain(|learn| matches!(learn.from, AnswerPlace::Header(_)));
    mcp.lookup.retain(|lookup| matches!(lookup.at, Spot::Header(_)));
    let signalr = Rule { guard: Some(RuleGuard::SignalR), ..signalr() };
    [socket_io(), mcp, signalr, Rule { guard: Some(RuleGuard::SockJs), ..sockjs() }]
}

const MCP_SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const TUS: HeaderName = HeaderName::from_static("tus-resumable");

/// Engine.IO, versions 3 and 4. The lifetime of a session follows from its open packet; `ttl` is not used.
pub(crate) fn socket_io() -> Rule {
    let open = Learn { from: AnswerPlace::OpenPacket, on: On::default(), status: Some(200), only: None };
    let cookie = Learn { from: AnswerPlace::SetCookie("io".to_owned()), ..open.clone() };
    Rule {
        lookup: vec![at(Spot::EngineIo)],
        learn: vec![open, cookie],
        refusal: vec![RefusalRule::EngineIo],
        ..named("socket.io", Protocol::SocketIo, Duration::from_secs(90))
    }
}

/// SockJS: `/{prefix}/{server}/{session}/{transport}`, with the session id made by the client. Receiving transports
/// create a session for an unknown id; sending ones do not.
fn sockjs() -> Rule {
    let receivers = "/**/*/{id}/xhr|xhr_streaming|eventsource|jsonp|htmlfile|websocket";
    Rule {
        lookup: vec![at(Spot::Path(path(receivers))), at(Spot::Path(path("/**/*/{id}/xhr_send|jsonp_send")))],
        refusal: vec![answer(404, "")],
        creates: vec![On { path: Some(path(receivers)), ..On::default() }],
        client_made: true,
        // A session ends 5 s after its last receiver (disconnect_delay; a server may configure more).
        ..named("sockjs", Protocol::SockJs, Duration::from_secs(60))
    }
}

/// ASP.NET Core SignalR and Blazor: negotiate versions 0 (`connectionId`) and 1 (`connectionToken`; `connectionId` is
/// public there). A redirect has neither. Ids are 16 random bytes in base64url, 22 letters.
fn signalr() -> Rule {
    let negotiate = On { methods: vec![Method::POST], path: Some(path("/**/negotiate")), header: None };
    let token = Learn { from: json("connectionToken"), on: negotiate, status: Some(200), only: None };
    Rule {
        learn: vec![token.clone(), Learn { from: json("connectionId"), ..token }],
        lookup: vec![LookupRule { min: 16, ..at(Spot::Query("id".to_owned())) }],
        refusal: vec![answer(404, "No Connection with that ID")],
        ends: vec![EndRule { on: On { methods: vec![Method::DELETE], ..On::default() }, status: None }],
        ..named("signalr", Protocol::SignalR, Duration::from_secs(120))
    }
}

/// MCP over Streamable HTTP up to version 2025-11-25: requests without `Mcp-Session-Id` have no session (version
/// 2026-07-28 has no sessions). In the older HTTP+SSE, the first event of the stream names the endpoint, with
/// `sessionId=` or `session_id=` in its query.
fn mcp() -> Rule {
    let streamable = Learn {
        from: AnswerPlace::Header(MCP_SESSION),
        // A client's POST always accepts both kinds of answers, JSON and event streams.
        on: On { methods: vec![Method::POST], path: None, header: Some((header::ACCEPT, "text/event-stream")) },
        status: None,
        only: None,
    };
    let sse = |name: &str| Learn {
        from: AnswerPlace::Prefix(template(&format!("event: endpoint\ndata: *{name}={{id}}"))),
        on: On { methods: vec![Method::GET], path: None, header: Some((header::ACCEPT, "text/event-stream")) },
        status: Some(200),
        only: None,
    };
    let posted = |name: &str| LookupRule {
        at: Spot::Query(name.to_owned()),
        on: On { methods: vec![Method::POST], ..On::default() },
        min: 16,
    };
    Rule {
        learn: vec![streamable, sse("sessionId"), sse("session_id")],
        lookup: vec![at(Spot::Header(MCP_SESSION)), posted("sessionId"), posted("session_id")],
        // 404 is in the specification; the 400s are the texts of the SDKs' examples.
        refusal: vec![
            answer(404, ""),
            answer(400, "valid session ID"),
            answer(400, "missing session ID"),
            answer(400, "No transport found for sessionId"),
        ],
        ends: vec![EndRule { on: On { methods: vec![Method::DELETE], ..On::default() }, status: None }],
        ..named("mcp", Protocol::Mcp, Duration::from_secs(3_600))
    }
}

/// Phoenix's long poll. A GET with an unknown token creates a session; a POST is refused with 200 and status 410 in the
/// body.
fn phoenix() -> Rule {
    let longpoll = |method: Method| On { methods: vec![method], path: Some(path("/**/longpoll")), header: None };
    let gone = JsonPath::parse("status").map(|status| (status, "410")).ok();
    Rule {
        learn: vec![Learn { from: json("token"), on: longpoll(Method::GET), status: Some(200), only: gone }],
        lookup: vec![LookupRule {
            on: On { path: Some(path("/**/longpoll")), ..On::default() },
            ..at(Spot::Query("token".to_owned()))
        }],
        refusal: vec![answer(200, "\"status\":410")],
        creates: vec![longpoll(Method::GET)],
        ..named("phoenix", Protocol::Phoenix, Duration::from_secs(60))
    }
}

/// CometD, by the cookie that it sets in each browser at the handshake.
fn cometd() -> Rule {
    let name = "BAYEUX_BROWSER";
    let cookie = AnswerPlace::SetCookie(name.to_owned());
    Rule {
        learn: vec![Learn { from: cookie, on: On::default(), status: None, only: None }],
        lookup: vec![at(Spot::Cookie(name.to_owned()))],
        refusal: vec![answer(200, "402::"), answer(200, "401::")],
        // Longer than maxInterval (10 s) and a poll (30 s) together.
        ..named("cometd", Protocol::CometD, Duration::from_secs(120))
    }
}

/// tus 1.0: the id of an upload is the last segment of the `Location` in the answer that created it.
fn tus() -> Rule {
    let with = |method: Method| On { methods: vec![method], path: None, header: Some((TUS, "")) };
    let upload = On { methods: vec![Method::HEAD, Method::PATCH, Method::DELETE], ..with(Method::HEAD) };
    Rule {
        learn: vec![Learn { from: AnswerPlace::Location, on: with(Method::POST), status: Some(201), only: None }],
        lookup: vec![LookupRule { on: upload, ..at(Spot::Path(path("/**/{id}"))) }],
        refusal: vec![answer(404, ""), answer(410, "")],
        ends: vec![EndRule { on: with(Method::DELETE), status: None }],
        ..named("tus", Protocol::Tus, Duration::from_secs(24 * 3_600))
    }
}

fn named(name: &str, protocol: Protocol, ttl: Duration) -> Rule {
    Rule {
        name: name.to_owned(),
        protocol,
        learn: Vec::new(),
        lookup: Vec::new(),
        refusal: Vec::new(),
        creates: Vec::new(),
        ttl,
        ttl_from: None,
        ends: Vec::new(),
        client_made: false,
        guard: None,
    }
}

fn at(at: Spot) -> LookupRule {
    LookupRule { at, on: On::default(), min: 1 }
}

fn answer(status: u16, body: &str) -> RefusalRule {
    RefusalRule::Answer { status, body: body.to_owned(), header: None }
}

// The fallbacks of these functions are never used: the test below fails if a pattern of a preset does not parse.

fn path(text: &'static str) -> PathPattern {
    PathPattern::parse(text).unwrap_or_else(|_| PathPattern::none())
}

fn json(text: &'static str) -> AnswerPlace {
    JsonPath::parse(text).map_or(AnswerPlace::Location, AnswerPlace::Json)
}

fn template(text: &str) -> Template {
    Template::parse(text).unwrap_or_else(|_| Template::none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_patterns_of_all_presets_parse() {
        for (word, preset) in PRESETS {
            let rule = preset();
            assert_eq!(rule.name, word);
            for lookup in &rule.lookup {
                assert!(!matches!(&lookup.at, Spot::Path(path) if !path.has_id()), "{word}");
            }
            let ons =
                rule.learn.iter().map(|learn| &learn.on).chain(&rule.creates).chain(rule.ends.iter().map(|e| &e.on));
            for on in ons {
                assert!(on.path.as_ref().is_none_or(|path| *path != PathPattern::none()), "{word}");
            }
            for learn in &rule.learn {
                assert!(word == "tus" || learn.from != AnswerPlace::Location, "{word}");
                assert!(
                    !matches!(&learn.from, AnswerPlace::Prefix(template) if *template == Template::none()),
                    "{word}"
                );
            }
        }
    }
}
