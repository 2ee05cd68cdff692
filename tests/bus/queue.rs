//! Messages of the backend over the bus to users of an `offline_queue`: stored where no socket is in the room.

use serde_json::json;

use super::Fleet;
use crate::support::cluster::SECRET;
use crate::support::process::Process;
use crate::support::proxy::{Binary, free_address};
use crate::support::redis::Redis;
use crate::support::wait::wait_for;

async fn event(client: &mut Process, name: &str) -> serde_json::Value {
    let found = tokio::time::timeout(crate::support::process::PATIENCE, async {
        loop {
            let line = client.line().await.expect("the client lives");
            if line["event"] == name {
                return line;
            }
        }
    });
    found.await.unwrap_or_else(|_| panic!("no {name}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_of_a_user_without_sockets_is_stored() {
    let redis = Redis::start();
    let address = free_address();
    let text = format!(
        "{SECRET}state_dir = \".\"\n[upstream.app]\n\
         workers = [{{ address = \"{address}\", name = \"w1\" }}]\nallow_empty = true\n\
         health = {{ kind = \"tcp\", interval = \"100ms\", timeout = \"5s\" }}\n\
         labels = {{ user = \"backend\" }}\noffline_queue = {{ label = \"user\" }}\n\
         [fleet]\nredis = {:?}\nname = \"edge-1\"\n",
        redis.url()
    );
    let mut fleet = Fleet { stickyd: Binary::with(&text), workers: Vec::new(), variables: Vec::new() };
    let worker = fleet.unlisted(address).await;
    fleet.workers.push(worker);
    fleet.wait_linked(1.0);
    wait_for("the worker is up", || fleet.metric("stickyd_worker_up{upstream=\"app\",worker=\"w1\"}") == 1.0);
    let order = |number: u64| json!({"rooms": ["user:7", "user:8"], "event": "order", "args": [number]});
    wait_for("messages can be stored", || {
        let (status, said) = fleet.emit(&order(1));
        if (status, &said["queued"], &said["sockets"]) == (200, &json!(2), &json!(0)) { Ok(()) } else { Err(said) }
    });
    let options = json!({"url": fleet.stickyd.url(""), "join": "user:7", "transports": ["websocket"]});
    let mut client = Process::start("node", ["mail.js", &options.to_string()]);
    let connected = event(&mut client, "connect").await;
    event(&mut client, "joined").await;
    let (status, _) = fleet.label(connected["sid"].as_str().unwrap(), &json!({"labels": {"user": "7"}}));
    assert_eq!(status, 200);
    let got = event(&mut client, "message").await;
    assert_eq!(got["args"][0], 1, "{got}");
    // With the user there, the application's own room has it, and only the other user has to wait.
    wait_for("all is looked after", || {
        let (_, said) = fleet.emit(&order(2));
        if (&said["queued"], &said["sockets"]) == (&json!(1), &json!(1)) { Ok(()) } else { Err(said) }
    });
    // All copies have the name of the message, whichever way they came.
    let got = loop {
        let got = event(&mut client, "message").await;
        if got["args"][0] == 2 {
            break got;
        }
    };
    assert_eq!(got["args"].as_array().map(Vec::len), Some(2), "{got}");
    let mut wrong = order(3);
    wrong["path"] = "/elsewhere".into();
    let (status, said) = fleet.emit(&wrong);
    assert_eq!(status, 404, "a path that no worker has: nothing is stored for it: {said}");
}
