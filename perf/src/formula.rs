//! The write amplification that theory predicts under uniform overwrites, and its upper bound.
//!
//! The log is a queue of `1 + OP` blocks for each live block. A block that survives the queue
//! (share `u`) is appended again, so `1 - u` of all appended blocks are hosts' writes. A block
//! survives a passage if none of the `(1 - u)(1 + OP)` overwrites for each live block hit it: `u =
//! exp(-(1 - u)(1 + OP))`.

/// How often the interval is halved: more often than the precision of an `f64` requires.
const HALVINGS: u32 = 64;

/// Write amplification under uniform overwrites, `1 / (1 - u)`; infinite without spare blocks. `op`
/// is spare over live blocks.
pub fn uniform(op: f64) -> f64 {
    if op <= 0.0 {
        return f64::INFINITY;
    }
    // u = 1 is always a solution; the solution below it is wanted. The difference is convex,
    // negative below 1 and positive at 0, so bisection finds it.
    let difference = |u: f64| (-(1.0 - u) * (1.0 + op)).exp() - u;
    let (mut low, mut high) = (0.0, 1.0 - (op / (1.0 + op)).min(1e-9));
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(low, high);
        if difference(middle) > 0.0 {
            low = middle;
        } else {
            high = middle;
        }
    }
    1.0 / (1.0 - f64::midpoint(low, high))
}

/// The bound for any load: every live block is copied in each passage of the working set. Infinite
/// without spare blocks.
pub fn bound(op: f64) -> f64 {
    if op <= 0.0 { f64::INFINITY } else { (1.0 + op) / op }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Figures that are known from the literature.
    #[test]
    fn the_formula_gives_the_figures_of_the_design() {
        for (op, expected) in [(0.10, 5.68), (0.20, 3.19), (0.28, 2.48), (0.50, 1.72), (1.0, 1.26)] {
            let found = uniform(op);
            assert!((found - expected).abs() < 0.01, "OP {op}: {found}, not {expected}");
        }
    }

    #[test]
    fn what_it_gives_solves_it_and_stays_below_the_bound() {
        for op in [0.01, 0.03, 0.1, 0.28, 1.0, 5.0] {
            let amplification = uniform(op);
            let u = 1.0 - 1.0 / amplification;
            assert!(((-(1.0 - u) * (1.0 + op)).exp() - u).abs() < 1e-9, "OP {op}: u {u}");
            assert!(amplification > 1.0 && amplification < bound(op), "OP {op}: {amplification}");
        }
        assert!((bound(0.25) - 5.0).abs() < 1e-12);
        assert!(uniform(0.0).is_infinite() && bound(-1.0).is_infinite());
    }
}
