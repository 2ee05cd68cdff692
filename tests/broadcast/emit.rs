//! Messages of the backend as frames, to plain WebSockets: a room is a label with its value.

use serde_json::{Value, json};

use super::routes::{client, has_heard};
use crate::support::admin::post;
use crate::support::node::WsEcho;
use crate::support::proxy::Binary;

/// Sends a message of the backend; the counts of its answer.
async fn emit(binary: &Binary, order: Value) -> Value {
    let (status, mut said) = tokio::task::block_in_place(|| post(binary, "/api/v1/emit", &order.to_string()));
    assert_eq!(status, 200, "{said}");
    json!([said["matched"].take(), said["reached"].take(), said["not_reached"]["denied"].take()])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_websockets_get_messages_of_the_backend_by_label() {
    let worker = WsEcho::start(&[]).await;
    let toml = format!(
        "state_dir = \".\"\n[upstream.app]\nworkers = [{:?}]\nemit = {{ via = \"frames\" }}\n\
         labels = {{ store = \"query:store\", user = \"query:user\" }}\n\
         [[route]]\npath = \"/still\"\nupstream = \"app\"\nbroadcast = false\n\
         [[route]]\nupstream = \"app\"\n",
        worker.address()
    );
    let binary = tokio::task::block_in_place(|| Binary::with(&toml));
    let mut ann = client(&binary, "/?store=7&user=ann").await;
    let mut bob = client(&binary, "/?store=7&user=bob").await;
    let mut other = client(&binary, "/?store=8&user=ann").await;
    let mut still = client(&binary, "/still?store=7").await;
    let order = json!({"rooms": ["store:7"], "event": "order", "args": [{"id": 5}]});
    assert_eq!(emit(&binary, order).await, json!([3, 2, 1]), "a route may forbid it");
    let text = json!({"rooms": ["user:bob", "store:8"], "except": ["user:ann"], "event": "order", "text": "for bob"});
    assert_eq!(emit(&binary, text).await, json!([1, 1, 0]));
    assert_eq!(emit(&binary, json!({"event": "all", "text": "to all"})).await, json!([4, 3, 1]));
    let event = r#"{"args":[{"id":5}],"event":"order"}"#;
    has_heard(&mut ann, &[event, "to all"]).await;
    has_heard(&mut bob, &[event, "for bob", "to all"]).await;
    has_heard(&mut other, &["to all"]).await;
    has_heard(&mut still, &[]).await;
}
