//! A macro that creates and registers a series in one line.

macro_rules! register {
    ($registry:expr, $kind:ident, $name:literal, $help:literal $(, $labels:expr)?) => {{
        // A name clash is a mistake in this module that every test runs into; the series then counts unexported.
        let series = register!(@new $kind, $name, $help $(, $labels)?);
        if let Err(error) = $registry.register(Box::new(series.clone())) {
            tracing::error!(%error, series = $name, "a metric could not be registered");
        }
        series
    }};
    (@new IntCounterVec, $name:literal, $help:literal, $labels:expr) => {
        vec_or_empty(IntCounterVec::new(Opts::new($name, $help), $labels))
    };
    (@new IntGaugeVec, $name:literal, $help:literal, $labels:expr) => {
        vec_or_empty(IntGaugeVec::new(Opts::new($name, $help), $labels))
    };
    (@new IntGauge, $name:literal, $help:literal) => {
        vec_or_empty(IntGauge::new($name, $help))
    };
    (@new IntCounter, $name:literal, $help:literal) => {
        vec_or_empty(IntCounter::new($name, $help))
    };
    (@new HistogramVec, $name:literal, $help:literal, $labels:expr) => {
        vec_or_empty(HistogramVec::new(
            HistogramOpts::new($name, $help)
                .buckets(vec![0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 600.0, 3600.0, 86400.0]),
            $labels,
        ))
    };
}
