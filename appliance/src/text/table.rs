//! Aligned text: tables with a heading line, and lists of names with values.
//!
//! **What fits:** on a terminal (`fit_to`) a table is at most as wide as the terminal. Text with
//! spaces is wrapped first. If that is not enough, whole columns are left out, the last one first,
//! and a line below the table names them. A cell is never cut, so no digit is lost. Without a
//! terminal a table is as wide as it needs to be. Widths are counted in terminal columns, also for
//! wide characters.

use std::fmt::Write as _;
use std::sync::OnceLock;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Text is not wrapped to fewer terminal columns than this.
const WRAP_MIN: usize = 24;
/// The text between two columns.
const SEPARATOR: &str = "  ";

/// The width of the terminal; not set: there is none.
static TERMINAL_COLUMNS: OnceLock<usize> = OnceLock::new();

/// From now on, tables fit a terminal of this width. Only the first call has an effect.
pub(crate) fn fit_to(columns: usize) {
    // Only tests of the program's entry point set it twice; the first width stays.
    let _ = TERMINAL_COLUMNS.set(columns);
}

/// The width of the terminal, if there is one.
pub(crate) fn terminal_columns() -> Option<usize> {
    TERMINAL_COLUMNS.get().copied()
}

/// A table; each column is as wide as its widest cell.
#[derive(Debug)]
pub(crate) struct Table {
    headings: Vec<String>,
    right_aligned: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns; a heading that begins with `>` aligns its column to the right.
    pub(crate) fn new<'a>(headings: impl IntoIterator<Item = &'a str>) -> Self {
        let mut table = Table { headings: Vec::new(), right_aligned: Vec::new(), rows: Vec::new() };
        for heading in headings {
            table.right_aligned.push(heading.starts_with('>'));
            table.headings.push(heading.trim_start_matches('>').to_owned());
        }
        table
    }

    /// Adds a row; missing cells are empty, surplus cells are dropped.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut cells: Vec<String> = cells.into_iter().map(|cell| printable(&cell)).collect();
        cells.resize(self.headings.len(), String::new());
        self.rows.push(cells);
    }

    /// The text; `empty` if there are no rows.
    pub(crate) fn render(&self, empty: &str) -> String {
        self.render_within(empty, terminal_columns())
    }

    /// The text in lines of at most this many columns, or wider if the first column needs it.
    fn render_within(&self, empty: &str, columns: Option<usize>) -> String {
        if self.rows.is_empty() {
            return format!("{empty}\n");
        }
        let mut widths: Vec<usize> = (0..self.headings.len())
            .map(|column| {
                let cells = self.rows.iter().map(|row| width(&row[column]));
                cells.chain([width(&self.headings[column])]).max().unwrap_or(0)
            })
            .collect();
        let mut left_out = Vec::new();
        if let Some(columns) = columns {
            while self.least(&widths) > columns && widths.len() > 1 {
                widths.pop();
                left_out.push(self.headings[widths.len()].as_str());
            }
            self.wrap_to(&mut widths, columns);
        }
        let mut text = String::new();
        for row in [&self.headings].into_iter().chain(&self.rows) {
            self.render_row(&mut text, row, &widths);
        }
        if !left_out.is_empty() {
            left_out.reverse();
            // Writing to a string does not fail.
            let _ = writeln!(text, "(not shown: {}; use a wider terminal, or --json)", left_out.join(", "));
        }
        text
    }

    /// Whether a column may be wrapped.
    fn is_text(&self, column: usize) -> bool {
        !self.right_aligned[column] && self.rows.iter().any(|row| row[column].contains(' '))
    }

    /// The minimum width of a line, with its text wrapped.
    fn least(&self, widths: &[usize]) -> usize {
        let least = |(column, width): (usize, &usize)| {
            if self.is_text(column) { (*width).min(WRAP_MIN) } else { *width }
        };
        total(&widths.iter().enumerate().map(least).collect::<Vec<_>>())
    }

    /// Narrows text columns as far as necessary.
    fn wrap_to(&self, widths: &mut [usize], columns: usize) {
        for column in (0..widths.len()).rev() {
            let too_much = total(widths).saturating_sub(columns);
            if too_much > 0 && self.is_text(column) && widths[column] > WRAP_MIN {
                widths[column] = widths[column].saturating_sub(too_much).max(WRAP_MIN);
            }
        }
    }

    /// Appends a row: one line, or more if cells are wrapped.
    fn render_row(&self, text: &mut String, row: &[String], widths: &[usize]) {
        let cells: Vec<Vec<String>> =
            row.iter().zip(widths).map(|(cell, width)| wrap(cell, *width)).collect();
        for number in 0..cells.iter().map(Vec::len).max().unwrap_or(0) {
            let mut line = String::new();
            for (column, lines) in cells.iter().enumerate() {
                let cell = lines.get(number).map_or("", String::as_str);
                let padding = " ".repeat(widths[column].saturating_sub(width(cell)));
                let (left, right) =
                    if self.right_aligned[column] { (&*padding, "") } else { ("", &*padding) };
                let separator = if column == 0 { "" } else { SEPARATOR };
                let _ = write!(line, "{separator}{left}{cell}{right}");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
    }
}

/// The width of a line with columns of these widths.
fn total(widths: &[usize]) -> usize {
    widths.iter().sum::<usize>() + SEPARATOR.len() * widths.len().saturating_sub(1)
}

/// Names and values, one pair per line; on a terminal a long value continues below itself.
pub(crate) fn pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, String)>) -> String {
    pairs_within(pairs, terminal_columns())
}

fn pairs_within<'a>(pairs: impl IntoIterator<Item = (&'a str, String)>, columns: Option<usize>) -> String {
    let pairs: Vec<_> = pairs.into_iter().collect();
    let widest = pairs.iter().map(|(name, _)| width(name)).max().unwrap_or(0);
    // The colon and two spaces are between them.
    let indent = widest + 3;
    let room = columns.map_or(usize::MAX, |columns| columns.saturating_sub(indent).max(WRAP_MIN));
    let mut text = String::new();
    for (name, value) in pairs {
        let padding = " ".repeat(widest - width(name));
        let lines = wrap(&printable(&value), room);
        let _ = writeln!(text, "{name}:{padding}  {}", lines.first().map_or("", String::as_str));
        for line in lines.iter().skip(1) {
            let _ = writeln!(text, "{}{line}", " ".repeat(indent));
        }
    }
    text
}

/// The text in lines of at most `columns`, broken at spaces. A wider word is not broken.
pub(crate) fn wrap(text: &str, columns: usize) -> Vec<String> {
    if width(text) <= columns {
        return vec![text.to_owned()];
    }
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        if !line.is_empty() && width(&line) + 1 + width(word) > columns {
            lines.push(std::mem::take(&mut line));
        } else if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

/// How many terminal columns a text takes.
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

/// The text without characters that could control a terminal, because names and labels come from
/// outside. Control characters and characters that change the direction of writing are replaced.
fn printable(text: &str) -> String {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
            || c.width().is_none()
    };
    text.chars().map(|c| if steers(c) { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(["NAME", ">SIZE"]);
        table.row(["a".to_owned(), "1 GiB".to_owned()]);
        table.row(["longer".to_owned(), "512 MiB".to_owned()]);
        assert_eq!(table.render("none"), "NAME       SIZE\na         1 GiB\nlonger  512 MiB\n");
        assert_eq!(Table::new(["X"]).render("none"), "none\n");
    }

    #[test]
    fn wide_characters_take_two_columns() {
        let mut table = Table::new(["NAME", ">SIZE"]);
        table.row(["数据库".to_owned(), "1 GiB".to_owned()]);
        table.row(["e\u{301}".to_owned(), "2 GiB".to_owned()]);
        // Six columns in three characters; one column in two.
        assert_eq!(table.render("none"), "NAME     SIZE\n数据库  1 GiB\ne\u{301}       2 GiB\n");
    }

    #[test]
    fn a_narrow_terminal_loses_columns_and_no_digit() {
        let mut table = Table::new(["NAME", ">SIZE", "PROBLEM", "UUID"]);
        let problem = "segment 12 is torn and was cut off";
        table.row(["accounts".to_owned(), "256 MiB".to_owned(), problem.to_owned(), "0".repeat(36)]);
        let wide = table.render_within("none", None);
        assert!(
            wide.lines().count() == 2 && wide.contains(problem) && wide.contains(&"0".repeat(36)),
            "{wide}"
        );
        for columns in [80, 60, 45, 20, 1] {
            let text = table.render_within("none", Some(columns));
            for line in text.lines().filter(|line| !line.starts_with('(')) {
                assert!(line.len() <= columns.max("accounts".len()), "{columns}: {text}");
            }
            assert_eq!(text.contains("256"), text.contains("256 MiB"), "{columns}: {text}");
        }
        let text = table.render_within("none", Some(60));
        assert!(text.contains("(not shown: UUID;"), "{text}");
        assert!(text.contains("256 MiB  segment 12 is torn and was cut off\n"), "{text}");
        let text = table.render_within("none", Some(45));
        assert!(text.contains("256 MiB  segment 12 is torn and was\n                   cut off\n"), "{text}");
    }

    #[test]
    fn long_values_go_on_below_themselves() {
        let text = pairs_within(
            [("Problem", "the archive is away and is tried again".to_owned()), ("A", "1".to_owned())],
            Some(34),
        );
        assert_eq!(text, "Problem:  the archive is away and\n          is tried again\nA:        1\n");
    }

    #[test]
    fn terminals_are_not_steered() {
        assert_eq!(
            pairs([("a", "x\u{1b}[2Jy\n".to_owned()), ("bc", "1".to_owned())]),
            "a:   x\u{fffd}[2Jy\u{fffd}\nbc:  1\n"
        );
        assert_eq!(pairs([("a", "b\u{202e}c".to_owned())]), "a:  b\u{fffd}c\n");
    }
}
