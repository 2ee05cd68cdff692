//! Certificates that are renewed while clients connect: found by the change of the files alone, and always as whole
//! pairs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::get;
use crate::support::admin::metric;
use crate::support::proxy::Binary;
use crate::support::raw::{Raw, RawWorker};
use crate::support::tls::Certificates;
use crate::support::wait::wait_for;

fn started(files: &Certificates, worker: &RawWorker) -> Binary {
    let directory = files.directory.display();
    Binary::with(&format!(
        "state_dir = \".\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n\
         tls = {{ certificate = \"{directory}/site.pem\", key = \"{directory}/site.key\" }}\n\
         [upstream.app]\nworkers = [\"{}\"]\n",
        worker.address
    ))
}

#[test]
fn renewed_files_are_served_and_no_request_fails() {
    let (worker, files) = (RawWorker::named("a"), Certificates::new());
    let first = files.issue("site", &["a.example"]);
    let binary = started(&files, &worker);
    let (over, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    // Each connection is new, some resume a session, and each must be served.
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let (mut client, address) = (files.client(), binary.address);
            let (over, served) = (over.clone(), served.clone());
            std::thread::spawn(move || {
                while !over.load(Ordering::SeqCst) {
                    let mut made = client.connect(address, "a.example");
                    assert_eq!(made.raw.ask(&get("a.example", "/")).text(), "a");
                    served.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    // This connection was open before and is still served afterwards.
    let mut old = files.client().connect(binary.address, "a.example");
    let mut shown = first;
    for _ in 0..5 {
        let before = served.load(Ordering::SeqCst);
        let renewed = files.issue("site", &["a.example"]);
        assert_ne!(renewed, shown);
        wait_for("the new certificate is served", || {
            files.client().connect(binary.address, "a.example").certificate == renewed
        });
        shown = renewed;
        wait_for("clients are served", || served.load(Ordering::SeqCst) > before + 10);
        assert_eq!(old.raw.ask(&get("a.example", "/")).text(), "a");
    }
    let told = Raw::connect_unix(&binary.admin()).get("/api/v1/events?kind=certificate_renewed");
    assert!(told.text().matches("a certificate was read anew").count() >= 5, "{}", told.text());
    assert!(told.text().contains("a.example") && told.text().contains(&binary.address.to_string()));
    over.store(true, Ordering::SeqCst);
    for client in clients {
        client.join().expect("every request was served");
    }
    let resumed = "stickyd_tls_handshakes_total{listener=\"LISTENER\",result=\"ok\",resumed=\"yes\",version=\"1.3\"}";
    let resumed = resumed.replace("LISTENER", &binary.address.to_string());
    assert!(metric(&binary, &resumed) > 50.0, "sessions are resumed after their certificate was replaced");
}

#[test]
fn half_a_pair_keeps_the_old_one_and_is_reported() {
    let (worker, files) = (RawWorker::named("a"), Certificates::new());
    let first = files.issue("site", &["a.example"]);
    let binary = started(&files, &worker);
    let other = files.issue("other", &["a.example"]);
    std::fs::copy(files.directory.join("other.pem"), files.directory.join("site.pem")).unwrap();
    binary.says(&["not reloaded, the old configuration stays in use"]);
    wait_for("the log names the mismatch", || binary.log().contains("site.key is not the key of"));
    assert_eq!(files.client().connect(binary.address, "a.example").certificate, first);
    assert!(files.client().is_served(binary.address, "a.example"));
    let told = Raw::connect_unix(&binary.admin()).get("/api/v1/events?kind=certificate_failed");
    assert!(told.text().contains("a certificate or key cannot be used"), "{}", told.text());
    // The other half of the pair follows.
    std::fs::copy(files.directory.join("other.key"), files.directory.join("site.key")).unwrap();
    wait_for("the new pair is served", || files.client().connect(binary.address, "a.example").certificate == other);
    // Then a pair that has expired, and a file that is missing.
    let expiry = format!(
        "stickyd_tls_certificate_expiry_timestamp_seconds{{listener=\"{}\",name=\"a.example\"}}",
        binary.address
    );
    assert!(metric(&binary, &expiry) > 4e9);
    files.issue_expired("site", &["a.example"]);
    wait_for("the log reports the expiry", || binary.log().contains("expired at 2010-01-01T00:00:00Z"));
    std::fs::remove_file(files.directory.join("site.pem")).unwrap();
    binary.signal("HUP");
    wait_for("the log reports the missing file", || binary.log().contains("site.pem: No such file"));
    assert_eq!(files.client().connect(binary.address, "a.example").certificate, other);
    assert!(metric(&binary, &expiry) > 4e9);
}
