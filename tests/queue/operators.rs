//! What operators see of queued messages, and wrong requests and configurations.

use serde_json::json;

use super::{ask, command, config, counts, order, send, start, try_send};
use crate::support::node::NodeServer;
use crate::support::redis::Redis;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_counted_shown_and_deleted() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(1, &[]).await);
    let binary = start(&workers, &redis, "");
    for number in 0..3 {
        send(&binary, "alice", &json!({"event": "order", "args": [number, "secret"], "id": format!("n{number}")}));
    }
    order(&binary, "bob", 1);
    let queue = |arguments: &[&str]| command(&binary.directory, &[&["queue"], arguments].concat());
    let (code, said) = queue(&["list"]);
    assert!(code == Some(0) && said.starts_with("app: 4 messages of at most 1000000 for 2 users"), "{said}");
    assert!(said.contains("alice") && said.contains("bob") && said.contains("6d 23h"), "{said}");
    let (code, said) = queue(&["show", "app", "user=alice"]);
    assert!(code == Some(0) && said.contains("n0") && said.contains("n2"), "{said}");
    assert!(!said.contains("secret"), "{said}");
    let (code, said) = queue(&["show", "app", "user=alice", "--payload"]);
    assert!(code == Some(0) && said.contains("secret"), "{said}");
    assert_eq!(queue(&["delete", "app", "user=alice", "--id", "n1"]), (Some(0), "1 message deleted\n".to_owned()));
    assert_eq!(counts(&binary), (3, 2));
    assert_eq!(queue(&["delete", "app", "user=alice"]), (Some(0), "2 messages deleted\n".to_owned()));
    assert_eq!(counts(&binary), (1, 1));
    let (code, said) = queue(&["delete", "app", "user=alice"]);
    assert!(code == Some(1) && said.contains("no message"), "{said}");
    let (_, said) = queue(&["show", "app", "user=alice"]);
    assert_eq!(said, "No message waits for this user.\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_messages_are_refused_and_nothing_is_stored() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(1, &[]).await);
    let binary = start(&workers, &redis, "");
    for (body, status, why) in [
        (json!({}), 422, "nothing to send"),
        (json!({"event": "order", "text": "x"}), 422, "not both"),
        (json!({"text": "x", "args": [1]}), 422, "need an `event`"),
        (json!({"event": "connect"}), 422, "none of"),
        (json!({"event": "a", "namespace": "chat"}), 422, "begin with /"),
        (json!({"event": "a", "id": "no spaces"}), 422, "`id`"),
        (json!({"event": "a", "keep": "soon"}), 422, "`keep`"),
        (json!({"event": "a", "label": {"store": "7"}}), 422, "\"user\""),
        (json!({"event": "a", "label": {}}), 422, "`label`"),
        (json!({"event": "a", "label": {"user": ""}}), 422, "1 to 1,024"),
        (json!({"event": "a", "upstream": "web"}), 404, "no upstream `web`"),
        (json!({"event": "a", "colour": 1}), 422, "colour"),
        (json!({"text": "x".repeat(70_000)}), 413, "65536"),
    ] {
        let (said, answer) = try_send(&binary, "alice", &body);
        assert!(said == status && answer["error"].as_str().unwrap().contains(why), "{said} {answer}");
    }
    assert_eq!(counts(&binary), (0, 0));
    let (status, _) = ask(&binary, "GET", "/api/v1/queue?colour=1", &json!({}));
    assert_eq!(status, 422);
    let show = json!({"upstream": "app", "label": {"user": "alice"}, "limit": 0});
    assert_eq!(ask(&binary, "POST", "/api/v1/queue/show", &show).0, 422);
}

#[tokio::test]
async fn a_label_that_clients_choose_is_refused_with_the_reason() {
    let workers = NodeServer::start_many(1, &[]).await;
    let good = config(&workers, "a", "redis://127.0.0.1:1", "");
    let check = |text: &str| {
        let errors = stickyd::testing::config::parse(text, std::path::Path::new("stickyd.toml"));
        errors.err().map(|errors| errors.to_string()).unwrap_or_default()
    };
    let good = format!("[[listener]]\naddress = \"127.0.0.1:0\"\n{}", good.replacen("state_dir = \".\"\n", "", 1));
    let top = |text: &str| format!("{}{}", super::SECRET, text.replacen(super::SECRET, "", 1));
    assert_eq!(check(&top(&good)), "");
    for (from, place) in [("query:u", "query parameter"), ("cookie:u", "cookie"), ("header:x-u", "header field")] {
        let said = check(&top(&good.replace("jwt:sub", from)));
        assert!(said.contains(place) && said.contains("messages of other users"), "{said}");
    }
    let said = check(&top(&good.replace("label = \"user\"", "label = \"person\"")));
    assert!(said.contains("no label `person`"), "{said}");
    let (before, rest) = good.split_once("[fleet]").unwrap();
    let alone = format!("{before}{}", &rest[rest.find("[[route]]").unwrap()..]);
    assert!(check(&top(&alone)).contains("no [fleet]"));
    for wrong in [", keep = \"1ms\"", ", per_user = 0", ", total = 0", ", colour = 1"] {
        let text = good.replace("label = \"user\" }", &format!("label = \"user\"{wrong} }}"));
        assert_ne!(check(&top(&text)), "", "{wrong}");
    }
}
