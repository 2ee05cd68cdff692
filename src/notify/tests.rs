//! The notifier with a real receiver over HTTP, at times that the test sets.

#![allow(clippy::disallowed_methods, reason = "tasks of a test end with its runtime")]
use std::net::SocketAddr;
use std::path::Path;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::LocalSet;

use super::*;
use crate::config;
use crate::keys::Keys;

/// A receiver that takes every message, and the messages that it got.
async fn receiver() -> (SocketAddr, mpsc::UnboundedReceiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (tell, told) = mpsc::unbounded_channel();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut got = Vec::new();
            let message = loop {
                socket.read_buf(&mut got).await.unwrap();
                let body = got.windows(4).position(|part| part == b"\r\n\r\n").map_or(got.len(), |at| at + 4);
                if let Ok(message) = serde_json::from_slice(&got[body..]) {
                    break message;
                }
            };
            tell.send(message).unwrap();
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (address, told)
}

/// Looks at this time, in seconds since the start, and waits until all messages are delivered.
async fn look_at(notifier: &mut Notifier, s: u64) {
    notifier.began = Instant::now() - Duration::from_secs(s);
    notifier.look().await;
    notifier.send_due(false);
    while let Some(delivered) = notifier.deliveries.join_next().await {
        let (name, verdict) = delivered.unwrap();
        assert_eq!(verdict, Verdict::Sent);
        notifier.delivered(&name, &verdict);
    }
}

fn notifier(notify: &str, address: SocketAddr) -> Notifier {
    let text = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[upstream.app]\nworkers = [\"127.0.0.1:1\"]\n\
         [notify]\n{notify}\n[[notify.to]]\nevents = [\"config\"]\nwebhook = {{ url = \"http://{address}/\" }}\n"
    );
    let config = config::parse(&text, Path::new("s.toml")).unwrap();
    let (spawned, _) = SpawnHandle::new();
    Notifier::new(Shared::new(&config, vec![1; 32], Keys::random().unwrap()), spawned)
}

#[tokio::test]
async fn a_problem_that_lasts_is_told_again_after_remind() {
    let test = async {
        let (address, mut told) = receiver().await;
        let mut notifier = notifier("after = \"5s\"\ngroup = \"1s\"\nremind = \"10m\"", address);
        let refuse = |notifier: &Notifier, error: Option<&str>| {
            notifier.shared.config.set(|state| state.error = error.map(str::to_owned));
        };
        refuse(&notifier, Some("error: there is no listener"));
        let mut kinds = Vec::new();
        for s in [0, 4, 6, 8, 500, 605, 607, 609, 1_206, 1_209, 1_211] {
            look_at(&mut notifier, s).await;
            while let Ok(message) = told.try_recv() {
                assert_eq!(message["problems"][0]["event"], "config_refused");
                kinds.push((s, message["kind"].as_str().unwrap().to_owned()));
            }
        }
        refuse(&notifier, None);
        for s in [1_213, 1_219, 1_221, 5_000] {
            look_at(&mut notifier, s).await;
            while let Ok(message) = told.try_recv() {
                kinds.push((s, message["kind"].as_str().unwrap().to_owned()));
            }
        }
        let kinds: Vec<_> = kinds.iter().map(|(s, kind)| (*s, kind.as_str())).collect();
        assert_eq!(kinds, [(8, "problem"), (609, "reminder"), (1_211, "reminder"), (1_221, "resolved")]);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn without_remind_a_problem_is_told_once() {
    let test = async {
        let (address, mut told) = receiver().await;
        let mut notifier = notifier("after = \"5s\"\ngroup = \"1s\"\nremind = \"0s\"", address);
        notifier.shared.config.set(|state| state.error = Some("error: there is no listener".to_owned()));
        for s in [0, 6, 8, 3_600, 3_602, 864_000, 864_002] {
            look_at(&mut notifier, s).await;
        }
        assert_eq!(told.try_recv().unwrap()["kind"], "problem");
        assert!(told.try_recv().is_err());
    };
    LocalSet::new().run_until(test).await;
}
