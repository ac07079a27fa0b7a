//! The live view: takes a sample, draws it, waits for a key or for the next sample. It restores the
//! terminal however it ends.

use std::io;
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::draw::Picture;
use super::figures::Figures;
use super::history::History;
use super::sample::{Sample, SampleError};

/// How many volumes a page scrolls.
const PAGE: usize = 10;

/// What a key requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// Nothing: the key has no function here.
    None,
    /// The view shows other volumes, or the terminal has another size.
    Redraw,
    /// The end.
    Quit,
}

/// The state of the view that keys change.
#[derive(Debug, Clone, Copy, Default)]
struct View {
    /// How many volumes are scrolled out of view at the top.
    skipped_volumes: usize,
    /// Whether the help is shown.
    help: bool,
}

/// The terminal in drawing mode; dropping this restores it. A panic restores it too.
struct Terminal(ratatui::DefaultTerminal);

impl Drop for Terminal {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Watches until the user quits. A sample that fails is shown and tried again.
///
/// # Errors
/// The terminal's.
pub(super) fn watch(
    mut look: impl FnMut() -> Result<Sample, SampleError>,
    first: Sample,
    interval: Duration,
) -> io::Result<()> {
    let mut terminal = Terminal(ratatui::try_init()?);
    let (mut before, mut now, mut problem) = (None, first, None);
    let (mut view, mut history) = (View::default(), History::default());
    loop {
        let figures = Figures::new(before.as_ref(), &now);
        if problem.is_none() {
            history.add(&figures);
        }
        let next_look = Instant::now() + interval;
        loop {
            let footer = footer(problem.as_deref(), interval);
            let View { skipped_volumes, help } = view;
            let picture = Picture { figures: &figures, history: &history, help, skipped_volumes, footer };
            terminal.0.draw(|frame| picture.paint(frame.area(), frame.buffer_mut()))?;
            match wait(next_look, &mut view, figures.volumes.len())? {
                Wish::Quit => return Ok(()),
                Wish::Redraw => {}
                Wish::None => break,
            }
        }
        match look() {
            Ok(sample) => {
                before = Some(std::mem::replace(&mut now, sample));
                problem = None;
            }
            Err(error) => problem = Some(error.to_string()),
        }
    }
}

fn footer(problem: Option<&str>, interval: Duration) -> String {
    match problem {
        Some(problem) => {
            format!("no answer, these figures are old, tried again every {interval:?}: {problem}")
        }
        None => format!("q ends, ? helps, up and down scroll the volumes, every {interval:?}"),
    }
}

/// Waits for a key that requests something; returns none when the next sample is due.
fn wait(until: Instant, view: &mut View, volumes: usize) -> io::Result<Wish> {
    while event::poll(until.saturating_duration_since(Instant::now()))? {
        match wish(&event::read()?, view, volumes) {
            Wish::None => {}
            wish => return Ok(wish),
        }
    }
    Ok(Wish::None)
}

fn wish(event: &Event, view: &mut View, volumes: usize) -> Wish {
    let key = match event {
        Event::Resize(..) => return Wish::Redraw,
        Event::Key(KeyEvent {
            kind: KeyEventKind::Press | KeyEventKind::Repeat, code, modifiers, ..
        }) => (*code, modifiers.contains(KeyModifiers::CONTROL)),
        _ => return Wish::None,
    };
    let last = volumes.saturating_sub(1);
    let skipped_volumes = view.skipped_volumes;
    view.skipped_volumes = match key {
        (KeyCode::Char('?' | 'h'), false) => {
            view.help = !view.help;
            return Wish::Redraw;
        }
        (KeyCode::Char('q') | KeyCode::Esc, false) | (KeyCode::Char('c' | 'd'), true) => return Wish::Quit,
        (KeyCode::Up | KeyCode::Char('k'), _) => skipped_volumes.saturating_sub(1),
        (KeyCode::PageUp, _) => skipped_volumes.saturating_sub(PAGE),
        (KeyCode::Down | KeyCode::Char('j'), _) => (skipped_volumes + 1).min(last),
        (KeyCode::PageDown, _) => (skipped_volumes + PAGE).min(last),
        (KeyCode::Home, _) => 0,
        (KeyCode::End, _) => last,
        _ => return Wish::None,
    };
    Wish::Redraw
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_scroll_and_end() {
        let mut view = View::default();
        let mut press = |code, modifiers| wish(&Event::Key(KeyEvent::new(code, modifiers)), &mut view, 12);
        let none = KeyModifiers::NONE;
        assert_eq!(press(KeyCode::Char('q'), none), Wish::Quit);
        assert_eq!(press(KeyCode::Char('c'), KeyModifiers::CONTROL), Wish::Quit);
        assert_eq!(press(KeyCode::Char('c'), none), Wish::None);
        assert_eq!(press(KeyCode::PageDown, none), Wish::Redraw);
        assert_eq!(press(KeyCode::PageDown, none), Wish::Redraw);
        assert_eq!(view.skipped_volumes, 11, "the last one stays in sight");
        let mut press = |code| wish(&Event::Key(KeyEvent::new(code, none)), &mut view, 12);
        press(KeyCode::Up);
        press(KeyCode::Home);
        press(KeyCode::Up);
        press(KeyCode::Down);
        assert_eq!(view.skipped_volumes, 1);
        assert_eq!(wish(&Event::Resize(80, 24), &mut view, 12), Wish::Redraw);
    }

    #[test]
    fn a_question_mark_shows_the_help_and_hides_it() {
        let mut view = View { skipped_volumes: 3, help: false };
        let question = Event::Key(KeyEvent::new(KeyCode::Char('?'), KeyModifiers::NONE));
        for help in [true, false] {
            assert_eq!(wish(&question, &mut view, 12), Wish::Redraw);
            assert_eq!((view.help, view.skipped_volumes), (help, 3));
        }
    }

    #[test]
    fn a_failure_is_in_the_last_line() {
        assert!(footer(None, Duration::from_secs(2)).contains("q ends"));
        assert!(footer(None, Duration::from_secs(2)).contains("? helps"));
        assert!(footer(Some("gone"), Duration::from_secs(2)).ends_with("every 2s: gone"));
    }
}
