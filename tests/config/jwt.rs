//! `[route.jwt]`, `users`, and `by` of `rate`: their values, and the errors for wrong ones.

use std::path::Path;

use stickyd::testing::config::guards::{OverLimit, Refuse, UserLimit, UserSource};
use stickyd::testing::config::{Config, load_with_warnings, parse_with};

use super::{HEAD, TempDir, resolve};

const SECRET: &str = "secret = \"0123456789abcdef0123456789abcdef\"";

fn text(route: &str, jwt: &str) -> String {
    format!("{HEAD}labels = {{ uid = \"query:uid\" }}\n[[route]]\nupstream = \"app\"\n{route}\n[route.jwt]\n{jwt}")
}

/// A configuration that loads, although the secret in it is warned of.
fn good(text: &str) -> Config {
    parse_with(text, Path::new("/etc/stickyd/s.toml"), &resolve).unwrap_or_else(|errors| panic!("{errors}")).0
}

#[test]
fn every_key_is_read() {
    let config =
        good(&text("users = { by = \"jwt:sub\", sockets = 3 }\nrate = { by = \"uid\", handshakes = \"1/s\" }", SECRET));
    let guards = &config.routes[0].guards;
    let limit = UserLimit {
        by: UserSource::Claim("sub".to_owned()),
        sockets: 3,
        over: OverLimit::ClosesOldest,
        refuse: Refuse::Told,
    };
    assert_eq!(guards.users, Some(limit));
    assert_eq!(guards.rate_by, Some(UserSource::Label("uid".to_owned())));
    let jwt = guards.jwt.as_ref().unwrap();
    assert_eq!(
        (jwt.refuse, jwt.closes_expired, jwt.is_for_all, jwt.passes_unreadable),
        (Refuse::Told, false, false, false)
    );
    assert_eq!((jwt.terms.leeway_s, jwt.auth_field()), (30, Some("token")));
    let all = "algorithms = [\"HS256\"]\nissuer = \"a\"\naudience = [\"b\", \"c\"]\nclaims = { role = \"d\" }\n\
        headers = { \"X-User-Id\" = \"sub\" }\nrefuse = \"http\"\nexpire = \"close\"\non = \"all\"\nleeway = \"1m\"\n\
        unreadable = \"pass\"\nfrom = [\"auth:jwt\", \"header:x-token\", \"query:token\", \"cookie:jwt\"]";
    let config = good(&text("", &format!("{SECRET}\n{all}")));
    let jwt = config.routes[0].guards.jwt.as_ref().unwrap();
    assert_eq!(
        (jwt.refuse, jwt.closes_expired, jwt.is_for_all, jwt.passes_unreadable),
        (Refuse::Http, true, true, true)
    );
    assert_eq!((jwt.terms.issuers.len(), jwt.terms.audiences.len(), jwt.terms.claims.len()), (1, 2, 1));
    assert_eq!((jwt.headers[0].0.as_str(), jwt.headers[0].1.as_str(), jwt.from.len()), ("x-user-id", "sub", 4));
    assert!(!format!("{config:?}").contains("0123456789abcdef0123"), "the secret is never printed");
}

#[test]
fn every_mistake_is_told_with_what_to_write() {
    for (route, jwt, message, help) in [
        ("", "", "[route.jwt] needs keys", "write keys = "),
        ("", "secret = \"short\"", "it needs at least 16", "openssl rand"),
        ("", "secret = \"0123456789abcdef\"\nkeys = \"a.json\"", "only one of `keys`", "remove"),
        ("", "keys = \"none.json\"", "cannot read", ""),
        ("", "keys = \"http://id.example.com/jwks\"", "over https", "write \"https://"),
        ("", "keys = \"ftp://id.example.com/jwks\"", "must begin with https://", ""),
        (
            "",
            "keys = \"http://127.0.0.1/jwks\"\nalgorithms = [\"HS256\"]",
            "does not fit keys of a server",
            "secret_file",
        ),
        ("", &format!("{SECRET}\nalgorithms = [\"ES256\"]"), "ES256 does not fit a secret", "public keys"),
        ("", &format!("{SECRET}\nalgorithms = [\"none\"]"), "unknown algorithm `none`", "use one of"),
        ("", &format!("{SECRET}\nalgorithms = [\"HS265\"]"), "unknown algorithm `HS265`", "use one of"),
        ("", &format!("{SECRET}\nfrom = []"), "`from` names no place", "auth:token"),
        ("", &format!("{SECRET}\nfrom = [\"body:token\"]"), "is not a place of a token", "header:authorization"),
        ("", &format!("{SECRET}\nfrom = [\"auth:a\", \"auth:b\"]"), "only one `auth:`", "remove"),
        (
            "",
            &format!("{SECRET}\nfrom = [\"auth:token\"]\nheaders = {{ \"x-user-id\" = \"sub\" }}"),
            "`headers` has no effect with nothing but `auth:` in `from`",
            "use a label",
        ),
        ("", &format!("{SECRET}\nheaders = {{ host = \"sub\" }}"), "cannot carry a claim", "x-user-id"),
        ("", &format!("{SECRET}\nfrom = [\"auth:token\"]\non = \"all\""), "needs a place in `from`", "header:"),
        ("", &format!("{SECRET}\nfrom = [\"cookie:a\"]\nunreadable = \"pass\""), "no effect without `auth:`", "remove"),
        ("", &format!("{SECRET}\nrefuse = \"tell\""), "unknown way to refuse `tell`", "use one of `told`, `http`"),
        ("", &format!("{SECRET}\nexpire = \"end\""), "unknown value of `expire`", "`close`"),
        ("", &format!("{SECRET}\nleeway = \"1h\""), "`leeway` must be from 0s to 10m", ""),
        ("", &format!("{SECRET}\nissuers = \"a\""), "unknown key `issuers`", "did you mean `issuer`?"),
        ("users = { by = \"none\", sockets = 3 }", SECRET, "unknown label `none`", ""),
        ("users = { by = \"uid\" }", SECRET, "`users` needs `sockets`", "write sockets = 3"),
        ("users = { by = \"uid\", sockets = 0 }", SECRET, "must be an integer from 1 to 10_000", ""),
        ("origins = { refuse = \"told\" }", SECRET, "`origins` needs `allow`", "write origins = "),
        ("rate = { by = \"jwt:sub\", requests = \"1/s\" }", SECRET, "needs the token of every request", "on = "),
    ] {
        let said = parse_with(&text(route, jwt), Path::new("s.toml"), &resolve).unwrap_err().to_string();
        assert!(said.contains(message) && said.contains(help) && said.contains("s.toml:"), "{route} {jwt}: {said}");
        assert_eq!(said.matches("error:").count(), 1, "{said}");
    }
    let claimless = format!("{HEAD}[[route]]\nupstream = \"app\"\nusers = {{ by = \"jwt:sub\", sockets = 1 }}");
    let said = parse_with(&claimless, Path::new("s.toml"), &resolve).unwrap_err().to_string();
    assert!(said.contains("the route has no [route.jwt]"), "{said}");
    let no_sids = text("", SECRET).replace("labels =", "affinity = [\"cookie\"]\nlabels =");
    let said = parse_with(&no_sids, Path::new("s.toml"), &resolve).unwrap_err().to_string();
    assert!(said.contains("`auth:` needs sessions of Socket.IO"), "{said}");
}

#[test]
fn doubtful_settings_are_warned_of() {
    let dir = TempDir::new("jwt-warnings");
    dir.write("s.toml", &text("", &format!("{SECRET}\nfrom = [\"query:token\"]")));
    let (_, warnings) = load_with_warnings(&dir.0.join("s.toml")).unwrap();
    let said: Vec<_> = warnings.iter().map(|warning| warning.one_line()).collect();
    assert!(said.iter().any(|one| one.contains("contains the secret of tokens")), "{said:?}");
    assert!(said.iter().any(|one| one.contains("can be read in logs")), "{said:?}");
    assert!(!format!("{said:?}").contains("0123456789abcdef0123"), "{said:?}");
    dir.write("jwks.json", "{}");
    dir.write("s.toml", &text("", "keys = \"jwks.json\""));
    let said = load_with_warnings(&dir.0.join("s.toml")).unwrap_err().to_string();
    assert!(said.contains("cannot use jwks.json: it is not a JWK set"), "{said}");
    let label = format!("{HEAD}labels = {{ user = \"jwt:sub\" }}\n[[route]]\nupstream = \"app\"\n");
    dir.write("s.toml", &label);
    let (_, warnings) = load_with_warnings(&dir.0.join("s.toml")).unwrap();
    assert!(format!("{warnings:?}").contains("no route to this upstream has [route.jwt]"), "{warnings:?}");
}
