//! What users install: the npm packages, the configurations in packages and containers, and certbot's hook.
//!
//! The packages are built from the binary of this build and installed without a network. Left out: the Debian package,
//! the wheel, the tarball and the image in empty systems (`tests/install`).

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output};

use crate::support::proxy::{Binary, free_address};
use crate::support::raw::Raw;
use crate::support::temp::TempDirectory;
use crate::support::wait::wait_for;

const BINARY: &str = env!("CARGO_BIN_EXE_stickyd");

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Builds the npm packages and installs them into an empty project without a network.
fn npm_project(folder: &TempDirectory) {
    let packs = folder.path("packs");
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/npm/build");
    let built = succeed(Command::new(build).args(["--binary", BINARY, "--out", packs.to_str().unwrap()]));
    let files: Vec<&str> = built.lines().collect();
    assert_eq!(files.len(), 2, "one platform and the launcher: {built}");
    let left: Vec<_> = std::fs::read_dir(&packs).unwrap().collect();
    assert_eq!(left.len(), 2, "nothing else is left there: {left:?}");
    std::fs::create_dir(folder.path("project")).unwrap();
    let cache = folder.path("cache");
    let mut install = Command::new("npm");
    install.args(["install", "--offline", "--no-audit", "--no-fund", "--cache", cache.to_str().unwrap()]);
    succeed(install.args(files).current_dir(folder.path("project")));
}

/// A process that is killed when the test ends.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn npm_packages_install_offline_and_run_an_application() {
    let folder = TempDirectory::new("npm");
    npm_project(&folder);
    let project = folder.path("project");
    let version = succeed(Command::new("npx").args(["--offline", "stickyd", "--version"]).current_dir(&project));
    assert_eq!(version.trim(), format!("stickyd {}", env!("CARGO_PKG_VERSION")));
    folder.write(
        "project/server.js",
        "require('node:http').createServer((_, res) => res.end(String(process.pid))).listen(process.env.PORT);",
    );
    let address = free_address();
    let mut npx = Command::new("npx");
    npx.args(["--offline", "stickyd", "run", "--listen", &address.to_string(), "--spawn", "2", "--no-bus", "--"]);
    let mut npx = Started(npx.args(["node", "server.js"]).current_dir(&project).spawn().unwrap());
    let mut pids = BTreeSet::new();
    wait_for("a worker answers", || {
        if TcpStream::connect(address).is_ok() {
            let answer = Raw::connect(address).ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            pids.extend((answer.status() == 200).then(|| answer.text().to_owned()));
        }
        !pids.is_empty()
    });
    // npx tells its shell, which tells no one: the launcher sees that its parent has gone.
    succeed(Command::new("kill").args(["-TERM", &npx.0.id().to_string()]));
    npx.0.wait().unwrap();
    wait_for("nothing is left", || {
        TcpStream::connect(address).is_err() && pids.iter().all(|pid| !Path::new("/proc").join(pid).exists())
    });
}

#[test]
fn the_npm_package_has_the_preload_and_the_types() {
    let folder = TempDirectory::new("npm-parts");
    npm_project(&folder);
    let project = folder.path("project");
    let script = "const stickyd = require('stickyd'); require('node:fs').accessSync(stickyd.binary(), 1); \
                  console.log(stickyd.busPreload === require.resolve('stickyd/bus'))";
    let node = |args: &[&str]| succeed(Command::new("node").args(args).current_dir(&project));
    assert_eq!(node(&["-e", script]).trim(), "true");
    assert_eq!(node(&["--require", "stickyd/bus", "-p", "1 + 1"]).trim(), "2", "without the bus it does nothing");
    let types = std::fs::read_to_string(project.join("node_modules/stickyd/lib/admin-api.d.ts")).unwrap();
    let document: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string("conf/openapi.json").unwrap()).unwrap();
    for name in document["components"]["schemas"].as_object().unwrap().keys() {
        assert!(types.contains(&format!("export type {name} = ")), "{name} has no type");
    }
    for path in document["paths"].as_object().unwrap().keys() {
        assert!(types.contains(&format!("\"{path}\": {{")), "{path} has no type");
    }
    let package = std::fs::read_to_string(project.join("node_modules/@stickyd/linux-x64/package.json"));
    let package: serde_json::Value = serde_json::from_str(&package.unwrap()).unwrap();
    assert_eq!((&package["os"][0], &package["libc"][0]), (&"linux".into(), &"glibc".into()));
}

#[test]
fn a_typed_program_compiles_and_reads_the_api() {
    let folder = TempDirectory::new("typed");
    npm_project(&folder);
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    std::fs::copy(tests.join("types/consumer.mts"), folder.path("project/consumer.mts")).unwrap();
    // As strict as a compiler can be, without leaving out the types of packages.
    let options = "\"strict\": true, \"noUncheckedIndexedAccess\": true, \"exactOptionalPropertyTypes\": true, \
                   \"verbatimModuleSyntax\": true, \"skipLibCheck\": false, \"target\": \"es2022\", \"types\": []";
    for (module, resolution) in [("esnext", "bundler"), ("nodenext", "nodenext")] {
        let module = format!("\"module\": \"{module}\", \"moduleResolution\": \"{resolution}\"");
        let lib = "\"lib\": [\"es2023\", \"dom\"]";
        folder.write(
            "project/tsconfig.json",
            format!("{{ \"compilerOptions\": {{ {options}, {lib}, {module} }}, \"files\": [\"consumer.mts\"] }}"),
        );
        let mut tsc = Command::new(tests.join("node_modules/.bin/tsc"));
        let output = tsc.args(["--project", "."]).current_dir(folder.path("project")).output().unwrap();
        assert!(output.status.success(), "{resolution}: {}", said(&output));
    }
    let admin = free_address();
    folder.write("token", "0123456789abcdef0123456789abcdef");
    let token = folder.path("token");
    let binary = Binary::with(&format!(
        "[admin]\naddress = \"{admin}\"\ntoken_file = {token:?}\n[upstream.app]\n\
         workers = [{{ address = \"127.0.0.1:9\", name = \"w1\" }}]"
    ));
    let mut node = Command::new("node");
    node.args(["consumer.mjs", &format!("http://{admin}"), "0123456789abcdef0123456789abcdef"]);
    let printed = succeed(node.current_dir(folder.path("project")));
    let printed: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((&printed["version"], &printed["admin"]), (&env!("CARGO_PKG_VERSION").into(), &"drain".into()));
    assert!(printed["paths"][0].as_str().unwrap().ends_with("@stickyd/linux-x64/bin/stickyd"), "{printed}");
    drop(binary);
}

#[test]
fn the_wheel_installs_offline_with_the_binary() {
    let folder = TempDirectory::new("wheel");
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/pypi/wheel");
    let wheel = succeed(Command::new("python3").arg(&build).arg(BINARY).arg(folder.root()));
    assert!(wheel.contains("-py3-none-manylinux_2_"), "{wheel}");
    let again = folder.path("again");
    let second = succeed(Command::new("python3").arg(&build).arg(BINARY).arg(&again));
    let bytes = |path: &str| std::fs::read(path.trim()).unwrap();
    assert!(bytes(&wheel) == bytes(&second), "two wheels of one binary differ");
    succeed(Command::new("python3").args(["-m", "venv"]).arg(folder.path("venv")));
    let mut pip = Command::new(folder.path("venv/bin/pip"));
    succeed(pip.args(["install", "--no-index", "--disable-pip-version-check", wheel.trim()]));
    let version = succeed(Command::new(folder.path("venv/bin/stickyd")).arg("--version"));
    assert_eq!(version.trim(), format!("stickyd {}", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_launcher_says_what_is_missing() {
    let launcher = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/npm/stickyd/bin/stickyd.js");
    let run = |binary: Option<&str>| {
        let mut node = Command::new("node");
        node.arg(&launcher).arg("--version").env_remove("STICKYD_BINARY");
        binary.map(|binary| node.env("STICKYD_BINARY", binary));
        node.output().unwrap()
    };
    let alone = run(None);
    assert!(!alone.status.success() && said(&alone).contains("is not installed: install without --omit=optional"));
    assert!(said(&run(Some("/no/such/stickyd"))).contains("cannot start /no/such/stickyd"));
    assert!(run(Some(BINARY)).status.success());
}

/// Checks a configuration in a folder in which the files that it names exist.
fn complaints(toml: &str) -> String {
    let folder = TempDirectory::new("packaged");
    for (name, text) in [
        ("secret", "0123456789abcdef0123456789abcdef\n"),
        ("admin.token", "0123456789abcdef0123456789abcdef\n"),
        ("read.token", "1123456789abcdef0123456789abcdef\n"),
    ] {
        folder.write_mode(name, text, 0o600);
    }
    let own = format!("{}/", folder.root().display());
    folder.write("stickyd.toml", toml.replace("/etc/stickyd-secret/", &own));
    let checked = Command::new(BINARY).arg("check").arg(folder.path("stickyd.toml")).output().unwrap();
    assert!(checked.status.success(), "{}", said(&checked));
    String::from_utf8(checked.stderr).unwrap()
}

#[test]
fn configurations_in_packages_and_containers_are_valid() {
    let read = |file: &str| std::fs::read_to_string(Path::new("packaging").join(file)).unwrap();
    let conffile = read("deb/stickyd.toml");
    assert_eq!(conffile.lines().count(), 12);
    assert_eq!(complaints(&conffile), "");
    // The name of the application's service cannot be resolved here, which is a warning.
    let only_a_name = |text: &str| text.is_empty() || text.matches("warning: ").count() == 1 && text.contains("`app`");
    let said = complaints(&read("container/stickyd.toml"));
    assert!(only_a_name(&said), "{said}");
    let manifest = read("kubernetes/stickyd.yaml");
    let block = manifest.split("  stickyd.toml: |\n").nth(1).unwrap().split("\n---").next().unwrap();
    let toml: Vec<&str> = block.lines().map(|line| line.strip_prefix("    ").unwrap_or(line)).collect();
    let said = complaints(&toml.join("\n"));
    assert!(toml.len() > 10 && only_a_name(&said), "{said}");
    // Prometheus gets the token that can only read, which the comment says how to make.
    let monitoring = read("kubernetes/monitoring.yaml");
    assert!(monitoring.contains("key: read.token") && !monitoring.contains("admin.token"), "{monitoring}");
    assert!(manifest.contains("--from-literal=read.token="), "{manifest}");
    assert!(toml.contains(&"read_token_file = \"/etc/stickyd-secret/read.token\""), "{toml:?}");
}

#[test]
fn certbots_hook_hands_over_both_files() {
    let folder = TempDirectory::new("certbot");
    std::fs::create_dir_all(folder.path("live/chat.example")).unwrap();
    for file in ["fullchain.pem", "privkey.pem"] {
        folder.write_mode(&format!("live/chat.example/{file}"), file, 0o600);
    }
    let group = succeed(Command::new("id").arg("-gn"));
    for _ in 0..2 {
        let mut hook = Command::new("packaging/deb/certbot-deploy-hook");
        hook.env("RENEWED_LINEAGE", folder.path("live/chat.example")).env("STICKYD_GROUP", group.trim());
        succeed(hook.env("STICKYD_CERTIFICATES", folder.path("etc")));
        for file in ["fullchain.pem", "privkey.pem"] {
            let path = folder.path(&format!("etc/chat.example/{file}"));
            assert_eq!(std::fs::read_to_string(&path).unwrap(), file);
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        }
        assert_eq!(std::fs::read_dir(folder.path("etc/chat.example")).unwrap().count(), 2);
    }
    let without = Command::new("packaging/deb/certbot-deploy-hook").env_remove("RENEWED_LINEAGE").output().unwrap();
    assert!(!without.status.success() && said(&without).contains("certbot sets it"), "{}", said(&without));
}
