//! References in comments and documents lead somewhere: files, numbered sections, invariants, Markdown links, anchors.
//!
//! Comments name their sources (`docs/reference/protocols.md §1.4`, `ARCHITECTURE.md, invariant 4`). If a source is
//! renamed or renumbered, they point nowhere, and no compiler notices. Left out: links to other sites, sections of
//! RFCs, and references inside string literals.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Where texts are read: these folders, and the `.md` and `.toml` files beside them.
const FOLDERS: [&str; 9] = ["src", "tests", "conf", "docs", "packaging", "systemd", "examples", ".cargo", ".ci"];

/// Folders with files of others, or with the output of tools.
const SKIPPED: [&str; 9] =
    [".git", ".install", ".prometheus", ".venv", "__pycache__", "corpus", "node_modules", "results", "target"];

/// Lock files are written by tools, and long.
const LOCKS: [&str; 2] = ["Cargo.lock", "package-lock.json"];

/// Documents that had these short names once; a section needs the file that has it.
const SHORT_NAMES: [&str; 8] =
    ["design", "design.md", "performance", "protocols", "routing", "study", "style", "threats"];

/// The texts to be checked, by path, and every path that a reference may name.
#[derive(Default)]
struct Tree {
    texts: BTreeMap<String, String>,
    paths: BTreeSet<String>,
}

impl Tree {
    fn with(mut self, path: &str, text: &str) -> Self {
        self.insert_path(path);
        self.texts.insert(path.to_owned(), text.to_owned());
        self
    }

    /// Adds a path and the folders above it.
    fn insert_path(&mut self, path: &str) {
        let ends = path.match_indices('/').map(|(end, _)| end).chain([path.len()]);
        self.paths.extend(ends.map(|end| path[..end].to_owned()));
    }

    /// Reads everything below a folder of the repository.
    fn read(&mut self, root: &Path, folder: &str) {
        let mut entries: Vec<_> = std::fs::read_dir(root.join(folder)).unwrap().map(Result::unwrap).collect();
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name().into_string().unwrap();
            let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
            self.insert_path(&path);
            if entry.file_type().unwrap().is_dir() {
                if !SKIPPED.contains(&name.as_str()) {
                    self.read(root, &path);
                }
                continue;
            }
            let is_listed = FOLDERS.iter().any(|folder| path.starts_with(&format!("{folder}/")));
            let is_text = is_listed || (folder.is_empty() && (name.ends_with(".md") || name.ends_with(".toml")));
            // A file that is not UTF-8 (a compiler's profile) has no references.
            if is_text
                && !LOCKS.contains(&name.as_str())
                && let Ok(text) = std::fs::read_to_string(entry.path())
            {
                self.texts.insert(path, text);
            }
        }
    }

    /// The path that a reference in `from` means: from the folder of `from`, or from the root.
    fn resolve(&self, from: &str, name: &str) -> Option<String> {
        let beside = join(folder_of(from), name);
        [beside, join("", name)].into_iter().flatten().find(|path| self.paths.contains(path))
    }
}

fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Joins a folder and a relative path; `None` if the path leaves the repository.
fn join(folder: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => _ = parts.pop()?,
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The prose of a file as one line, so that a reference may be wrapped, with the line number of each part.
struct Prose {
    text: String,
    /// Byte offset in `text` at which a line begins, and its number.
    lines: Vec<(usize, usize)>,
}

impl Prose {
    /// Markdown without its code blocks; TOML; the comments of any other file.
    fn of(path: &str, text: &str) -> Self {
        let mut prose = Self { text: String::new(), lines: Vec::new() };
        let ending = path.rsplit_once('.').map_or("", |(_, ending)| ending);
        let mut is_fenced = false;
        for (number, line) in (1..).zip(text.lines()) {
            let is_fence = ending == "md" && line.trim_start().starts_with("```");
            is_fenced ^= is_fence;
            let part = match ending {
                "md" if is_fence || is_fenced => None,
                "md" | "toml" => Some(line.trim().trim_start_matches('#').trim_start()),
                "rs" | "js" => comment(line),
                _ => line.split_once('#').map(|(_, comment)| comment.trim()),
            };
            prose.lines.push((prose.text.len(), number));
            // What is between two comments or paragraphs keeps them apart.
            prose.text.push_str(part.unwrap_or("\n"));
            prose.text.push(if part.is_some_and(str::is_empty) { '\n' } else { ' ' });
        }
        prose
    }

    fn line(&self, offset: usize) -> usize {
        let next = self.lines.partition_point(|(begin, _)| *begin <= offset);
        self.lines[next - 1].1
    }
}

/// The comment on a line of Rust or JavaScript, without its slashes. A `//` within a string literal begins none.
fn comment(line: &str) -> Option<&str> {
    if let Some(inner) = line.trim_start().strip_prefix(['*']).or_else(|| line.trim_start().strip_prefix("/*")) {
        return Some(inner.trim_matches(['*', '/', ' ']));
    }
    let begins = |at: &usize| line[..*at].matches('"').count().is_multiple_of(2) && !line[..*at].ends_with(':');
    let at = line.match_indices("//").map(|(at, _)| at).find(begins)?;
    Some(line[at..].trim_start_matches(['/', '!']).trim())
}

/// Every reference in `tree` that leads nowhere, as `path:line: what`.
fn problems(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    let invariants = tree.texts.get("ARCHITECTURE.md").map(|text| invariants(text)).unwrap_or_default();
    for (path, text) in &tree.texts {
        let prose = Prose::of(path, text);
        let mut add = |offset: usize, what: String| found.push(format!("{path}:{}: {what}", prose.line(offset)));
        files_and_sections(tree, path, &prose.text, &mut add);
        short_names(&prose.text, &mut add);
        for (offset, number) in cited_invariants(&prose.text) {
            if !invariants.contains(&number) {
                add(offset, format!("invariant {number} is not in ARCHITECTURE.md"));
            }
        }
        if path.ends_with(".md") {
            links(tree, path, &prose.text, &mut add);
            code_paths(tree, path, &prose.text, &mut add);
        }
    }
    found
}

/// Names of `.md` files, and the sections that follow them.
fn files_and_sections(tree: &Tree, path: &str, text: &str, add: &mut impl FnMut(usize, String)) {
    for (at, _) in text.match_indices(".md") {
        let end = at + ".md".len();
        let is_name = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
        // Another ending, such as `.mdx` or `.md.in`.
        let next = text[end..].strip_prefix('.').unwrap_or_else(|| &text[end..]);
        if next.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') {
            continue;
        }
        let begin = text[..at]
            .rfind(|c: char| !is_name(c))
            .map_or(0, |before| before + text[before..].chars().next().map_or(0, char::len_utf8));
        let name = &text[begin..end];
        // The address of a page elsewhere, or an ending alone (`*.md`).
        if name.starts_with("//") || begin == at {
            continue;
        }
        let Some(target) = tree.resolve(path, name) else {
            add(begin, format!("there is no file {name}"));
            continue;
        };
        let sections = tree.texts.get(&target).map(|text| sections(text)).unwrap_or_default();
        for section in cited_sections(&text[end..]) {
            if !sections.contains(&section) {
                add(begin, format!("{target} has no section {section}"));
            }
        }
    }
}

/// The sections that a text begins with: ` §1.4, §2 and §3`.
fn cited_sections(mut text: &str) -> Vec<String> {
    let mut cited = Vec::new();
    loop {
        let rest = text.trim_start_matches(['`', ')', ',', ' ']);
        let rest = rest.strip_prefix("and ").unwrap_or(rest);
        let Some(rest) = rest.strip_prefix('§') else { return cited };
        let length = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        cited.push(rest[..length].trim_end_matches('.').to_owned());
        text = &rest[length..];
    }
}

/// Numbers of a document's headings: `### 1.4 Errors`, `## 2. Words`.
fn sections(text: &str) -> BTreeSet<String> {
    let number = |heading: &str| heading.split_whitespace().next().map(|word| word.trim_end_matches('.').to_owned());
    let is_number = |word: &String| !word.is_empty() && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    headings(text).filter_map(number).filter(is_number).collect()
}

/// The texts of a document's headings, without those in code blocks.
fn headings(text: &str) -> impl Iterator<Item = &str> {
    let mut is_fenced = false;
    text.lines().filter_map(move |line| {
        is_fenced ^= line.trim_start().starts_with("```");
        let heading = line.trim_start_matches('#');
        (!is_fenced && heading.len() < line.len() && heading.starts_with(' ')).then(|| heading.trim())
    })
}

/// A section of a document that is named without its file.
fn short_names(text: &str, add: &mut impl FnMut(usize, String)) {
    for (at, _) in text.match_indices(" §") {
        let begin = text[..at].rfind([' ', '\n', '(', '[']).map_or(0, |before| before + 1);
        // The text of a link is followed by its file.
        let is_link = text[..begin].ends_with('[');
        if SHORT_NAMES.contains(&text[begin..at].to_lowercase().as_str()) && !is_link {
            add(begin, format!("`{} §…` does not name a file", &text[begin..at]));
        }
    }
}

/// Numbers after the word "invariant", where they begin.
fn cited_invariants(text: &str) -> Vec<(usize, String)> {
    let lower = text.to_ascii_lowercase();
    let cited = lower.match_indices("invariant ").filter_map(|(at, word)| {
        let rest = &lower[at + word.len()..];
        let length = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        (length > 0).then(|| (at, rest[..length].to_owned()))
    });
    cited.collect()
}

/// Numbers of the list below the heading "Invariants".
fn invariants(text: &str) -> BTreeSet<String> {
    let below = text.lines().skip_while(|line| !(line.starts_with('#') && line.contains("Invariants"))).skip(1);
    let list = below.take_while(|line| !line.starts_with('#'));
    let number = |line: &str| line.split_once(". ").map(|(number, _)| number.to_owned());
    list.filter_map(number).filter(|number| number.chars().all(|c| c.is_ascii_digit())).collect()
}

/// Markdown links within the repository: `[text](path#anchor)`.
fn links(tree: &Tree, path: &str, text: &str, add: &mut impl FnMut(usize, String)) {
    let plain = without_code(text);
    for (at, _) in plain.match_indices("](") {
        let begin = at + "](".len();
        let Some(length) = plain[begin..].find(')') else { continue };
        let target = plain[begin..begin + length].trim();
        if target.contains("://") || target.starts_with("mailto:") {
            continue;
        }
        let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
        let file = match file {
            "" => Some(path.to_owned()),
            file => join(folder_of(path), file).filter(|file| file.is_empty() || tree.paths.contains(file)),
        };
        let Some(file) = file else {
            add(begin, format!("the link to {target} leads to no file"));
            continue;
        };
        let has_anchor = || tree.texts.get(&file).is_some_and(|text| anchors(text).contains(anchor));
        if !anchor.is_empty() && file.ends_with(".md") && !has_anchor() {
            add(begin, format!("{file} has no heading for #{anchor}"));
        }
    }
}

/// The text with everything between backticks blanked, byte for byte.
fn without_code(text: &str) -> String {
    let mut is_code = false;
    let blank = |c: char| {
        is_code ^= c == '`';
        if is_code && c != '\n' { " ".repeat(c.len_utf8()) } else { c.to_string() }
    };
    text.chars().map(blank).collect()
}

/// Anchors of a document's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut seen = BTreeMap::new();
    let anchor = |heading: &str| {
        let kept =
            heading.to_lowercase().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>();
        let slug = kept.replace(' ', "-");
        let before = seen.entry(slug.clone()).and_modify(|count| *count += 1).or_insert(0);
        if *before == 0 { slug } else { format!("{slug}-{before}") }
    };
    headings(text).map(anchor).collect()
}

/// Paths in backticks: `src/lib.rs`, `tests/http/`; Rust files also without `src/` or `tests/`.
fn code_paths(tree: &Tree, path: &str, text: &str, add: &mut impl FnMut(usize, String)) {
    let is_path = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    let mut end = 0;
    for (index, part) in text.split('`').enumerate() {
        let begin = end;
        end += part.len() + 1;
        let is_ours =
            part.ends_with(".rs") || FOLDERS[..6].iter().any(|folder| part.starts_with(&format!("{folder}/")));
        if index % 2 == 0 || !is_ours || !part.chars().all(is_path) {
            continue;
        }
        let places = ["", "src", "tests", folder_of(path)];
        let is_there = |folder: &&str| join(folder, part).is_some_and(|path| tree.paths.contains(&path));
        if !places.iter().any(is_there) {
            add(begin, format!("there is no {part}"));
        }
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let mut tree = Tree::default();
    tree.read(Path::new(env!("CARGO_MANIFEST_DIR")), "");
    assert!(tree.texts.len() > 200, "only {} texts were found", tree.texts.len());
    let problems = problems(&tree);
    assert!(problems.is_empty(), "{} references lead nowhere:\n{}", problems.len(), problems.join("\n"));
}

fn small() -> Tree {
    let architecture = "# A\n\n## 7. Invariants\n\n1. One.\n2. Two,\n   wrapped.\n\n## 8. Next\n\n3. Not one.\n";
    Tree::default()
        .with("ARCHITECTURE.md", architecture)
        .with("docs/facts.md", "# Facts\n\n## 1. On the wire\n\n### 1.4 Errors & more\n\n```text\n## 9. code\n```\n")
        .with("src/lib.rs", "")
}

#[test]
fn good_references_pass() {
    let rust = "//! Source: docs/facts.md §1.4, §1; ARCHITECTURE.md, invariant\n//! 2. RFC 9110 §7.6.1, and (§5.5).\n\
                let text = \"gone.md §3\"; let url = \"https://a/gone.md\";\n";
    let markdown = "[facts](docs/facts.md#14-errors--more), [here](#good), [folder](docs/), `[a](b.md.x)`\n\n\
                    # Good\n\n[protocols §4](docs/facts.md), `lib.rs`, https://example.com/gone.md\n";
    let tree = small().with("src/good.rs", rust).with("GOOD.md", markdown);
    assert_eq!(problems(&tree), Vec::<String>::new());
}

#[test]
fn references_that_lead_nowhere_are_found() {
    let planted = [
        ("src/a.rs", "fn a() {} // see design.md\n", "src/a.rs:1: there is no file design.md"),
        ("src/b.rs", "\n/// As in docs/facts.md §1.5.\n", "src/b.rs:2: docs/facts.md has no section 1.5"),
        ("src/c.rs", "//! Both: docs/facts.md §1 and\n//! §9.\n", "src/c.rs:1: docs/facts.md has no section 9"),
        (
            "src/d.rs",
            "//! See ARCHITECTURE.md,\n//! invariant 3.\n",
            "src/d.rs:2: invariant 3 is not in ARCHITECTURE.md",
        ),
        ("src/e.rs", "// the list of protocols\n// §1.4\n", "src/e.rs:1: `protocols §…` does not name a file"),
        ("conf/f.toml", "# invariant 12\n", "conf/f.toml:1: invariant 12 is not in ARCHITECTURE.md"),
        ("docs/g.md", "\n[x](../README.md)\n", "docs/g.md:2: there is no file ../README.md"),
        ("docs/h.md", "[x](facts.toml)\n", "docs/h.md:1: the link to facts.toml leads to no file"),
        ("docs/i.md", "[x](facts.md#15)\n", "docs/i.md:1: docs/facts.md has no heading for #15"),
        ("docs/j.md", "# J\n\n[x](#k)\n", "docs/j.md:3: docs/j.md has no heading for #k"),
        ("docs/k.md", "`src/gone.rs`\n", "docs/k.md:1: there is no src/gone.rs"),
    ];
    for (path, text, problem) in planted {
        let found = problems(&small().with(path, text));
        assert!(found.iter().any(|found| found == problem), "{problem} is not in {found:#?}");
    }
}
