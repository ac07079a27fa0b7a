//! The wire format of a histogram: the answer of `bdev_get_histogram`, which SPDK's `histogram.py`
//! reads.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::histogram::{GRANULARITY, Histogram, RANGE_MAX};

/// Ticks are nanoseconds.
const TICKS_PER_SECOND: u64 = 1_000_000_000;

/// The answer of `bdev_get_histogram`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistogramReport {
    /// The counts of all buckets, 64 bits each, little-endian, in base64.
    pub histogram: String,
    /// Each range has `2^granularity` buckets.
    pub granularity: u32,
    /// The first range.
    pub min_range: u32,
    /// The last range.
    pub max_range: u32,
    /// The same value as `granularity`, under the name that SPDK used before histograms had a first
    /// and a last range.
    pub bucket_shift: u32,
    /// Ticks in a second: the buckets count ticks.
    pub tsc_rate: u64,
}

/// Why a report cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HistogramError {
    /// Its buckets are not those of this version.
    #[error("the histogram is of another shape than this version of varve knows; use that of the appliance")]
    Shape,
    /// It is not base64.
    #[error("the histogram's buckets cannot be read: {0}")]
    Base64(#[from] base64::DecodeError),
}

impl HistogramReport {
    /// Builds the report of a histogram of nanoseconds.
    pub fn new(histogram: &Histogram) -> Self {
        HistogramReport {
            histogram: STANDARD.encode(histogram.to_bytes()),
            granularity: GRANULARITY,
            min_range: 0,
            max_range: RANGE_MAX,
            bucket_shift: GRANULARITY,
            tsc_rate: TICKS_PER_SECOND,
        }
    }

    /// Decodes the histogram, in nanoseconds.
    ///
    /// # Errors
    /// It is not one that [`new`](Self::new) makes.
    pub fn read(&self) -> Result<Histogram, HistogramError> {
        let is_known = self.granularity == GRANULARITY
            && (self.min_range, self.max_range) == (0, RANGE_MAX)
            && self.tsc_rate == TICKS_PER_SECOND;
        if !is_known {
            return Err(HistogramError::Shape);
        }
        Histogram::from_bytes(&STANDARD.decode(&self.histogram)?).ok_or(HistogramError::Shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read_back() {
        let mut histogram = Histogram::default();
        histogram.record(12_345);
        let report = HistogramReport::new(&histogram);
        let json = serde_json::to_value(&report).expect("plain data");
        assert_eq!(
            (json["bucket_shift"].as_u64(), json["tsc_rate"].as_u64()),
            (Some(7), Some(1_000_000_000))
        );
        assert_eq!((json["min_range"].as_u64(), json["max_range"].as_u64()), (Some(0), Some(57)));
        assert_eq!(report.read().expect("of this version"), histogram);
        let other = HistogramReport { max_range: 20, ..report.clone() };
        assert!(matches!(other.read(), Err(HistogramError::Shape)));
        let torn = HistogramReport { histogram: report.histogram[..100].to_owned(), ..report.clone() };
        assert!(matches!(torn.read(), Err(HistogramError::Shape)));
        let garbage = HistogramReport { histogram: "!".to_owned(), ..report };
        assert!(matches!(garbage.read(), Err(HistogramError::Base64(_))));
    }
}
