//! All families together: their names, kinds and first values.

use std::collections::BTreeSet;

use super::*;

fn samples(metrics: &Metrics) -> Vec<String> {
    let text = String::from_utf8(metrics.encode(Families::default())).unwrap();
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

#[test]
fn series_of_closed_sets_begin_at_zero() {
    let metrics = Metrics::new();
    metrics.begin_listener("plain", false);
    metrics.begin_listener("l", true);
    metrics.begin_names("app");
    metrics.upstream("app");
    let samples = samples(&metrics);
    for series in [
        "stickyd_client_errors_total{kind=\"proxy\"}",
        "stickyd_client_errors_total{kind=\"http2\"}",
        "stickyd_connections_accepted_total{listener=\"plain\"}",
        "stickyd_dns_changes_total{upstream=\"app\"}",
        "stickyd_dns_lookups_total{result=\"timeout\",upstream=\"app\"}",
        "stickyd_http2_floods_total{frames=\"useless\"}",
        "stickyd_reloads_total{result=\"failed\"}",
        "stickyd_responses_total{by=\"stickyd\",class=\"5xx\",upstream=\"app\"}",
        "stickyd_responses_total{by=\"stickyd\",class=\"4xx\",upstream=\"-\"}",
        "stickyd_retries_refused_total{upstream=\"app\"}",
        "stickyd_tls_handshakes_total{listener=\"l\",result=\"ok\",resumed=\"yes\",version=\"1.3\"}",
        "stickyd_tls_handshakes_total{listener=\"l\",result=\"timeout\",resumed=\"no\",version=\"none\"}",
    ] {
        assert!(samples.contains(&format!("{series} 0")), "{series} is not in {samples:#?}");
    }
    assert!(!samples.iter().any(|one| one.contains("handshakes_total{listener=\"plain\"")));
}

/// In OpenMetrics the family of a counter has its name without `_total`, so a gauge cannot have that name.
#[test]
fn a_counter_and_a_gauge_share_no_name() {
    let text = String::from_utf8(Metrics::new().encode(Families::default())).unwrap();
    let names: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let all: BTreeSet<&str> = names.iter().copied().collect();
    assert_eq!(all.len(), names.len(), "each family is written once");
    let both: Vec<_> =
        names.iter().filter_map(|name| name.strip_suffix("_total").filter(|stem| all.contains(stem))).collect();
    assert_eq!(both, [] as [&str; 0]);
}

#[test]
fn every_state_of_a_name_has_a_series() {
    let (metrics, mut live) = (Metrics::new(), Families::default());
    live.dns_names("app", ["kept", "resolved", "kept"].into_iter());
    let text = String::from_utf8(metrics.encode(live)).unwrap();
    for (state, count) in [("resolved", 1), ("kept", 2), ("unresolved", 0)] {
        let line = format!("stickyd_dns_names{{state=\"{state}\",upstream=\"app\"}} {count}\n");
        assert!(text.contains(&line), "{line}");
    }
}

#[test]
fn of_two_certificates_with_one_name_the_earlier_expiry_counts() {
    let metrics = Metrics::new();
    metrics.certificates_expire([("l", "a", 9), ("l", "a", 7), ("l", "b", 8)].into_iter());
    metrics.certificates_expire([("l", "a", 9), ("l", "a", 8)].into_iter());
    let samples = samples(&metrics);
    let expiries: Vec<_> = samples.iter().filter(|one| one.contains("expiry")).collect();
    assert_eq!(expiries, ["stickyd_tls_certificate_expiry_timestamp_seconds{listener=\"l\",name=\"a\"} 8"]);
}
