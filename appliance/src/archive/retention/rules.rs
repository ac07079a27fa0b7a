//! Parses and prints the language of retention rules.
//!
//! ```text
//! RULES := RULE, separated by ';' or by the end of a line; none at all: everything is kept
//! RULE  := every-write KEEP              every point that is younger
//!        | synch KEEP                    the synchs that are younger (also 'synchs')
//!        | synch GLOB keep KEEP          those whose label matches
//!        | every SPAN keep KEEP          for each boundary of the calendar (UTC) that is younger,
//!                                        the newest point at or before it
//! KEEP  := SPAN | forever
//! SPAN  := count and unit, as 10s, 15m, 48h, 7d, 12w, 12M (months), 2y
//! GLOB  := a word, or a text in double quotes, in which "" is one quote; '*' is any text,
//!          '?' any character, '\' takes the next as it is
//! ```
//! A point is kept as long as any rule keeps it. The order of the rules has no effect.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::span::{Keep, Span};

/// The most rules in one text.
pub const KEEP_RULES_MAX: usize = 64;

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeepRule {
    /// Every point that is younger.
    EveryWrite(Keep),
    /// Every synch that is younger, or those of them whose label matches.
    Synch {
        /// The labels that match; `None` for all.
        label: Option<LabelGlob>,
        /// How long they are kept.
        keep: Keep,
    },
    /// For each boundary of the calendar that is younger, the newest point at or before it.
    Every {
        /// The distance between boundaries.
        step: Span,
        /// How long it is kept.
        keep: Keep,
    },
}

/// What an operator wants to keep. The default has no rules and keeps everything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeepRules(Vec<KeepRule>);

/// Why a text cannot be parsed as rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "rule {number} of the retention, '{rule}': {reason}; a rule is 'every-write SPAN', 'synch SPAN', 'synch LABEL keep SPAN' or 'every SPAN keep SPAN', and a SPAN is like 10s, 15m, 48h, 7d, 12w, 12M, 2y, or forever"
)]
pub struct KeepError {
    /// Which rule, counted from 1.
    pub number: usize,
    /// Its text.
    pub rule: String,
    /// What is wrong with it.
    pub reason: String,
}

impl KeepRules {
    /// Parses rules.
    ///
    /// # Errors
    /// Which rule is wrong, why, and what is allowed.
    pub fn parse(text: &str) -> Result<Self, KeepError> {
        let mut rules = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let rule_text = rest;
            let fail = |reason: String, end: &str| KeepError {
                number: rules.len() + 1,
                rule: rule_text[..rule_text.len() - end.len()].trim().to_owned(),
                reason,
            };
            let words = match split_rule(&mut rest) {
                Ok(words) => words,
                Err(reason) => return Err(fail(reason.to_owned(), rest)),
            };
            let end = rest;
            rest = rest.get(1..).unwrap_or_default();
            if words.is_empty() {
                continue;
            }
            if rules.len() == KEEP_RULES_MAX {
                return Err(fail(format!("there are more than {KEEP_RULES_MAX} rules"), end));
            }
            let rule = parse_rule(&words).map_err(|reason| fail(reason, end))?;
            rules.push(rule);
        }
        Ok(KeepRules(rules))
    }

    /// Rules built in code, not parsed. More than [`KEEP_RULES_MAX`] can be printed, but not parsed
    /// again.
    pub fn new(rules: Vec<KeepRule>) -> Self {
        KeepRules(rules)
    }

    /// The rules.
    pub fn rules(&self) -> &[KeepRule] {
        &self.0
    }

    /// Whether there are no rules, so that everything is kept.
    pub fn keep_everything(&self) -> bool {
        self.0.is_empty()
    }
}

/// A word of a rule.
struct Word {
    text: String,
    quoted: bool,
}

/// Takes the words of the first rule from `rest`, which then begins with the separator or is empty.
fn split_rule(rest: &mut &str) -> Result<Vec<Word>, &'static str> {
    let mut words = Vec::new();
    loop {
        *rest = rest.trim_start_matches(|c: char| c.is_whitespace() && c != '\n');
        match rest.chars().next() {
            None | Some(';' | '\n') => return Ok(words),
            Some('"') => {
                let mut text = String::new();
                let mut inside = &rest[1..];
                loop {
                    let Some((part, behind)) = inside.split_once('"') else {
                        *rest = "";
                        return Err("a quote is not closed");
                    };
                    text.push_str(part);
                    let Some(more) = behind.strip_prefix('"') else {
                        *rest = behind;
                        break;
                    };
                    text.push('"');
                    inside = more;
                }
                if rest.chars().next().is_some_and(is_plain) {
                    return Err("a blank must follow a closing quote");
                }
                words.push(Word { text, quoted: true });
            }
            Some(_) => {
                let end = rest.find(|c: char| !is_plain(c)).unwrap_or(rest.len());
                let (word, behind) = rest.split_at(end);
                *rest = behind;
                if behind.starts_with('"') {
                    return Err("a quote stands inside a word");
                }
                words.push(Word { text: word.to_owned(), quoted: false });
            }
        }
    }
}

/// Whether a character may appear in a word without quotes.
fn is_plain(c: char) -> bool {
    !c.is_whitespace() && c != ';' && c != '"'
}

fn parse_rule(words: &[Word]) -> Result<KeepRule, String> {
    let texts: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
    let quoted = words.iter().position(|word| word.quoted);
    if quoted.is_some_and(|index| index != 1 || !matches!(texts[..], ["synch" | "synchs", _, _, _])) {
        return Err("only the label of a synch may be quoted".to_owned());
    }
    let keep = |text: &str| Keep::parse(text).ok_or_else(|| format!("'{text}' is not a span of time"));
    match texts[..] {
        ["every-write", span] => Ok(KeepRule::EveryWrite(keep(span)?)),
        ["synch" | "synchs", span] => Ok(KeepRule::Synch { label: None, keep: keep(span)? }),
        ["synch" | "synchs", label, "keep", span] => {
            Ok(KeepRule::Synch { label: Some(LabelGlob(label.to_owned())), keep: keep(span)? })
        }
        ["every", "forever", "keep", _] => Err("'every' needs a span that ends".to_owned()),
        ["every", step, "keep", span] => {
            let step = Span::parse(step).ok_or_else(|| format!("'{step}' is not a span of time"))?;
            Ok(KeepRule::Every { step, keep: keep(span)? })
        }
        ["every-write" | "synch" | "synchs" | "every", ..] => {
            Err("it has too few words, too many, or others than these".to_owned())
        }
        [first, ..] => Err(format!("there is no rule '{first}'")),
        [] => Err("it is empty".to_owned()),
    }
}

/// A pattern for labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelGlob(String);

impl LabelGlob {
    /// Makes a pattern; every text is valid.
    pub fn new(pattern: &str) -> Self {
        LabelGlob(pattern.to_owned())
    }

    /// Whether a label matches. Costs at most the product of both lengths.
    pub fn matches(&self, label: &str) -> bool {
        let pattern: Vec<char> = self.0.chars().collect();
        let label: Vec<char> = label.chars().collect();
        let (mut at, mut seen) = (0, 0);
        // After a mismatch, matching restarts here: the pattern position after the newest star, and
        // the label position.
        let mut retry: Option<(usize, usize)> = None;
        loop {
            let step = match (pattern.get(at), label.get(seen)) {
                (Some('*'), _) => {
                    retry = Some((at + 1, seen));
                    at += 1;
                    continue;
                }
                (None, None) => return true,
                (Some('?'), Some(_)) => Some(1),
                (Some('\\'), Some(c)) => match pattern.get(at + 1) {
                    Some(escaped) => (escaped == c).then_some(2),
                    None => (*c == '\\').then_some(1),
                },
                (Some(p), Some(c)) => (p == c).then_some(1),
                _ => None,
            };
            if let Some(step) = step {
                at += step;
                seen += 1;
            } else {
                match retry {
                    Some((after_star, from)) if from < label.len() => {
                        retry = Some((after_star, from + 1));
                        at = after_star;
                        seen = from + 1;
                    }
                    _ => return false,
                }
            }
        }
    }
}

impl fmt::Display for LabelGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.is_empty() && self.0.chars().all(is_plain) {
            f.write_str(&self.0)
        } else {
            write!(f, "\"{}\"", self.0.replace('"', "\"\""))
        }
    }
}

impl fmt::Display for KeepRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeepRule::EveryWrite(keep) => write!(f, "every-write {keep}"),
            KeepRule::Synch { label: None, keep } => write!(f, "synch {keep}"),
            KeepRule::Synch { label: Some(label), keep } => write!(f, "synch {label} keep {keep}"),
            KeepRule::Every { step, keep } => write!(f, "every {step} keep {keep}"),
        }
    }
}

impl fmt::Display for KeepRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, rule) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            rule.fmt(f)?;
        }
        Ok(())
    }
}

impl std::str::FromStr for KeepRules {
    type Err = KeepError;

    fn from_str(text: &str) -> Result<Self, KeepError> {
        KeepRules::parse(text)
    }
}

impl TryFrom<String> for KeepRules {
    type Error = KeepError;

    fn try_from(text: String) -> Result<Self, KeepError> {
        KeepRules::parse(&text)
    }
}

impl From<KeepRules> for String {
    fn from(rules: KeepRules) -> String {
        rules.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::document::numbers!(
        the_document_has_this_bound,
        KEEP_RULES_MAX => "at most {} (`KEEP_RULES_MAX`)",
    );
}
