//! A real Chromium (`tests/clients/browser.mjs`), driven command by command.

use serde_json::{Value, json};

use super::process::Process;

/// A running browser with one page.
pub(crate) struct Browser(Process);

impl Browser {
    /// Starts Chromium and opens an address at a usual size, in light colours.
    pub(crate) async fn open(url: &str) -> Self {
        let mut browser = Self(Process::start("node", ["browser.mjs"]));
        let ready = browser.0.line().await;
        assert_eq!(ready, Some(json!({"ready": true})), "tests/run installs chromium");
        browser.goto(url, json!({})).await;
        browser
    }

    /// Opens an address in a new page; `how` may have `scheme`, `width` and `height`.
    pub(crate) async fn goto(&mut self, url: &str, mut how: Value) {
        how["do"] = "open".into();
        how["url"] = url.into();
        self.ask(how).await;
    }

    /// Sends a command and waits for its answer; an error fails the test and shows the page.
    pub(crate) async fn ask(&mut self, command: Value) -> Value {
        self.0.command(&command.to_string()).await;
        let answer = self.0.line().await.expect("the browser runs");
        let error = answer["error"].as_str();
        assert!(error.is_none(), "{command}\n{}\nat {}\n{}", error.unwrap(), answer["url"], answer["shown"]);
        answer
    }

    /// Waits until an element is visible that has the text; returns its text.
    pub(crate) async fn see(&mut self, at: &str, text: &str) -> String {
        self.ask(json!({"do": "see", "at": at, "text": text})).await["text"].as_str().unwrap().to_owned()
    }

    /// Waits until no element with the text is visible.
    pub(crate) async fn gone(&mut self, at: &str, text: &str) {
        self.ask(json!({"do": "gone", "at": at, "text": text})).await;
    }

    /// Clicks an element that has the text.
    pub(crate) async fn click(&mut self, at: &str, text: &str) {
        self.ask(json!({"do": "click", "at": at, "text": text})).await;
    }

    /// Writes into a field.
    pub(crate) async fn fill(&mut self, at: &str, value: &str) {
        self.ask(json!({"do": "fill", "at": at, "value": value})).await;
    }

    /// Presses keys one after the other.
    pub(crate) async fn press(&mut self, keys: &[&str]) {
        self.ask(json!({"do": "press", "keys": keys})).await;
    }

    /// The value of an expression in the page.
    pub(crate) async fn run(&mut self, code: &str) -> Value {
        self.ask(json!({"do": "run", "code": code})).await["value"].take()
    }

    /// Fails unless axe-core finds nothing wrong with the page as it is.
    pub(crate) async fn is_accessible(&mut self, what: &str) {
        let found = self.ask(json!({"do": "axe"})).await;
        assert!(found["passes"].as_u64().unwrap() > 0, "axe has looked: {found}");
        assert_eq!(found["violations"], json!([]), "{what}");
    }

    /// Fails if any page so far has asked another origin, broken its policy, or thrown an error.
    pub(crate) async fn has_behaved(&mut self) {
        let seen = self.ask(json!({"do": "report"})).await["report"].take();
        assert!(seen["requests"].as_u64().unwrap() > 0, "{seen}");
        for what in ["foreign", "violations", "errors"] {
            assert_eq!(seen[what], json!([]), "{what}");
        }
    }
}
