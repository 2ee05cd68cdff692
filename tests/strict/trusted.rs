//! Fields that a trusted proxy forwards from its own client: nominations in `Connection`, and names with underscores.

use crate::support::proxy::Proxy;
use crate::support::raw::{Raw, RawWorker};

const UPGRADE: &str =
    "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[test]
fn a_trusted_proxys_client_cannot_remove_or_add_identity() {
    let mut worker = RawWorker::named("a");
    let proxy = Proxy::with(&format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.0/8\"]\n[upstream.app]\nworkers = [\"{}\"]",
        worker.address
    ));
    for upgrade in ["Connection: close, x-forwarded-for, X-Real-IP, x-request-id\r\n".to_owned(), {
        format!("Connection: Upgrade, x-forwarded-for, X-Real-IP, x-request-id\r\n{UPGRADE}")
    }] {
        Raw::connect(proxy.address).ask(&format!(
            "GET / HTTP/1.1\r\nHost: a\r\n{upgrade}X-Forwarded-For: 192.0.2.7\r\nX-Real-IP: 192.0.2.7\r\n\
             X-Request-Id: told\r\nX_Forwarded_For: spoofed\r\nX_Real-IP: spoofed\r\nX-Client-Verify: spoofed\r\n\
             X_Client_Verify: spoofed\r\nSSL_CLIENT_S_DN: CN=a\r\n\r\n"
        ));
        let (_, request) = worker.request();
        assert_eq!(request.header("x-forwarded-for"), Some("192.0.2.7, 127.0.0.1"));
        assert_eq!(request.header("x-real-ip"), Some("192.0.2.7"));
        assert_eq!(request.header("x-request-id"), Some("told"));
        assert_eq!(request.header("ssl_client_s_dn"), Some("CN=a"), "the name that Apache uses");
        assert!(request.headers.iter().all(|(_, value)| value != "spoofed"), "{request:?}");
    }
}

/// An absolute target with another Host ends the connection, but not the tunnel that the request opens.
#[test]
fn an_upgrade_with_an_absolute_target_stays_an_upgrade() {
    let worker = RawWorker::answering(|_| {
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
            .to_owned()
    });
    let proxy = Proxy::before(&[worker.address]);
    let mut client = Raw::connect(proxy.address);
    let answer = client.ask(&format!("GET http://b/ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n{UPGRADE}\r\n"));
    assert_eq!((answer.status(), answer.header("connection")), (101, Some("Upgrade")));
}
