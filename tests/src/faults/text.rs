//! Rules as text, to inject faults by hand: one rule on each line, as words.
//!
//! ```text
//! # the operations, a part of the file's path, and what is to happen
//! read pool.varve eio bytes=4096..8192 times=2
//! write,sync pool.varve enospc
//! read pool.varve delay=300
//! rename archive/objects eio skip=3
//! ```

use std::time::Duration;

use rustix::io::Errno;

use super::rule::{Operation, Rule};

/// Why a line is not a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {word:?} is no {wanted}")]
pub struct RuleTextError {
    /// The line, from 1.
    pub line: usize,
    /// The word that cannot be parsed; empty when one is missing.
    pub word: String,
    /// What was expected there.
    pub wanted: &'static str,
}

const OPERATIONS: [(&str, Operation); 11] = [
    ("read", Operation::Read),
    ("write", Operation::Write),
    ("sync", Operation::Sync),
    ("open", Operation::Open),
    ("rename", Operation::Rename),
    ("link", Operation::Link),
    ("unlink", Operation::Unlink),
    ("mkdir", Operation::MakeDirectory),
    ("allocate", Operation::Allocate),
    ("discard", Operation::Discard),
    ("truncate", Operation::Truncate),
];

const ERRORS: [(&str, Errno); 8] = [
    ("eio", Errno::IO),
    ("enospc", Errno::NOSPC),
    ("enomem", Errno::NOMEM),
    ("eacces", Errno::ACCESS),
    ("erofs", Errno::ROFS),
    ("enoent", Errno::NOENT),
    ("edquot", Errno::DQUOT),
    ("eintr", Errno::INTR),
];

/// Parses the rules of a text.
///
/// # Errors
/// The first word that cannot be parsed.
pub fn parse_rules(text: &str) -> Result<Vec<Rule>, RuleTextError> {
    let lines = (1..).zip(text.lines().map(str::trim));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines.map(|(line, text)| parse_rule(line, text)).collect()
}

fn parse_rule(line: usize, text: &str) -> Result<Rule, RuleTextError> {
    let error = |word: &str, wanted| RuleTextError { line, word: word.to_owned(), wanted };
    let mut words = text.split_whitespace();
    let names = words.next().unwrap_or_default();
    let operations: Result<Vec<Operation>, RuleTextError> = names
        .split(',')
        .map(|name| {
            let known = OPERATIONS.iter().find(|(known, _)| *known == name);
            known.map(|&(_, operation)| operation).ok_or_else(|| error(name, "operation"))
        })
        .collect();
    let file = words.next().ok_or_else(|| error("", "part of a path"))?;
    let mut rule = Rule::on(file, &operations?);
    for word in words {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let number = || value.parse::<u64>().map_err(|_| error(word, "number"));
        rule = match name {
            "times" => rule.times(number()?),
            "skip" => rule.skip(number()?),
            "delay" => rule.delay(Duration::from_millis(number()?)),
            "short" => rule.short(number()?),
            "hold" => rule.hold(),
            "kill" => rule.kill(),
            "bytes" => {
                let ends = value
                    .split_once("..")
                    .and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
                let (from, to) = ends.ok_or_else(|| error(word, "range of bytes"))?;
                rule.within(from..to)
            }
            _ => {
                let known = ERRORS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
                rule.fail(known.ok_or_else(|| error(word, "error, outcome or limit"))?.1)
            }
        };
    }
    Ok(rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_from_text() {
        let text = "# a comment\n\nread,write pool eio bytes=4096..8192 times=2 skip=1\nsync x delay=5\n";
        let rules = parse_rules(text).expect("two rules");
        let [first, second] = rules.as_slice() else { panic!("{rules:?}") };
        let built = Rule::on("pool", &[Operation::Read, Operation::Write]).within(4096..8192);
        assert_eq!(format!("{first:?}"), format!("{:?}", built.times(2).skip(1).fail(Errno::IO)));
        let built = Rule::on("x", &[Operation::Sync]).delay(Duration::from_millis(5));
        assert_eq!(format!("{second:?}"), format!("{built:?}"));
    }

    #[test]
    fn what_is_no_rule_is_named() {
        for (text, word) in [
            ("reed pool eio", "reed"),
            ("read", ""),
            ("read pool efoo", "efoo"),
            ("read pool times=x", "times=x"),
            ("read pool bytes=1-2", "bytes=1-2"),
        ] {
            assert_eq!(parse_rules(text).expect_err(text).word, word, "{text}");
        }
    }
}
