//! A part of the picture: a heading line, a table, and lines about problems.
//!
//! **What fits:** a section is made for a given width. If that is too narrow, whole columns are
//! left out, the one with the highest rank first, so that no figure is ever cut. Lines about
//! problems are wrapped.

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Table, Widget};

use crate::text::table::{width, wrap};

/// Between two columns.
const COLUMN_SPACING: u16 = 2;

/// A column: its heading, as for [`crate::text::table::Table`] (`>` aligns to the right), and its
/// rank. The column with the highest rank is left out first; one with rank 0 goes last.
pub(super) type Column = (&'static str, u8);

/// A part of the picture.
pub(super) struct Section {
    title: String,
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
    wrong: Vec<String>,
}

impl Section {
    /// A section for a picture of this width. Its title is as many parts of `title` as fit.
    pub(super) fn new(
        title: &[String],
        columns: &[Column],
        rows: Vec<Vec<String>>,
        wrong: impl Iterator<Item = String>,
        columns_max: u16,
    ) -> Self {
        let room = usize::from(columns_max);
        let wrong = wrong.flat_map(|text| wrap(&text, room.max(1))).collect();
        let title = join_within(title, room.saturating_sub(2));
        let mut section = Section { title, columns: columns.to_vec(), rows, wrong };
        // A column without any text takes no room, like a chart before the first rate.
        while let Some(empty) = (1..section.columns.len()).find(|&column| {
            section.columns[column].0.is_empty() && section.rows.iter().all(|row| row[column].is_empty())
        }) {
            section.leave_out(empty);
        }
        while section.needed_columns() > room && section.columns.len() > 1 {
            let ranks = section.columns.iter().enumerate();
            let Some((last, _)) = ranks.max_by_key(|(column, (_, rank))| (*rank, *column)) else { break };
            section.leave_out(last);
        }
        section
    }

    fn leave_out(&mut self, column: usize) {
        self.columns.remove(column);
        for row in &mut self.rows {
            row.remove(column);
        }
    }

    /// The width of each column.
    fn widths(&self) -> impl Iterator<Item = usize> {
        self.columns.iter().enumerate().map(|(column, (heading, _))| {
            let cells = self.rows.iter().map(|row| width(&row[column]));
            cells.chain([width(heading.trim_start_matches('>'))]).max().unwrap_or(0)
        })
    }

    fn needed_columns(&self) -> usize {
        let spacing = usize::from(COLUMN_SPACING) * self.columns.len().saturating_sub(1);
        self.widths().sum::<usize>() + spacing
    }

    /// How many terminal lines it takes.
    pub(super) fn lines(&self) -> u16 {
        // An empty table shows below its headings that it is empty.
        let table = if self.columns.is_empty() { 0 } else { 1 + self.rows.len().max(1) };
        u16::try_from(1 + table + self.wrong.len()).unwrap_or(u16::MAX)
    }

    /// Keeps only the first rows.
    pub(super) fn truncate(&mut self, rows: usize) {
        self.rows.truncate(rows);
    }

    pub(super) fn paint(self, area: Rect, buffer: &mut Buffer) {
        let block = Block::new().borders(Borders::TOP).title(Line::from(format!(" {} ", self.title)).bold());
        let widths: Vec<Constraint> = self.widths().map(|width| Constraint::Length(width as u16)).collect();
        let cell = |column: usize, text: String| {
            let line = Line::from(text);
            Cell::from(if self.columns[column].0.starts_with('>') { line.right_aligned() } else { line })
        };
        let headings = self.columns.iter().enumerate();
        let header = Row::new(
            headings.map(|(column, (heading, _))| cell(column, heading.trim_start_matches('>').to_owned())),
        );
        let rows = self
            .rows
            .into_iter()
            .map(|row| Row::new(row.into_iter().enumerate().map(|(column, text)| cell(column, text))));
        let [table_area, wrong_area] = split_bottom(area, self.wrong.len() as u16);
        let table =
            Table::new(rows, widths).header(header.style(Style::new().fg(Color::DarkGray))).block(block);
        Widget::render(table.column_spacing(COLUMN_SPACING), table_area, buffer);
        let lines: Vec<Line<'_>> =
            self.wrong.into_iter().map(|text| Line::from(text).fg(Color::Red)).collect();
        Paragraph::new(lines).render(wrong_area, buffer);
    }
}

/// The area without its last lines, and those lines.
pub(super) fn split_bottom(area: Rect, lines: u16) -> [Rect; 2] {
    let lines = lines.min(area.height);
    let rest = area.height - lines;
    [Rect { height: rest, ..area }, Rect { y: area.y + rest, height: lines, ..area }]
}

/// As many of these parts as fit, from the first, with commas between them.
pub(super) fn join_within(parts: &[String], columns: usize) -> String {
    let mut text = String::new();
    for part in parts {
        let separator = if text.is_empty() { "" } else { ", " };
        if !text.is_empty() && width(&text) + width(separator) + width(part) > columns {
            break;
        }
        text.push_str(separator);
        text.push_str(part);
    }
    text
}
