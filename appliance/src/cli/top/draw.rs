//! The picture: figures as sections of text on a terminal, or on a sheet as large as they need.

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Table, Widget};

use super::super::cells::size;
use super::super::render_archive::seconds;
use super::super::render_latency::span;
use super::figures::{ArchiveFigures, Figures, PoolFigures, ReactorFigures, VolumeFigures};
use crate::volume::VolumeState;

/// The width of the sheet, in characters, for a picture that is printed.
const SHEET_WIDTH: u16 = 160;
/// The width of a bar.
const BAR_WIDTH: usize = 10;
/// Lines of the terminal that the connections have at most while there are more volumes than fit.
const CONNECTION_LINES: u16 = 6;

/// The places of sections that may be cut, among [`Picture::sections`].
const VOLUMES: usize = 3;
const CONNECTIONS: usize = 4;

/// What is drawn.
pub(super) struct Picture<'a> {
    pub(super) figures: &'a Figures,
    /// Volumes that are scrolled out of sight.
    pub(super) skipped_volumes: usize,
    /// The last line; empty: there is none.
    pub(super) footer: String,
}

/// A heading line, column headings, rows, and lines about what is wrong.
struct Section {
    title: String,
    /// As for [`super::crate::text::table::Table`]: `>` aligns to the right.
    headings: &'static [&'static str],
    rows: Vec<Vec<String>>,
    wrong: Vec<String>,
}

impl Section {
    fn lines(&self) -> u16 {
        // An empty table shows that it is empty, beneath its headings.
        let table = if self.headings.is_empty() { 0 } else { 1 + self.rows.len().max(1) };
        u16::try_from(1 + table + self.wrong.len()).unwrap_or(u16::MAX)
    }

    fn paint(self, area: Rect, buffer: &mut Buffer) {
        let block = Block::new().borders(Borders::TOP).title(Line::from(format!(" {} ", self.title)).bold());
        let widths = self.headings.iter().enumerate().map(|(column, heading)| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.chain([heading.trim_start_matches('>').chars().count()]).max().unwrap_or(0)
        });
        let widths: Vec<Constraint> = widths.map(|width| Constraint::Length(width as u16)).collect();
        let cell = |column: usize, text: String| {
            let line = Line::from(text);
            Cell::from(if self.headings[column].starts_with('>') { line.right_aligned() } else { line })
        };
        let headings = self.headings.iter().enumerate();
        let header = Row::new(
            headings.map(|(column, heading)| cell(column, heading.trim_start_matches('>').to_owned())),
        );
        let rows = self
            .rows
            .into_iter()
            .map(|row| Row::new(row.into_iter().enumerate().map(|(column, text)| cell(column, text))));
        let wrong = self.wrong.len() as u16;
        let [table_area, wrong_area] = split_bottom(area, wrong);
        let table =
            Table::new(rows, widths).header(header.style(Style::new().fg(Color::DarkGray))).block(block);
        Widget::render(table.column_spacing(2), table_area, buffer);
        let lines: Vec<Line<'_>> =
            self.wrong.into_iter().map(|text| Line::from(text).fg(Color::Red)).collect();
        Paragraph::new(lines).render(wrong_area, buffer);
    }
}

/// The area without its last lines, and these.
fn split_bottom(area: Rect, lines: u16) -> [Rect; 2] {
    let lines = lines.min(area.height);
    let rest = area.height - lines;
    [Rect { height: rest, ..area }, Rect { y: area.y + rest, height: lines, ..area }]
}

impl Picture<'_> {
    /// The lines that all of it needs.
    fn lines(&self) -> u16 {
        let sections = self.sections(usize::MAX);
        let sum = sections.iter().fold(1_u16, |sum, section| sum.saturating_add(section.lines()));
        sum.saturating_add(u16::from(!self.footer.is_empty()))
    }

    /// Draws it into `area`, as much of it as there is room for.
    pub(super) fn paint(&self, area: Rect, buffer: &mut Buffer) {
        let [area, footer] = split_bottom(area, u16::from(!self.footer.is_empty()));
        Line::from(self.footer.as_str()).fg(Color::DarkGray).render(footer, buffer);
        let header = Rect { height: area.height.min(1), ..area };
        Line::from(self.header()).bold().render(header, buffer);
        let mut rest = Rect { y: area.y + header.height, height: area.height - header.height, ..area };
        let needed = self.lines().saturating_sub(1 + footer.height);
        let mut sections = self.sections(usize::MAX);
        // What does not fit is missing from the volumes first, then from the connections.
        let mut missing = needed.saturating_sub(rest.height);
        if missing > 0 {
            let volumes = sections[VOLUMES].lines();
            let connections = sections[CONNECTIONS].lines();
            let from_connections = missing.min(connections.saturating_sub(CONNECTION_LINES));
            missing -= from_connections;
            let shown = usize::from(volumes.saturating_sub(missing).saturating_sub(2));
            sections[VOLUMES] = self.volumes(shown);
            let hosts = usize::from((connections - from_connections).saturating_sub(2));
            sections[CONNECTIONS].rows.truncate(hosts);
        }
        for section in sections {
            let height = section.lines().min(rest.height);
            section.paint(Rect { height, ..rest }, buffer);
            rest = Rect { y: rest.y + height, height: rest.height - height, ..rest };
        }
    }

    /// The picture as lines of text, with room for everything.
    pub(super) fn text(&self) -> String {
        let mut sheet = Buffer::empty(Rect::new(0, 0, SHEET_WIDTH, self.lines()));
        self.paint(sheet.area, &mut sheet);
        let lines = sheet.content.chunks(usize::from(SHEET_WIDTH));
        let mut text = String::new();
        for line in lines {
            let line: String = line.iter().map(ratatui::buffer::Cell::symbol).collect();
            // The rules of headings need not reach to the edge of a sheet that nobody sees.
            text.push_str(line.trim_end_matches(['─', ' ']));
            text.push('\n');
        }
        text
    }

    fn header(&self) -> String {
        let figures = self.figures;
        let over = if figures.seconds > 0.0 {
            format!("rates over {:.1} s", figures.seconds)
        } else {
            "rates come with the next look".to_owned()
        };
        format!("{}  {over}", figures.version)
    }

    /// From the top down, with so many volumes at most.
    fn sections(&self, volumes_shown: usize) -> Vec<Section> {
        let figures = self.figures;
        vec![
            reactors(&figures.reactors),
            pools(&figures.pools),
            archive(figures.archive.as_ref()),
            self.volumes(volumes_shown),
            self.connections(),
        ]
    }

    fn volumes(&self, shown: usize) -> Section {
        let volumes = &self.figures.volumes;
        let skipped = self.skipped_volumes.min(volumes.len().saturating_sub(shown.max(1)));
        let rows: Vec<Vec<String>> = volumes.iter().skip(skipped).take(shown).map(volume).collect();
        let title = if rows.is_empty() && !volumes.is_empty() {
            format!("Volumes: {}, for which there is no room", volumes.len())
        } else if rows.len() < volumes.len() {
            format!("Volumes {} to {} of {}", skipped + 1, skipped + rows.len(), volumes.len())
        } else {
            "Volumes".to_owned()
        };
        let headings = &[
            "NAME",
            ">SIZE",
            ">MAPPED",
            "STATE",
            ">READS/S",
            ">WRITES/S",
            ">READ",
            ">WRITTEN",
            ">MEAN",
            ">P99",
            ">ERRORS",
        ];
        Section { title, headings, rows, wrong: Vec::new() }
    }

    fn connections(&self) -> Section {
        let target = &self.figures.target;
        let title = format!(
            "Connections: {} controllers, {} I/O queues, {} commands under way, {} commands/s, data {} of {} ({} wait)",
            target.controllers,
            target.io_queues,
            target.under_way,
            count(target.commands_per_s),
            size(target.host_memory_bytes),
            size(target.host_memory_bytes_max),
            target.waiting_for_memory,
        );
        let rows = self.figures.connections.iter().map(|connection| {
            vec![
                connection.volume.clone(),
                connection.controller_id.to_string(),
                connection.io_queues.to_string(),
                connection.address.clone(),
                connection.host.clone(),
            ]
        });
        let headings = &["VOLUME", ">CONTROLLER", ">I/O QUEUES", "ADDRESS", "HOST"];
        Section { title, headings, rows: rows.collect(), wrong: Vec::new() }
    }
}

fn count(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"))
}

fn bytes_rate(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{}/s", size(value as u64)))
}

fn dash_if_zero(value: f64, text: String) -> String {
    if value == 0.0 { "-".to_owned() } else { text }
}

fn part(used_bytes: u64, whole_bytes: u64) -> String {
    if whole_bytes == 0 {
        return "-".to_owned();
    }
    let percent = used_bytes as f64 * 100.0 / whole_bytes as f64;
    format!("{} of {} ({percent:.0} %)", size(used_bytes), size(whole_bytes))
}

fn reactors(reactors: &[ReactorFigures]) -> Section {
    let rows = reactors.iter().map(|reactor| {
        let bar = reactor.busy_percent.map_or_else(String::new, |percent| {
            let filled = (percent / 100.0 * BAR_WIDTH as f64).round() as usize;
            format!("{}{}", "#".repeat(filled), ".".repeat(BAR_WIDTH.saturating_sub(filled)))
        });
        vec![
            reactor.name.clone(),
            reactor.core.clone(),
            reactor.busy_percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent:.1} %")),
            bar,
            count(reactor.turns_per_s),
            count(reactor.sleeps_per_s),
            span(reactor.turn_mean_ns),
            span(reactor.turn_p99_ns as f64),
            reactor.long_turns.to_string(),
        ]
    });
    let headings =
        &["NAME", ">CORE", ">BUSY", "", ">TURNS/S", ">SLEEPS/S", ">MEAN TURN", ">P99 TURN", ">LONG TURNS"];
    Section { title: "Reactors".to_owned(), headings, rows: rows.collect(), wrong: Vec::new() }
}

fn pools(pools: &[PoolFigures]) -> Section {
    let rows = pools.iter().map(|pool| {
        let now = pool.write_amplification_now.map_or_else(|| "-".to_owned(), |now| format!("{now:.2}"));
        vec![
            pool.state.clone(),
            part(pool.taken_bytes, pool.capacity_bytes),
            part(pool.log_used_bytes, pool.log_capacity_bytes),
            pool.working_set_segments.to_string(),
            pool.segments_in_use.to_string(),
            pool.segments_recycle.to_string(),
            dash_if_zero(pool.write_amplification, format!("{:.2}", pool.write_amplification)),
            now,
            bytes_rate(pool.written_bytes_per_s),
            bytes_rate(pool.device_bytes_per_s),
            pool.device.clone(),
        ]
    });
    let headings = &[
        "STATE",
        "USED",
        "LOG",
        ">W",
        ">IN USE",
        ">FREE",
        ">WA",
        ">WA NOW",
        ">WRITTEN",
        ">TO DEVICE",
        "DEVICE",
    ];
    let wrong =
        pools.iter().flat_map(|pool| pool.problems.iter().map(|problem| format!("problem: {problem}")));
    Section { title: "Pool".to_owned(), headings, rows: rows.collect(), wrong: wrong.collect() }
}

fn archive(archive: Option<&ArchiveFigures>) -> Section {
    let headings = &[
        "STATE",
        ">BACKLOG",
        ">SEGMENTS",
        ">BEHIND",
        ">HELD BACK",
        ">ARCHIVED",
        ">ABLE TO",
        ">RATIO",
        ">FAILURES",
        "STORE",
    ];
    let Some(archive) = archive else {
        return Section {
            title: "Archive: none, the past is kept as far as the pool reaches".to_owned(),
            headings: &[],
            rows: Vec::new(),
            wrong: Vec::new(),
        };
    };
    let able = archive.throughput_bytes_per_s;
    let row = vec![
        archive.state.clone(),
        size(archive.backlog_bytes),
        archive.backlog_segments.to_string(),
        seconds(archive.recovery_point_age_s),
        // Milliseconds of a second are tenths of a percent.
        format!("{:.0} %", archive.throttled_ms_per_s / 10.0),
        bytes_rate(archive.archived_bytes_per_s),
        dash_if_zero(able, bytes_rate(Some(able))),
        dash_if_zero(archive.compression_ratio, format!("{:.2}", archive.compression_ratio)),
        archive.failures.to_string(),
        archive.store.clone(),
    ];
    let wrong = archive.problem.iter().map(|problem| format!("problem: {problem}")).collect();
    Section { title: "Archive".to_owned(), headings, rows: vec![row], wrong }
}

fn volume(volume: &VolumeFigures) -> Vec<String> {
    let state = match volume.state {
        VolumeState::Online => "online",
        VolumeState::Loading => "loading",
        VolumeState::Degraded => "degraded",
    };
    let latency = |value: Option<f64>| match value {
        Some(nanoseconds) => span(nanoseconds),
        None if volume.measured => "-".to_owned(),
        None => "off".to_owned(),
    };
    vec![
        volume.name.clone(),
        size(volume.size_bytes),
        size(volume.mapped_bytes),
        state.to_owned(),
        count(volume.reads_per_s),
        count(volume.writes_per_s),
        bytes_rate(volume.read_bytes_per_s),
        bytes_rate(volume.written_bytes_per_s),
        latency(volume.latency.map(|latency| latency.mean_ns)),
        latency(volume.latency.map(|latency| latency.p99_ns as f64)),
        volume.errors.to_string(),
    ]
}
