//! What `.cargo/with-profile` adds to a compiler's arguments: a profile if there is one for that compiler, else
//! nothing.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A compiler that reports its version like rustc, and otherwise prints its arguments.
const COMPILER: &str =
    "#!/bin/sh\n[ \"$*\" = -vV ] && printf 'release: 1\\ncommit-hash: abc\\n' || printf '%s\\n' \"$@\"\n";

struct Toolchain(PathBuf);

impl Toolchain {
    fn new(name: &str) -> Self {
        let toolchain = Self(std::env::temp_dir().join(format!("stickyd-profile-{name}-{}", std::process::id())));
        std::fs::create_dir(&toolchain.0).unwrap();
        let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cargo/with-profile");
        std::fs::copy(ours, toolchain.file("with-profile")).unwrap();
        std::fs::write(toolchain.file("rustc"), COMPILER).unwrap();
        std::fs::set_permissions(toolchain.file("rustc"), PermissionsExt::from_mode(0o755)).unwrap();
        toolchain
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn arguments(&self, given: &[&str]) -> Vec<String> {
        let output = Command::new(self.file("with-profile")).arg(self.file("rustc")).args(given).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }
}

impl Drop for Toolchain {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn optimised_builds_get_the_profile_of_their_compiler() {
    let toolchain = Toolchain::new("with");
    let release = ["--crate-name", "a b", "-C", "opt-level=3"];
    assert_eq!(toolchain.arguments(&release), release, "there is no profile");
    std::fs::write(toolchain.file("other.profdata"), "").unwrap();
    assert_eq!(toolchain.arguments(&release), release, "the profile is for another compiler");
    std::fs::write(toolchain.file("abc.profdata"), "").unwrap();
    let profile = format!("-Cprofile-use={}", toolchain.file("abc.profdata").display());
    let with = [&release[..], &[&profile, "-Cllvm-args=-no-pgo-warn-mismatch"]].concat();
    assert_eq!(toolchain.arguments(&release), with);
}

#[test]
fn other_builds_are_left_alone() {
    let toolchain = Toolchain::new("without");
    std::fs::write(toolchain.file("abc.profdata"), "").unwrap();
    for given in [&["-C", "opt-level=1", "src/lib.rs"][..], &["-", "--print=file-names"], &[]] {
        assert_eq!(toolchain.arguments(given), if given.is_empty() { &[""][..] } else { given });
    }
}
