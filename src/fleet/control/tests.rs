//! Answers in pages, silence, and what is kept of both.

use super::*;

fn kept(size: usize) -> KeptAnswer {
    let body = (0..size).map(|i| u8::try_from(i % 251).unwrap_or_default()).collect();
    KeptAnswer { question: 1, since: Instant::now(), status: 200, body }
}

#[test]
fn an_answer_comes_back_whole_page_by_page() {
    for size in [0, 1, PAGE, PAGE + 1, 3 * PAGE] {
        let (answer, now) = (kept(size), Instant::now());
        let mut asked = AskedMember::new(7, now);
        asked.take(PageHead { node: 7, status: 0, page: 0, pages: 0 }, &[], now);
        assert!(asked.is_waiting() && asked.has_begun);
        for page in 0..answer.pages() {
            let head = PageHead { node: 7, status: 200, page, pages: answer.pages() };
            let plain = head.encode(answer.page(page));
            assert!(plain.len() <= 256 * 1024 - 28, "a sealed page");
            let (head, content) = PageHead::decode(&plain).unwrap();
            assert_eq!(asked.take(head, content, now), page + 1 < answer.pages(), "{size} {page}");
            assert!(!asked.take(head, content, now), "a page that comes twice");
        }
        assert!(!asked.is_waiting() && asked.body == answer.body, "{size}");
    }
    assert_eq!(PageHead::decode(&[0; 17]), None, "a head has 18 bytes");
}

fn words(one: &AskedMember) -> Option<String> {
    one.missing.as_ref().map(MissingAnswer::words)
}

#[test]
fn silence_is_told_from_slow_work() {
    let began = Instant::now();
    let after = |seconds| began + Duration::from_secs(seconds);
    let (mut silent, mut slow) = (AskedMember::new(1, began), AskedMember::new(2, began));
    slow.take(PageHead { node: 2, status: 0, page: 0, pages: 0 }, &[], after(1));
    for one in [&mut silent, &mut slow] {
        one.look(began, after(4));
        assert!(one.is_waiting());
    }
    silent.look(began, after(5));
    slow.look(began, after(29));
    assert_eq!((words(&silent).as_deref(), slow.is_waiting()), (Some("was silent for 5 s"), true));
    slow.look(began, after(30));
    assert_eq!(words(&slow).as_deref(), Some("has begun, but was not done within 30 s"));
    let mut stuck = AskedMember::new(3, began);
    stuck.take(PageHead { node: 3, status: 200, page: 0, pages: 2 }, b"x", after(1));
    stuck.look(began, after(6));
    assert_eq!(words(&stuck).as_deref(), Some("was silent for 5 s"), "in the middle of an answer");
}

#[test]
fn only_silence_makes_a_stickyd_silent() {
    let began = Instant::now();
    let mut asked = AskedMember::new(1, began);
    assert_eq!(asked.is_silent(), None, "it is waited for");
    for (missing, silent) in [
        (Some(MissingAnswer::Silent), Some(true)),
        (Some(MissingAnswer::Slow), Some(true)),
        (Some(MissingAnswer::TooLarge), Some(false)),
    ] {
        asked.missing = missing;
        assert_eq!(asked.is_silent(), silent);
    }
    let mut whole = AskedMember::new(2, began);
    whole.take(PageHead { node: 2, status: 404, page: 0, pages: 1 }, b"", began);
    assert_eq!(whole.is_silent(), Some(false));
}

#[test]
fn answers_that_are_not_read_are_forgotten() {
    let (all, now) = (KeptAnswers::default(), Instant::now());
    assert!((0..MOST_KEPT).all(|_| !all.keep(kept(PAGE + 1))) && all.keep(kept(PAGE + 1)), "the oldest one goes");
    assert_eq!(lock(&all.0).len(), MOST_KEPT);
    all.forget_old(now + WHOLE / 2);
    assert_eq!(lock(&all.0).len(), MOST_KEPT);
    all.forget_old(now + 2 * WHOLE);
    assert!(lock(&all.0).is_empty());
}
