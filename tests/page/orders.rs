//! Orders given on the page: drain and ready, the closing of sockets, a broadcast, a reload; with the mouse and by keys
//! alone.

use serde_json::json;

use super::bridge::Bridge;
use super::live::{stay, stickyd};
use crate::support::admin;
use crate::support::browser::Browser;
use crate::support::wait::wait_for_async;

#[tokio::test]
async fn a_worker_is_drained_and_made_ready() {
    let (_workers, binary) = stickyd(2).await;
    let bridge = Bridge::start(&binary, &[]);
    let _load = stay(&binary, 20, json!({})).await;
    let mut browser = Browser::open(bridge.url()).await;
    browser.press(&["g", "w"]).await;
    browser.click("[data-worker='app/w1'] .orders button", "Drain").await;
    browser.see("dialog", "New sessions go to other workers at once").await;
    browser.see("dialog code", "stickyd drain app/w1 --grace 60s").await;
    browser.fill("dialog input.small", "5").await;
    browser.click("dialog footer button", "Drain").await;
    browser.see(".toasts .bad", "invalid `grace`").await;
    browser.fill("dialog input.small", "4s").await;
    browser.click("dialog footer button", "Drain").await;
    browser.gone("dialog", "").await;
    browser.see("[data-worker='app/w1'] .badge", "draining").await;
    browser.see("[data-worker='app/w1'] .drain", "session").await;
    browser.see("[data-worker='app/w1'] .drain", "Empty: the worker may be stopped now").await;
    browser.click("[data-worker='app/w1'] .orders button", "Ready").await;
    browser.see("[data-worker='app/w1'] .badge", "up").await;
    assert_eq!(admin::worker(&binary, "w1")["admin"], "ready");
    browser.has_behaved().await;
}

#[tokio::test]
async fn a_closed_socket_leaves_the_list() {
    let (_workers, binary) = stickyd(1).await;
    let bridge = Bridge::start(&binary, &[]);
    let mut load = stay(&binary, 3, json!({"reconnection": false})).await;
    let mut browser = Browser::open(bridge.url()).await;
    browser.press(&["g", "s"]).await;
    browser.see(".summary", "3 of 3 live sockets").await;
    let id = browser.run("document.querySelector('.rows tbody tr').dataset.id").await;
    let row = format!(".rows tr[data-id='{}']", id.as_str().unwrap());
    browser.click(&row, "").await;
    browser.click(".drawer .orders button", "Close this socket").await;
    browser.click("dialog footer button", "Close the socket").await;
    browser.see(".toasts", "is closed").await;
    browser.gone(&row, "").await;
    browser.see(".summary", "2 of 2 live sockets").await;
    load.event("disconnect").await;
    // The others: counted first.
    browser.click(".summary button", "Close all").await;
    browser.fill("dialog .form label:nth-child(2) input", "").await;
    browser.click("dialog footer button", "Count first").await;
    browser.see("dialog .hint.info", "2 sockets would be closed: 2 WebSockets, 0 polling sessions").await;
    browser.click("dialog footer button", "Close 2 sockets").await;
    browser.see(".summary", "0 of 0 live sockets").await;
    browser.has_behaved().await;
}

#[tokio::test]
async fn keys_alone_drain_a_worker_and_close_a_socket() {
    let (_workers, binary) = stickyd(2).await;
    let bridge = Bridge::start(&binary, &[]);
    let _load = stay(&binary, 2, json!({"reconnection": false})).await;
    let mut browser = Browser::open(bridge.url()).await;
    browser.press(&["?"]).await;
    browser.see("dialog .keys", "drain the selected worker").await;
    browser.press(&["Escape"]).await;
    browser.gone("dialog", "").await;
    browser.press(&["g", "w"]).await;
    browser.see("[data-worker='app/w2']", "").await;
    browser.press(&["j", "j", "k", "j", "d"]).await;
    browser.see("dialog h2", "Drain app/w2").await;
    // The focus is on the first choice; the button is five stops further.
    browser.press(&["ArrowDown"]).await;
    browser.see("dialog code", "stickyd drain app/w2").await;
    for _ in 0..10 {
        if browser.run("document.activeElement.textContent").await == "Drain" {
            break;
        }
        browser.press(&["Tab"]).await;
    }
    browser.press(&["Enter"]).await;
    browser.see("[data-worker='app/w2'] .badge", "draining").await;
    browser.press(&["g", "s"]).await;
    browser.see(".rows tbody tr", "").await;
    browser.press(&["j", "Enter"]).await;
    browser.see(".drawer", "Session id").await;
    browser.press(&["d"]).await;
    browser.see("dialog h2", "Close socket").await;
    for _ in 0..10 {
        if browser.run("document.activeElement.textContent").await == "Close the socket" {
            break;
        }
        browser.press(&["Tab"]).await;
    }
    browser.press(&["Enter"]).await;
    browser.see(".summary", "1 of 1 live socket").await;
    browser.press(&["/"]).await;
    assert_eq!(browser.run("document.activeElement.id").await, "search");
    browser.has_behaved().await;
}

#[tokio::test]
async fn an_event_is_said_to_clients_after_a_count() {
    let (_workers, binary) = stickyd(1).await;
    let bridge = Bridge::start(&binary, &[]);
    let _load = stay(&binary, 4, json!({})).await;
    let mut browser = Browser::open(bridge.url()).await;
    browser.press(&["g", "b"]).await;
    browser.fill(".say .form input[placeholder=maintenance]", "soon").await;
    browser.fill(".say textarea", "not json").await;
    browser.click(".say .orders button", "Count first").await;
    browser.see(".say .hint.bad", "is not JSON").await;
    browser.fill(".say textarea", "{\"in\": \"5 min\"}").await;
    browser.click(".say .orders button", "Count first").await;
    browser.see(".say .hint.info", "4 sockets match").await;
    browser.click(".say .orders button", "Send to 4 sockets").await;
    browser.see(".say .hint.good", "4 of 4 sockets reached").await;
    browser.has_behaved().await;
}

#[tokio::test]
async fn the_configuration_is_reloaded_and_a_session_is_explained() {
    let (_workers, binary) = stickyd(2).await;
    let bridge = Bridge::start(&binary, &[]);
    let mut browser = Browser::open(bridge.url()).await;
    browser.press(&["g", "c"]).await;
    browser.see(".facts", "stickyd.toml").await;
    browser.click(".head button", "Reload").await;
    browser.see(".toasts", "Reloaded.").await;
    browser.fill("form input[list=levels]", "debug").await;
    browser.click("form button", "Set").await;
    browser.see(".toasts", "The log level is debug.").await;
    let file = binary.directory.join("stickyd.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}\nbogus = 1\n")).unwrap();
    browser.see(".card.bad", "unknown key").await;
    browser.press(&["g", "o"]).await;
    browser.see(".headline.warn .first", "The edited configuration is not in use").await;
    std::fs::write(&file, text).unwrap();
    wait_for_async("the file is good again", async || admin::post_reload(&binary).0 == 200).await;
    browser.gone(".headline.warn", "").await;
    browser.press(&["g", "x"]).await;
    browser.fill("#search", "https://app.example/socket.io/?EIO=4&transport=polling&sid=U5KBuAZD9-LsPcr1AAAB").await;
    browser.click(".ask button", "Explain").await;
    browser.see(".answer", "For the session U5KBuAZD9-LsPcr1AAAB in the address").await;
    browser.see(".answer .decision", "app/w").await;
    browser.has_behaved().await;
}
