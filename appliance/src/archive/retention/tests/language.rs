//! Tests of the text of the rules, and of the calendar.

use jiff::Timestamp;
use proptest::prelude::*;

use crate::archive::retention::*;

fn ns(time: &str) -> u64 {
    time.parse::<Timestamp>().unwrap().as_nanosecond().try_into().unwrap()
}

fn span(text: &str) -> Span {
    let Ok(rules) = KeepRules::parse(&format!("every {text} keep forever")) else { panic!("{text}") };
    let [KeepRule::Every { step, .. }] = rules.rules() else { panic!("{text}") };
    *step
}

#[test]
fn rules_are_read() {
    let text = " every-write 48h;synchs 30d\n\nevery 1h keep 7d; every 1M keep 12M;; synch \"before \"\"it\"\"; *\" keep 90d\n synch a* keep forever; ";
    let rules = KeepRules::parse(text).unwrap();
    assert_eq!(
        rules.to_string(),
        "every-write 48h; synch 30d; every 1h keep 7d; every 1M keep 12M; synch \"before \"\"it\"\"; *\" keep 90d; synch a* keep forever"
    );
    let KeepRule::Synch { label: Some(label), .. } = &rules.rules()[4] else { panic!("a label") };
    assert!(label.matches("before \"it\"; now"));
    assert_eq!(KeepRules::parse(" ;\n; ").unwrap(), KeepRules::default());
    assert!(KeepRules::default().keep_everything());
}

#[test]
fn what_is_no_rule_says_which_and_why() {
    for (text, number, reason) in [
        ("every-write", 1, "words"),
        ("synch 3d; every 1h", 2, "words"),
        ("synch 3d\nevery 1h keep 7", 2, "'7' is not a span"),
        ("every-write 0s", 1, "'0s'"),
        ("every-write 4 h", 1, "words"),
        ("every-write -4h", 1, "'-4h'"),
        ("every-write 4µ", 1, "'4µ'"),
        ("every-write 99999999999s", 1, "span"),
        ("every forever keep 3d", 1, "span that ends"),
        ("every 0d keep 3d", 1, "'0d'"),
        ("lock 14d", 1, "no rule 'lock'"),
        ("synch \"a keep 3d; synch 2d", 1, "not closed"),
        ("synch \"a\"b keep 3d", 1, "closing quote"),
        ("synch a\"b\" keep 3d", 1, "inside a word"),
        ("\"every-write\" 3d", 1, "only the label"),
        ("every \"1h\" keep 3d", 1, "only the label"),
    ] {
        let error = KeepRules::parse(text).expect_err(text);
        assert_eq!(error.number, number, "{error}");
        assert!(error.reason.contains(reason), "{text}: {error}");
        assert!(error.to_string().contains("12M"), "{error}");
        assert!(serde_json::from_value::<KeepRules>(text.into()).is_err());
    }
    assert_eq!(KeepRules::parse("synch 3d; every 1h x; synch 1d").unwrap_err().rule, "every 1h x");
    let many = "synch 1d;".repeat(KEEP_RULES_MAX);
    assert_eq!(KeepRules::parse(&many).unwrap().rules().len(), KEEP_RULES_MAX);
    assert!(KeepRules::parse(&format!("{many} synch 1d")).unwrap_err().reason.contains("more than"));
}

#[test]
fn globs_match() {
    for (glob, label, matches) in [
        ("*", "", true),
        ("a*c", "abcbc", true),
        ("a*c", "abcb", false),
        ("*ab*ab", "abab", true),
        ("?b", "äb", true),
        ("?", "", false),
        ("a\\*", "a*", true),
        ("a\\*", "ab", false),
        ("a\\", "a\\", true),
        ("", "", true),
        ("", "a", false),
        ("a", "A", false),
    ] {
        assert_eq!(LabelGlob::new(glob).matches(label), matches, "{glob} on {label}");
    }
    // The cost is the product of both lengths, and no more.
    assert!(!LabelGlob::new(&"*a".repeat(500)).matches(&"a".repeat(499)));
}

#[test]
fn months_and_years_are_those_of_the_calendar() {
    for (start, step, end) in [
        ("2026-01-15T12:30:00Z", "1M", "2026-02-15T12:30:00Z"),
        ("2026-01-28T12:30:00Z", "1M", "2026-02-28T12:30:00Z"),
        ("2026-01-29T00:00:00Z", "1M", "2026-03-01T00:00:00Z"),
        ("2026-01-31T23:00:00Z", "1M", "2026-03-01T00:00:00Z"),
        ("2024-02-29T01:00:00Z", "1y", "2025-03-01T00:00:00Z"),
        ("2024-02-29T01:00:00Z", "4y", "2028-02-29T01:00:00Z"),
        ("2026-10-25T00:30:00Z", "1d", "2026-10-26T00:30:00Z"),
        ("2026-12-01T00:00:00Z", "2w", "2026-12-15T00:00:00Z"),
    ] {
        assert_eq!(span(step).after(ns(start)), ns(end), "{start} and {step}");
    }
    assert_eq!(span("4000000000y").after(0), u64::MAX);
    assert_eq!(span("4000000000w").after(1), u64::MAX);
    assert_eq!(span("1M").after(u64::MAX), u64::MAX, "the last time is in the year 2554");
}

#[test]
fn boundaries_are_those_of_the_calendar() {
    for (time, step, boundary) in [
        ("2026-11-21T13:44:03Z", "1h", "2026-11-21T13:00:00Z"),
        ("2026-11-21T13:00:00Z", "1h", "2026-11-21T13:00:00Z"),
        ("2026-11-21T13:44:03Z", "1d", "2026-11-21T00:00:00Z"),
        ("2026-11-21T13:44:03Z", "1w", "2026-11-16T00:00:00Z"),
        ("2026-11-16T00:00:00Z", "1w", "2026-11-16T00:00:00Z"),
        ("2026-11-21T13:44:03Z", "1M", "2026-11-01T00:00:00Z"),
        ("2026-11-21T13:44:03Z", "3M", "2026-10-01T00:00:00Z"),
        ("2024-02-29T23:59:59Z", "1M", "2024-02-01T00:00:00Z"),
        ("2026-11-21T13:44:03Z", "1y", "2026-01-01T00:00:00Z"),
        ("2026-11-21T13:44:03Z", "4000000000s", "1970-01-01T00:00:00Z"),
    ] {
        let step_span = span(step);
        let found = step_span.boundary_before(ns(time)).expect(time);
        assert_eq!(found, ns(boundary), "{time} and {step}");
    }
    assert_eq!(span("1w").boundary_before(ns("1970-01-02T00:00:00Z")), None, "that Monday was in 1969");
    assert_eq!(span("4000000000y").boundary_before(5), None);
    assert!(span("1M").boundary_before(u64::MAX).is_some());
}

fn any_span() -> impl Strategy<Value = Span> {
    let units = [
        SpanUnit::Second,
        SpanUnit::Minute,
        SpanUnit::Hour,
        SpanUnit::Day,
        SpanUnit::Week,
        SpanUnit::Month,
        SpanUnit::Year,
    ];
    (prop_oneof![1..60_u32, any::<u32>().prop_map(|count| count.max(1))], 0..7_usize)
        .prop_map(move |(count, unit)| Span::new(count, units[unit]).unwrap())
}

fn any_keep() -> impl Strategy<Value = Keep> {
    prop_oneof![4 => any_span().prop_map(Keep::For), 1 => Just(Keep::Forever)]
}

fn any_rule() -> impl Strategy<Value = KeepRule> {
    let label = proptest::option::of("[a-z*?\\\\ ;\"\n\u{e4}]{0,8}".prop_map(|text| LabelGlob::new(&text)));
    prop_oneof![
        any_keep().prop_map(KeepRule::EveryWrite),
        (label, any_keep()).prop_map(|(label, keep)| KeepRule::Synch { label, keep }),
        (any_span(), any_keep()).prop_map(|(step, keep)| KeepRule::Every { step, keep }),
    ]
}

proptest! {
    #[test]
    fn what_is_shown_is_read_back(rules in proptest::collection::vec(any_rule(), 0..6)) {
        let rules = KeepRules::new(rules);
        prop_assert_eq!(KeepRules::parse(&rules.to_string()), Ok(rules.clone()));
        let json = serde_json::to_string(&rules).unwrap();
        prop_assert_eq!(serde_json::from_str::<KeepRules>(&json).unwrap(), rules);
    }

    #[test]
    fn no_text_is_too_strange(text in "(every|every-write|synch|keep|[0-9]{1,3}[smhdwMy]|[\" ;\n*a\u{e4}]){0,12}") {
        if let Ok(rules) = KeepRules::parse(&text) {
            prop_assert_eq!(KeepRules::parse(&rules.to_string()), Ok(rules));
        }
    }

    #[test]
    fn spans_keep_the_order_of_times(span in any_span(), a: u64, distance in 0..10_000_000_000_000_000_u64) {
        let b = a.saturating_add(distance);
        prop_assert!(span.after(a) <= span.after(b));
        prop_assert!(span.after(a) > a || a == u64::MAX);
        if let Some(boundary) = span.boundary_before(b) {
            prop_assert!(boundary <= b);
            prop_assert_eq!(span.boundary_before(boundary), Some(boundary));
            prop_assert!(span.boundary_before(a) <= Some(boundary));
        }
    }
}
