//! Tokens that allow a part of the admin API, the group of the unix socket, and who an event names.

use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::support::proxy::Proxy;
use crate::support::raw::{Raw, RawWorker};
use crate::support::temp::TempDirectory;
use crate::support::wait::wait_for;

pub(super) const WRITE: &str = "write-token-0123456789";
const READ: &str = "read-token-0123456789";
pub(super) const EMIT: &str = "emit-token-0123456789";

/// The fields of a write that no page of another site can send.
pub(super) const OWN: &str = "Content-Type: application/json\r\nX-Stickyd: 1\r\n";

/// A stickyd with all three tokens; its admin listener is on loopback, on the network and on a unix socket.
fn proxy(worker: &RawWorker, directory: &TempDirectory, keys: &str) -> (Proxy, [SocketAddr; 2]) {
    for (file, token) in [("write", WRITE), ("read", READ), ("emit", EMIT)] {
        directory.write(file, token);
    }
    let proxy = Proxy::with_files(
        &format!(
            "[upstream.app]\nworkers = [{{ address = \"{}\", name = \"w\" }}]\n[admin]\n\
             address = [\"127.0.0.1:0\", \"0.0.0.0:0\", \"unix:{}\"]\n{keys}",
            worker.address,
            directory.path("a.sock").display()
        ),
        directory.root(),
    );
    let port = |at: &String| SocketAddr::from(([127, 0, 0, 1], at.rsplit(':').next().unwrap().parse().unwrap()));
    let admins: Vec<_> = proxy.server().admins.iter().map(ToString::to_string).collect();
    let addresses = [port(&admins[0]), port(&admins[1])];
    (proxy, addresses)
}

pub(super) fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

fn status(at: SocketAddr, line: &str, fields: &str) -> u16 {
    let body = "{}";
    let length = if line.starts_with("GET") { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let body = if length.is_empty() { "" } else { body };
    Raw::connect(at).ask(&format!("{line} HTTP/1.1\r\nHost: 127.0.0.1\r\n{length}{fields}\r\n{body}")).status()
}

const ALL: &str = "token_file = \"write\"\nread_token_file = \"read\"\nemit_token_file = \"emit\"";

#[test]
fn each_token_allows_its_part_only() {
    let (worker, directory) = (RawWorker::named("a"), TempDirectory::new("admin-roles"));
    let (proxy, [loopback, network]) = proxy(&worker, &directory, ALL);
    let drain = "POST /api/v1/workers/app/w/drain";
    for (token, reads, writes, emits) in [
        (WRITE, 200, 200, 422),
        (READ, 200, 403, 403),
        (EMIT, 403, 403, 422),
        ("wrong-token-0123456789", 401, 401, 401),
    ] {
        let fields = format!("{}{OWN}", bearer(token));
        assert_eq!(status(network, "GET /api/v1/status", &fields), reads, "{token}");
        assert_eq!(status(network, "GET /metrics", &fields), reads, "{token}");
        for at in [network, loopback] {
            assert_eq!(status(at, "POST /api/v1/broadcast", &fields), emits, "{token}");
            assert_eq!(status(at, "POST /api/v1/emit", &fields), emits, "{token}");
            let label = "PUT /api/v1/sockets/by-sid/x";
            assert_eq!(status(at, label, &fields), if writes == 200 { 422 } else { writes }, "{token}");
            assert_eq!(status(at, drain, &fields), writes, "{token}");
            assert_eq!(status(at, "PUT /api/v1/log", &fields), if writes == 200 { 422 } else { writes }, "{token}");
        }
    }
    assert_eq!(proxy.worker("w").admin.word(), "drain");
    // Reads on loopback need no token, and a token that may less takes nothing away.
    assert_eq!([status(loopback, "GET /metrics", ""), status(loopback, "GET /metrics", &bearer(EMIT))], [200, 200]);
    assert_eq!(status(network, "GET /metrics", ""), 401);
    // The rules against pages of other sites hold for every token.
    let page = format!("{}{OWN}Origin: https://evil.example\r\n", bearer(EMIT));
    assert_eq!(status(network, "POST /api/v1/broadcast", &page), 403);
    assert_eq!(status(network, "POST /api/v1/broadcast", &bearer(EMIT)), 415);
}

#[test]
fn a_token_to_read_is_enough_for_the_network() {
    let (worker, directory) = (RawWorker::named("a"), TempDirectory::new("admin-read"));
    let (_proxy, [_, network]) = proxy(&worker, &directory, "read_token_file = \"read\"");
    assert_eq!(status(network, "GET /metrics", &bearer(READ)), 200);
    let said = |fields: &str| status(network, "POST /api/v1/reload", &format!("{fields}{OWN}"));
    assert_eq!([said(""), said(&bearer(READ))], [403, 403], "nothing can write over TCP");
}

#[test]
fn every_write_is_an_event_with_its_sender() {
    let (worker, directory) = (RawWorker::named("a"), TempDirectory::new("admin-who"));
    let (proxy, [_, network]) = proxy(&worker, &directory, ALL);
    let events = || {
        let request = "GET /api/v1/events?kind=operator HTTP/1.1\r\nHost: 127.0.0.1\r\n";
        Raw::connect(network).ask(&format!("{request}{}\r\n", bearer(READ))).text().to_owned()
    };
    for token in [WRITE, EMIT, READ] {
        status(network, "POST /api/v1/broadcast", &format!("{}{OWN}", bearer(token)));
    }
    let path = "/api/v1/workers/app/w/drain";
    let drain = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{OWN}Content-Length: 0\r\n\r\n");
    assert_eq!(Raw::connect_unix(&directory.path("a.sock")).ask(&drain).status(), 200);
    wait_for("the last event is there", || events().contains(path));
    let seen = events();
    // The tests run as the user that owns their files.
    let own = std::fs::metadata(directory.root()).unwrap().uid();
    let user = if own == 0 { "root".to_owned() } else { format!("user id {own}") };
    for who in ["the bearer of the token asked", "the bearer of the emit token asked", &format!("{user} asked")] {
        assert!(seen.contains(who), "{who}: {seen}");
    }
    assert!(!seen.contains("read token") && !seen.contains("0123456789"), "refusals are not told: {seen}");
    drop(proxy);
}

#[test]
fn a_group_that_stickyd_is_not_in_is_named_at_the_start() {
    let directory = TempDirectory::new("admin-no-group");
    // Only root can start it as another user, and may itself give files to any group.
    if std::fs::metadata(directory.root()).unwrap().uid() != 0 {
        return;
    }
    std::fs::set_permissions(directory.root(), PermissionsExt::from_mode(0o777)).unwrap();
    let text = "[[listener]]\naddress = \"127.0.0.1:0\"\n[upstream.app]\nworkers = [\"127.0.0.1:9\"]\n[admin]\n\
                address = \"unix:a.sock\"\ngroup = \"adm\"\n";
    directory.write_mode("stickyd.toml", text, 0o644);
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", env!("CARGO_BIN_EXE_stickyd"), "run"]);
    let output = command.arg(directory.path("stickyd.toml")).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot give it to the group adm ([admin] group)"), "{said}");
    assert!(
        said.contains("stickyd must run as root or be a member of adm (systemd: SupplementaryGroups=adm)"),
        "{said}"
    );
}

#[test]
fn the_group_of_the_socket_may_use_it() {
    let (worker, directory) = (RawWorker::named("a"), TempDirectory::new("admin-group"));
    // Every user may give files to its own group.
    let own = std::fs::metadata(directory.root()).unwrap().gid();
    let (_proxy, _) = proxy(&worker, &directory, &format!("{ALL}\ngroup = \"{own}\""));
    let socket = std::fs::metadata(directory.path("a.sock")).unwrap();
    assert_eq!((socket.permissions().mode() & 0o777, socket.gid()), (0o660, own));
    // Real users can only be tried by the one that may become any other.
    if std::fs::metadata(directory.root()).unwrap().uid() != 0 {
        return;
    }
    std::fs::set_permissions(directory.root(), PermissionsExt::from_mode(0o755)).unwrap();
    let asks_as = |group: u32| {
        let (path, group) = (directory.path("a.sock"), format!("--regid={group}"));
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid=65534", &group, "--clear-groups", "curl", "--silent", "--output", "/dev/null"]);
        command.args(["--write-out", "%{http_code}", "-X", "POST", "-H", "X-Stickyd: 1", "--unix-socket"]).arg(path);
        let said = command.arg("http://localhost/api/v1/workers/app/w/ready").output().unwrap();
        String::from_utf8(said.stdout).unwrap()
    };
    assert_eq!([asks_as(own), asks_as(own + 1)], ["200", "000"], "members of the group, and no other user");
}
