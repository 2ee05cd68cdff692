//! What `Cargo.lock` must not contain: versions with known holes, and a second TLS library. This needs no network,
//! unlike `cargo deny check advisories`, and so knows nothing that was published after it was written (November 2026).

use std::path::Path;

/// The first version without a known hole for each release line in use, and why. Sources: RUSTSEC, and the projects'
/// notes.
const LEAST: &[(&str, [u32; 3], &str)] = &[
    ("aws-lc-sys", [0, 39, 0], "RUSTSEC-2026-0044 to 0048"),
    ("bytes", [1, 11, 1], "RUSTSEC-2026-0007"),
    ("h2", [0, 4, 16], "RUSTSEC-2026-0258; before it 2023-0034, 2024-0003, 2024-0332"),
    ("hyper", [1, 0, 0], "RUSTSEC-2020-0008, 2021-0020, 2021-0078, 2021-0079: smuggling by lengths and codings"),
    ("prometheus", [0, 14, 0], "brings protobuf of RUSTSEC-2024-0437 before"),
    ("ring", [0, 17, 12], "RUSTSEC-2025-0009"),
    ("rustls", [0, 23, 18], "RUSTSEC-2024-0336, 2024-0399"),
    ("rustls-webpki", [0, 103, 13], "RUSTSEC-2026-0049, 0098, 0099, 0104"),
    ("slab", [0, 4, 11], "RUSTSEC-2025-0047"),
    ("tokio", [1, 44, 2], "RUSTSEC-2025-0023"),
    ("tracing-subscriber", [0, 3, 20], "RUSTSEC-2025-0055: terminal escapes in logs"),
];

/// Packages that must not be in the tree, and why.
const NEVER: &[(&str, &str)] = &[
    ("native-tls", "TLS is rustls"),
    ("openssl", "TLS is rustls"),
    ("openssl-sys", "TLS is rustls"),
    ("rustls-pemfile", "RUSTSEC-2025-0134: unmaintained"),
    ("protobuf", "RUSTSEC-2024-0437, and nothing here speaks it"),
];

struct Package {
    name: String,
    version: [u32; 3],
    source: Option<String>,
}

fn packages(lock: &str) -> Vec<Package> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(lock)).unwrap();
    let value = |block: &str, key: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \""))?;
        Some(line.trim_end_matches('"').to_owned())
    };
    let number = |text: &str| text.split(['-', '+']).next().unwrap().parse().unwrap();
    let read = |block: &str| {
        let version = value(block, "version")?;
        let mut numbers = version.splitn(3, '.').map(number);
        let version = [(); 3].map(|()| numbers.next().unwrap());
        Some(Package { name: value(block, "name")?, version, source: value(block, "source") })
    };
    let all: Vec<_> = text.split("[[package]]").filter_map(read).collect();
    assert!(all.len() > 50, "{lock} has too few packages: is it still read correctly?");
    all
}

#[test]
fn no_version_with_a_known_hole() {
    for lock in ["Cargo.lock", "tests/fuzz/Cargo.lock"] {
        let packages = packages(lock);
        for (name, least, why) in LEAST {
            for one in packages.iter().filter(|one| one.name == *name) {
                assert!(one.version >= *least, "{lock}: {name} {:?} is older than {least:?}: {why}", one.version);
            }
        }
    }
    // A renamed package in the list would check nothing.
    let packages = packages("Cargo.lock");
    for name in ["aws-lc-sys", "hyper", "rustls", "rustls-webpki", "tokio"] {
        assert!(packages.iter().any(|one| one.name == name), "{name} has another name now");
    }
}

#[test]
fn one_tls_library_and_one_registry() {
    for one in packages("Cargo.lock") {
        if let Some((name, why)) = NEVER.iter().find(|(name, _)| *name == one.name) {
            panic!("{name}: {why}");
        }
        let ours = ["stickyd", "stickyd-demo"].contains(&&*one.name) && one.source.is_none();
        let registry = "registry+https://github.com/rust-lang/crates.io-index";
        assert!(ours || one.source.as_deref() == Some(registry), "{} comes from {:?}", one.name, one.source);
    }
}
