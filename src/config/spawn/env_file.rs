//! `env_file`: lines such as `NAME=value`, as written for `docker run --env-file`, systemd and dotenv.
//!
//! Known are comments, `export NAME=value`, and values in single quotes (taken as they are) or double quotes (with
//! `\n`, `\t`, `\"`, `\\` and `\$`). Left out: references to other variables, and values of several lines.

use std::collections::BTreeMap;

use super::super::check::Context;
use super::super::file::ConfigText;

/// Reads the file; reports the first line that is not valid.
pub(super) fn read(context: &Context<'_>, path: &ConfigText) -> Option<BTreeMap<String, String>> {
    let text = super::read_noted(context, path)?;
    match parse(&text) {
        Ok(all) => Some(all),
        Err((line, why)) => {
            let help = "write lines such as NODE_ENV=production";
            context.report.error_help(&path.span, format!("line {line} of {} {why}", path.value), help);
            None
        }
    }
}

/// Whether a text can be the name of an environment variable.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0']) && !name.contains(char::is_whitespace)
}

fn parse(text: &str) -> Result<BTreeMap<String, String>, (usize, &'static str)> {
    let mut all = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = line.split_once('=').ok_or((number, "has no `=`"))?;
        let name = name.trim();
        if !is_name(name) {
            return Err((number, "has no valid name before `=`"));
        }
        let value = value_of(value.trim()).ok_or((number, "has an unclosed quote"))?;
        if value.contains('\0') {
            return Err((number, "contains a NUL"));
        }
        all.insert(name.to_owned(), value);
    }
    Ok(all)
}

fn value_of(written: &str) -> Option<String> {
    if let Some(rest) = written.strip_prefix('\'') {
        return rest.split_once('\'').map(|(value, _)| value.to_owned());
    }
    if let Some(rest) = written.strip_prefix('"') {
        return double_quoted(rest);
    }
    // A comment begins at a `#` after white space, as in dotenv.
    let end = written.find(" #").unwrap_or(written.len());
    Some(written.get(..end).unwrap_or(written).trim_end().to_owned())
}

fn double_quoted(rest: &str) -> Option<String> {
    let (mut value, mut chars) = (String::new(), rest.chars());
    loop {
        match chars.next()? {
            '"' => return Some(value),
            '\\' => match chars.next()? {
                'n' => value.push('\n'),
                't' => value.push('\t'),
                known @ ('"' | '\\' | '$') => value.push(known),
                other => value.extend(['\\', other]),
            },
            other => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_like_dotenv() {
        let text =
            "# comment\n\nA=1\nexport B = two words # note\nC='a \"b\" $c #'\nD=\"x\\ny \\\"z\\\"\"\nE=\nF=a=b#c\n";
        let all = parse(text).unwrap();
        let pairs: Vec<_> = all.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let expected =
            [("A", "1"), ("B", "two words"), ("C", "a \"b\" $c #"), ("D", "x\ny \"z\""), ("E", ""), ("F", "a=b#c")];
        assert_eq!(pairs, expected);
    }

    #[test]
    fn a_line_that_is_not_valid_is_named() {
        assert_eq!(parse("A=1\nnonsense").unwrap_err().0, 2);
        assert_eq!(parse("=1").unwrap_err().0, 1);
        assert_eq!(parse("A=\"open").unwrap_err().0, 1);
        assert_eq!(parse("A B=1").unwrap_err().0, 1);
    }
}
