//! Draws the picture: figures as sections of text, on a terminal or on a sheet as large as they
//! need.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Paragraph, Widget};

use super::super::cells::size;
use super::super::render_archive::seconds;
use super::super::render_latency::span;
use super::figures::{ArchiveFigures, Figures, PoolFigures, ReactorFigures, VolumeFigures};
use super::history::History;
use super::section::{Column, Section, join_within, split_bottom};
use crate::text::table::width;
use crate::volume::VolumeState;

/// The width of the sheet if the picture is not printed to a terminal.
pub(super) const SHEET_WIDTH: u16 = 160;
/// The width of a bar.
const BAR_WIDTH: usize = 10;
/// The most terminal lines for connections while there are more volumes than fit.
const CONNECTION_LINES: u16 = 6;

/// The indexes in [`Picture::sections`] of the sections that may be cut.
const VOLUMES: usize = 3;
const CONNECTIONS: usize = 4;

/// What the keys do and the figures mean.
const HELP: &str = "\
q, Esc, Ctrl-C    end
?                 show or hide this help
up, down, k, j    scroll the volumes; Page Up, Page Down, Home, End too

Columns that do not fit are left out. Rates are over the time between two samples.

Reactors     BUSY: share of time with work.  TURNS/S: rounds through its work.
             LONG TURNS: those of 1 ms and more since start; hosts wait meanwhile.
Pool         USED: capacity that is taken.  LOG: device space that the log uses.
             W: working set in segments.  IN USE, FREE: segments.
             WA: written to the log for each byte of hosts since start; WA NOW: at present.
Archive      BEHIND: age of what a loss of the primary would lose.
             HELD BACK: share of time for which writes wait for the archive.
             ABLE TO: throughput of the archivist.  RATIO: compression.
Volumes      MEAN, P99: latency where it is measured (varve volume histogram NAME --enable).
             The charts show the last samples, newest to the right: busy to 100 %,
             operations to the most that was seen.
Connections  hosts; data: memory for what they send and receive.";

/// What is drawn.
pub(super) struct Picture<'a> {
    pub(super) figures: &'a Figures,
    /// Earlier figures, for the small charts.
    pub(super) history: &'a History,
    /// Whether the help is shown instead of the figures.
    pub(super) help: bool,
    /// How many volumes are scrolled out of view at the top.
    pub(super) skipped_volumes: usize,
    /// The last line; empty: none.
    pub(super) footer: String,
}

impl Picture<'_> {
    /// How many lines the whole picture needs at this width.
    fn lines(&self, columns: u16) -> u16 {
        let sections = self.sections(usize::MAX, columns);
        let sum = sections.iter().fold(1_u16, |sum, section| sum.saturating_add(section.lines()));
        sum.saturating_add(u16::from(!self.footer.is_empty()))
    }

    /// Draws it into `area`, as much as fits.
    pub(super) fn paint(&self, area: Rect, buffer: &mut Buffer) {
        let [area, footer] = split_bottom(area, u16::from(!self.footer.is_empty()));
        let words: Vec<String> = self.footer.split(", ").map(str::to_owned).collect();
        Line::from(join_within(&words, usize::from(area.width))).fg(Color::DarkGray).render(footer, buffer);
        let header = Rect { height: area.height.min(1), ..area };
        Line::from(self.header(area.width)).bold().render(header, buffer);
        let mut rest = Rect { y: area.y + header.height, height: area.height - header.height, ..area };
        if self.help {
            Paragraph::new(HELP).render(rest, buffer);
            return;
        }
        let needed = self.lines(area.width).saturating_sub(1 + footer.height);
        let mut sections = self.sections(usize::MAX, area.width);
        // Lines that do not fit are cut from the connections first, down to [`CONNECTION_LINES`],
        // then from the volumes.
        let mut missing = needed.saturating_sub(rest.height);
        if missing > 0 {
            let volumes = sections[VOLUMES].lines();
            let connections = sections[CONNECTIONS].lines();
            let from_connections = missing.min(connections.saturating_sub(CONNECTION_LINES));
            missing -= from_connections;
            let shown = usize::from(volumes.saturating_sub(missing).saturating_sub(2));
            sections[VOLUMES] = self.volumes(shown, area.width);
            let hosts = usize::from((connections - from_connections).saturating_sub(2));
            sections[CONNECTIONS].truncate(hosts);
        }
        for section in sections {
            let height = section.lines().min(rest.height);
            section.paint(Rect { height, ..rest }, buffer);
            rest = Rect { y: rest.y + height, height: rest.height - height, ..rest };
        }
    }

    /// The picture as lines of text at this width, with room for all rows.
    pub(super) fn text(&self, columns: u16) -> String {
        let mut sheet = Buffer::empty(Rect::new(0, 0, columns, self.lines(columns)));
        self.paint(sheet.area, &mut sheet);
        let lines = sheet.content.chunks(usize::from(columns));
        let mut text = String::new();
        for cells in lines {
            let mut line = String::new();
            let mut column = 0;
            // A wide character also occupies the next cell.
            while let Some(cell) = cells.get(column) {
                line.push_str(cell.symbol());
                column += width(cell.symbol()).max(1);
            }
            // The rules of headings need not reach the edge of a sheet that is not shown as such.
            text.push_str(line.trim_end_matches(['─', ' ']));
            text.push('\n');
        }
        text
    }

    fn header(&self, columns: u16) -> String {
        let figures = self.figures;
        let over = if figures.seconds > 0.0 {
            format!("rates over {:.1} s", figures.seconds)
        } else {
            "rates come with the next sample".to_owned()
        };
        let whole = format!("{}  {over}", figures.version);
        if width(&whole) <= usize::from(columns) { whole } else { figures.version.clone() }
    }

    /// The sections from top to bottom, with at most this many volumes.
    fn sections(&self, volumes_shown: usize, columns: u16) -> Vec<Section> {
        let figures = self.figures;
        vec![
            self.reactors(columns),
            pools(&figures.pools, columns),
            archive(figures.archive.as_ref(), columns),
            self.volumes(volumes_shown, columns),
            self.connections(columns),
        ]
    }

    fn reactors(&self, columns: u16) -> Section {
        let rows = self.figures.reactors.iter().map(|figures| {
            let mut row = reactor(figures);
            row.push(self.history.busy_chart(&figures.name));
            row
        });
        let headings: [Column; 10] = [
            ("NAME", 0),
            (">CORE", 4),
            (">BUSY", 0),
            ("", 6),
            (">TURNS/S", 3),
            (">SLEEPS/S", 5),
            (">MEAN TURN", 2),
            (">P99 TURN", 1),
            (">LONG TURNS", 2),
            ("", 9),
        ];
        Section::new(&["Reactors".to_owned()], &headings, rows.collect(), std::iter::empty(), columns)
    }

    fn volumes(&self, shown: usize, columns: u16) -> Section {
        let volumes = &self.figures.volumes;
        let skipped = self.skipped_volumes.min(volumes.len().saturating_sub(shown.max(1)));
        let shown = volumes.iter().skip(skipped).take(shown).map(|figures| {
            let mut row = volume(figures);
            row.push(self.history.operations_chart(&figures.name));
            row
        });
        let rows: Vec<Vec<String>> = shown.collect();
        let title = if rows.is_empty() && !volumes.is_empty() {
            format!("Volumes: {}, for which there is no room", volumes.len())
        } else if rows.len() < volumes.len() {
            format!("Volumes {} to {} of {}", skipped + 1, skipped + rows.len(), volumes.len())
        } else {
            "Volumes".to_owned()
        };
        let headings: [Column; 12] = [
            ("NAME", 0),
            (">SIZE", 4),
            (">MAPPED", 5),
            ("STATE", 2),
            (">READS/S", 0),
            (">WRITES/S", 0),
            (">READ", 1),
            (">WRITTEN", 1),
            (">MEAN", 3),
            (">P99", 2),
            (">ERRORS", 3),
            ("", 9),
        ];
        Section::new(&[title], &headings, rows, std::iter::empty(), columns)
    }

    fn connections(&self, columns: u16) -> Section {
        let target = &self.figures.target;
        let title = [
            format!("Connections: {} controllers", target.controllers),
            format!("{} I/O queues", target.io_queues),
            format!("{} commands under way", target.under_way),
            format!("{} commands/s", count(target.commands_per_s)),
            format!(
                "data {} of {} ({} wait)",
                size(target.host_memory_bytes),
                size(target.host_memory_bytes_max),
                target.waiting_for_memory
            ),
        ];
        let rows = self.figures.connections.iter().map(|connection| {
            vec![
                connection.volume.clone(),
                connection.controller_id.to_string(),
                connection.io_queues.to_string(),
                connection.address.clone(),
                connection.host.clone(),
            ]
        });
        let headings: [Column; 5] =
            [("VOLUME", 0), (">CONTROLLER", 3), (">I/O QUEUES", 2), ("ADDRESS", 0), ("HOST", 1)];
        Section::new(&title, &headings, rows.collect(), std::iter::empty(), columns)
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

/// As [`part`], but never more than the whole: beyond it the log uses what is kept for the pool's
/// own records.
fn part_of_log(used_bytes: u64, whole_bytes: u64) -> String {
    if used_bytes <= whole_bytes || whole_bytes == 0 {
        return part(used_bytes, whole_bytes);
    }
    format!("{} of {} (100 %, and reserve)", size(used_bytes), size(whole_bytes))
}

fn reactor(reactor: &ReactorFigures) -> Vec<String> {
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
}

fn pools(pools: &[PoolFigures], columns: u16) -> Section {
    let rows = pools.iter().map(|pool| {
        let now = pool.write_amplification_now.map_or_else(|| "-".to_owned(), |now| format!("{now:.2}"));
        vec![
            pool.state.clone(),
            part(pool.taken_bytes, pool.capacity_bytes),
            part_of_log(pool.log_used_bytes, pool.log_capacity_bytes),
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
    let headings: [Column; 11] = [
        ("STATE", 0),
        ("USED", 0),
        ("LOG", 4),
        (">W", 5),
        (">IN USE", 6),
        (">FREE", 3),
        (">WA", 2),
        (">WA NOW", 2),
        (">WRITTEN", 1),
        (">TO DEVICE", 3),
        ("DEVICE", 8),
    ];
    let wrong =
        pools.iter().flat_map(|pool| pool.problems.iter().map(|problem| format!("problem: {problem}")));
    Section::new(&["Pool".to_owned()], &headings, rows.collect(), wrong, columns)
}

fn archive(archive: Option<&ArchiveFigures>, columns: u16) -> Section {
    let headings: [Column; 10] = [
        ("STATE", 0),
        (">BACKLOG", 1),
        (">SEGMENTS", 5),
        (">BEHIND", 0),
        (">HELD BACK", 2),
        (">ARCHIVED", 3),
        (">ABLE TO", 7),
        (">RATIO", 6),
        (">FAILURES", 4),
        ("STORE", 8),
    ];
    let Some(archive) = archive else {
        let title = ["Archive: none", "the past is kept as far as the pool reaches"].map(str::to_owned);
        return Section::new(&title, &[], Vec::new(), std::iter::empty(), columns);
    };
    let able = archive.throughput_bytes_per_s;
    let row = vec![
        archive.state.clone(),
        size(archive.backlog_bytes),
        archive.backlog_segments.to_string(),
        seconds(archive.recovery_point_age_s),
        // Milliseconds per second are tenths of a percent.
        format!("{:.0} %", archive.throttled_ms_per_s / 10.0),
        bytes_rate(archive.archived_bytes_per_s),
        dash_if_zero(able, bytes_rate(Some(able))),
        dash_if_zero(archive.compression_ratio, format!("{:.2}", archive.compression_ratio)),
        archive.failures.to_string(),
        archive.store.clone(),
    ];
    let wrong = archive.problem.iter().map(|problem| format!("problem: {problem}"));
    Section::new(&["Archive".to_owned()], &headings, vec![row], wrong, columns)
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
