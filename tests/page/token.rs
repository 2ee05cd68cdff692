//! The page over TCP: asked for a token, a wrong one, a right one; and a page that may only look.

use stickyd::testing::config::AdminAddress;

use crate::support::browser::Browser;
use crate::support::proxy::Proxy;
use crate::support::raw::RawWorker;
use crate::support::temp::TempDirectory;

const TOKEN: &str = "0123456789abcdef-token";

/// A stickyd whose admin listener has this address, with this token file if there is one; and the page's address.
fn stickyd(worker: &RawWorker, at: &str, token: Option<&str>) -> (Proxy, String) {
    let folder = TempDirectory::new("page-token");
    let file = token.map(|token| {
        folder.write("token", token);
        format!("token_file = \"{}\"\n", folder.path("token").display())
    });
    let workers = format!("workers = [{{ address = \"{}\", name = \"w\" }}]", worker.address);
    let admin = format!("[admin]\naddress = \"{at}\"\n{}", file.unwrap_or_default());
    let proxy = Proxy::with(&format!("[upstream.app]\n{workers}\n{admin}"));
    let AdminAddress::Tcp(address) = proxy.server().admin else { panic!("TCP was asked for") };
    (proxy, format!("http://127.0.0.1:{}/", address.port()))
}

#[tokio::test]
async fn off_loopback_the_page_asks_for_the_token() {
    let worker = RawWorker::named("a");
    let (_proxy, url) = stickyd(&worker, "0.0.0.0:0", Some(TOKEN));
    let mut browser = Browser::open(&url).await;
    browser.see(".door", "wrong or missing bearer token").await;
    browser.is_accessible("the door").await;
    browser.fill(".door input", "0123456789abcdef-wrong").await;
    browser.click(".door button", "Open").await;
    browser.see(".door .hint.bad", "This token is not right").await;
    browser.fill(".door input", TOKEN).await;
    browser.press(&["Enter"]).await;
    browser.see(".headline .first", "The worker is up.").await;
    assert_eq!(browser.run("document.cookie").await, "", "no cookie, so nothing to forge");
    assert_eq!(browser.run("sessionStorage.getItem('stickyd.token')").await, TOKEN);
    assert_eq!(browser.run("Object.keys(localStorage).length").await, 0, "the token is kept for this tab only");
    browser.press(&["g", "w"]).await;
    browser.click(".worker .orders button", "Drain").await;
    browser.click("dialog footer button", "Drain").await;
    browser.see(".worker .badge", "draining").await;
    browser.has_behaved().await;
}

#[tokio::test]
async fn a_page_that_may_only_look_shows_command_lines() {
    let worker = RawWorker::named("a");
    let (_proxy, url) = stickyd(&worker, "127.0.0.1:0", None);
    let mut browser = Browser::open(&format!("{url}#/workers")).await;
    browser.see(".banner.info", "Look only: no token is configured").await;
    browser.see(".worker .orders code", "stickyd drain app/w --grace 60s").await;
    browser.gone(".worker .orders button", "Drain").await;
    browser.press(&["g", "c"]).await;
    browser.see(".head code", "stickyd reload").await;
    browser.is_accessible("look only").await;
    browser.has_behaved().await;
}

#[tokio::test]
async fn on_loopback_the_token_turns_looking_into_operating() {
    let worker = RawWorker::named("a");
    let (_proxy, url) = stickyd(&worker, "127.0.0.1:0", Some(TOKEN));
    let mut browser = Browser::open(&format!("{url}#/workers")).await;
    browser.see(".banner.info", "orders need the token").await;
    browser.click(".banner button", "Give a token").await;
    browser.fill("dialog input", "0123456789abcdef-wrong").await;
    browser.click("dialog button", "Open").await;
    browser.see(".banner.info", "this token is not right").await;
    browser.click(".banner button", "Give a token").await;
    browser.fill("dialog input", TOKEN).await;
    browser.click("dialog button", "Open").await;
    browser.click(".worker .orders button", "Drain").await;
    browser.see("dialog", "New sessions go to other workers").await;
    browser.has_behaved().await;
}
