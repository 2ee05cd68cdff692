//! Messages in the formats of their receivers, and the limits of these.

use std::time::Duration;

use proptest::prelude::*;

use super::super::incidents::{Note, ProblemEnd};
use super::super::sample;
use super::*;

fn note(worker: &str, state: NoteState, why: &str) -> Note {
    Note {
        state,
        problem: sample::down(worker, why),
        since: Duration::from_secs(60),
        lasted: Duration::from_secs(31),
        times: 1,
    }
}

fn message(notes: &[Note]) -> Message {
    let at = humantime::parse_rfc3339("2026-11-28T20:00:31Z").unwrap();
    Message::of("id-1".to_owned(), "web-1", at, Duration::from_secs(91), notes).unwrap()
}

fn back() -> NoteState {
    let how = "app/w3 is up again".to_owned();
    NoteState::Over(ProblemEnd { how, detail: "restarted, generation 5".to_owned() })
}

#[test]
fn a_message_says_what_since_when_what_it_means_and_what_to_type() {
    let message = message(&[note("w3", NoteState::Begun, "connects are refused")]);
    insta::assert_snapshot!(format!("{}\n{}", message.subject(), message.text()), @r"
    [web-1] app/w3 is down
    - app/w3 is down: connects are refused (since 2026-11-28T20:00:00Z, 31s)
    212 sessions were on it.
    3 of 4 workers of app take new sessions.
    Type: stickyd workers app
    ");
}

#[test]
fn a_resolved_message_has_the_downtime() {
    let mut over = note("w3", back(), "");
    over.lasted = Duration::from_secs(252);
    let message = message(&[over]);
    assert_eq!(message.title, "app/w3 is up again after 4m 12s (restarted, generation 5)");
    insta::assert_snapshot!(message.text(), @"- app/w3 is up again after 4m 12s (restarted, generation 5) (it began at 2026-11-28T20:00:00Z)");
    assert_eq!(discord(&message)["embeds"][0]["color"], 0x18_80_38);
}

#[test]
fn many_problems_are_one_paragraph_with_their_number() {
    let notes: Vec<_> = (0..30).map(|n| note(&format!("w{n}"), NoteState::Begun, "gone")).collect();
    let message = message(&notes);
    assert_eq!(message.title, "30 workers of app are down");
    let text = message.text();
    assert!(text.contains("and 20 more") && text.contains("6360 sessions were on them."), "{text}");
    assert_eq!(text.lines().count(), 14);
    assert_eq!(webhook(&message)["problems"].as_array().unwrap().len(), 30, "programs get all");
}

#[test]
fn a_webhook_gets_signed_json() {
    let json = webhook(&message(&[note("w3", NoteState::Begun, "gone")]));
    insta::assert_snapshot!(serde_json::to_string_pretty(&json).unwrap());
    // RFC 4231 §4.3.
    let secret = Secret(b"Jefe".to_vec());
    let signed = signature(&secret, b"what do ya want for nothing?");
    assert_eq!(signed, "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
}

#[test]
fn slack_and_discord_get_harmless_text() {
    let message = message(&[note("w3", NoteState::Begun, "<!channel> & @everyone")]);
    let text = slack(&message)["text"].as_str().unwrap().to_owned();
    assert!(text.contains("&lt;!channel&gt; &amp; @everyone") && !text.contains("<!"), "{text}");
    assert!(text.contains("Type: `stickyd workers app`"), "{text}");
    assert_eq!(discord(&message)["allowed_mentions"], json!({ "parse": [] }));
}

#[test]
fn slack_text_is_cut_after_its_escapes_and_never_within_one() {
    // Every shift of the text puts the limit at another place of an escape.
    for shift in 0..5 {
        let why = format!("{}{}", "x".repeat(shift), "&".repeat(500));
        let notes: Vec<_> = (0..8)
            .map(|n| {
                let mut note = note(&format!("w{n}"), NoteState::Begun, &why);
                note.problem.key.upstream = n.to_string();
                note
            })
            .collect();
        let text = slack(&message(&notes))["text"].as_str().unwrap().to_owned();
        let units = text.encode_utf16().count();
        assert!((3_990..=4_000).contains(&units) && text.ends_with(" … (cut)"), "{units}: {text}");
        let entities: usize = ["&amp;", "&lt;", "&gt;"].iter().map(|entity| text.matches(entity).count()).sum();
        assert_eq!(entities, text.matches('&').count(), "{text}");
    }
}

#[test]
fn mails_have_crlf_and_say_when_it_is_over() {
    let (subject, text) = mail(&message(&[note("w3", back(), "")]));
    assert!(subject.starts_with("[web-1] resolved: app/w3 is up again after 31s"), "{subject}");
    assert!(text.contains("\r\n") && !text.replace("\r\n", "").contains('\n'));
}

proptest! {
    #[test]
    fn no_text_is_empty_or_longer_than_its_receiver_takes(
        why in "\\PC{0,3000}", what in "\\PC{0,300}", count in 1..40usize,
    ) {
        let mut one = note("w", NoteState::Begun, &why);
        one.problem.what.clone_from(&what);
        one.problem.many.clone_from(&what);
        // One paragraph per upstream, so that the text gets long.
        let notes: Vec<_> = (0..count).map(|n| {
            let mut note = one.clone();
            note.problem.key.upstream = n.to_string();
            note
        }).collect();
        let message = message(&notes);
        let units = |value: &Value| value.as_str().unwrap().encode_utf16().count();
        let embed = &discord(&message)["embeds"][0];
        prop_assert!((1..=256).contains(&units(&embed["title"])) && (1..=4_096).contains(&units(&embed["description"])));
        let slack = slack(&message);
        prop_assert!((1..=4_000).contains(&units(&slack["text"])));
        let ntfy = ntfy(&message);
        prop_assert!((1..=4_096).contains(&ntfy.text.len()) && (1..=200).contains(&ntfy.title.len()));
        prop_assert!(ntfy.title.is_ascii() && !ntfy.title.contains(char::is_control));
        let (subject, text) = mail(&message);
        prop_assert!((1..=200).contains(&subject.encode_utf16().count()) && !subject.contains(['\r', '\n']));
        prop_assert!(!text.trim().is_empty());
        prop_assert!(!webhook(&message)["title"].as_str().unwrap().trim().is_empty());
    }
}
