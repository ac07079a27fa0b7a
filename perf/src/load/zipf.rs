//! Block numbers by Zipf's law: the k-th most popular of n numbers is drawn with a probability
//! proportional to k to the power of minus theta.
//!
//! Numbers are drawn by rejection-inversion (Hörmann and Derflinger 1996), which needs no table, so
//! n may have any size; it takes fewer than 1.2 tries per number on average. The ranks are
//! scattered over the range, because popular blocks are not adjacent on a real volume.

use crate::rng::Rng;

/// The thetas that can be requested.
pub const THETA_RANGE: std::ops::RangeInclusive<f64> = 0.01..=10.0;
/// 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A distribution of numbers below a bound.
#[derive(Debug, Clone)]
pub struct Zipf {
    len: u64,
    theta: f64,
    integral_first: f64,
    integral_last: f64,
    shortcut: f64,
    /// Coprime with `len`, so that multiplying modulo `len` maps each rank to a different place.
    stride: u64,
}

impl Zipf {
    /// Numbers below `len` (at least 1); `theta` is clamped to [`THETA_RANGE`].
    pub fn new(len: u64, theta: f64) -> Self {
        let (len, theta) = (len.max(1), theta.clamp(*THETA_RANGE.start(), *THETA_RANGE.end()));
        let mut stride = ((u128::from(GOLDEN) * u128::from(len)) >> 64) as u64 | 1;
        while greatest_common_divisor(stride, len) != 1 {
            stride += 2;
        }
        let mut zipf = Zipf { len, theta, integral_first: 0.0, integral_last: 0.0, shortcut: 0.0, stride };
        zipf.integral_first = zipf.integral(1.5) - 1.0;
        zipf.integral_last = zipf.integral(len as f64 + 0.5);
        zipf.shortcut = 2.0 - zipf.integral_inverse(zipf.integral(2.5) - zipf.density(2.0));
        zipf
    }

    /// The integral of [`density`](Self::density), up to a constant.
    fn integral(&self, x: f64) -> f64 {
        let log = x.ln();
        power_part((1.0 - self.theta) * log) * log
    }

    fn density(&self, x: f64) -> f64 {
        (-self.theta * x.ln()).exp()
    }

    fn integral_inverse(&self, y: f64) -> f64 {
        let t = (y * (1.0 - self.theta)).max(-1.0);
        (logarithm_part(t) * y).exp()
    }

    /// A rank, from 0 (the most popular).
    pub(crate) fn rank(&self, rng: &mut Rng) -> u64 {
        loop {
            let share = (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
            let y = self.integral_last + share * (self.integral_first - self.integral_last);
            let x = self.integral_inverse(y);
            let k = x.round().clamp(1.0, self.len as f64);
            if k - x <= self.shortcut || y >= self.integral(k + 0.5) - self.density(k) {
                return k as u64 - 1;
            }
        }
    }

    /// The number that a rank maps to.
    pub fn place(&self, rank: u64) -> u64 {
        (u128::from(rank) * u128::from(self.stride) % u128::from(self.len)) as u64
    }

    /// A number below the bound.
    pub(crate) fn next_number(&self, rng: &mut Rng) -> u64 {
        let rank = self.rank(rng);
        self.place(rank)
    }
}

/// `(exp(x) - 1) / x`, also near 0.
fn power_part(x: f64) -> f64 {
    if x.abs() > 1e-8 { x.exp_m1() / x } else { 1.0 + x * 0.5 * (1.0 + x / 3.0) }
}

/// `ln(1 + x) / x`, also near 0.
fn logarithm_part(x: f64) -> f64 {
    if x.abs() > 1e-8 { x.ln_1p() / x } else { 1.0 - x * (0.5 - x / 3.0) }
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_come_as_often_as_the_law_says() {
        const DRAWS: u64 = 400_000;
        for theta in [0.5, 0.99, 1.0, 1.2, 2.0] {
            let zipf = Zipf::new(1000, theta);
            let mut rng = Rng::new(5);
            let mut counts = vec![0_u64; 1000];
            for _ in 0..DRAWS {
                counts[zipf.rank(&mut rng) as usize] += 1;
            }
            let sum: f64 = (1..=1000).map(|k| f64::from(k).powf(-theta)).sum();
            for rank in [0, 1, 2, 9, 99] {
                let expected = ((rank + 1) as f64).powf(-theta) / sum * DRAWS as f64;
                let tolerance = 6.0 * expected.sqrt() + 1.0;
                let found = counts[rank] as f64;
                assert!(
                    (found - expected).abs() < tolerance,
                    "theta {theta}, rank {rank}: {found}, not {expected}"
                );
            }
        }
    }

    #[test]
    fn every_rank_has_a_place_of_its_own_and_neighbours_are_apart() {
        for len in [1, 2, 10, 1000, 1024, 99_991] {
            let zipf = Zipf::new(len, 1.0);
            let mut places: Vec<u64> = (0..len).map(|rank| zipf.place(rank)).collect();
            if len > 100 {
                assert!(places[1].abs_diff(places[2]) > len / 10, "{len}");
            }
            places.sort_unstable();
            assert!(places.iter().copied().eq(0..len), "{len}");
        }
    }

    #[test]
    fn the_largest_volumes_are_drawn_from_without_a_table() {
        let zipf = Zipf::new(1 << 40, 0.99);
        let mut rng = Rng::new(1);
        assert!((0..10_000).all(|_| zipf.next_number(&mut rng) < 1 << 40));
    }
}
