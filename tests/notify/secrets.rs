//! Addresses, passwords and tokens are shown nowhere.

use super::{Receiver, Target, run, stickyd};
use crate::support::raw::Raw;
use crate::support::temp::TempDirectory;

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_the_log_the_check_the_api_or_the_metrics() {
    let mut receiver = Receiver::start().await;
    let files = TempDirectory::new("notify-secrets");
    files.write_mode("slack.url", receiver.url("slack/hunter2"), 0o600);
    files.write_mode("token", "tk_hunter2", 0o600);
    let at = files.root().display();
    let to = format!(
        "[notify]\nheartbeat = {{ url = \"{}\", every = \"1s\" }}\n\
         [[notify.to]]\nslack = {{ url_file = \"{at}/slack.url\" }}\n\
         [[notify.to]]\nntfy = {{ url = \"http://127.0.0.1:9/hunter2\", token_file = \"{at}/token\" }}\n\
         [[notify.to]]\ndiscord = {{ url = \"https://discord.invalid/api/hunter2\" }}\n",
        receiver.url("beat/hunter2"),
    );
    let target = Target::start();
    let binary = stickyd(&[&target], "", &to);
    let (code, out, err) = run(&binary, &["notify", "test", "--config", "stickyd.toml"]);
    assert_eq!(code, Some(1), "{out}");
    assert!(out.contains("slack: sent") && out.contains("ntfy: not sent: cannot connect"), "{out}{err}");
    assert!(out.contains("discord: not sent: the host's name cannot be resolved"), "{out}");
    receiver.next_for("slack/hunter2").await;
    let (code, checked, warned) = run(&binary, &["check", "stickyd.toml"]);
    assert_eq!(code, Some(0), "{warned}");
    assert!(warned.contains("may be a secret") && warned.contains("url = \"***"), "{warned}");
    let (_, shown, _) = run(&binary, &["notify", "--json", "--config", "stickyd.toml"]);
    let get = |path: &str| Raw::connect_unix(&binary.admin()).get(path).text().to_owned();
    for text in [out, err, checked, warned, shown, get("/api/v1/status"), get("/metrics"), binary.log()] {
        assert!(!text.contains("hunter2"), "{text}");
    }
    // A mistake beside a secret does not show it either.
    let text = "[[notify.to]]\ndiscord = { url = \"https://discord.com/hunter2\", colour = 1 }\n";
    super::write(&binary, "wrong.toml", &format!("[upstream.app]\nworkers = [\"127.0.0.1:1\"]\n{text}"));
    let (code, _, err) = run(&binary, &["check", "wrong.toml"]);
    assert!(code == Some(1) && err.contains("unknown key `colour`") && !err.contains("hunter2"), "{err}");
}
