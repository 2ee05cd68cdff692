//! Traces by OpenTelemetry: what a real receiver decodes, what workers are told, and a receiver that is slow, dead or
//! broken. They need a build with the feature `otel`; the other build says so.

#[cfg(feature = "otel")]
mod clients;
#[cfg(feature = "otel")]
mod spans;

use std::process::Command;

use crate::support::temp::TempDirectory;

#[test]
fn check_says_whether_a_build_can_send_traces() {
    let files = TempDirectory::new("traces-check");
    let text = "[[listener]]\naddress = \"127.0.0.1:0\"\n[upstream.app]\nworkers = [\"127.0.0.1:1\"]\n\
                [telemetry]\notlp = \"http://127.0.0.1:4318\"\n";
    files.write("s.toml", text);
    let mut check = Command::new(env!("CARGO_BIN_EXE_stickyd"));
    let done = check.arg("check").arg(files.path("s.toml")).output().unwrap();
    let said = String::from_utf8([done.stdout, done.stderr].concat()).unwrap();
    if cfg!(feature = "otel") {
        assert!(done.status.success(), "{said}");
        return;
    }
    assert!(!done.status.success(), "{said}");
    assert!(said.contains("this build of stickyd cannot send traces") && said.contains("s.toml:6:8"), "{said}");
    assert!(said.contains("help: use a build with the feature otel"), "{said}");
}
