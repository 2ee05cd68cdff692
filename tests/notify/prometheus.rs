//! The shipped alert rules, the example of Alertmanager and the dashboard, with the real programs: every expression
//! finds a series in a Prometheus that scrapes a live stickyd.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::support::engines::{begin_session, many_sessions};
use crate::support::node::NodeServer;
use crate::support::process::clients_dir;
use crate::support::proxy::{Binary, free_address};
use crate::support::raw::Raw;
use crate::support::temp::TempDirectory;
use crate::support::tls::Certificates;
use crate::support::wait::wait_for;

/// A program of Debian's packages, which `tests/run` unpacks, or the installed one.
fn tool(name: &str) -> PathBuf {
    let local = clients_dir().join(".prometheus").join(name);
    if local.exists() { local } else { name.into() }
}

fn conf(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("conf").join(name)
}

fn run(name: &str, args: &[&str]) -> Output {
    let done = Command::new(tool(name)).args(args).current_dir(conf("alerts")).output();
    done.unwrap_or_else(|error| panic!("{name}: {error}; tests/run installs it"))
}

fn succeeds(name: &str, args: &[&str]) {
    let done = run(name, args);
    let said = [done.stdout, done.stderr].concat();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&said));
}

#[test]
fn promtool_and_amtool_accept_what_is_shipped() {
    succeeds("promtool", &["check", "rules", "stickyd.yml"]);
    succeeds("promtool", &["test", "rules", "stickyd_test.yml"]);
    succeeds("amtool", &["check-config", "alertmanager.example.yml"]);
}

/// A running Prometheus of the test.
struct Prometheus {
    child: Child,
    address: std::net::SocketAddr,
    _data: TempDirectory,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    fn scraping(target: &str) -> Self {
        let (data, address) = (TempDirectory::new("prometheus"), free_address());
        let rules = conf("alerts/stickyd.yml");
        data.write(
            "prometheus.yml",
            format!(
                "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [\"{}\"]\nscrape_configs:\n\
                 - job_name: stickyd\n  static_configs: [{{ targets: [\"{target}\"] }}]\n",
                rules.display()
            ),
        );
        let child = Command::new(tool("prometheus"))
            .arg(format!("--config.file={}", data.path("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", data.path("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("prometheus: {error}; tests/run installs it"));
        let started = Self { child, address, _data: data };
        wait_for("Prometheus listens", || std::net::TcpStream::connect(address).is_ok());
        started
    }

    fn get(&self, path: &str) -> Value {
        // Until it is ready, its answers are plain text.
        serde_json::from_slice(&Raw::connect(self.address).get(path).body).unwrap_or_default()
    }

    /// The series that an expression has now.
    fn query(&self, expression: &str) -> Vec<Value> {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let said = self.get(&format!("/api/v1/query?query={encoded}"));
        assert_ne!(said["status"], "error", "{expression}: {said}");
        said["data"]["result"].as_array().cloned().unwrap_or_default()
    }
}

/// The rules, as Prometheus itself has read them: name and expression.
fn rules(prometheus: &Prometheus) -> Vec<(String, String)> {
    let said = prometheus.get("/api/v1/rules");
    let rules = said["data"]["groups"][0]["rules"].as_array().unwrap().clone();
    assert!(rules.len() >= 13 && rules.iter().all(|rule| rule["health"] != "err"), "{said:#}");
    let text = |rule: &Value, key: &str| rule[key].as_str().unwrap().to_owned();
    rules.iter().map(|rule| (text(rule, "name"), text(rule, "query"))).collect()
}

/// The value that a rule compares: its expression without the last comparison.
fn compared(expression: &str) -> &str {
    let last = [" == ", " > ", " < "].iter().filter_map(|operator| expression.rfind(operator)).max();
    &expression[..last.expect("a rule compares")]
}

/// Titles and expressions of all panels, for all instances and upstreams.
fn panels() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(conf("grafana/stickyd.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let mut all = Vec::new();
    let (mut ids, mut rows) = (std::collections::BTreeSet::new(), 0);
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "two panels with one id");
        let at = &panel["gridPos"];
        assert!(at["x"].as_u64().unwrap() + at["w"].as_u64().unwrap() <= 24, "{panel:#}");
        rows += usize::from(panel["type"] == "row");
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap();
            all.push((panel["title"].as_str().unwrap().to_owned(), expression.to_owned()));
        }
    }
    assert_eq!(rows, 8);
    let variable = |text: String| text.replace("$instance", ".*").replace("$upstream", ".*");
    all.into_iter().map(|(title, expression)| (title, variable(expression))).collect()
}

/// The expressions of the shipped example that scales workers, each with the line that has it.
fn scaling() -> Vec<(String, String)> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/kubernetes/autoscale.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    let keys = ["query:", "seriesQuery:", "metricsQuery:"];
    let line = |line: &str| {
        let line = line.trim_start_matches(['#', ' ', '-']);
        let value = keys.iter().find_map(|key| line.strip_prefix(key))?;
        Some((line.to_owned(), value.trim().trim_matches('\'').to_owned()))
    };
    let found: Vec<_> = text.lines().filter_map(line).collect();
    assert_eq!(found.len(), keys.len(), "{found:?}");
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_rule_and_every_panel_finds_a_series_of_a_live_stickyd() {
    // One worker is a process of its own: CPU and memory of a process with several workers belong to none of them.
    let (one, two) = (many_sessions("one"), NodeServer::start(&[]).await);
    let certificates = Certificates::new();
    certificates.issue("site", &["app.example"]);
    let (admin, tls, at) = (free_address(), free_address(), certificates.directory.display());
    let binary = Binary::with(&format!(
        "state_dir = \".\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n[[listener]]\naddress = \"{tls}\"\n\
         tls = {{ certificate = \"{at}/site.pem\", key = \"{at}/site.key\" }}\n\
         [upstream.app]\nworkers = [\"{}\", \"127.0.0.1:{}\"]\n\
         [upstream.named]\nallow_empty = true\nworkers = [\"no-such-name.invalid:3000\"]\n\
         [[route]]\nhost = \"named.example\"\nupstream = \"named\"\n[[route]]\nupstream = \"app\"\n\
         [admin]\naddress = \"{admin}\"\n\
         [notify]\n[[notify.to]]\nslack = {{ url = \"http://127.0.0.1:1/\" }}\n",
        one.address, two.port
    ));
    (0..8).for_each(|_| _ = begin_session(binary.address, ""));
    let prometheus = Prometheus::scraping(&admin.to_string());
    wait_for("stickyd is scraped", || !prometheus.query("stickyd_sockets").is_empty());
    wait_for("the rules are evaluated", || {
        let said = prometheus.get("/api/v1/rules");
        said["data"]["groups"][0]["rules"]
            .as_array()
            .is_some_and(|rules| rules.iter().all(|rule| rule["health"] == "ok"))
    });
    // A rule about a stickyd that is gone has no series while there is one.
    let of_rules = rules(&prometheus).into_iter().filter(|(name, _)| name != "StickydAbsent");
    let of_rules = of_rules.map(|(name, expression)| (name, compared(&expression).to_owned()));
    for (name, expression) in of_rules.chain(panels()).chain(scaling()) {
        wait_for(&format!("{name}: a series of {expression}"), || {
            let found = prometheus.query(&expression);
            if found.is_empty() { Err(found) } else { Ok(()) }
        });
    }
    for (line, expression) in scaling() {
        let value = |one: &Value| one["value"][1].as_str().unwrap().parse::<f64>().unwrap();
        wait_for(&format!("sockets are counted by {line}"), || {
            let found = prometheus.query(&expression);
            if found.iter().map(value).sum::<f64>() >= 1.0 { Ok(()) } else { Err(found) }
        });
    }
    assert!(prometheus.query("up{job=\"stickyd\"} == 1").len() == 1, "the job of StickydAbsent");
    let firing = prometheus.query("ALERTS{alertstate=\"firing\"}");
    let unexpected = firing.iter().filter(|alert| alert["metric"]["upstream"] != "named");
    assert_eq!(unexpected.collect::<Vec<_>>(), Vec::<&Value>::new());
}
