//! Applications in other languages: whatever reads PORT.

use std::path::Path;

use super::support::{command, started, text, workers};
use crate::support::raw::Raw;

#[test]
fn a_python_application_is_started_and_replaced() {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/.venv/bin/python");
    let keys = format!("instances = 2, grace = \"1s\", command = [{python:?}, \"kinds/spawned_server.py\"]");
    let binary = started(2, &keys);
    assert!(Raw::connect(binary.address).get("/health").text().starts_with("ok "));
    let said = command(&binary, &["workers", "restart"]);
    assert!(said.status.success(), "{}", text(&said));
    assert!(workers(&binary).iter().all(|worker| worker["state"] == "ready"));
}
