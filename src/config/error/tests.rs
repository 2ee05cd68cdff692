//! What is kept of findings, and how they are printed.

use super::*;

fn only(text: &str, at: Span) -> String {
    let report = Report::new("f.toml".to_owned(), text);
    report.error_help(&at, "no", "yes");
    report.finish().unwrap_err().to_string()
}

#[test]
fn points_at_characters_not_bytes() {
    insta::assert_snapshot!(only("a = 1\nwöö = \"ü\"\n", 14..18), @r#"
    error: no
     --> f.toml:2:7
      |
    2 | wöö = "ü"
      |       ^^^
      = help: yes
    "#);
}

#[test]
fn a_span_over_several_lines_marks_the_first() {
    insta::assert_snapshot!(only("a = [\n1]", 4..8), @r"
    error: no
     --> f.toml:1:5
      |
    1 | a = [
      |     ^
      = help: yes
    ");
    insta::assert_snapshot!(only("a =", 3..900), @r"
    error: no
     --> f.toml:1:4
      |
    1 | a =
      |    ^
      = help: yes
    ");
    assert!(only("", 0..0).contains("f.toml:1:1"));
}

#[test]
fn a_very_long_line_is_cut_around_the_marked_place() {
    let said = only(&format!("{}x{}", "a".repeat(5000), "b".repeat(5000)), 5000..5001);
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines[1], " --> f.toml:1:5001");
    assert!(lines[3].starts_with("1 | …aaa") && lines[3].chars().count() == MAX_LINE + 4);
    let caret = lines[4].chars().position(|c| c == '^').unwrap();
    assert_eq!(lines[3].chars().nth(caret), Some('x'));
}

#[test]
fn the_gutter_is_as_wide_as_the_line_number() {
    insta::assert_snapshot!(only(&format!("{}x", "\n".repeat(99)), 99..100), @r"
    error: no
       --> f.toml:100:1
        |
    100 | x
        | ^
        = help: yes
    ");
}

#[test]
fn secrets_and_control_characters_are_not_shown() {
    for line in ["secret = \"hunter2hunter2\"", "secert=\"hunter2hunter2\"", "'secret' = 'hunter2'"] {
        assert!(!only(line, 0..3).contains("hunter"), "{line}");
    }
    assert!(!only("x = \"\u{1b}[31m\"", 0..1).contains('\u{1b}'));
}

#[test]
fn values_of_secret_keys_are_hidden_inside_of_a_line() {
    for line in [
        "discord = { url = \"https://discord.com/api/hunter\", foo = 1 }",
        "webhook = {url='hunter'}",
        "mail = { user = \"x\", password = \"hunter = 2\", to = [] }",
        "url = \"\"\"hunter",
        "\"url\" = \"hunter",
    ] {
        let said = only(line, 0..1);
        assert!(!said.contains("hunter") && said.contains('*'), "{said}");
    }
    let line = "to = \"a\"; url_file = \"hook.url\", key = \"b\"";
    assert!(only(line, 0..1).contains(line));
    let said = only("a = { url = \"secret\", foo = 1 }", 24..27);
    assert!(said.contains("a = { url = \"******\", foo = 1 }\n  |                         ^^^"), "{said}");
}

#[test]
fn findings_are_sorted_by_place_and_those_without_come_last() {
    let report = Report::new("f".to_owned(), "ab");
    report.missing("third", "write it");
    report.warn(&(1..2), "second", "look");
    report.error(&(0..1), "first");
    let errors = report.finish().unwrap_err();
    let said: Vec<_> = errors.all().iter().map(Diagnostic::one_line).collect();
    assert_eq!(said, ["f:1:1: first", "f:1:2: second; look", "f: third; write it"]);
}
