//! The newest 16 problems found in segments since the start, as text. When a segment leaves the
//! table, its problems remain here, because reusing its slot does not repair the device.
//!
//! **Invariant.** Never more than [`KEPT_MAX`] lines.

use std::collections::VecDeque;

/// How many lines are kept.
const KEPT_MAX: usize = 16;

/// The lines. See the module's documentation.
#[derive(Default)]
pub(in crate::log) struct DamageNotes {
    lines: VecDeque<String>,
}

impl DamageNotes {
    /// Adds a line, and drops the oldest if there are too many.
    pub(in crate::log) fn push(&mut self, line: String) {
        if self.lines.len() == KEPT_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
        debug_assert!(self.lines.len() <= KEPT_MAX);
    }

    /// The lines, oldest first.
    pub(in crate::log) fn iter(&self) -> impl Iterator<Item = &String> {
        self.lines.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lines_are_kept() {
        let mut notes = DamageNotes::default();
        for number in 0..20 {
            notes.push(number.to_string());
        }
        let kept: Vec<&str> = notes.iter().map(String::as_str).collect();
        assert_eq!((kept.len(), kept[0], kept[15]), (KEPT_MAX, "4", "19"));
    }
}
