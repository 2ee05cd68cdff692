//! Orders as Redis sees them: a replayed, forged, moved or foreign one does nothing, and is counted.

use std::sync::mpsc;

use super::{cli, polling_edges, states, wait_until_all_obey};
use crate::support::admin::metric;
use crate::support::redis::Redis;
use crate::support::wait::wait_for;

/// A message as it was published: its channel, and its bytes.
type Published = (String, Vec<u8>);

/// Hears every message of the fleet until the receiver is dropped.
fn hear(redis: &Redis) -> mpsc::Receiver<Published> {
    let client = redis::Client::open(redis.url()).unwrap();
    let (to, messages) = mpsc::channel();
    let (begun, has_begun) = mpsc::channel();
    std::thread::spawn(move || {
        let mut connection = client.get_connection().unwrap();
        let mut channels = connection.as_pubsub();
        channels.psubscribe("stickyd:*").unwrap();
        begun.send(()).unwrap();
        while let Ok(message) = channels.get_message() {
            if to.send((message.get_channel_name().to_owned(), message.get_payload_bytes().to_vec())).is_err() {
                return;
            }
        }
    });
    has_begun.recv().unwrap();
    messages
}

/// Publishes messages, as a program with access to the Redis can.
fn publish(redis: &Redis, messages: &[Published]) {
    let mut connection = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
    for (channel, bytes) in messages {
        let heard: u32 = redis::cmd("PUBLISH").arg(channel).arg(bytes).query(&mut connection).unwrap();
        assert!(heard > 0, "a stickyd hears {channel}");
    }
}

fn count(edge: &crate::support::proxy::Binary, result: &str) -> f64 {
    metric(edge, &format!("stickyd_fleet_messages_total{{result=\"{result}\"}}"))
}

#[test]
fn a_replayed_order_does_nothing() {
    let (redis, _worker, mut all) = polling_edges(2);
    let heard = hear(&redis);
    cli(&all[0], &["maint", "app/one"]).is(0, &["2 of 2 stickyds answered"]);
    cli(&all[0], &["ready", "app/one"]).is(0, &["2 of 2 stickyds answered"]);
    let messages: Vec<Published> = heard.try_iter().collect();
    assert!(messages.len() >= 2, "both orders were heard");
    let dropped = count(&all[1], "dropped");
    publish(&redis, &messages);
    let all_dropped = dropped + messages.len() as f64;
    wait_for("all are dropped", || count(&all[1], "dropped") >= all_dropped);
    assert_eq!(states(&all), ["ready", "ready"]);
    // A stickyd that has just started has not heard them before: they are older than it is.
    all[1].kill();
    all[1].start_again();
    wait_for("the one that was killed has vanished", || redis.keys("stickyd:{ctl}:m:").len() == 2);
    wait_until_all_obey(&all[0], 2);
    publish(&redis, &messages);
    wait_for("all are dropped again", || count(&all[1], "dropped") >= messages.len() as f64);
    assert_eq!(states(&all), ["ready", "ready"]);
}

#[test]
fn forged_and_moved_messages_are_dropped_and_counted() {
    let (redis, _worker, all) = polling_edges(2);
    let heard = hear(&redis);
    cli(&all[0], &["maint", "app/one"]).is(0, &["2 of 2 stickyds answered"]);
    cli(&all[0], &["ready", "app/one"]).is(0, &["2 of 2 stickyds answered"]);
    let (channel, order) = heard.try_iter().next().unwrap();
    let mut flipped = order.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let forged = [order[..order.len() - 1].to_vec(), flipped, b"{\"Order\":{}}".to_vec(), Vec::new(), vec![0; 300_000]];
    let before = count(&all[1], "bad_seal");
    publish(&redis, &forged.clone().map(|bytes| (channel.clone(), bytes)));
    wait_for("each forged message is counted", || count(&all[1], "bad_seal") >= before + forged.len() as f64);
    // Forged answers and states: they are not believed, and orders go on.
    assert_eq!(redis.cli(&["hset", "stickyd:{ctl}:admin", "AAAAAAAAAAAAAAAAAAAAAA", "forged"]), "1");
    cli(&all[1], &["drain", "app/one"]).is(0, &["2 of 2 stickyds answered"]);
    assert_eq!(states(&all), ["drain", "drain"]);
    // Rubbish where the states are: nothing is kept any more, which is an error and no crash.
    assert_eq!(redis.cli(&["set", "stickyd:{ctl}:admin", "x"]), "OK");
    cli(&all[1], &["ready", "app/one"]).is(1, &["the fleet's Redis does not keep the state"]);
    assert_eq!(states(&all), ["drain", "drain"]);
}
