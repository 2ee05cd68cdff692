//! What receivers get, and what happens if they do not take it.

use aws_lc_rs::hmac;
use serde_json::json;

use super::{Receiver, Target, body, config, run, state, stickyd};
use crate::support::admin::{metric, reload};
use crate::support::wait::{at_most, wait_for};

const FAST: &str = "[notify]\nafter = \"1s\"\ngroup = \"1s\"\nname = \"web-1\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_receiver_is_told_of_a_death_and_a_return() {
    let mut receiver = Receiver::start().await;
    let mut smtp = Receiver::smtp(&json!({})).await;
    let (mut one, two) = (Target::start(), Target::start());
    let files = crate::support::temp::TempDirectory::new("notify-kinds");
    files.write_mode("hook.key", "0123456789abcdef0123456789abcdef", 0o600);
    files.write_mode("discord.url", receiver.url("discord/secret"), 0o600);
    files.write_mode("ntfy.token", "tk_secret", 0o600);
    let at = files.root().display();
    let to = format!(
        "{FAST}heartbeat = {{ url = \"{}\", every = \"1s\" }}\n\
         [[notify.to]]\nwebhook = {{ url = \"{}\", secret_file = \"{at}/hook.key\" }}\n\
         [[notify.to]]\ndiscord = {{ url_file = \"{at}/discord.url\" }}\n\
         [[notify.to]]\nslack = {{ url = \"{}\" }}\n\
         [[notify.to]]\nntfy = {{ url = \"{}\", token_file = \"{at}/ntfy.token\" }}\n\
         [[notify.to]]\nname = \"ops\"\nmail = {{ smtp = \"127.0.0.1:{}\", tls = \"none\", from = \"s@example.com\", \
         to = [\"Ops <ops@example.com>\", \"b@example.com\"] }}\n\
         [[notify.to]]\nname = \"certificates\"\nevents = [\"certificate\"]\nslack = {{ url = \"{}\" }}\n",
        receiver.url("beat/1"),
        receiver.url("webhook/x"),
        receiver.url("slack/x"),
        receiver.url("ntfy/topic"),
        smtp.port,
        receiver.url("slack/never"),
    );
    let binary = stickyd(&[&one, &two], "", &to);
    receiver.next_for("beat/1").await;
    wait_for("both workers are up", || {
        crate::support::admin::healths(&binary).iter().all(|(_, health)| health == "up")
    });
    one.die();
    let mut seen = std::collections::BTreeMap::new();
    while seen.len() < 4 {
        let request = receiver.next().await;
        let path = request["path"].as_str().unwrap().to_owned();
        assert_ne!(path, "/slack/never");
        if path != "/beat/1" {
            assert!(seen.insert(path, request).is_none(), "one message each");
        }
    }
    let name = one.address.to_string();
    let hook = &seen["/webhook/x"];
    let text = hook["body"].as_str().unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"0123456789abcdef0123456789abcdef");
    let signed: String = hmac::sign(&key, text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hook["headers"]["x-stickyd-signature"], format!("sha256={signed}"));
    let told = body(hook);
    assert_eq!((&told["kind"], &told["host"]), (&json!("problem"), &json!("web-1")));
    let problem = &told["problems"][0];
    assert_eq!(
        (&problem["event"], &problem["subject"], &problem["upstream"]),
        (&json!("worker_down"), &json!(name), &json!("app"))
    );
    assert_eq!(problem["meaning"], "1 of 2 workers of app takes new sessions");
    assert_eq!(problem["todo"], "stickyd workers app");
    assert_eq!(hook["headers"]["x-stickyd-id"], told["id"]);
    let embed = &body(&seen["/discord/secret"])["embeds"][0];
    assert_eq!(embed["title"], format!("[web-1] app/{name} is down"));
    assert!(embed["description"].as_str().unwrap().contains("Type: `stickyd workers app`"), "{embed}");
    assert!(body(&seen["/slack/x"])["text"].as_str().unwrap().contains("is down"));
    let ntfy = &seen["/ntfy/topic"]["headers"];
    assert_eq!((&ntfy["authorization"], &ntfy["priority"]), (&json!("Bearer tk_secret"), &json!("high")));
    let mail = smtp.next().await;
    assert_eq!(mail["subject"], format!("[web-1] app/{name} is down"));
    assert_eq!(mail["to"], "\"Ops\" <ops@example.com>, b@example.com");
    assert_eq!(mail["auto"], "auto-generated");
    assert!(mail["text"].as_str().unwrap().contains("1 of 2 workers of app takes new sessions."), "{mail}");
    // It comes back.
    one.rise();
    let over = body(&receiver.next_for("webhook/x").await);
    assert_eq!((&over["kind"], &over["problems"][0]["state"]), (&json!("resolved"), &json!("over")));
    let title = over["title"].as_str().unwrap();
    assert!(title.starts_with(&format!("app/{name} is up again after ")), "{title}");
    assert!(smtp.next().await["subject"].as_str().unwrap().contains("resolved: "));
    assert_eq!(metric(&binary, "stickyd_notifications_total{result=\"sent\",to=\"webhook\"}"), 2.0);
    wait_for("the mail is counted", || {
        metric(&binary, "stickyd_notifications_total{result=\"sent\",to=\"ops\"}") == 2.0
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_busy_or_broken_gets_each_message_once() {
    let mut receiver = Receiver::start().await;
    let (mut one, two) = (Target::start(), Target::start());
    let to = format!("{FAST}[[notify.to]]\ndiscord = {{ url = \"{}\" }}\n", receiver.url("discord/x"));
    let binary = stickyd(&[&one, &two], "", &to);
    wait_for("both workers are up", || {
        crate::support::admin::healths(&binary).iter().all(|(_, health)| health == "up")
    });
    receiver.plan(&json!({ "answer": 500, "times": 2 })).await;
    one.die();
    let first = receiver.next().await;
    let second = receiver.next().await;
    receiver.plan(&json!({ "answer": 429, "retry_after": 2.5 })).await;
    let third = receiver.next().await;
    let fourth = receiver.next().await;
    assert_eq!([&first["status"], &second["status"], &third["status"], &fourth["status"]], [500, 500, 429, 204]);
    assert_eq!([&second["body"], &third["body"], &fourth["body"]], [&first["body"]; 3]);
    let waited = fourth["at"].as_u64().unwrap() - third["at"].as_u64().unwrap();
    assert!(waited >= 2_500, "retry_after is kept: {waited} ms");
    one.rise();
    let over = body(&receiver.next().await);
    assert!(over["embeds"][0]["title"].as_str().unwrap().contains("is up again"), "nothing came in between");
    let count = |result| metric(&binary, &format!("stickyd_notifications_total{{result=\"{result}\",to=\"discord\"}}"));
    wait_for("both are counted", || count("sent") == 2.0);
    assert_eq!(count("retried"), 3.0);
    let last = state(&binary)["receivers"][0].clone();
    assert_eq!(
        (&last["waiting"], &last["last"]["result"], &last["host"]),
        (&json!(0), &json!("sent"), &json!("127.0.0.1"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn test_messages_report_what_became_of_them() {
    let mut receiver = Receiver::start().await;
    let base = receiver.url("slack/");
    let to = |name: &str| format!("{FAST}[[notify.to]]\nname = \"ops\"\nslack = {{ url = \"{base}{name}\" }}\n");
    let (target, text) = (Target::start(), to("x"));
    let binary = stickyd(&[&target], "", &text);
    let (code, out, err) = run(&binary, &["notify", "test", "--config", "stickyd.toml"]);
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.starts_with("ops: sent in "), "{out}");
    assert!(receiver.next().await["body"].as_str().unwrap().contains("test message"));
    receiver.plan(&json!({ "answer": 302, "location": receiver.url("slack/elsewhere") })).await;
    let (code, out, _) = run(&binary, &["notify", "test", "ops", "--config", "stickyd.toml"]);
    assert_eq!(
        (code, out.as_str()),
        (Some(1), "ops: not sent: 302: redirects are not followed; write the new address\n")
    );
    assert_eq!(receiver.next().await["path"], "/slack/x");
    receiver.plan(&json!({ "answer": 404, "body": "no_service" })).await;
    let (code, out, _) = run(&binary, &["notify", "test", "ops", "--config", "stickyd.toml"]);
    assert_eq!((code, out.as_str()), (Some(1), "ops: not sent: 404: no_service\n"));
    receiver.next().await;
    let (code, _, err) = run(&binary, &["notify", "test", "opps", "--config", "stickyd.toml"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("there is no receiver named `opps`: did you mean `ops`?"), "{err}");
    // A reload changes the address; nothing else is needed.
    reload(&binary, &config(&[&target], "", &to("new")));
    let (code, ..) = run(&binary, &["notify", "test", "--config", "stickyd.toml"]);
    assert_eq!((code, receiver.next().await["path"].as_str()), (Some(0), Some("/slack/new")));
    receiver.plan(&json!({ "answer": 0 })).await;
    let (_, out, _) = run(&binary, &["notify", "test", "--config", "stickyd.toml"]);
    assert_eq!(out, "ops: not sent: no complete answer within 10s\n");
    let (code, out, _) = run(&binary, &["notify", "--config", "stickyd.toml"]);
    assert!(code == Some(0) && out.contains("ops") && out.contains("slack"), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_sent_when_stickyd_stops() {
    let mut receiver = Receiver::start().await;
    let (mut one, two) = (Target::start(), Target::start());
    let slow = "[notify]\nafter = \"1s\"\ngroup = \"10m\"\n";
    let to = format!("{slow}[[notify.to]]\nslack = {{ url = \"{}\" }}\n", receiver.url("slack/x"));
    let mut binary = stickyd(&[&one, &two], "", &to);
    wait_for("both workers are up", || {
        crate::support::admin::healths(&binary).iter().all(|(_, health)| health == "up")
    });
    one.die();
    wait_for("the problem waits for its group", || state(&binary)["problems"][0]["told"] == true);
    let (code, took) = binary.terminate();
    assert_eq!(code, Some(0));
    assert!(took < at_most(std::time::Duration::from_secs(8)), "{took:?}");
    assert!(receiver.next().await["body"].as_str().unwrap().contains("is down"));
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_workers_that_die_at_once_are_one_message() {
    let mut receiver = Receiver::start().await;
    let mut targets: Vec<_> = (0..32).map(|_| Target::start()).collect();
    let to = format!(
        "[notify]\nafter = \"5s\"\ngroup = \"5s\"\n[[notify.to]]\nwebhook = {{ url = \"{}\" }}\n",
        receiver.url("webhook/x")
    );
    let binary = stickyd(&targets.iter().collect::<Vec<_>>(), "", &to);
    wait_for("all workers are up", || crate::support::admin::healths(&binary).iter().all(|(_, health)| health == "up"));
    targets.iter_mut().skip(2).for_each(Target::die);
    let told = body(&receiver.next().await);
    assert_eq!(told["title"], "30 workers of app are down");
    let problems = told["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 30, "{told:#}");
    assert!(problems.iter().all(|one| one["event"] == "worker_down" && one["state"] == "begun"), "{told:#}");
    // The next message is about their return: there is none in between.
    targets.iter_mut().skip(2).for_each(Target::rise);
    let over = body(&receiver.next().await);
    assert_eq!((&over["kind"], &over["title"]), (&json!("resolved"), &json!("over: 30 workers of app are down")));
    assert_eq!(over["problems"].as_array().unwrap().len(), 30, "{over:#}");
    wait_for("both are counted", || {
        metric(&binary, "stickyd_notifications_total{result=\"sent\",to=\"webhook\"}") == 2.0
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_gets_no_more_than_per_hour() {
    let mut receiver = Receiver::start().await;
    let target = Target::start();
    let to = format!(
        "[notify]\nafter = \"0s\"\ngroup = \"0s\"\nper_hour = 1\n\
         [[notify.to]]\nevents = [\"sockets\"]\nwebhook = {{ url = \"{}\" }}\n",
        receiver.url("webhook/x")
    );
    let alarm = |bounds: &str| format!("labels = {{ store = \"query:store\" }}\nalarm = {{ for = \"0s\", {bounds} }}");
    let binary = stickyd(&[&target], &alarm("sockets_below = 1"), &to);
    assert_eq!(body(&receiver.next().await)["problems"][0]["subject"], "");
    // A second problem, which begins with a reload.
    reload(&binary, &config(&[&target], &alarm("labels = { \"store=7\" = { sockets_below = 1 } }"), &to));
    let count = |result| metric(&binary, &format!("stickyd_notifications_total{{result=\"{result}\",to=\"webhook\"}}"));
    wait_for("further messages are held back", || count("limited") >= 1.0);
    assert_eq!(count("sent"), 1.0);
    binary.says(&["notification was not sent", "limited"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_cannot_be_used_is_told() {
    let mut receiver = Receiver::start().await;
    let (target, files) = (Target::start(), crate::support::tls::Certificates::new());
    files.issue("site", &["a.example"]);
    let good = std::fs::read(files.directory.join("site.pem")).unwrap();
    let at = files.directory.display();
    let listener = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n\
         tls = {{ certificate = \"{at}/site.pem\", key = \"{at}/site.key\" }}\n"
    );
    let to = format!(
        "[notify]\nafter = \"0s\"\ngroup = \"0s\"\n\
         [[notify.to]]\nevents = [\"certificate\"]\nwebhook = {{ url = \"{}\" }}\n\
         [[notify.to]]\nevents = [\"dns\"]\nwebhook = {{ url = \"{}\" }}\n{listener}",
        receiver.url("webhook/x"),
        receiver.url("webhook/never"),
    );
    let binary = stickyd(&[&target], "", &to);
    files.issue("other", &["a.example"]);
    std::fs::copy(files.directory.join("other.pem"), files.directory.join("site.pem")).unwrap();
    let told = receiver.next().await;
    assert_eq!(told["path"], "/webhook/x");
    let problem = body(&told)["problems"][0].clone();
    assert_eq!((&problem["event"], &problem["topic"]), (&json!("certificate_failed"), &json!("certificate")));
    assert!(problem["why"].as_str().unwrap().contains("site.key is not the key of"), "{problem:#}");
    assert!(problem["todo"].as_str().unwrap().starts_with("stickyd check "), "{problem:#}");
    std::fs::write(files.directory.join("site.pem"), good).unwrap();
    let over = receiver.next().await;
    assert_eq!((&over["path"], &body(&over)["problems"][0]["state"]), (&json!("/webhook/x"), &json!("over")));
    binary.says(&["reloaded"]);
}
