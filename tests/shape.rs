//! The shape of `src/`: how long files and functions are, whether a type name has one meaning, whether a predicate
//! changes nothing. `CONTRIBUTING.md` has the rules.
//!
//! The checks read the text of the sources, without comments, strings and inline tests. Left out: state that a
//! predicate changes through a function that it calls.

use std::collections::BTreeMap;

use super::support::sources;

/// Lines of a file, its tests included.
const FILE_LINES: usize = 400;

/// Lines that at most one function in a hundred exceeds.
const FUNCTION_LINES: usize = 45;

/// Lines that no function exceeds.
const LONGEST_FUNCTION: usize = 80;

/// Type names that have two meanings, because both are the word of the field; code names them with their module where
/// both are near.
const TWO_MEANINGS: &[&str] = &["Fleet", "Problem", "Refused", "Severity", "Upstream", "Worker"];

/// Calls that change a cell or an atomic.
const CHANGES: &[&str] = &[".set(", ".take()", ".swap(", ".store(", ".fetch_", ".insert(", ".push(", ".remove("];

/// One function: its name, its first line, and its text.
struct Function<'t> {
    name: &'t str,
    line: usize,
    lines: Vec<&'t str>,
}

/// The code of a file, without comments, the insides of strings, and inline tests.
fn code(text: &str) -> String {
    let code = sources::without_comments_and_strings(text);
    code.split("#[cfg(test)]\nmod ").next().unwrap_or_default().to_owned()
}

/// The word after `keyword` in a line that declares something, such as `pub(crate) struct Word`.
fn declared<'t>(line: &'t str, keywords: &[&str]) -> Option<&'t str> {
    let mut words = line.split_whitespace().skip_while(|word| word.starts_with("pub") || *word == "async");
    let keyword = words.find(|word| *word != "const")?;
    let rest = keywords.contains(&keyword).then(|| words.next())??;
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    (end > 0).then_some(&rest[..end])
}

/// The functions of a file as `rustfmt` writes them: the body ends with a brace below the `fn`.
fn functions(code: &str) -> Vec<Function<'_>> {
    let lines: Vec<_> = code.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some(name) = declared(line, &["fn"]) else { continue };
        let indent = line.len() - line.trim_start().len();
        let is_whole = line.trim_end().ends_with(['}', ';']);
        let ends =
            |line: &&str| line.len() > indent && line[..indent].trim().is_empty() && line[indent..].starts_with('}');
        let end = if is_whole { at } else { at + lines[at..].iter().position(ends).unwrap_or(0) };
        found.push(Function { name, line: at + 1, lines: lines[at..=end].to_vec() });
    }
    found
}

/// Whether a function called `is_…` or `has_…` changes something.
fn changes(function: &Function<'_>) -> bool {
    let is_predicate = function.name.starts_with("is_") || function.name.starts_with("has_");
    let text = function.lines.join("\n");
    let head = text.split('{').next().unwrap_or_default();
    is_predicate && (head.contains("&mut ") || CHANGES.iter().any(|change| text.contains(change)))
}

/// The top-level types of a file.
fn types(code: &str) -> impl Iterator<Item = &str> {
    let is_declared = |line: &&str| !line.starts_with([' ', '}']);
    code.lines().filter(is_declared).filter_map(|line| declared(line, &["struct", "enum", "trait", "type", "union"]))
}

fn is_test(path: &std::path::Path) -> bool {
    path.iter().any(|part| part == "tests" || part == "tests.rs")
}

#[test]
fn files_and_functions_are_short() {
    let (mut long, mut lengths) = (Vec::new(), Vec::new());
    for (path, text) in sources::below("src", "rs") {
        let count = text.lines().count();
        if count > FILE_LINES {
            long.push(format!("{}: {count} lines", path.display()));
        }
        if is_test(&path) {
            continue;
        }
        for function in functions(&code(&text)) {
            lengths.push(function.lines.len());
            if function.lines.len() > LONGEST_FUNCTION {
                long.push(format!(
                    "{}:{}: {}: {} lines",
                    path.display(),
                    function.line,
                    function.name,
                    function.lines.len()
                ));
            }
        }
    }
    assert!(long.is_empty(), "too long:\n{}", long.join("\n"));
    lengths.sort_unstable();
    assert!(lengths.len() > 3_000, "only {} functions were found", lengths.len());
    let p99 = lengths[lengths.len() * 99 / 100];
    assert!(p99 <= FUNCTION_LINES, "one function in a hundred has more than {p99} lines");
}

#[test]
fn predicates_change_nothing() {
    let mut wrong = Vec::new();
    for (path, text) in sources::below("src", "rs").into_iter().filter(|(path, _)| !is_test(path)) {
        let code = code(&text);
        let found = functions(&code).into_iter().filter(changes);
        wrong.extend(found.map(|one| format!("{}:{}: {}", path.display(), one.line, one.name)));
    }
    assert!(wrong.is_empty(), "these change something, so they begin with `take_` or `try_`:\n{}", wrong.join("\n"));
}

#[test]
fn a_type_name_has_one_meaning() {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, text) in sources::below("src", "rs").into_iter().filter(|(path, _)| !is_test(path)) {
        for name in types(&code(&text)) {
            found.entry(name.to_owned()).or_default().push(path.display().to_string());
        }
    }
    let twice: BTreeMap<_, _> = found.iter().filter(|(_, paths)| paths.len() > 1).collect();
    let names: Vec<_> = twice.keys().map(|name| name.as_str()).collect();
    assert_eq!(names, TWO_MEANINGS, "names with two meanings: {twice:#?}");
}

#[test]
fn planted_faults_of_shape_are_found() {
    let found = |text: &str| {
        let code = code(text);
        functions(&code).iter().map(|one| (one.name.to_owned(), one.lines.len(), changes(one))).collect::<Vec<_>>()
    };
    let of = |name: &str, lines, changes| (name.to_owned(), lines, changes);
    assert_eq!(found("pub(crate) fn is_due(&mut self) -> bool {\n    true\n}\n"), [of("is_due", 3, true)]);
    assert_eq!(
        found("impl A {\n    fn has_more(&self) -> bool {\n        self.more.take()\n    }\n}\n"),
        [of("has_more", 3, true)]
    );
    assert_eq!(found("fn is_odd(n: u8) -> bool { n % 2 == 1 }\n"), [of("is_odd", 1, false)]);
    assert_eq!(found("    async fn run(\n        a: u8,\n    ) {\n        go();\n    }\n"), [of("run", 5, false)]);
    assert_eq!(found("// fn is_gone(&mut self) {}\n#[cfg(test)]\nmod tests {\n    fn f() {}\n}\n"), []);
    let code = code("pub struct A;\npub(crate) enum B<T> {}\ntype C = u8;\nimpl A {\n    type D = u8;\n}\n");
    assert_eq!(types(&code).collect::<Vec<_>>(), ["A", "B", "C"]);
}
