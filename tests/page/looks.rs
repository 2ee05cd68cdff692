//! Every view in light and dark, wide and narrow: nothing for axe-core to find, nothing wider than the screen.

use serde_json::json;

use super::bridge::Bridge;
use super::live::{stay, stickyd};
use crate::support::admin;
use crate::support::browser::Browser;

/// Every view, and what is seen when it is there.
const VIEWS: [(&str, &str); 9] = [
    ("overview", ".headline .first"),
    ("workers", ".worker"),
    ("sockets", ".rows tbody tr"),
    ("labels", ".values li"),
    ("events", ".head h1"),
    ("explain?q=203.0.113.9", ".answer"),
    ("config", ".facts"),
    ("say", ".say"),
    ("sockets/ID", ".drawer .facts"),
];

#[tokio::test]
async fn every_view_is_accessible_in_light_and_dark() {
    let (mut workers, binary) = stickyd(3).await;
    let bridge = Bridge::start(&binary, &[]);
    let _load = stay(&binary, 12, json!({"query": {"store": "7"}})).await;
    let mut browser = Browser::open(bridge.url()).await;
    browser.press(&["g", "s"]).await;
    browser.see(".rows tbody tr", "").await;
    let id = browser.run("document.querySelector('.rows tbody tr').dataset.id").await;
    let id = id.as_str().unwrap();
    for (scheme, width) in [("light", 1440), ("dark", 1440), ("light", 320), ("dark", 320)] {
        browser.goto(bridge.url(), json!({"scheme": scheme, "width": width, "height": 800})).await;
        browser.see(".headline .first", "").await;
        for (view, there) in VIEWS {
            browser.run(&format!("location.hash = '#/{}'", view.replace("ID", id))).await;
            browser.see(there, "").await;
            browser.is_accessible(&format!("{view}, {scheme}, {width} px")).await;
            let over = browser.run("document.documentElement.scrollWidth - innerWidth").await;
            assert!(over.as_i64().unwrap() <= 0, "{view} is {over} px too wide for {width} px");
        }
    }
    // In trouble: a dead worker, a drained one, a dialog.
    workers[0].kill().await;
    assert_eq!(admin::post(&binary, "/api/v1/workers/app/w2/drain", "{\"grace\":\"10m\"}").0, 200);
    for scheme in ["light", "dark"] {
        browser.goto(bridge.url(), json!({"scheme": scheme})).await;
        browser.see(".headline.bad .first", "app/w1").await;
        browser.is_accessible(&format!("trouble, {scheme}")).await;
        browser.press(&["g", "w"]).await;
        browser.see("[data-worker='app/w2'] .drain", "left").await;
        browser.is_accessible(&format!("workers in trouble, {scheme}")).await;
        browser.click("[data-worker='app/w3'] .orders button", "Maintenance").await;
        browser.see("dialog", "End its sessions").await;
        browser.is_accessible(&format!("a dialog, {scheme}")).await;
    }
    browser.has_behaved().await;
}

#[tokio::test]
async fn colours_follow_the_system_or_the_switch() {
    let (_workers, binary) = stickyd(1).await;
    let bridge = Bridge::start(&binary, &[]);
    let mut browser = Browser::open(bridge.url()).await;
    let back = "getComputedStyle(document.body).backgroundColor";
    let light = browser.run(back).await;
    browser.goto(bridge.url(), json!({"scheme": "dark"})).await;
    let dark = browser.run(back).await;
    assert_ne!(light, dark);
    browser.click(".side .switch button", "light").await;
    assert_eq!(browser.run(back).await, light);
    browser.run("location.reload()").await;
    browser.see(".side .link", "live").await;
    assert_eq!(browser.run(back).await, light, "the choice is kept");
    browser.has_behaved().await;
}
