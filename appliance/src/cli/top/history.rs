//! Keeps the figures of the last samples, for the small charts of the live view.
//!
//! **Bounds:** [`SAMPLES`] values for each reactor and volume of the newest sample. Reactors and
//! volumes that are no longer in it are dropped.

use std::collections::{BTreeMap, VecDeque};

use super::figures::Figures;

/// Samples that are kept, one character of the chart each.
pub(super) const SAMPLES: usize = 30;

/// Characters from the lowest to the highest.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Values of one reactor or volume, oldest first.
type Series = VecDeque<f64>;

/// The values so far.
#[derive(Debug, Default)]
pub(super) struct History {
    /// How busy each reactor was, in percent, by its name.
    busy: BTreeMap<String, Series>,
    /// Operations per second of each volume, by its name.
    operations: BTreeMap<String, Series>,
}

impl History {
    /// Adds the figures of one more sample; figures without rates are skipped.
    pub(super) fn add(&mut self, figures: &Figures) {
        let busy = figures.reactors.iter().map(|reactor| (&reactor.name, reactor.busy_percent));
        let operations = figures.volumes.iter().map(|volume| {
            (&volume.name, volume.reads_per_s.zip(volume.writes_per_s).map(|(reads, writes)| reads + writes))
        });
        note(&mut self.busy, busy.collect());
        note(&mut self.operations, operations.collect());
    }

    /// A reactor's chart, up to 100 %.
    pub(super) fn busy_chart(&self, reactor: &str) -> String {
        chart(self.busy.get(reactor), Some(100.0))
    }

    /// A volume's chart, scaled to its greatest value.
    pub(super) fn operations_chart(&self, volume: &str) -> String {
        chart(self.operations.get(volume), None)
    }
}

fn note(series: &mut BTreeMap<String, Series>, values: Vec<(&String, Option<f64>)>) {
    series.retain(|name, _| values.iter().any(|(other, _)| *other == name));
    for (name, value) in values {
        let Some(value) = value else { continue };
        let series = series.entry(name.clone()).or_default();
        if series.len() == SAMPLES {
            series.pop_front();
        }
        series.push_back(value);
    }
}

/// A bar for each value, from 0 to `most`, or to the greatest value.
fn chart(series: Option<&Series>, most: Option<f64>) -> String {
    let Some(series) = series else { return String::new() };
    let most = most.unwrap_or_else(|| series.iter().copied().fold(0.0, f64::max));
    let bar = |value: &f64| {
        let share = if most > 0.0 { (value / most).clamp(0.0, 1.0) } else { 0.0 };
        // Any value above zero gets a visible bar.
        BARS[(share * (BARS.len() - 1) as f64).ceil() as usize]
    };
    series.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charts_reach_from_nothing_to_the_most() {
        let series: Series = [0.0, 1.0, 50.0, 100.0].into();
        assert_eq!(chart(Some(&series), None), "▁▂▅█");
        assert_eq!(chart(Some(&series), Some(200.0)), "▁▂▃▅");
        assert_eq!(chart(Some(&[0.0].into()), None), "▁");
        assert_eq!(chart(None, None), "");
    }

    #[test]
    fn the_oldest_values_and_what_is_gone_are_forgotten() {
        let mut series = BTreeMap::new();
        let (a, b) = ("a".to_owned(), "b".to_owned());
        for value in 0..SAMPLES + 5 {
            note(&mut series, vec![(&a, Some(value as f64)), (&b, None)]);
        }
        assert_eq!((series[&a].len(), series[&a][0]), (SAMPLES, 5.0));
        assert!(!series.contains_key(&b), "no rate is no value");
        note(&mut series, vec![(&b, Some(1.0))]);
        assert_eq!(series.keys().collect::<Vec<_>>(), [&b]);
    }
}
