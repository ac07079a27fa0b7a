//! The live view: looks, draws, waits for a key or for the next look; gives the terminal back however it ends.

use std::io;
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::draw::Picture;
use super::figures::Figures;
use super::sample::{Sample, SampleError};

/// How many volumes a page scrolls.
const PAGE: usize = 10;

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// Nothing that this view has.
    None,
    /// Another part of the volumes, or another size.
    Redraw,
    /// The end.
    Quit,
}

/// The terminal in the state for drawing; as it was again when this is dropped. A panic restores it too.
struct Terminal(ratatui::DefaultTerminal);

impl Drop for Terminal {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Watches until it is told to end. A look that fails is shown and tried again.
///
/// # Errors
/// The terminal's.
pub(super) fn watch(
    mut look: impl FnMut() -> Result<Sample, SampleError>,
    first: Sample,
    interval: Duration,
) -> io::Result<()> {
    let mut terminal = Terminal(ratatui::try_init()?);
    let (mut before, mut now, mut skipped_volumes, mut problem) = (None, first, 0, None);
    loop {
        let figures = Figures::new(before.as_ref(), &now);
        let next_look = Instant::now() + interval;
        loop {
            let footer = footer(problem.as_deref(), interval);
            let picture = Picture { figures: &figures, skipped_volumes, footer };
            terminal.0.draw(|frame| picture.paint(frame.area(), frame.buffer_mut()))?;
            match wait(next_look, &mut skipped_volumes, figures.volumes.len())? {
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
        None => format!("q ends, up and down scroll the volumes, every {interval:?}"),
    }
}

/// Waits for a wish; none by the time of the next look.
fn wait(until: Instant, skipped_volumes: &mut usize, volumes: usize) -> io::Result<Wish> {
    while event::poll(until.saturating_duration_since(Instant::now()))? {
        match wish(&event::read()?, skipped_volumes, volumes) {
            Wish::None => {}
            wish => return Ok(wish),
        }
    }
    Ok(Wish::None)
}

fn wish(event: &Event, skipped_volumes: &mut usize, volumes: usize) -> Wish {
    let key = match event {
        Event::Resize(..) => return Wish::Redraw,
        Event::Key(KeyEvent {
            kind: KeyEventKind::Press | KeyEventKind::Repeat, code, modifiers, ..
        }) => (*code, modifiers.contains(KeyModifiers::CONTROL)),
        _ => return Wish::None,
    };
    let last = volumes.saturating_sub(1);
    *skipped_volumes = match key {
        (KeyCode::Char('q') | KeyCode::Esc, false) | (KeyCode::Char('c' | 'd'), true) => return Wish::Quit,
        (KeyCode::Up | KeyCode::Char('k'), _) => skipped_volumes.saturating_sub(1),
        (KeyCode::PageUp, _) => skipped_volumes.saturating_sub(PAGE),
        (KeyCode::Down | KeyCode::Char('j'), _) => (*skipped_volumes + 1).min(last),
        (KeyCode::PageDown, _) => (*skipped_volumes + PAGE).min(last),
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
        let mut skipped = 0;
        let mut press = |code, modifiers| wish(&Event::Key(KeyEvent::new(code, modifiers)), &mut skipped, 12);
        let none = KeyModifiers::NONE;
        assert_eq!(press(KeyCode::Char('q'), none), Wish::Quit);
        assert_eq!(press(KeyCode::Char('c'), KeyModifiers::CONTROL), Wish::Quit);
        assert_eq!(press(KeyCode::Char('c'), none), Wish::None);
        assert_eq!(press(KeyCode::PageDown, none), Wish::Redraw);
        assert_eq!(press(KeyCode::PageDown, none), Wish::Redraw);
        assert_eq!(skipped, 11, "the last one stays in sight");
        let mut press = |code| wish(&Event::Key(KeyEvent::new(code, none)), &mut skipped, 12);
        press(KeyCode::Up);
        press(KeyCode::Home);
        press(KeyCode::Up);
        press(KeyCode::Down);
        assert_eq!(skipped, 1);
        assert_eq!(wish(&Event::Resize(80, 24), &mut skipped, 12), Wish::Redraw);
    }

    #[test]
    fn a_failure_is_in_the_last_line() {
        assert!(footer(None, Duration::from_secs(2)).contains("q ends"));
        assert!(footer(Some("gone"), Duration::from_secs(2)).ends_with("every 2s: gone"));
    }
}
