//! The history of one worker or upstream: three rings of samples, the coarser ones made from the finer seconds. The
//! code is pure: times are arguments, in seconds since 1970.

use super::numbers::{code_of, is_gauge, number_of, pair_of, parts_of};

/// Length of a step of each ring in seconds, and its number of steps.
pub(crate) const STEPS: [(u64, usize); 3] = [(1, 300), (10, 360), (60, 1_440)];

/// Number of samples of all rings together.
pub(crate) const SAMPLES: usize = STEPS[0].1 + STEPS[1].1 + STEPS[2].1;

/// The rings of one worker or upstream.
#[derive(Debug)]
pub(crate) struct Rings {
    names: &'static [&'static str],
    rings: [Ring; 3],
    /// The unfinished steps of the two coarser rings.
    open: [Open; 2],
}

/// One number over a span of time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HistoryColumn {
    /// Means of a rate, or last values of a gauge; NaN is a gap.
    pub(crate) values: Vec<f32>,
    /// Maxima of a gauge; empty for a rate, and where a step is one sample.
    pub(crate) maxima: Vec<f32>,
}

/// Samples of one resolution, as codes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ring {
    /// One row of codes per step; the place of a step is its number modulo the number of rows.
    pub(super) codes: Vec<u32>,
    /// Number of the newest step: its time divided by the length of a step; 0 if there is none.
    pub(super) newest: u64,
}

/// A step that is not over yet.
#[derive(Debug, Default)]
struct Open {
    step: u64,
    sums: Vec<Sums>,
}

/// What is known of one number in a step that is not over yet.
#[derive(Debug, Clone, Copy)]
struct Sums {
    sum: f32,
    count: u16,
    last: f32,
    maximum: f32,
}

impl Default for Sums {
    fn default() -> Self {
        Self { sum: 0.0, count: 0, last: f32::NAN, maximum: f32::NAN }
    }
}

impl Rings {
    /// Creates empty rings for these numbers.
    pub(crate) fn new(names: &'static [&'static str]) -> Self {
        let ring = |(_, rows): (u64, usize)| Ring { codes: vec![0; rows * names.len()], newest: 0 };
        Self { names, rings: STEPS.map(ring), open: Default::default() }
    }

    /// Adds the sample of a second; NaN is a number that is not known.
    pub(crate) fn add(&mut self, t: u64, sample: &[f32]) {
        let width = self.names.len();
        let [finest, ..] = &mut self.rings;
        finest.put(t, sample.iter().map(|number| code_of(*number)), width);
        for (index, (length, _)) in STEPS.into_iter().skip(1).enumerate() {
            let step = t / length;
            if self.open.get(index).is_some_and(|open| open.step != step) {
                self.close(index);
            }
            let Some(open) = self.open.get_mut(index) else { continue };
            open.step = step;
            open.sums.resize(width, Sums::default());
            open.sums.iter_mut().zip(sample).for_each(|(sums, number)| sums.add(*number));
        }
    }

    /// Stores the unfinished steps as if they were over, before the rings are written to a file.
    pub(crate) fn close_all(&mut self) {
        (0..self.open.len()).for_each(|index| self.close(index));
    }

    fn close(&mut self, index: usize) {
        let (Some(open), Some(ring)) = (self.open.get_mut(index), self.rings.get_mut(index + 1)) else { return };
        let sums = std::mem::take(&mut open.sums);
        if !sums.is_empty() {
            let codes = sums.iter().zip(self.names).map(|(sums, name)| sums.code(is_gauge(name)));
            ring.put(open.step, codes, self.names.len());
        }
    }

    /// Returns every number over `rows` steps of a resolution (an index of [`STEPS`]), from step `first` on.
    pub(crate) fn columns(&self, resolution: usize, first: u64, rows: usize) -> Vec<HistoryColumn> {
        let Some(ring) = self.rings.get(resolution) else { return Vec::new() };
        let open = resolution.checked_sub(1).and_then(|index| self.open.get(index));
        let column = |(at, name): (usize, &&str)| {
            let (is_pair, mut column) = (resolution > 0 && is_gauge(name), HistoryColumn::of(rows));
            for step in (first..).take(rows) {
                let unfinished = open.filter(|open| open.step == step).and_then(|open| open.sums.get(at));
                let code =
                    unfinished.map_or_else(|| ring.code(step, at, self.names.len()), |sums| sums.code(is_gauge(name)));
                let (value, maximum) = if is_pair { parts_of(code) } else { (number_of(code), f32::NAN) };
                column.values.push(value);
                if is_pair {
                    column.maxima.push(maximum);
                }
            }
            column
        };
        self.names.iter().enumerate().map(column).collect()
    }

    /// Returns the time of the newest sample.
    pub(crate) fn newest(&self) -> u64 {
        self.rings.iter().zip(STEPS).map(|(ring, (length, _))| ring.newest * length).max().unwrap_or(0)
    }

    pub(super) fn rings(&self) -> &[Ring; 3] {
        &self.rings
    }

    pub(super) fn rings_mut(&mut self) -> &mut [Ring; 3] {
        &mut self.rings
    }
}

impl HistoryColumn {
    fn of(rows: usize) -> Self {
        Self { values: Vec::with_capacity(rows), maxima: Vec::new() }
    }

    /// Merges `by` steps into one, for charts with fewer points.
    pub(crate) fn merged(&self, by: usize, is_gauge: bool) -> Self {
        let known = |part: &[f32]| part.iter().copied().filter(|number| !number.is_nan()).collect::<Vec<_>>();
        let merge = |part: &[f32]| {
            let part = known(part);
            if is_gauge { part.last().copied().unwrap_or(f32::NAN) } else { mean(&part) }
        };
        let largest = |part: &[f32]| known(part).into_iter().reduce(f32::max).unwrap_or(f32::NAN);
        let of_maxima = if self.maxima.is_empty() { &self.values } else { &self.maxima };
        let maxima = if is_gauge { of_maxima.chunks(by).map(largest).collect() } else { Vec::new() };
        Self { values: self.values.chunks(by).map(merge).collect(), maxima }
    }
}

#[allow(clippy::cast_precision_loss, reason = "there are at most some thousand numbers")]
fn mean(numbers: &[f32]) -> f32 {
    if numbers.is_empty() { f32::NAN } else { numbers.iter().sum::<f32>() / numbers.len() as f32 }
}

impl Ring {
    fn rows(&self, width: usize) -> u64 {
        (self.codes.len() / width) as u64
    }

    fn row(&mut self, step: u64, width: usize) -> &mut [u32] {
        let place = usize::try_from(step % self.rows(width)).unwrap_or(0) * width;
        self.codes.get_mut(place..place + width).unwrap_or_default()
    }

    /// Stores a step. Steps that were left out become gaps; after a step back of the clock, what was later is dropped.
    fn put(&mut self, step: u64, codes: impl Iterator<Item = u32>, width: usize) {
        let rows = self.rows(width);
        let stale = if step > self.newest { self.newest + 1..step } else { step + 1..self.newest + 1 };
        for step in stale.rev().take(usize::try_from(rows).unwrap_or(0)) {
            self.row(step, width).fill(0);
        }
        self.newest = step;
        self.row(step, width).iter_mut().zip(codes).for_each(|(place, code)| *place = code);
    }

    fn code(&self, step: u64, at: usize, width: usize) -> u32 {
        let rows = self.rows(width);
        if step > self.newest || step + rows <= self.newest {
            return 0;
        }
        let place = usize::try_from(step % rows).unwrap_or(0) * width + at;
        self.codes.get(place).copied().unwrap_or(0)
    }
}

impl Sums {
    fn add(&mut self, number: f32) {
        if number.is_nan() {
            return;
        }
        self.sum += number;
        self.count = self.count.saturating_add(1);
        self.last = number;
        self.maximum = self.maximum.max(number);
    }

    fn code(&self, is_gauge: bool) -> u32 {
        match (is_gauge, self.count) {
            (_, 0) => 0,
            (true, _) => pair_of(self.last, self.maximum),
            (false, count) => code_of(self.sum / f32::from(count)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAMES: &[&str] = &["sessions", "requests_per_s"];

    /// Time of the first sample: the beginning of a minute.
    const T: u64 = 1_764_328_800;

    fn values(rings: &Rings, resolution: usize, first: u64, rows: usize) -> Vec<Vec<f32>> {
        rings.columns(resolution, first, rows).into_iter().map(|column| column.values).collect()
    }

    #[test]
    fn rates_are_means_and_gauges_have_a_last_value_and_a_maximum() {
        let mut rings = Rings::new(NAMES);
        for (i, (sessions, requests)) in [(5.0, 1.0), (9.0, 2.0), (7.0, 6.0)].into_iter().enumerate() {
            rings.add(T + i as u64, &[sessions, requests]);
        }
        assert_eq!(values(&rings, 0, T, 3), [[5.0, 9.0, 7.0], [1.0, 2.0, 6.0]]);
        for resolution in [1, 2] {
            let length = STEPS[resolution].0;
            let unfinished = rings.columns(resolution, T / length, 1);
            assert_eq!((unfinished[0].values[0], unfinished[0].maxima[0]), (7.0, 9.0));
            assert_eq!((unfinished[1].values[0], unfinished[1].maxima.len()), (3.0, 0));
            rings.close_all();
            assert_eq!(rings.columns(resolution, T / length, 1), unfinished);
        }
        assert_eq!(rings.newest(), T + 2);
    }

    #[test]
    fn gaps_stay_gaps() {
        let mut rings = Rings::new(NAMES);
        rings.add(T, &[1.0, 1.0]);
        rings.add(T + 3, &[2.0, f32::NAN]);
        rings.add(T + 30, &[3.0, 3.0]);
        let seconds = rings.columns(0, T, 4);
        assert!(seconds[0].values[1].is_nan() && seconds[0].values[2].is_nan() && seconds[1].values[3].is_nan());
        let tens = rings.columns(1, T / 10, 4);
        assert!((1..3).all(|step| tens[0].values[step].is_nan() && tens[0].maxima[step].is_nan()));
        assert_eq!((tens[0].values[0], tens[0].values[3], tens[1].values[0]), (2.0, 3.0, 1.0));
        // A whole round later nothing of it is left.
        rings.add(T + 30 + 300, &[4.0, 4.0]);
        assert!(rings.columns(0, T, 300)[0].values.iter().all(|number| number.is_nan()));
        assert!(rings.columns(0, T + 331, 10)[0].values.iter().all(|number| number.is_nan()), "the future");
    }

    #[test]
    fn a_clock_that_goes_back_drops_only_what_was_later() {
        let mut rings = Rings::new(NAMES);
        (0..10).for_each(|i| rings.add(T + i, &[10.0, 0.0]));
        rings.add(T + 4, &[5.0, 0.0]);
        let seconds = &values(&rings, 0, T, 10)[0];
        assert_eq!(seconds[..5], [10.0, 10.0, 10.0, 10.0, 5.0]);
        assert!(seconds[5..].iter().all(|number| number.is_nan()));
    }

    #[test]
    fn merged_columns_keep_means_and_maxima() {
        let column =
            HistoryColumn { values: vec![1.0, f32::NAN, 5.0, f32::NAN], maxima: vec![4.0, f32::NAN, 6.0, f32::NAN] };
        let gauge = column.merged(3, true);
        assert_eq!((gauge.values[0], gauge.maxima[0]), (5.0, 6.0));
        assert!(gauge.values[1].is_nan() && gauge.maxima[1].is_nan());
        let rate = HistoryColumn { maxima: Vec::new(), ..column }.merged(3, false);
        assert_eq!((rate.values[0], rate.maxima.len()), (3.0, 0));
    }

    proptest! {
        #[test]
        fn the_last_seconds_are_there_and_nothing_else(pauses in prop::collection::vec(1u64..400, 1..60)) {
            let (mut rings, mut t, mut told) = (Rings::new(NAMES), T, Vec::new());
            for (number, pause) in (1u16..).zip(pauses) {
                t += pause;
                rings.add(t, &[f32::from(number), 0.0]);
                told.push((t, f32::from(number)));
            }
            for (second, value) in (t - 299..=t).zip(&values(&rings, 0, t - 299, 300)[0]) {
                match told.iter().find(|(at, _)| *at == second) {
                    Some((_, number)) => prop_assert_eq!(value, number),
                    None => prop_assert!(value.is_nan()),
                }
            }
        }
    }
}
