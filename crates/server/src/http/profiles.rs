//! `/debug/pprof/`: profiles in the form that `go tool pprof` and others read.
//!
//! There is one of the CPU: the threads are interrupted a hundred times for each second that they work, and where they
//! stand is counted. Nobody keeps account of allocations in this program, and it has no goroutines: those profiles
//! are refused, with the reason.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_DISPOSITION, HeaderValue};
use http::{Response, StatusCode};
use prost::Message;

use super::{Query, TEXT, error, respond};

pub(super) const PREFIX: &str = "/debug/pprof/";
/// Interrupts per second of CPU time, as Go has it; one less, so that they do not keep step with timers.
const FREQUENCY: i32 = 99;
const DEFAULT_SECONDS: u64 = 30;
/// Nobody waits longer for an answer, and one who has gone away should not keep the interrupts going.
const MAX_SECONDS: u64 = 3600;

const INDEX: &str = "<html><head><title>/debug/pprof/</title></head><body>\n\
    <p><a href=\"profile\">profile</a>: CPU for <tt>?seconds=30</tt></p>\n\
    <p><a href=\"cmdline\">cmdline</a>: the command line</p>\n</body></html>\n";

/// Answers for the part of a path behind the prefix.
pub(super) async fn answer(name: &str, query: &Query<'_>) -> Response<Bytes> {
    match name {
        "" => respond(StatusCode::OK, "text/html; charset=utf-8", INDEX),
        "cmdline" => respond(StatusCode::OK, TEXT, command_line()),
        // Symbols stand in the profiles; a client that asks whether there are any is told so.
        "symbol" => respond(StatusCode::OK, TEXT, "num_symbols: 1\n"),
        "profile" => profile(query).await,
        "heap" | "allocs" => missing(name, "the allocator of this program keeps no account"),
        "goroutine" | "threadcreate" | "block" | "mutex" | "trace" => {
            missing(name, "it is about the runtime of Go, which this program does not have")
        }
        _ => error(StatusCode::NOT_FOUND, "Unknown profile"),
    }
}

fn missing(name: &str, why: &str) -> Response<Bytes> {
    error(StatusCode::NOT_IMPLEMENTED, &format!("there is no {name} profile: {why}"))
}

/// The words of the command line, with a zero byte between two of them.
fn command_line() -> Vec<u8> {
    let words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    words.collect::<Vec<_>>().join("\0").into_bytes()
}

async fn profile(query: &Query<'_>) -> Response<Bytes> {
    let seconds = match query.values("seconds").next().map(|text| text.parse()) {
        None | Some(Ok(0)) => DEFAULT_SECONDS,
        Some(Ok(seconds)) if seconds <= MAX_SECONDS => seconds,
        Some(_) => {
            let text = format!("seconds must be a number up to {MAX_SECONDS}");
            return error(StatusCode::BAD_REQUEST, &text);
        }
    };
    match collect(Duration::from_secs(seconds)).await {
        Ok(profile) => {
            let mut response = respond(StatusCode::OK, "application/octet-stream", profile);
            let name = HeaderValue::from_static("attachment; filename=\"profile\"");
            response.headers_mut().insert(CONTENT_DISPOSITION, name);
            response
        }
        Err(failure) => {
            let text = format!("Could not enable CPU profiling: {failure}");
            error(StatusCode::INTERNAL_SERVER_ERROR, &text)
        }
    }
}

/// The packed profile of the next while. Only one can be made at a time.
async fn collect(duration: Duration) -> Result<Vec<u8>, pprof::Error> {
    // The unwinder must not be interrupted in itself, or in what it takes its locks in.
    let guard = pprof::ProfilerGuardBuilder::default()
        .frequency(FREQUENCY)
        .blocklist(&["libc", "libgcc", "pthread", "vdso"])
        .build()?;
    tokio::time::sleep(duration).await;
    // Finding names takes a while, in which calls of this thread should not wait.
    let made = tokio::task::spawn_blocking(move || {
        let report = guard.report().build()?;
        Ok(super::gzip(&Profile::new(&report, duration).encode_to_vec()))
    });
    made.await.unwrap_or(Err(pprof::Error::NotRunning))
}

/// `perftools.profiles.Profile`, as far as a CPU profile fills it in.
#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    /// The first one is empty.
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
}

/// Places in the string table.
#[derive(Clone, Copy, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

/// How often threads were seen with one stack, the innermost place first.
#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    text: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
}

impl Profile {
    fn new(report: &pprof::Report, duration: Duration) -> Self {
        let stacks = report.data.iter().map(|(frames, count)| Stack {
            thread: frames.thread_name_or_id(),
            places: frames
                .frames
                .iter()
                .map(|inlined| inlined.iter().map(Place::from).collect())
                .collect(),
            count: i64::try_from(*count).unwrap_or(i64::MAX),
        });
        Self::of_stacks(stacks, report.timing.start_time, duration)
    }

    fn of_stacks(
        stacks: impl Iterator<Item = Stack>,
        started: std::time::SystemTime,
        duration: Duration,
    ) -> Self {
        let nanos = |duration: Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
        let period = 1_000_000_000 / i64::from(FREQUENCY);
        let mut tables = Tables::new();
        let samples = tables.text("samples");
        let cpu = ValueType { kind: tables.text("cpu"), unit: tables.text("nanoseconds") };
        let sample_type = vec![ValueType { kind: samples, unit: tables.text("count") }, cpu];
        let thread = tables.text("thread");
        let sample = stacks.map(|stack| Sample {
            location_id: stack.places.iter().map(|inlined| tables.location(inlined)).collect(),
            value: vec![stack.count, stack.count.saturating_mul(period)],
            label: vec![Label { key: thread, text: tables.text(&stack.thread) }],
        });
        let sample = sample.collect();
        let since = started.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Profile {
            sample_type,
            sample,
            location: tables.locations,
            function: tables.functions,
            string_table: tables.texts,
            time_nanos: nanos(since),
            duration_nanos: nanos(duration),
            period_type: Some(cpu),
            period,
        }
    }
}

/// One stack of one thread.
struct Stack {
    thread: String,
    /// The innermost first; several places in one where functions were inlined.
    places: Vec<Vec<Place>>,
    count: i64,
}

/// A line of a function.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    name: String,
    system_name: String,
    file: String,
    line: u32,
}

impl From<&pprof::Symbol> for Place {
    fn from(symbol: &pprof::Symbol) -> Self {
        Self {
            name: symbol.name(),
            system_name: symbol.sys_name().into_owned(),
            file: symbol.filename().into_owned(),
            line: symbol.lineno(),
        }
    }
}

/// What the samples refer to by number, each thing once.
struct Tables {
    texts: Vec<String>,
    text_ids: BTreeMap<String, i64>,
    functions: Vec<Function>,
    function_ids: BTreeMap<(i64, i64), u64>,
    locations: Vec<Location>,
    location_ids: BTreeMap<Vec<Place>, u64>,
}

impl Tables {
    fn new() -> Self {
        let mut tables = Self {
            texts: Vec::new(),
            text_ids: BTreeMap::new(),
            functions: Vec::new(),
            function_ids: BTreeMap::new(),
            locations: Vec::new(),
            location_ids: BTreeMap::new(),
        };
        tables.text("");
        tables
    }

    fn text(&mut self, text: &str) -> i64 {
        if let Some(id) = self.text_ids.get(text) {
            return *id;
        }
        let id = i64::try_from(self.texts.len()).expect("texts fit into memory");
        self.texts.push(text.to_owned());
        self.text_ids.insert(text.to_owned(), id);
        id
    }

    fn function(&mut self, place: &Place) -> u64 {
        let (name, filename) = (self.text(&place.name), self.text(&place.file));
        let system_name = self.text(&place.system_name);
        *self.function_ids.entry((system_name, filename)).or_insert_with(|| {
            let id = self.functions.len() as u64 + 1;
            self.functions.push(Function { id, name, system_name, filename });
            id
        })
    }

    fn location(&mut self, inlined: &[Place]) -> u64 {
        if let Some(id) = self.location_ids.get(inlined) {
            return *id;
        }
        let line = inlined
            .iter()
            .map(|place| Line { function_id: self.function(place), line: i64::from(place.line) });
        let line = line.collect();
        let id = self.locations.len() as u64 + 1;
        self.locations.push(Location { id, line });
        self.location_ids.insert(inlined.to_vec(), id);
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str, line: u32) -> Place {
        let (name, system_name) = (name.to_owned(), format!("_R{name}"));
        Place { name, system_name, file: "a.rs".to_owned(), line }
    }

    #[test]
    fn stacks_share_places_functions_and_texts() {
        let stacks = [
            Stack {
                thread: "commit".into(),
                places: vec![vec![place("inner", 3), place("outer", 4)], vec![place("run", 9)]],
                count: 2,
            },
            Stack {
                thread: "commit".into(),
                places: vec![vec![place("inner", 5)], vec![place("run", 9)]],
                count: 1,
            },
        ];
        let second = Duration::from_secs(1);
        let profile =
            Profile::of_stacks(stacks.into_iter(), std::time::UNIX_EPOCH + second, second);
        let profile = Profile::decode(&profile.encode_to_vec()[..]).unwrap();
        assert_eq!(profile.string_table[0], "");
        let text = |id: i64| &*profile.string_table[usize::try_from(id).unwrap()];
        let types: Vec<_> =
            profile.sample_type.iter().map(|kind| (text(kind.kind), text(kind.unit))).collect();
        assert_eq!(types, [("samples", "count"), ("cpu", "nanoseconds")]);
        assert_eq!((profile.location.len(), profile.function.len()), (3, 3));
        assert_eq!(profile.sample[0].value, [2, 2 * profile.period]);
        assert_eq!(profile.sample[0].location_id[1], profile.sample[1].location_id[1]);
        assert_eq!(text(profile.sample[0].label[0].text), "commit");
        let inner = &profile.location[0];
        let names: Vec<_> = inner
            .line
            .iter()
            .map(|line| text(profile.function[usize::try_from(line.function_id).unwrap() - 1].name))
            .collect();
        assert_eq!(names, ["inner", "outer"]);
        assert_eq!((profile.time_nanos, profile.duration_nanos), (1_000_000_000, 1_000_000_000));
    }

    #[tokio::test]
    async fn what_there_is_no_profile_of_is_said() {
        for (name, status) in [
            ("", 200),
            ("cmdline", 200),
            ("symbol", 200),
            ("heap", 501),
            ("goroutine", 501),
            ("x", 404),
        ] {
            assert_eq!(answer(name, &Query("")).await.status(), status, "{name}");
        }
        assert_eq!(answer("profile", &Query("seconds=x")).await.status(), 400);
        assert_eq!(answer("profile", &Query("seconds=3601")).await.status(), 400);
    }
}
