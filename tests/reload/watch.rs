//! The configuration is reloaded when its file is edited, in all the ways in which files are edited.

use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::support::admin::metric;
use crate::support::engines::one_session;
use crate::support::proxy::Binary;
use crate::support::raw::{Raw, RawWorker, patient};
use crate::support::wait::wait_for;

fn text(worker: &RawWorker) -> String {
    format!("state_dir = \".\"\n[upstream.app]\nworkers = [\"{}\"]\n", worker.address)
}

/// The whole configuration, with the listener that the binary already has.
fn complete(binary: &Binary, worker: &RawWorker, keys: &str) -> String {
    let listener = format!("[[listener]]\naddress = \"{}\"\n", binary.address);
    format!("threads = 2\nstate_dir = \".\"\n{keys}{listener}[upstream.app]\nworkers = [\"{}\"]\n", worker.address)
}

fn write(binary: &Binary, worker: &RawWorker) {
    std::fs::write(binary.directory.join("stickyd.toml"), complete(binary, worker, "")).unwrap();
}

fn reloads(binary: &Binary, result: &str) -> f64 {
    metric(binary, &format!("stickyd_reloads_total{{result=\"{result}\"}}"))
}

fn becomes(binary: &Binary, name: &str) {
    wait_for(name, || Raw::connect(binary.address).get("/").text() == name);
}

/// Waits longer than stickyd waits after an edit, to show that no reload follows.
fn long_enough() {
    std::thread::park_timeout(Duration::from_millis(900));
}

#[test]
fn written_in_place_renamed_into_place_and_touched() {
    let (one, two) = (one_session("one"), one_session("two"));
    let binary = Binary::with(&text(&one));
    write(&binary, &two);
    becomes(&binary, "two");
    let (file, draft) = (binary.directory.join("stickyd.toml"), binary.directory.join(".stickyd.toml.swp"));
    std::fs::write(&draft, complete(&binary, &one, "")).unwrap();
    std::fs::rename(&draft, &file).unwrap();
    becomes(&binary, "one");
    std::fs::rename(&file, binary.directory.join("stickyd.toml~")).unwrap();
    std::fs::write(&file, complete(&binary, &two, "")).unwrap();
    becomes(&binary, "two");
    let before = reloads(&binary, "ok");
    assert!(before >= 3.0);
    // The same bytes again, and a change of another file in the directory.
    write(&binary, &two);
    std::fs::write(binary.directory.join("other.toml"), "x").unwrap();
    long_enough();
    assert!((reloads(&binary, "ok") - before).abs() < f64::EPSILON);
    assert!(reloads(&binary, "failed").abs() < f64::EPSILON);
}

#[test]
fn a_mistake_is_reported_and_its_correction_applied() {
    let (one, two) = (one_session("one"), one_session("two"));
    let binary = Binary::with(&text(&one));
    let file = binary.directory.join("stickyd.toml");
    std::fs::write(&file, complete(&binary, &two, "affinty = 1\n")).unwrap();
    binary.says(&["not reloaded, the old configuration stays in use"]);
    binary.says(&["unknown key `affinty`"]);
    wait_for("the failed reload is counted", || (reloads(&binary, "failed") - 1.0).abs() < f64::EPSILON);
    assert!(metric(&binary, "stickyd_config_ok").abs() < f64::EPSILON);
    assert_eq!(Raw::connect(binary.address).get("/").text(), "one");
    write(&binary, &two);
    becomes(&binary, "two");
    assert!((metric(&binary, "stickyd_config_ok") - 1.0).abs() < f64::EPSILON);
}

#[test]
fn a_missing_file_is_reported_and_a_new_one_applied() {
    let (one, two) = (one_session("one"), one_session("two"));
    let binary = Binary::with(&text(&one));
    std::fs::remove_file(binary.directory.join("stickyd.toml")).unwrap();
    binary.says(&["stickyd.toml no longer exists; the old configuration stays in use"]);
    assert!(metric(&binary, "stickyd_config_ok").abs() < f64::EPSILON);
    assert!((reloads(&binary, "ok") + reloads(&binary, "failed")).abs() < f64::EPSILON);
    assert_eq!(Raw::connect(binary.address).get("/").text(), "one");
    write(&binary, &two);
    becomes(&binary, "two");
}

#[test]
fn a_kubernetes_volume_is_swapped() {
    let (one, two) = (one_session("one"), one_session("two"));
    // As the kubelet does it: a link to a file in a directory that is itself a link.
    let binary = Binary::started_by(&text(&one), |_| {
        let stickyd = Binary::command();
        let program = stickyd.get_program().to_str().unwrap();
        let make = "mkdir ..1 && mv stickyd.toml ..1/ && ln -s ..1 ..data && ln -s ..data/stickyd.toml stickyd.toml";
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{make} && exec {program} run --config stickyd.toml")]);
        command
    });
    for (version, worker, name) in [("..2", &two, "two"), ("..3", &one, "one")] {
        let directory = binary.directory.join(version);
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(directory.join("stickyd.toml"), complete(&binary, worker, "")).unwrap();
        symlink(version, binary.directory.join("..data_tmp")).unwrap();
        let old = std::fs::read_link(binary.directory.join("..data")).unwrap();
        std::fs::rename(binary.directory.join("..data_tmp"), binary.directory.join("..data")).unwrap();
        becomes(&binary, name);
        std::fs::remove_dir_all(binary.directory.join(old)).unwrap();
    }
    assert!(reloads(&binary, "failed").abs() < f64::EPSILON);
}

#[test]
fn files_that_the_configuration_names_are_watched_too() {
    let (one, two) = (one_session("one"), one_session("two"));
    let binary = Binary::with(&text(&one));
    let (file, secret) = (binary.directory.join("stickyd.toml"), binary.directory.join("fleet/secret"));
    std::fs::create_dir(binary.directory.join("fleet")).unwrap();
    std::fs::write(&secret, "0123456789abcdef").unwrap();
    std::fs::write(&file, complete(&binary, &two, "secret_file = \"fleet/secret\"\n")).unwrap();
    becomes(&binary, "two");
    let before = reloads(&binary, "ok");
    std::fs::write(&secret, "fedcba9876543210").unwrap();
    wait_for("the configuration is reloaded", || reloads(&binary, "ok") > before);

    std::fs::write(&file, complete(&binary, &one, "watch = false\n")).unwrap();
    becomes(&binary, "one");
    let before = reloads(&binary, "ok");
    write(&binary, &two);
    long_enough();
    assert!((reloads(&binary, "ok") - before).abs() < f64::EPSILON);
    binary.signal("HUP");
    becomes(&binary, "two");
    // The watch is switched on again.
    write(&binary, &one);
    becomes(&binary, "one");
}

/// A connection that trusts these certificates, and the certificate that the server sent.
fn secured(address: SocketAddr, trusted: &[&CertificateDer<'static>]) -> (Raw, CertificateDer<'static>) {
    let mut roots = RootCertStore::empty();
    trusted.iter().for_each(|one| roots.add((*one).clone()).unwrap());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("a.example").unwrap();
    let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut tcp = patient(TcpStream::connect(address).unwrap());
    while connection.is_handshaking() {
        connection.complete_io(&mut tcp).unwrap();
    }
    let met = connection.peer_certificates().unwrap()[0].clone().into_owned();
    (Raw::on(StreamOwned::new(connection, tcp)), met)
}

#[test]
fn a_renewed_certificate_is_served_and_connections_go_on() {
    let worker = one_session("one");
    let place = std::env::temp_dir().join(format!("stickyd-renew-{}", std::process::id()));
    std::fs::create_dir_all(&place).unwrap();
    let renew = || {
        let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
        std::fs::write(place.join("cert.pem"), made.cert.pem()).unwrap();
        std::fs::write(place.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        made.cert.der().clone()
    };
    let first = renew();
    let tls = format!("tls = {{ certificate = {:?}, key = {:?} }}", place.join("cert.pem"), place.join("key.pem"));
    let listener = format!("[[listener]]\naddress = \"127.0.0.1:0\"\n{tls}\n");
    let binary = Binary::with(&text(&worker).replace("[upstream", &format!("{listener}[upstream")));
    let (mut old, met) = secured(binary.address, &[&first]);
    assert_eq!(met, first);
    let second = renew();
    wait_for("the new certificate is served", || secured(binary.address, &[&first, &second]).1 == second);
    assert_eq!(old.get("/").text(), "one");
    let (mut new, _) = secured(binary.address, &[&second]);
    assert_eq!(new.get("/").text(), "one");
    std::fs::remove_dir_all(place).unwrap();
}
