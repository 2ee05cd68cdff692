//! `tls`, `redirect` and `proxy_protocol` of a listener, and `tls` of an upstream: their values, and every error.

use insta::assert_snapshot;
use stickyd::testing::config::{Buffers, ClientAuth, Redirect, Tls, parse_with};

use super::{TempDir, errors, errors_in, good, resolve, warnings};

const WORKERS: &str = "[upstream.app]\nworkers = [\"127.0.0.1:3000\"]\n";

/// A configuration whose listener has this `tls`, on line 3.
fn listener(tls: &str) -> String {
    format!("[[listener]]\naddress = \"0.0.0.0:443\"\ntls = {tls}\n{WORKERS}")
}

fn read(dir: &TempDir, tls: &str) -> Tls {
    let (mut config, warnings) =
        parse_with(&listener(tls), &dir.0.join("s.toml"), &resolve).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(warnings, []);
    config.listeners.remove(0).tls.unwrap()
}

/// A folder with `localhost.crt`, its key, and `ca.crt`.
fn files(name: &str) -> TempDir {
    let dir = TempDir::new(name);
    dir.certificate("localhost", 2000..4000);
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    dir.write("ca.crt", &params.self_signed(&key).unwrap().pem());
    dir
}

#[test]
fn names_policies_and_hsts_are_read() {
    let dir = files("tls-keys");
    let one = read(
        &dir,
        "{ certificate = \"localhost.crt\", key = \"localhost.key\", hosts = [\"*.Example.com\", \"b.test\"] }",
    );
    assert_eq!(one.certificates[0].hosts, ["*.example.com", "b.test"]);
    assert_eq!((one.hsts, &one.certificates[0].client_auth), (None, &ClientAuth::Off));
    assert_eq!(one.buffers, Buffers::Shared);
    assert_eq!(one.certificates[0].not_after, 64_060_588_800, "the year 4000");
    assert_eq!(one.alpn, [&b"h2"[..], b"http/1.1"]);
    let several = read(
        &dir,
        "{ certificates = [{ certificate = \"localhost.crt\", key = \"localhost.key\" }, \
         { certificate = \"localhost.crt\", key = \"localhost.key\", hosts = [\"c.test\"], client_auth = { mode = \"off\" } }], \
         client_auth = { mode = \"required\", ca = \"ca.crt\" }, buffers = \"own\", hsts = { max_age = \"2y\", include_subdomains = true, preload = true } }",
    );
    assert_eq!(several.certificates[0].hosts, ["localhost"], "its own names");
    assert!(matches!(&several.certificates[0].client_auth, ClientAuth::Required(roots) if roots.len() == 1));
    assert_eq!(several.certificates[1].client_auth, ClientAuth::Off);
    assert_eq!(several.hsts.as_deref(), Some("max-age=63115200; includeSubDomains; preload"));
    assert_eq!(several.buffers, Buffers::Own);
    let optional = read(
        &dir,
        "{ certificate = \"localhost.crt\", key = \"localhost.key\", client_auth = { mode = \"optional\", ca = \"ca.crt\" }, \
         hsts = { max_age = \"0s\" } }",
    );
    assert!(matches!(optional.certificates[0].client_auth, ClientAuth::Optional(_)));
    assert_eq!(optional.hsts.as_deref(), Some("max-age=0"));
}

#[test]
fn redirects_and_proxy_headers_are_read() {
    let one =
        |keys: &str| good(&format!("[[listener]]\naddress = \"0.0.0.0:80\"\n{keys}\n{WORKERS}")).listeners.remove(0);
    assert_eq!((one("").redirect, one("").proxy_protocol), (None, false));
    assert_eq!(one("redirect = \"https\"").redirect, Some(Redirect { port: 443, status: 308 }));
    assert_eq!(one("redirect = { port = 8443 }").redirect, Some(Redirect { port: 8443, status: 308 }));
    assert_eq!(one("redirect = { status = 302 }").redirect, Some(Redirect { port: 443, status: 302 }));
    assert!(!one("proxy_protocol = \"off\"").proxy_protocol);
    assert!(one("proxy_protocol = \"required\"\ntrusted_proxies = [\"10.0.0.1\"]").proxy_protocol);
}

#[test]
fn certificates_with_wrong_dates_are_named() {
    let dir = files("tls-expired");
    dir.certificate("old", 2000..2010);
    assert_snapshot!(errors_in(&dir, &listener("{ certificate = \"old.crt\", key = \"old.key\" }")), @r#"
    error: the certificate old.crt expired at 2010-01-01T00:00:00Z
     --> DIR/s.toml:3:23
      |
    3 | tls = { certificate = "old.crt", key = "old.key" }
      |                       ^^^^^^^^^
      = help: clients reject it: renew it, then reload
    "#);
    // While another one is valid, it is a warning, and clients of its names get the valid one.
    let pair = |name: &str| format!("{{ certificate = \"{name}.crt\", key = \"{name}.key\" }}");
    let both = format!("{{ certificates = [{}, {}] }}", pair("old"), pair("localhost"));
    let said = warnings(&dir, &listener(&both));
    assert!(said.contains("warning: the certificate old.crt expired at 2010-01-01T00:00:00Z"), "{said}");
    assert!(said.contains("others are served: renew it, then reload"), "{said}");
    let (config, _) = parse_with(&listener(&both), &dir.0.join("s.toml"), &resolve).unwrap();
    let ends: Vec<_> = config.listeners[0].tls.as_ref().unwrap().certificates.iter().map(|one| one.not_after).collect();
    assert_eq!(ends, [64_060_588_800, 1_262_304_000]);
    // Of a chain, only the leaf must be valid.
    let chain = ["localhost.crt", "old.crt"].map(|name| std::fs::read_to_string(dir.0.join(name)).unwrap()).concat();
    dir.write("chain.crt", &chain);
    assert_snapshot!(warnings(&dir, &listener("{ certificate = \"chain.crt\", key = \"localhost.key\" }")), @r#"
    warning: certificate 2 in chain.crt (CN=rcgen self signed cert) expired at 2010-01-01T00:00:00Z
     --> DIR/s.toml:3:23
      |
    3 | tls = { certificate = "chain.crt", key = "localhost.key" }
      |                       ^^^^^^^^^^^
      = help: some clients will reject it: renew the chain, then reload
    "#);
    dir.certificate("new", 4000..4090);
    assert_snapshot!(warnings(&dir, &listener("{ certificate = \"new.crt\", key = \"new.key\" }")), @r#"
    warning: the certificate new.crt is not valid before 4000-01-01T00:00:00Z
     --> DIR/s.toml:3:23
      |
    3 | tls = { certificate = "new.crt", key = "new.key" }
      |                       ^^^^^^^^^
      = help: clients reject it until then: check this machine's clock
    "#);
}

/// Certificates and keys that programs make and people copy: of version 1, encrypted, with a byte order mark.
#[test]
fn unusual_certificates_and_keys_are_read_or_named() {
    let dir = files("tls-unusual");
    let fixture = |name: &str| std::fs::read_to_string(format!("tests/data/keys/{name}")).unwrap();
    let pair = |certificate: &str, key: &str| listener(&format!("{{ certificate = {certificate:?}, key = {key:?} }}"));
    for name in ["version1.crt", "version1.key", "encrypted-sec1.key", "encrypted-pkcs1.key", "encrypted-pkcs8.key"] {
        dir.write(name, &fixture(name));
    }
    assert_snapshot!(errors_in(&dir, &pair("version1.crt", "version1.key")), @r#"
    error: cannot use version1.crt: its first certificate has X.509 version 1
     --> DIR/s.toml:3:23
      |
    3 | tls = { certificate = "version1.crt", key = "version1.key" }
      |                       ^^^^^^^^^^^^^^
      = help: TLS needs version 3: make the certificate again, with -addext subjectAltName=DNS:example.com
    "#);
    // As an authority it is usable: of that, only its name and key are used.
    let auth = "client_auth = { mode = \"required\", ca = \"version1.crt\" }";
    read(&dir, &format!("{{ certificate = \"localhost.crt\", key = \"localhost.key\", {auth} }}"));
    for kind in ["sec1", "pkcs1", "pkcs8"] {
        let said = errors_in(&dir, &pair("localhost.crt", &format!("encrypted-{kind}.key")));
        assert!(said.contains(&format!("cannot use encrypted-{kind}.key: the key is encrypted\n")), "{said}");
        assert!(said.contains("help: decrypt it: openssl pkey"), "{said}");
    }
    // Editors of Windows put U+FEFF first; put together, a file has one before each part.
    let [certificate, key, ca] = ["localhost.crt", "localhost.key", "ca.crt"]
        .map(|name| std::fs::read_to_string(dir.0.join(name)).unwrap().replace('\n', "\r\n"));
    dir.write("marked.crt", &format!("\u{feff}{certificate}\u{feff}{ca}"));
    dir.write("marked.key", &format!("\u{feff}{key}"));
    dir.write("marked-ca.crt", &format!("\u{feff}{ca}"));
    let auth = "client_auth = { mode = \"required\", ca = \"marked-ca.crt\" }";
    let one = read(&dir, &format!("{{ certificate = \"marked.crt\", key = \"marked.key\", {auth} }}"));
    assert_eq!(one.certificates[0].chain.len(), 2);
    let wide: Vec<u8> = key.encode_utf16().flat_map(u16::to_le_bytes).collect();
    std::fs::write(dir.0.join("wide.key"), [b"\xff\xfe", &*wide].concat()).unwrap();
    assert!(errors_in(&dir, &pair("localhost.crt", "wide.key")).contains("it is UTF-16 text"));
    dir.write("secret", "\u{feff}0123456789abcdef\r\n");
    let text = format!("secret_file = \"secret\"\n{}", pair("localhost.crt", "localhost.key"));
    let (config, _) = parse_with(&text, &dir.0.join("s.toml"), &resolve).unwrap();
    assert_eq!(config.secret.unwrap().0, b"0123456789abcdef");
}

#[test]
fn certificates_that_conflict_are_reported() {
    let dir = files("tls-same");
    let one = "certificate = \"localhost.crt\", key = \"localhost.key\"";
    let several = format!("{{ certificates = [{{ {one} }}, {{ {one} }}] }}");
    assert_snapshot!(warnings(&dir, &listener(&several)), @r#"
    warning: `localhost` already has a certificate with the same kind of key, on line 3
     --> DIR/s.toml:3:99
      |
    3 | tls = { certificates = [{ certificate = "localhost.crt", key = "localhost.key" }, { certificate = "localhost.crt", key = "localhost.key" }] }
      |                                                                                                   ^^^^^^^^^^^^^^^
      = help: clients get the first; restrict one of them with `hosts`
    "#);
    let auth = "client_auth = { mode = \"required\", ca = \"ca.crt\" }";
    let several = format!("{{ certificates = [{{ {one} }}, {{ {one}, {auth} }}, {{ {one}, hosts = [] }}] }}");
    assert_snapshot!(errors_in(&dir, &listener(&several)), @r#"
    error: `localhost` has a different `client_auth` on line 3
     --> DIR/s.toml:3:99
      |
    3 | tls = { certificates = [{ certificate = "localhost.crt", key = "localhost.key" }, { certificate = "localhost.crt", key = "localhost.key", client_auth = { mode = "required", ca = "ca.crt" } }, { certificate = "localhost.crt", key = "localhos
      |                                                                                                   ^^^^^^^^^^^^^^^
      = help: use one policy: clients could choose the weaker one

    error: this certificate has no DNS name, so no client would get it
     --> DIR/s.toml:3:209
      |
    3 | …ficate = "localhost.crt", key = "localhost.key", client_auth = { mode = "required", ca = "ca.crt" } }, { certificate = "localhost.crt", key = "localhost.key", hosts = [] }] }
      |                                                                                                                         ^^^^^^^^^^^^^^^
      = help: certificates are chosen by name: write hosts = ["example.com"]
    "#);
    let both = format!("{{ {one}, certificates = [{{ {one} }}] }}");
    assert_snapshot!(errors_in(&dir, &listener(&both)), @r#"
    error: `certificate` and `certificates` cannot be used together
     --> DIR/s.toml:3:9
      |
    3 | tls = { certificate = "localhost.crt", key = "localhost.key", certificates = [{ certificate = "localhost.crt", key = "localhost.key" }] }
      |         ^^^^^^^^^^^
      = help: move the pair into `certificates`, as the first entry if it is the default
    "#);
    assert_snapshot!(errors_in(&dir, &listener("{ certificates = [] }")), @r#"
    error: `certificates` is empty: TLS needs at least one
     --> DIR/s.toml:3:24
      |
    3 | tls = { certificates = [] }
      |                        ^^
    "#);
}

#[test]
fn mistakes_in_client_auth_are_errors() {
    let dir = files("tls-auth");
    let of = |auth: &str| {
        let tls = format!("{{ certificate = \"localhost.crt\", key = \"localhost.key\", client_auth = {auth} }}");
        errors_in(&dir, &listener(&tls))
    };
    assert_snapshot!(of("{ mode = \"required\" }"), @r#"
    error: `client_auth` needs `ca`
     --> DIR/s.toml:3:86
      |
    3 | tls = { certificate = "localhost.crt", key = "localhost.key", client_auth = { mode = "required" } }
      |                                                                                      ^^^^^^^^^^
      = help: write ca = "ca.pem": the authorities that sign clients' certificates
    "#);
    assert_snapshot!(of("{ mode = \"sometimes\", ca = \"ca.crt\" }"), @r#"
    error: unknown mode `sometimes`
     --> DIR/s.toml:3:86
      |
    3 | tls = { certificate = "localhost.crt", key = "localhost.key", client_auth = { mode = "sometimes", ca = "ca.crt" } }
      |                                                                                      ^^^^^^^^^^^
      = help: use one of `off`, `optional`, `required`
    "#);
    assert_snapshot!(of("{ mode = \"off\", ca = \"ca.crt\" }"), @r#"
    error: `ca` has no effect with mode = "off": remove it, or set another mode
     --> DIR/s.toml:3:98
      |
    3 | tls = { certificate = "localhost.crt", key = "localhost.key", client_auth = { mode = "off", ca = "ca.crt" } }
      |                                                                                                  ^^^^^^^^
    "#);
    dir.write("empty.crt", "");
    assert_snapshot!(of("{ mode = \"optional\", ca = \"empty.crt\" }"), @r#"
    error: cannot use empty.crt: it contains no certificate
     --> DIR/s.toml:3:103
      |
    3 | tls = { certificate = "localhost.crt", key = "localhost.key", client_auth = { mode = "optional", ca = "empty.crt" } }
      |                                                                                                       ^^^^^^^^^^^
      = help: use a file with -----BEGIN CERTIFICATE-----
    "#);
    assert_snapshot!(of("{ mode = \"optional\", ca = \"gone.crt\" }"), @r#"
    error: cannot read DIR/gone.crt: No such file or directory (os error 2)
     --> DIR/s.toml:3:103
      |
    3 | tls = { certificate = "localhost.crt", key = "localhost.key", client_auth = { mode = "optional", ca = "gone.crt" } }
      |                                                                                                       ^^^^^^^^^^
    "#);
}

#[test]
fn mistakes_in_hsts_are_reported() {
    let dir = files("tls-hsts");
    let of = |hsts: &str| {
        listener(&format!("{{ certificate = \"localhost.crt\", key = \"localhost.key\", hsts = {hsts} }}"))
    };
    assert_snapshot!(errors_in(&dir, &of("{ preload = true }")), @r#"
    error: `hsts` needs `max_age`
     --> DIR/s.toml:3:70
      |
    3 | tls = { certificate = "localhost.crt", key = "localhost.key", hsts = { preload = true } }
      |                                                                      ^^^^^^^^^^^^^^^^^^
      = help: write max_age = "365d"
    "#);
    assert_snapshot!(errors_in(&dir, &of("{ max_age = 365 }")), @r#"
    error: `max_age` needs a unit
     --> DIR/s.toml:3:82
      |
    3 | tls = { certificate = "localhost.crt", key = "localhost.key", hsts = { max_age = 365 } }
      |                                                                                  ^^^
      = help: write a duration such as "5s"
    "#);
    assert_snapshot!(warnings(&dir, &of("{ max_age = \"30d\", preload = true }")), @r#"
    warning: `preload` is set, but browsers will not accept it
     --> DIR/s.toml:3:70
      |
    3 | tls = { certificate = "localhost.crt", key = "localhost.key", hsts = { max_age = "30d", preload = true } }
      |                                                                      ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      = help: browsers' preload lists require include_subdomains = true and max_age = "365d" or more
    "#);
}

#[test]
fn mistakes_in_buffers_are_errors() {
    let dir = files("tls-buffers");
    let of = |buffers: &str| {
        listener(&format!("{{ certificate = \"localhost.crt\", key = \"localhost.key\", buffers = {buffers} }}"))
    };
    assert_snapshot!(errors_in(&dir, &of("\"shard\"")), @r#"
    error: unknown buffers `shard`
     --> DIR/s.toml:3:73
      |
    3 | tls = { certificate = "localhost.crt", key = "localhost.key", buffers = "shard" }
      |                                                                         ^^^^^^^
      = help: did you mean `shared`?
    "#);
    assert_snapshot!(errors_in(&dir, &of("4096")), @r#"
    error: `buffers` must be "shared" or "own", not an integer
     --> DIR/s.toml:3:73
      |
    3 | tls = { certificate = "localhost.crt", key = "localhost.key", buffers = 4096 }
      |                                                                         ^^^^
    "#);
}

#[test]
fn mistakes_in_redirects_and_proxy_headers_are_errors() {
    let of = |keys: &str| errors(&format!("[[listener]]\naddress = \"0.0.0.0:81\"\n{keys}"));
    assert_snapshot!(of("redirect = \"http\""), @r#"
    error: unknown redirect `http`
     --> s.toml:7:12
      |
    7 | redirect = "http"
      |            ^^^^^^
      = help: did you mean `https`?
    "#);
    assert_snapshot!(of("redirect = { port = 0, status = 300 }"), @r#"
    error: `port` must be an integer from 1 to 65_535
     --> s.toml:7:21
      |
    7 | redirect = { port = 0, status = 300 }
      |                     ^

    error: `status` must be 301, 302, 307 or 308
     --> s.toml:7:33
      |
    7 | redirect = { port = 0, status = 300 }
      |                                 ^^^
    "#);
    assert_snapshot!(of("proxy_protocol = \"required\""), @r#"
    error: a PROXY header is required, but no proxy is trusted to send it
     --> s.toml:7:18
      |
    7 | proxy_protocol = "required"
      |                  ^^^^^^^^^^
      = help: write trusted_proxies = ["10.0.0.0/8"] with the balancer's addresses
    "#);
    assert_snapshot!(of("proxy_protocol = \"on\""), @r#"
    error: unknown proxy_protocol `on`
     --> s.toml:7:18
      |
    7 | proxy_protocol = "on"
      |                  ^^^^
      = help: use one of `off`, `required`
    "#);
    let dir = files("tls-redirect");
    let both = listener("{ certificate = \"localhost.crt\", key = \"localhost.key\" }\nredirect = \"https\"");
    assert_snapshot!(errors_in(&dir, &both), @r#"
    error: a listener cannot have both `redirect` and `tls`
     --> DIR/s.toml:3:1
      |
    3 | tls = { certificate = "localhost.crt", key = "localhost.key" }
      | ^^^
      = help: write redirect = "https" on a separate listener for plain HTTP
    "#);
}

fn upstream(worker: &str, tls: &str) -> String {
    format!("[[listener]]\naddress = \"0.0.0.0:80\"\n[upstream.app]\nworkers = [\"{worker}\"]\ntls = {tls}\n")
}

#[test]
fn tls_to_workers_is_read() {
    let dir = files("tls-workers");
    let read = |worker: &str, tls: &str| {
        let (config, warnings) = parse_with(&upstream(worker, tls), &dir.0.join("s.toml"), &resolve)
            .unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(warnings, []);
        (config.upstreams[0].tls.clone().unwrap(), config.upstreams[0].workers[0].host.clone())
    };
    let (systems, host) = read("one.test:443", "{}");
    assert!(systems.authorities.as_ref().is_some_and(|all| all.len() > 10), "this machine's");
    assert_eq!(
        (systems.server_name.as_deref(), systems.identity.is_some(), host.as_deref()),
        (None, false, Some("one.test"))
    );
    let all =
        "{ ca = \"ca.crt\", server_name = \"app.internal\", certificate = \"localhost.crt\", key = \"localhost.key\" }";
    let (own, host) = read("[::1]:443", all);
    assert_eq!(own.authorities.as_ref().map(Vec::len), Some(1));
    assert_eq!((own.server_name.as_deref(), own.identity.is_some(), host), (Some("app.internal"), true, None));
    let (anybody, _) = read("10.0.0.1:443", "{ verify = false }");
    assert_eq!(anybody.authorities, None);
    let plain = good("[[listener]]\naddress = \"0.0.0.0:80\"\n[upstream.app]\nworkers = [\"127.0.0.1:1\"]\n");
    assert_eq!(plain.upstreams[0].tls, None);
}

#[test]
fn mistakes_in_tls_to_workers_are_errors() {
    let dir = files("tls-workers-wrong");
    dir.certificate("other", 2000..4000);
    let of = |worker: &str, tls: &str| errors_in(&dir, &upstream(worker, tls));
    assert_snapshot!(of("unix:/run/a.sock", "{ ca = \"ca.crt\" }"), @r#"
    error: a unix socket has no host name to verify in a certificate
     --> DIR/s.toml:5:7
      |
    5 | tls = { ca = "ca.crt" }
      |       ^^^^^^^^^^^^^^^^^
      = help: write server_name = "app.internal": the name in its certificate
    "#);
    assert_snapshot!(of("127.0.0.1:1", "{ ca = \"ca.crt\", verify = false, server_name = \"a b\" }"), @r#"
    error: `ca` has no effect with verify = false: remove one of the two
     --> DIR/s.toml:5:14
      |
    5 | tls = { ca = "ca.crt", verify = false, server_name = "a b" }
      |              ^^^^^^^^

    error: `a b` is not a valid name in a certificate
     --> DIR/s.toml:5:54
      |
    5 | tls = { ca = "ca.crt", verify = false, server_name = "a b" }
      |                                                      ^^^^^
      = help: write a host without a port: "app.internal"
    "#);
    assert_snapshot!(of("127.0.0.1:1", "{ ca = \"ca.crt\", key = \"localhost.key\" }"), @r#"
    error: `certificate` and `key` must be given together, and one of them is missing
     --> DIR/s.toml:5:30
      |
    5 | tls = { ca = "ca.crt", key = "localhost.key" }
      |                              ^^^^^^^^^^^^^^^
    "#);
    assert_snapshot!(of("127.0.0.1:1", "{ certificate = \"localhost.crt\", key = \"other.key\", verify = 1 }"), @r#"
    error: other.key is not the key of localhost.crt
     --> DIR/s.toml:5:46
      |
    5 | tls = { certificate = "localhost.crt", key = "other.key", verify = 1 }
      |                                              ^^^^^^^^^^^
      = help: the key must belong to the chain's first certificate, the server's own

    error: `verify` must be true or false, not an integer
     --> DIR/s.toml:5:68
      |
    5 | tls = { certificate = "localhost.crt", key = "other.key", verify = 1 }
      |                                                                    ^
    "#);
    assert_snapshot!(of("127.0.0.1:1", "{ ca = \"gone.crt\" }"), @r#"
    error: cannot read DIR/gone.crt: No such file or directory (os error 2)
     --> DIR/s.toml:5:14
      |
    5 | tls = { ca = "gone.crt" }
      |              ^^^^^^^^^^
    "#);
}
