//! The certificate a client gets, TLS versions and key exchange, and resumed sessions.

use rustls::{NamedGroup, SignatureScheme};

use super::{get, proxy};
use crate::support::raw::RawWorker;
use crate::support::tls::{Certificates, openssl};
use crate::support::wait::wait_for;

#[test]
fn names_choose_exact_then_wildcard_then_the_first() {
    let (worker, files) = (RawWorker::named("a"), Certificates::new());
    let first = files.issue("first", &["a.example"]);
    let second = files.issue("second", &["*.b.example", "c.example"]);
    let third = files.issue("third", &["x.b.example"]);
    files.issue("fourth", &["unseen.example"]);
    let tls = "tls = { certificates = [{ certificate = \"first.pem\", key = \"first.key\" }, \
        { certificate = \"second.pem\", key = \"second.key\" }, { certificate = \"third.pem\", key = \"third.key\" }, \
        { certificate = \"fourth.pem\", key = \"fourth.key\", hosts = [\"D.example\"] }] }";
    let proxy = proxy(&files, &worker, tls, "");
    for (name, expected) in [
        ("a.example", &first),
        ("y.b.example", &second),
        ("Y.B.example", &second),
        ("c.example", &second),
        ("x.b.example", &third),
    ] {
        let mut made = files.client().connect(proxy.address, name);
        assert_eq!(made.certificate, *expected, "{name}");
        assert_eq!(made.raw.ask(&get(name, "/")).text(), "a");
    }
    // Clients that verify would leave, so openssl shows the certificates.
    for (name, expected) in [
        ("-servername b.example", "a.example"),
        ("-servername z.y.b.example", "a.example"),
        ("-noservername", "a.example"),
        ("-servername d.example", "unseen.example"),
        ("-servername unseen.example", "a.example"),
    ] {
        let shown = openssl(&files.directory, &format!("s_client -connect {} {name}", proxy.address), "");
        std::fs::write(files.directory.join("shown.pem"), &shown).unwrap();
        let names = openssl(&files.directory, "x509 -in shown.pem -noout -ext subjectAltName", "");
        assert!(names.contains(&format!("DNS:{expected}")), "{name}: {names}");
    }
    let until =
        proxy.metric("stickyd_tls_certificate_expiry_timestamp_seconds{listener=\"127.0.0.1:0\",name=\"*.b.example\"}");
    assert!((until - 67_090_118_400.0).abs() < 1.0, "rcgen's year 4096: {until}");
}

#[test]
fn one_name_may_have_both_kinds_of_keys() {
    let (worker, files) = (RawWorker::named("a"), Certificates::new());
    // RSA comes first in the file; the cheaper ECDSA is preferred all the same.
    let rsa = files.issue_rsa("rsa", &["a.example"]);
    let ecdsa = files.issue("ecdsa", &["a.example"]);
    let tls = "tls = { certificates = [{ certificate = \"rsa.pem\", key = \"rsa.key\" }, \
        { certificate = \"ecdsa.pem\", key = \"ecdsa.key\" }] }";
    let proxy = proxy(&files, &worker, tls, "");
    let shown = |schemes: &[SignatureScheme], version| {
        // The authority signs with ECDSA, which RSA-only clients must accept for chains; only TLS 1.2 tells the two
        // apart.
        files.client().schemes(schemes).version(version).connect(proxy.address, "a.example").certificate
    };
    let all = [SignatureScheme::RSA_PSS_SHA256, SignatureScheme::ECDSA_NISTP256_SHA256];
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        assert_eq!(shown(&all, version), ecdsa);
        assert_eq!(shown(&all[..1], version), rsa);
        assert_eq!(shown(&all[1..], version), ecdsa);
    }
}

#[test]
fn versions_ciphers_and_groups() {
    let (worker, files) = (RawWorker::named("a"), Certificates::new());
    files.issue("site", &["a.example"]);
    let proxy = proxy(&files, &worker, "tls = { certificate = \"site.pem\", key = \"site.key\" }", "");
    let made = files.client().connect(proxy.address, "a.example");
    assert_eq!(made.group, Some(NamedGroup::X25519MLKEM768));
    let shake = |arguments: &str| {
        let arguments = format!("s_client -connect {} -servername a.example -CAfile ca.pem {arguments}", proxy.address);
        openssl(&files.directory, &arguments, "")
    };
    let modern = shake("-groups X25519");
    assert!(modern.contains("New, TLSv1.3") && modern.contains("Server Temp Key: X25519"), "{modern}");
    assert!(modern.contains("Verify return code: 0 (ok)") && !modern.contains("Early data was accepted"), "{modern}");
    assert!(shake("-tls1_2").contains("New, TLSv1.2, Cipher is ECDHE-ECDSA-AES256-GCM-SHA384"));
    for refused in [
        "-tls1_1 -cipher DEFAULT@SECLEVEL=0",
        "-tls1 -cipher DEFAULT@SECLEVEL=0",
        "-tls1_2 -cipher ECDHE-ECDSA-AES128-SHA256",
        "-tls1_2 -cipher AES128-GCM-SHA256",
    ] {
        let said = shake(refused);
        assert!(said.contains("Cipher is (NONE)"), "{refused}: {said}");
    }
    let of = |version: &str, result: &str| {
        proxy.metric(&format!(
            "stickyd_tls_handshakes_total{{listener=\"127.0.0.1:0\",result=\"{result}\",resumed=\"no\",version=\"{version}\"}}"
        ))
    };
    assert!((of("1.3", "ok") - 2.0).abs() < f64::EPSILON);
    assert!((of("1.2", "ok") - 1.0).abs() < f64::EPSILON);
    assert!((of("none", "failed") - 4.0).abs() < f64::EPSILON);
}

#[test]
fn sessions_are_resumed_on_every_thread() {
    let (worker, files) = (RawWorker::named("a"), Certificates::new());
    files.issue("site", &["a.example"]);
    let toml = format!(
        "threads = 4\n[[listener]]\naddress = \"127.0.0.1:0\"\ntls = {{ certificate = \"site.pem\", key = \"site.key\" }}\n\
         [upstream.app]\nworkers = [\"{}\"]\n",
        worker.address
    );
    let proxy = crate::support::proxy::Proxy::with_files(&toml, &files.directory);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut client = files.client().version(version);
        for n in 0..12 {
            let mut made = client.connect(proxy.address, "a.example");
            assert_eq!(made.resumed, n > 0, "{n}");
            // A ticket of TLS 1.3 comes with the first answer.
            assert_eq!(made.raw.ask(&get("a.example", "/")).text(), "a");
        }
    }
    let resumed =
        "stickyd_tls_handshakes_total{listener=\"127.0.0.1:0\",result=\"ok\",resumed=\"yes\",version=\"1.3\"}";
    assert!((proxy.metric(resumed) - 11.0).abs() < f64::EPSILON);
}

#[test]
fn a_handshake_is_ended_in_time() {
    let (worker, files) = (RawWorker::named("a"), Certificates::new());
    files.issue("site", &["a.example"]);
    let tls = "tls = { certificate = \"site.pem\", key = \"site.key\" }";
    let proxy = proxy(&files, &worker, tls, "[limits]\nhandshake_timeout = \"300ms\"");
    let mut silent = crate::support::raw::Raw::connect(proxy.address);
    let mut begun = crate::support::raw::Raw::connect(proxy.address);
    begun.send([0x16, 0x03, 0x01, 0x02, 0x00]);
    silent.closed();
    begun.closed();
    let series =
        "stickyd_tls_handshakes_total{listener=\"127.0.0.1:0\",result=\"timeout\",resumed=\"no\",version=\"none\"}";
    // A connection is closed before its handshake is counted.
    wait_for("both handshakes are counted", || (proxy.metric(series) - 2.0).abs() < f64::EPSILON);
    assert!(files.client().is_served(proxy.address, "a.example"));
}
