//! Reports that a test cannot run in full because something in its environment is missing: a
//! program, a permission, `io_uring`. The report goes to standard error, where `cargo test` does
//! not hide it. If the variable `CI` is set, and is not empty, `0` or `false`, the test fails
//! instead: nothing may be missing there. Compiled for tests only.

use std::io::Write;

/// Reports that a test does less than its name promises, and why.
///
/// # Panics
/// If `CI` is set.
pub fn say(test: &str, what: &str) {
    assert!(!is_failure(std::env::var("CI").ok().as_deref()), "{test}: {what}; this fails because CI is set");
    // `eprintln!` would be hidden, because the test passes.
    let _ = writeln!(std::io::stderr(), "NOT TESTED: {test}: {what}");
}

/// Whether a missing thing is a failure, by the value of `CI`.
fn is_failure(ci: Option<&str>) -> bool {
    ci.is_some_and(|value| !["", "0", "false"].contains(&value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_a_failure_only_under_ci() {
        assert!([None, Some(""), Some("0"), Some("false")].into_iter().all(|ci| !is_failure(ci)));
        assert!(["1", "true", "yes"].into_iter().all(|ci| is_failure(Some(ci))));
    }
}
