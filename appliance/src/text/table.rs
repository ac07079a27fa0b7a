//! Aligned text: tables with a heading line, and lists of names with values.

use std::fmt::Write as _;

/// A table; cells of a column are as wide as its widest.
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

    /// Adds a row; missing cells are empty, surplus ones are dropped.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut cells: Vec<String> = cells.into_iter().map(|cell| printable(&cell)).collect();
        cells.resize(self.headings.len(), String::new());
        self.rows.push(cells);
    }

    /// The text; `empty` instead when there are no rows.
    pub(crate) fn render(&self, empty: &str) -> String {
        if self.rows.is_empty() {
            return format!("{empty}\n");
        }
        let widths: Vec<usize> = (0..self.headings.len())
            .map(|column| {
                let cells = self.rows.iter().map(|row| width(&row[column]));
                cells.chain([width(&self.headings[column])]).max().unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        for row in [&self.headings].into_iter().chain(&self.rows) {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let padding = " ".repeat(widths[column] - width(cell));
                let (left, right) = if self.right_aligned[column] {
                    (padding, String::new())
                } else {
                    (String::new(), padding)
                };
                let separator = if column == 0 { "" } else { "  " };
                // Writing to a string does not fail.
                let _ = write!(line, "{separator}{left}{cell}{right}");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Names and values, one pair a line.
pub(crate) fn pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let pairs: Vec<_> = pairs.into_iter().collect();
    let widest = pairs.iter().map(|(name, _)| width(name)).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in pairs {
        let padding = " ".repeat(widest - width(name));
        let _ = writeln!(text, "{name}:{padding}  {}", printable(&value));
    }
    text
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// The text without control characters: names and labels come from elsewhere and must not steer the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
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
    fn terminals_are_not_steered() {
        assert_eq!(
            pairs([("a", "x\u{1b}[2Jy\n".to_owned()), ("bc", "1".to_owned())]),
            "a:   x\u{fffd}[2Jy\u{fffd}\nbc:  1\n"
        );
    }
}
