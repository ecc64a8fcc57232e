//! Counters, gauges and histograms, and how they are written for Prometheus.
//!
//! Updating one is an atomic addition and never locks; metrics with labels hand out shared handles
//! ([`Labelled::with`]) that hot paths keep. A family shows once it has a sample: metrics without labels
//! always, those with labels after their first use.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::RwLock;

/// A number that only grows. Alone on its cache line, so that threads do not disturb each other's counters.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn increment(&self) {
        self.add(1);
    }

    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// For counters that somebody else keeps and that are copied at a scrape. Never let it go back.
    pub fn copy_from(&self, total: u64) {
        self.0.store(total, Ordering::Relaxed);
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Gauge(AtomicU64);

impl Gauge {
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }

    /// Sets an integer; above 2^53 the nearest that a float can hold, which is what the format carries.
    #[expect(clippy::cast_precision_loss, reason = "the exposition format has floats only")]
    pub fn set_count(&self, value: u64) {
        self.set(value as f64);
    }

    pub fn set_bool(&self, value: bool) {
        self.set(f64::from(u8::from(value)));
    }

    pub fn add(&self, difference: f64) {
        add_float(&self.0, difference);
    }

    /// Adds a number of things; up to 2^53 in sum they are counted exactly.
    #[expect(clippy::cast_precision_loss, reason = "the exposition format has floats only")]
    pub fn add_count(&self, count: u64) {
        self.add(count as f64);
    }

    pub fn increment(&self) {
        self.add(1.0);
    }

    pub fn decrement(&self) {
        self.add(-1.0);
    }

    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

fn add_float(cell: &AtomicU64, difference: f64) {
    let add = |bits| Some((f64::from_bits(bits) + difference).to_bits());
    let _ = cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
}

/// Parts of a histogram. Threads beyond this many share.
const SHARDS: usize = 8;

/// How often values fell below each of a few bounds.
///
/// Each thread counts in a part of its own, so that counting costs no thread the other one's cache lines.
#[derive(Debug)]
pub struct Histogram {
    bounds: Box<[f64]>,
    /// Made when a thread first observes something.
    shards: [OnceLock<Box<Shard>>; SHARDS],
}

#[derive(Debug)]
#[repr(align(64))]
struct Shard {
    sum: AtomicU64,
    /// One per bound and a last one for what exceeds them all; not yet added up.
    buckets: Box<[AtomicU64]>,
}

impl Shard {
    fn new(buckets: usize) -> Self {
        let buckets = (0..buckets).map(|_| AtomicU64::new(0)).collect();
        Self { sum: AtomicU64::new(0), buckets }
    }
}

/// The number of the part that this thread counts in.
fn own_shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: usize = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS;
    }
    OWN.with(|own| *own)
}

impl Histogram {
    pub fn new(bounds: &[f64]) -> Self {
        Self { bounds: bounds.into(), shards: Default::default() }
    }

    pub fn observe(&self, value: f64) {
        self.observe_times(value, 1);
    }

    /// Observes the same value several times.
    #[expect(clippy::cast_precision_loss, reason = "the exposition format has floats only")]
    pub fn observe_times(&self, value: f64, times: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        let shard =
            self.shards[own_shard()].get_or_init(|| Box::new(Shard::new(self.bounds.len() + 1)));
        shard.buckets[bucket].fetch_add(times, Ordering::Relaxed);
        add_float(&shard.sum, value * times as f64);
    }

    /// Observes seconds.
    pub fn observe_duration(&self, duration: Duration) {
        self.observe(duration.as_secs_f64());
    }

    pub fn count(&self) -> u64 {
        (0..=self.bounds.len()).map(|bucket| self.in_bucket(bucket)).sum()
    }

    fn in_bucket(&self, bucket: usize) -> u64 {
        self.used().map(|shard| shard.buckets[bucket].load(Ordering::Relaxed)).sum()
    }

    fn sum(&self) -> f64 {
        self.used().map(|shard| f64::from_bits(shard.sum.load(Ordering::Relaxed))).sum()
    }

    fn used(&self) -> impl Iterator<Item = &Shard> {
        self.shards.iter().filter_map(|shard| shard.get().map(|shard| &**shard))
    }
}

/// Bounds `start`, `start * factor`, … (`count` of them).
pub fn exponential(start: f64, factor: f64, count: usize) -> Vec<f64> {
    std::iter::successors(Some(start), |bound| Some(bound * factor)).take(count).collect()
}

/// A metric without labels and buckets, for a row of the table.
pub(super) fn one<M: Metric>() -> M {
    M::new(&[])
}

/// A histogram with [`exponential`] bounds.
pub(super) fn exp(start: f64, factor: f64, count: usize) -> Histogram {
    Histogram::new(&exponential(start, factor, count))
}

/// A metric for each combination of label values.
pub(super) fn by<M: Metric, const N: usize>(labels: [&'static str; N]) -> Labelled<M, N> {
    Labelled::new(labels, &[])
}

/// A histogram for each combination of label values.
pub(super) fn exp_by<const N: usize>(
    labels: [&'static str; N],
    start: f64,
    factor: f64,
    count: usize,
) -> HistogramVec<N> {
    Labelled::new(labels, &exponential(start, factor, count))
}

/// One metric per combination of label values.
#[derive(Debug)]
pub struct Labelled<M, const N: usize> {
    labels: [&'static str; N],
    /// For histograms; empty otherwise.
    bounds: Vec<f64>,
    children: RwLock<BTreeMap<[String; N], Arc<M>>>,
}

pub type CounterVec<const N: usize> = Labelled<Counter, N>;
pub type GaugeVec<const N: usize> = Labelled<Gauge, N>;
pub type HistogramVec<const N: usize> = Labelled<Histogram, N>;

impl<M: Metric, const N: usize> Labelled<M, N> {
    pub(super) fn new(labels: [&'static str; N], bounds: &[f64]) -> Self {
        Self { labels, bounds: bounds.to_vec(), children: RwLock::default() }
    }

    /// The metric with these label values, made at its first use. Keep the handle where it is used often.
    pub fn with(&self, values: [&str; N]) -> Arc<M> {
        let key = values.map(str::to_owned);
        if let Some(metric) = self.children.read().get(&key) {
            return metric.clone();
        }
        self.children.write().entry(key).or_insert_with(|| Arc::new(M::new(&self.bounds))).clone()
    }

    /// Forgets one combination: it is not shown any more.
    pub fn remove(&self, values: [&str; N]) {
        self.children.write().remove(&values.map(str::to_owned));
    }

    /// Forgets all combinations.
    pub fn clear(&self) {
        self.children.write().clear();
    }
}

/// What can stand in a family.
pub trait Metric: Send + Sync {
    const TYPE: &'static str;

    fn new(bounds: &[f64]) -> Self;

    #[cfg(test)]
    fn bounds(&self) -> &[f64] {
        &[]
    }

    /// Writes the sample lines; `labels` are rendered as `a="b",c="d"`.
    fn write(&self, text: &mut String, name: &str, labels: &str);
}

impl Metric for Counter {
    const TYPE: &'static str = "counter";

    fn new(_: &[f64]) -> Self {
        Self::default()
    }

    #[expect(clippy::cast_precision_loss, reason = "the exposition format has floats only")]
    fn write(&self, text: &mut String, name: &str, labels: &str) {
        push_sample(text, name, labels, self.get() as f64);
    }
}

impl Metric for Gauge {
    const TYPE: &'static str = "gauge";

    fn new(_: &[f64]) -> Self {
        Self::default()
    }

    fn write(&self, text: &mut String, name: &str, labels: &str) {
        push_sample(text, name, labels, self.get());
    }
}

impl Metric for Histogram {
    const TYPE: &'static str = "histogram";

    fn new(bounds: &[f64]) -> Self {
        Self::new(bounds)
    }

    #[cfg(test)]
    fn bounds(&self) -> &[f64] {
        &self.bounds
    }

    #[expect(clippy::cast_precision_loss, reason = "the exposition format has floats only")]
    fn write(&self, text: &mut String, name: &str, labels: &str) {
        let comma = if labels.is_empty() { "" } else { "," };
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let mut count = 0;
        for (bucket, bound) in bounds.enumerate() {
            count += self.in_bucket(bucket);
            let _ = write!(text, "{name}_bucket{{{labels}{comma}le=\"");
            push_float(text, bound);
            let _ = write!(text, "\"}} ");
            push_float(text, count as f64);
            text.push('\n');
        }
        push_sample(text, &format!("{name}_sum"), labels, self.sum());
        push_sample(text, &format!("{name}_count"), labels, count as f64);
    }
}

/// What has a name and a type in the exposition.
pub(super) trait Family {
    fn type_name(&self) -> &'static str;

    #[cfg(test)]
    fn labels(&self) -> &[&'static str];

    /// The upper bounds of a histogram's buckets but the last; empty for other types.
    #[cfg(test)]
    fn bounds(&self) -> &[f64];

    /// Writes the samples, none or many.
    fn write_samples(&self, text: &mut String, name: &str);
}

impl<M: Metric> Family for M {
    fn type_name(&self) -> &'static str {
        M::TYPE
    }

    #[cfg(test)]
    fn labels(&self) -> &[&'static str] {
        &[]
    }

    #[cfg(test)]
    fn bounds(&self) -> &[f64] {
        Metric::bounds(self)
    }

    fn write_samples(&self, text: &mut String, name: &str) {
        self.write(text, name, "");
    }
}

impl<M: Metric, const N: usize> Family for Labelled<M, N> {
    fn type_name(&self) -> &'static str {
        M::TYPE
    }

    #[cfg(test)]
    fn labels(&self) -> &[&'static str] {
        &self.labels
    }

    #[cfg(test)]
    fn bounds(&self) -> &[f64] {
        &self.bounds
    }

    fn write_samples(&self, text: &mut String, name: &str) {
        for (values, metric) in &*self.children.read() {
            let values = values.each_ref().map(String::as_str);
            metric.write(text, name, &label_text(&self.labels, &values));
        }
    }
}

/// `a="b",c="d"`, names in alphabetical order.
pub(super) fn label_text(names: &[&str], values: &[&str]) -> String {
    let mut pairs: Vec<_> = names.iter().zip(values).collect();
    pairs.sort();
    let mut text = String::new();
    for (index, (name, value)) in pairs.into_iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(text, "{comma}{name}=\"{value}\"");
    }
    text
}

/// Writes a family with its two head lines, or nothing when it has no sample.
pub(super) fn push_family(text: &mut String, name: &str, help: &str, family: &dyn Family) {
    let start = text.len();
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {}", family.type_name());
    let head = text.len();
    family.write_samples(text, name);
    if text.len() == head {
        text.truncate(start);
    }
}

pub(super) fn push_sample(text: &mut String, name: &str, labels: &str, value: f64) {
    text.push_str(name);
    if !labels.is_empty() {
        let _ = write!(text, "{{{labels}}}");
    }
    text.push(' ');
    push_float(text, value);
    text.push('\n');
}

/// As Go's `%g` with the shortest digits: an exponent below 1e-04 and from 1e+06 on.
fn push_float(text: &mut String, value: f64) {
    if value.is_infinite() {
        text.push_str(if value > 0.0 { "+Inf" } else { "-Inf" });
        return;
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').expect("the format has an exponent");
    let exponent: i32 = exponent.parse().expect("the exponent is a number");
    let _ = if value != 0.0 && !(-4..6).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        write!(text, "{digits}e{sign}{:02}", exponent.abs())
    } else {
        write!(text, "{value}")
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(name: &str, family: &dyn Family) -> String {
        let mut text = String::new();
        push_family(&mut text, name, "Help.", family);
        text
    }

    #[test]
    fn counters_and_gauges() {
        let counter = Counter::default();
        counter.increment();
        counter.add(2);
        assert_eq!(
            text("c_total", &counter),
            "# HELP c_total Help.\n# TYPE c_total counter\nc_total 3\n"
        );
        let gauge = Gauge::default();
        gauge.add(2.5);
        gauge.decrement();
        assert_eq!(text("g", &gauge), "# HELP g Help.\n# TYPE g gauge\ng 1.5\n");
    }

    #[test]
    fn histograms_add_up_and_include_their_bounds() {
        let histogram = Histogram::new(&exponential(0.5, 2.0, 3));
        for value in [0.5, 0.6, 1.0, 3.0] {
            histogram.observe(value);
        }
        histogram.observe_duration(Duration::from_millis(400));
        assert_eq!(
            text("h", &histogram),
            "# HELP h Help.\n# TYPE h histogram\nh_bucket{le=\"0.5\"} 2\nh_bucket{le=\"1\"} 4\n\
             h_bucket{le=\"2\"} 4\nh_bucket{le=\"+Inf\"} 5\nh_sum 5.5\nh_count 5\n"
        );
        assert_eq!(histogram.count(), 5);
    }

    #[test]
    fn threads_count_apart_and_are_shown_together() {
        let histogram = Histogram::new(&[1.0]);
        std::thread::scope(|scope| {
            for _ in 0..2 * SHARDS {
                scope.spawn(|| histogram.observe_times(0.5, 10));
            }
        });
        assert_eq!(
            text("h", &histogram),
            "# HELP h Help.\n# TYPE h histogram\nh_bucket{le=\"1\"} 160\nh_bucket{le=\"+Inf\"} 160\n\
             h_sum 80\nh_count 160\n"
        );
    }

    #[test]
    fn labels_are_sorted_escaped_and_shown_after_use() {
        let counters = CounterVec::new(["type", "api"], &[]);
        assert_eq!(text("v", &counters), "");
        counters.with(["b", "x\"\\\n"]).increment();
        counters.with(["a", "y"]).add(2);
        counters.with(["a", "y"]).add(2);
        assert_eq!(
            text("v", &counters),
            "# HELP v Help.\n# TYPE v counter\nv{api=\"y\",type=\"a\"} 4\n\
             v{api=\"x\\\"\\\\\\n\",type=\"b\"} 1\n"
        );
        counters.remove(["a", "y"]);
        counters.clear();
        assert_eq!(text("v", &counters), "");

        let histograms = HistogramVec::new(["ok"], &[1.0]);
        histograms.with(["true"]).observe(2.0);
        assert!(text("h", &histograms).contains("h_bucket{ok=\"true\",le=\"+Inf\"} 1\n"));
    }

    #[test]
    fn floats_look_like_go_s() {
        for (value, expected) in [
            (0.0, "0"),
            (1.0, "1"),
            (0.001, "0.001"),
            (0.0001, "0.0001"),
            (0.000_012, "1.2e-05"),
            (8.192, "8.192"),
            (123_456.0, "123456"),
            (2_147_483_648.0, "2.147483648e+09"),
            (1e6, "1e+06"),
            (1e21, "1e+21"),
            (-5e-7, "-5e-07"),
        ] {
            let mut text = String::new();
            push_float(&mut text, value);
            assert_eq!(text, expected);
        }
    }
}
