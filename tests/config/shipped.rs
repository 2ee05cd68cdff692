//! The files in `conf/`: each loads as it is, and `stickyd.toml` shows every key with its real default.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use regex::Regex;

use super::{TempDir, resolve};
use stickyd::testing::config::{
    Config, Health, HistoryConfig, Limits, Log, Tunnels, Upstream, load_with_warnings, parse_with,
};

fn conf() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conf")
}

fn commented() -> String {
    std::fs::read_to_string(conf().join("stickyd.toml")).unwrap()
}

/// All `*.toml` files below a folder.
fn tomls(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(tomls(&path));
        } else if path.extension().is_some_and(|end| end == "toml") {
            found.push(path);
        }
    }
    found
}

#[test]
fn every_shipped_file_loads_without_a_warning() {
    let files = tomls(&conf());
    assert!(files.len() >= 10, "{files:?}");
    for (i, file) in files.iter().enumerate() {
        // The certificates that the file names do not exist here, so it is loaded in a folder where they are made.
        let dir = TempDir::new(&format!("shipped-{i}"));
        let text = std::fs::read_to_string(file).unwrap();
        provide(&dir, &text);
        dir.write("s.toml", &text);
        let (_, warnings) = load_with_warnings(&dir.0.join("s.toml")).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(warnings, [], "{}", file.display());
    }
}

/// Makes every certificate, key and authority that a text names; a certificate is for the file's name without its
/// ending.
fn provide(dir: &TempDir, text: &str) {
    let named = |line: &str, key: &str| -> Vec<String> {
        let begin = format!("{key} = \"");
        let values = line.split(&begin).skip(1);
        values.map(|value| value.split('"').next().unwrap().to_owned()).collect()
    };
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        for (certificate, file) in named(line, "certificate").iter().zip(named(line, "key")) {
            let (name, key) = match certificate.trim_end_matches(".pem").strip_suffix("-rsa") {
                Some(name) => (name, rsa()),
                None => (certificate.trim_end_matches(".pem"), rcgen::KeyPair::generate().unwrap()),
            };
            let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
            dir.write(certificate, &params.self_signed(&key).unwrap().pem());
            dir.write(&file, &key.serialize_pem());
        }
        for networks in [named(line, "allow_file"), named(line, "deny_file")].concat() {
            dir.write(&networks, "10.0.0.0/8\n");
        }
        for users in named(line, "users_file") {
            dir.write(&users, &format!("ann:{}\n", bcrypt::hash("secret", 4).unwrap()));
        }
        for authority in named(line, "ca") {
            let mut params = rcgen::CertificateParams::default();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            dir.write(&authority, &params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem());
        }
    }
}

fn rsa() -> rcgen::KeyPair {
    let key = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
    let der: aws_lc_rs::encoding::Pkcs8V1Der<'_> = aws_lc_rs::encoding::AsDer::as_der(&key).unwrap();
    rcgen::KeyPair::try_from(der.as_ref()).unwrap()
}

#[test]
fn the_minimal_example_is_short() {
    let text = std::fs::read_to_string(conf().join("examples/minimal.toml")).unwrap();
    assert!(text.lines().count() <= 8);
}

/// Uncomments `# key = value` and `# [table]`, with one space after the `#`; prose and deeper examples stay comments.
fn uncommented(leave_out: &str) -> String {
    let line = |line: &str| {
        let Some(rest) = line.strip_prefix("# ").filter(|rest| !rest.starts_with(leave_out)) else {
            return line.to_owned();
        };
        let key =
            rest.split_once(" = ").is_some_and(|(key, _)| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
        if key || rest.starts_with('[') { rest.to_owned() } else { line.to_owned() }
    };
    commented().lines().map(line).collect::<Vec<_>>().join("\n")
}

fn load_uncommented(dir: &TempDir, leave_out: &str) -> Config {
    let text = uncommented(leave_out);
    parse_with(&text, &dir.0.join("stickyd.toml"), &resolve).unwrap_or_else(|errors| panic!("{errors}")).0
}

#[test]
fn every_commented_line_is_valid_and_shows_the_default() {
    let dir = TempDir::new("commented");
    dir.certificate("site", 2000..4000);
    std::fs::rename(dir.0.join("site.crt"), dir.0.join("fullchain.pem")).unwrap();
    std::fs::rename(dir.0.join("site.key"), dir.0.join("privkey.pem")).unwrap();
    dir.write("secret", "0123456789abcdef0123456789abcdef");
    dir.write("admin.token", "0123456789abcdef0123456789abcdef");
    dir.write("read.token", "1123456789abcdef0123456789abcdef");
    dir.write("emit.token", "2123456789abcdef0123456789abcdef");
    provide(&dir, "allow_file = \"offices.txt\"\ndeny_file = \"drop.txt\"\nusers_file = \"htpasswd\"");
    // Only one of the two may be set, so each is tried in turn.
    assert!(load_uncommented(&dir, "secret = ").secret.is_some());
    let config = load_uncommented(&dir, "secret_file = ");
    assert!(
        config.secret.is_some()
            && config.listeners[0].tls.is_some()
            && config.listeners[0].name.is_some()
            && config.admin.token.is_some()
    );
    assert_eq!(config.routes.len(), 1);
    assert_eq!((&config.limits, &config.log), (&Limits::default(), &Log::default()));
    assert_eq!(config.history, HistoryConfig::default());
    let app = config.upstreams[0].clone();
    assert_eq!(app.health, Health::default());
    let defaults = Upstream {
        request_timeout: app.request_timeout,
        tunnel_idle: app.tunnel_idle,
        tunnels: Tunnels { ping: app.tunnels.ping, ..Tunnels::default() },
        max_connections: app.max_connections,
        max_tunnels: app.max_tunnels,
        max_body: app.max_body,
        rate: app.rate,
        emit: app.emit.clone(),
        labels: app.labels.clone(),
        alarm: app.alarm.clone(),
        follow: app.follow.clone(),
        ..Upstream::new(app.name.clone(), app.groups.clone(), app.found.clone())
    };
    assert_eq!((app.max_connections, app.max_tunnels, app.max_body), (Some(1000), Some(900), Some(10_000_000)));
    assert_eq!(app.labels.len(), 3);
    assert!(
        app.rate.requests.is_some() && app.tunnels.ping.is_some() && config.routes[0].guards.rate.handshakes.is_some()
    );
    assert_eq!(app, defaults);
    let (plain, _) = load_with_warnings(&conf().join("stickyd.toml")).unwrap();
    assert_eq!(config.admin.address, plain.admin.address, "the default is what is shown");
}

#[test]
fn every_key_is_shown() {
    // The page of the reference is what `stickyd reference keys` prints (tests/commands).
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/keys.md");
    let page = std::fs::read_to_string(page).unwrap();
    let row = Regex::new("(?m)^\\| `([^`]+)` \\|").unwrap();
    let rows = row.captures_iter(&page).map(|found| found.extract::<1>().1[0]);
    // The last word of a path such as `tls.certificates[].hosts`, without `NAME`.
    let known: BTreeSet<_> = rows.filter_map(|path| path.rsplit('.').find(|word| *word != "NAME")).collect();
    assert!(known.len() >= 150, "{known:?}");
    let shown = commented();
    for key in known {
        let key = key.trim_end_matches("[]");
        let forms = [format!("{key} = "), format!("[{key}]"), format!("[{key}.")];
        assert!(forms.iter().any(|form| shown.contains(form)), "conf/stickyd.toml does not show `{key}`");
    }
}
