//! One line per event, as etcd writes them, so that what reads etcd's logs reads ours.
//!
//! JSON has the keys `level`, `ts`, `caller`, `msg` in this order and then the event's fields; the console
//! format has the same separated by tabs. Events come through `tracing`. A field's underscores become dashes
//! (`member_id` prints as `member-id`), which is how etcd spells all its fields; a name that needs more is
//! quoted at the event (`"start time" = …`). Numbers and booleans keep their type, errors and durations are
//! texts, [`strings`] makes a list, and a `FieldList` stands for any number of fields.
//!
//! Lines go to the standard outputs, to files, of which one may be rotated ([`rotation`]), or to systemd's journal.
//!
//! A disabled event costs one load: levels are decided once per call site. Libraries speak only from *warn* on.

mod journal;
pub mod rotation;

use std::cell::RefCell;
use std::error::Error as StdError;
use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};

use journal::Journal;
use rotation::{RotatedFile, Rotation};

/// What the flags about the log say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub level: Level,
    pub format: Format,
    pub outputs: Vec<Output>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { level: Level::Info, format: Format::Json, outputs: vec![Output::Stderr] }
    }
}

/// The lowest level that is written. The last three exist in etcd for messages that end the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
    DPanic,
    Panic,
    Fatal,
}

impl Level {
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "debug" => Self::Debug,
            "info" => Self::Info,
            "warn" => Self::Warn,
            "error" => Self::Error,
            "dpanic" => Self::DPanic,
            "panic" => Self::Panic,
            "fatal" => Self::Fatal,
            _ => return None,
        })
    }

    fn filter(self) -> LevelFilter {
        match self {
            Self::Debug => LevelFilter::DEBUG,
            Self::Info => LevelFilter::INFO,
            Self::Warn => LevelFilter::WARN,
            Self::Error => LevelFilter::ERROR,
            Self::DPanic | Self::Panic | Self::Fatal => LevelFilter::OFF,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Json,
    Console,
}

impl Format {
    /// The empty name is JSON too, as in etcd.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "" | "json" => Some(Self::Json),
            "console" => Some(Self::Console),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    Stderr,
    Stdout,
    /// Appended to; created when missing.
    File(PathBuf),
    Rotated(PathBuf, Rotation),
    /// systemd's; what it does not take goes to the standard error.
    Journal,
}

impl Output {
    pub fn from_name(name: &str) -> Self {
        match name {
            "default" | "stderr" => Self::Stderr,
            "stdout" => Self::Stdout,
            "systemd/journal" => Self::Journal,
            path => Self::File(path.into()),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("open log output {}: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("can't find journal (dial unixgram {}: connect: {})", journal::SOCKET, in_go_words(.0))]
    Journal(io::Error),
    #[error("logging is already set up in this process")]
    AlreadySet,
}

/// Makes this the logger of the process.
///
/// # Errors
/// When a file cannot be opened, or a logger is there already.
pub fn install(settings: &Settings) -> Result<(), Error> {
    let subscriber = tracing_subscriber::registry().with(Lines::open(settings)?);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| Error::AlreadySet)
}

/// A list of texts as a field: `urls = %logging::strings(&urls)`.
pub fn strings<T: AsRef<str>>(texts: &[T]) -> impl fmt::Display {
    let mut json = String::new();
    push_list(&mut json, texts);
    Raw(json)
}

/// A duration as Go prints it: `took = %logging::took(duration)`.
pub fn took(duration: Duration) -> impl fmt::Display {
    crate::config::duration::display(duration)
}

/// Bytes for a reader of logs: `83 MB`, `1.5 GB`.
#[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let exponent = bytes.ilog(1000) as usize;
    let value = bytes as f64 / 1000_f64.powi(i32::try_from(exponent).unwrap_or_default());
    let value = (value * 10.0).round() / 10.0;
    let digits = usize::from(value < 10.0);
    format!("{value:.digits$} {}", UNITS[exponent])
}

/// Many fields, or such whose names are known at run time only: `fields = %list`. They stand in the line like others.
#[derive(Default)]
pub(crate) struct FieldList(String);

impl FieldList {
    /// A number or a boolean.
    pub(crate) fn add(&mut self, name: &str, value: impl Scalar) {
        self.name(name);
        push(&mut self.0, value);
    }

    pub(crate) fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        push_quoted(&mut self.0, value);
    }

    pub(crate) fn duration(&mut self, name: &str, value: Duration) {
        self.text(name, &took(value).to_string());
    }

    pub(crate) fn list<T: AsRef<str>>(&mut self, name: &str, values: &[T]) {
        self.name(name);
        push_list(&mut self.0, values);
    }

    fn name(&mut self, name: &str) {
        if self.0.is_empty() {
            self.0.push('{');
        } else {
            self.0.extend([',', GAP]);
        }
        push_quoted(&mut self.0, name);
        self.0.extend([':', GAP]);
    }
}

impl fmt::Display for FieldList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{RAW_MARK}{}}}", if self.0.is_empty() { "{" } else { &self.0 })
    }
}

/// White space to JSON, and in no text as it is; becomes a space where the format wants one.
const GAP: char = '\r';

/// Prints as JSON as it is.
pub(crate) trait Scalar: fmt::Display {}
impl Scalar for bool {}
impl Scalar for i32 {}
impl Scalar for i64 {}
impl Scalar for u32 {}
impl Scalar for u64 {}
impl Scalar for usize {}

/// The text of the operating system without Rust's number, and in lower case as Go has it.
pub(crate) fn in_go_words(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

/// A moment, as the lines have theirs.
pub(crate) fn time(time: SystemTime) -> String {
    let mut text = String::new();
    push_time(&mut text, time);
    text
}

/// JSON that shall not be quoted again. The mark in front tells the layer, which trusts it only after a check.
struct Raw(String);

const RAW_MARK: char = '\0';

impl fmt::Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{RAW_MARK}{}", self.0)
    }
}

/// Writes events as lines.
struct Lines {
    level: LevelFilter,
    format: Format,
    /// Guards the outputs, so that lines of two threads do not mix.
    sinks: Mutex<Vec<Sink>>,
}

enum Sink {
    Stderr,
    Stdout,
    File(File),
    Rotated(Box<RotatedFile>),
    Journal(Journal),
    #[cfg(test)]
    Memory(std::sync::Arc<Mutex<Vec<u8>>>),
}

impl Sink {
    fn open(output: &Output) -> Result<Self, Error> {
        let failed = |path: &PathBuf| {
            let path = path.clone();
            move |source| Error::Open { path, source }
        };
        Ok(match output {
            Output::Stderr => Self::Stderr,
            Output::Stdout => Self::Stdout,
            Output::File(path) => Self::File(
                OpenOptions::new().create(true).append(true).open(path).map_err(failed(path))?,
            ),
            Output::Rotated(path, rotation) => Self::Rotated(Box::new(
                RotatedFile::open(path, rotation.clone()).map_err(failed(path))?,
            )),
            Output::Journal => Self::Journal(Journal::open().map_err(Error::Journal)?),
        })
    }

    fn write(&mut self, line: &str, metadata: &Metadata<'_>) -> io::Result<()> {
        match self {
            Self::Stderr => io::stderr().lock().write_all(line.as_bytes()),
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(line.as_bytes())?;
                stdout.flush()
            }
            Self::File(file) => file.write_all(line.as_bytes()),
            Self::Rotated(file) => file.write(line.as_bytes()),
            Self::Journal(journal) => {
                let (dir, _) = caller(metadata.file().unwrap_or_default());
                let written = journal.write(line, *metadata.level(), dir.unwrap_or("."));
                written.or_else(|_| io::stderr().lock().write_all(line.as_bytes()))
            }
            #[cfg(test)]
            Self::Memory(buffer) => buffer.lock().write_all(line.as_bytes()),
        }
    }
}

impl Lines {
    fn open(settings: &Settings) -> Result<Self, Error> {
        let sinks = settings.outputs.iter().map(Sink::open).collect::<Result<_, _>>()?;
        Ok(Self {
            level: settings.level.filter(),
            format: settings.format,
            sinks: Mutex::new(sinks),
        })
    }

    fn wants(&self, metadata: &Metadata<'_>) -> bool {
        if !metadata.is_event() {
            return false;
        }
        // Our crates and the Raft library tell the story of the member; the rest only what went wrong.
        let target = metadata.target();
        let is_ours = ["retcd", "etcd", "raft"].iter().any(|prefix| target.starts_with(prefix));
        let limit = if is_ours { self.level } else { self.level.min(LevelFilter::WARN) };
        *metadata.level() <= limit
    }
}

thread_local! {
    /// The line under construction, kept for its capacity.
    static LINE: RefCell<String> = const { RefCell::new(String::new()) };
}

impl<S: Subscriber> Layer<S> for Lines {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.wants(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.wants(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let write = |line: &mut String| {
            line.clear();
            format_event(line, self.format, SystemTime::now(), event);
            for sink in &mut *self.sinks.lock() {
                // There is nowhere to tell that the log cannot be written.
                let _ = sink.write(line, event.metadata());
            }
        };
        LINE.with(|line| match line.try_borrow_mut() {
            Ok(mut line) => write(&mut line),
            // A value that logs while it is being printed.
            Err(_) => write(&mut String::new()),
        });
    }
}

fn format_event(line: &mut String, format: Format, now: SystemTime, event: &Event<'_>) {
    let mut fields =
        Fields { message: String::new(), json: String::new(), spaced: format == Format::Console };
    event.record(&mut fields);
    let metadata = event.metadata();
    let level = level_name(*metadata.level());
    let (file, number) = (metadata.file().unwrap_or("unknown"), metadata.line().unwrap_or(0));
    match format {
        Format::Json => {
            let _ = write!(line, "{{\"level\":\"{level}\",\"ts\":\"");
            push_time(line, now);
            line.push_str("\",\"caller\":\"");
            push_caller(line, file, number);
            line.push_str("\",\"msg\":");
            push_quoted(line, &fields.message);
            if !fields.json.is_empty() {
                line.push(',');
                line.push_str(&fields.json);
            }
            line.push_str("}\n");
        }
        Format::Console => {
            push_time(line, now);
            let _ = write!(line, "\t{level}\t");
            push_caller(line, file, number);
            line.push('\t');
            line.push_str(&fields.message);
            if !fields.json.is_empty() {
                let _ = write!(line, "\t{{{}}}", fields.json);
            }
            line.push('\n');
        }
    }
}

fn level_name(level: tracing::Level) -> &'static str {
    match level {
        tracing::Level::ERROR => "error",
        tracing::Level::WARN => "warn",
        tracing::Level::INFO => "info",
        tracing::Level::DEBUG | tracing::Level::TRACE => "debug",
    }
}

/// The last directory and the file, as Go's loggers shorten it; `src` says nothing and is left out.
fn caller(file: &str) -> (Option<&str>, &str) {
    let mut parts = file.rsplit(['/', '\\']).filter(|part| *part != "src");
    let name = parts.next().unwrap_or(file);
    (parts.next(), name)
}

fn push_caller(line: &mut String, file: &str, number: u32) {
    let _ = match caller(file) {
        (Some(dir), name) => write!(line, "{dir}/{name}:{number}"),
        (None, name) => write!(line, "{name}:{number}"),
    };
}

/// `2006-01-02T15:04:05.000000Z`.
fn push_time(line: &mut String, time: SystemTime) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let _ = write!(
        line,
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:06}Z",
        since.subsec_micros()
    );
}

/// The Gregorian date of a day since 1970. Years start in March here, so that the leap day comes last.
fn date(days: u64) -> (u64, u64, u64) {
    const ERA: u64 = 146_097;
    // From 0000-03-01 to 1970-01-01.
    let days = days + 719_468;
    let (era, day) = (days / ERA, days % ERA);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

/// Collects the message and, as JSON members, everything else.
struct Fields {
    message: String,
    json: String,
    /// Whether a space follows commas and colons, as in zap's console lines.
    spaced: bool,
}

impl Fields {
    fn push(&mut self, field: &Field, value: impl FnOnce(&mut String)) {
        if field.name() == "message" {
            self.message.clear();
            return value(&mut self.message);
        }
        self.separate();
        self.json.push('"');
        push_escaped(&mut self.json, field.name(), |c| if c == '_' { '-' } else { c });
        self.json.push_str(if self.spaced { "\": " } else { "\":" });
        value(&mut self.json);
    }

    fn separate(&mut self) {
        if !self.json.is_empty() {
            self.json.push_str(if self.spaced { ", " } else { "," });
        }
    }

    fn push_text(&mut self, field: &Field, text: &str) {
        let is_json = |raw: &&str| serde_json::from_str::<serde::de::IgnoredAny>(raw).is_ok();
        let raw = text.strip_prefix(RAW_MARK).filter(is_json);
        match (field.name(), raw) {
            ("message", _) => self.push(field, |json| json.push_str(text)),
            ("fields", Some(object)) if object.starts_with('{') => {
                let members = &object[1..object.len() - 1];
                if !members.is_empty() {
                    self.separate();
                    let gap = if self.spaced { " " } else { "" };
                    members.split(GAP).enumerate().for_each(|(place, part)| {
                        self.json.push_str(if place > 0 { gap } else { "" });
                        self.json.push_str(part);
                    });
                }
            }
            (_, Some(raw)) => self.push(field, |json| json.push_str(raw)),
            (_, None) => self.push(field, |json| push_quoted(json, text)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push_text(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push_text(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn StdError + 'static)) {
        self.push_text(field, &value.to_string());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, |json| push(json, value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, |json| push(json, value));
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.push(field, |json| push(json, value));
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.push(field, |json| push(json, value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, |json| push(json, value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no NaN and no infinities; zap writes them as texts.
        if value.is_finite() {
            self.push(field, |json| push(json, value));
        } else {
            self.push_text(field, &value.to_string());
        }
    }
}

fn push(json: &mut String, value: impl fmt::Display) {
    let _ = write!(json, "{value}");
}

fn push_list<T: AsRef<str>>(json: &mut String, texts: &[T]) {
    json.push('[');
    for (index, text) in texts.iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        push_quoted(json, text.as_ref());
    }
    json.push(']');
}

fn push_quoted(json: &mut String, text: &str) {
    json.push('"');
    push_escaped(json, text, |c| c);
    json.push('"');
}

fn push_escaped(json: &mut String, text: &str, map: impl Fn(char) -> char) {
    for c in text.chars().map(map) {
        match c {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            c if c < ' ' => push(json, format_args!("\\u{:04x}", u32::from(c))),
            c => json.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// What the events of `work` print.
    fn logged(level: Level, format: Format, work: impl FnOnce()) -> String {
        let buffer = Arc::new(Mutex::new(Vec::new()));
        let sinks = Mutex::new(vec![Sink::Memory(buffer.clone())]);
        let lines = Lines { level: level.filter(), format, sinks };
        let subscriber = tracing_subscriber::registry().with(lines);
        tracing::subscriber::with_default(subscriber, work);
        let bytes = buffer.lock().clone();
        String::from_utf8(bytes).unwrap()
    }

    /// Cuts the time and the line number, which change.
    fn steady(line: &str) -> String {
        let (head, rest) = line.split_at(line.find("20").expect("a time"));
        let rest = &rest["2026-01-02T15:04:05.000000Z".len()..];
        let (caller, rest) = rest.split_once("logging.rs:").expect("a caller");
        format!(
            "{head}T{caller}logging.rs:N{}",
            rest.trim_start_matches(|c: char| c.is_ascii_digit())
        )
    }

    #[test]
    fn json_has_etcd_s_keys_in_order_and_typed_fields() {
        let line = logged(Level::Info, Format::Json, || {
            let error = io::Error::other("no \"space\"\n");
            tracing::info!(
                local_member_id = %format_args!("{:x}", 0xabc),
                index = 7_u64,
                delta = -1_i64,
                ok = true,
                rate = 0.5,
                took = %took(Duration::from_micros(1500)),
                error = &error as &(dyn StdError + 'static),
                urls = %strings(&["http://a:1", "b\"c"]),
                "start time" = "x",
                "ready to serve client requests"
            );
        });
        assert_eq!(
            steady(&line),
            "{\"level\":\"info\",\"ts\":\"T\",\"caller\":\"server/logging.rs:N\",\
             \"msg\":\"ready to serve client requests\",\"local-member-id\":\"abc\",\"index\":7,\
             \"delta\":-1,\"ok\":true,\"rate\":0.5,\"took\":\"1.5ms\",\"error\":\"no \\\"space\\\"\\n\",\
             \"urls\":[\"http://a:1\",\"b\\\"c\"],\"start time\":\"x\"}\n"
        );
        let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(parsed["urls"][1], "b\"c");
    }

    #[test]
    fn sizes_read_as_in_etcds_logs() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(999), "999 B");
        assert_eq!(size(20_480), "20 kB");
        assert_eq!(size(1_540_000_000), "1.5 GB");
        assert_eq!(size(82_854_982), "83 MB");
    }

    #[test]
    fn console_has_tabs() {
        let lines = logged(Level::Info, Format::Console, || {
            tracing::warn!(path = "x", count = 2, "slow fdatasync");
            tracing::error!("bare");
        });
        let lines: Vec<String> = lines.lines().map(steady).collect();
        assert_eq!(
            lines,
            [
                "T\twarn\tserver/logging.rs:N\tslow fdatasync\t{\"path\": \"x\", \"count\": 2}",
                "T\terror\tserver/logging.rs:N\tbare"
            ]
        );
    }

    #[test]
    fn a_list_of_fields_stands_among_the_others() {
        let mut list = FieldList::default();
        list.text("member-dir", "d/\r");
        list.add("max-wals", 5);
        list.list("cors", &["*"]);
        list.duration("election-timeout", Duration::from_secs(1));
        let work = || {
            tracing::info!(name = "n", fields = %list, "starting an etcd server");
            tracing::info!(fields = %FieldList::default(), "m");
        };
        let json = logged(Level::Info, Format::Json, work);
        let members = "\"msg\":\"starting an etcd server\",\"name\":\"n\",\"member-dir\":\"d/\\r\",\
                       \"max-wals\":5,\"cors\":[\"*\"],\"election-timeout\":\"1s\"}\n";
        assert!(json.contains(members) && json.ends_with("\"msg\":\"m\"}\n"), "{json}");
        let console = logged(Level::Info, Format::Console, work);
        assert!(console.contains("{\"name\": \"n\", \"member-dir\": \"d/\\r\", \"max-wals\": 5, "));
    }

    #[test]
    fn the_level_decides_and_libraries_are_quiet() {
        let work = || {
            tracing::debug!("a");
            tracing::info!("b");
            tracing::info!(target: "h2::codec", "c");
            tracing::warn!(target: "h2::codec", "d");
            tracing::error!("e");
        };
        let messages = |level| {
            let lines = logged(level, Format::Json, work);
            let messages = lines.lines().map(|line| {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                line["msg"].as_str().unwrap().to_owned()
            });
            messages.collect::<String>()
        };
        assert_eq!(messages(Level::Debug), "abde");
        assert_eq!(messages(Level::Info), "bde");
        assert_eq!(messages(Level::Error), "e");
        assert_eq!(messages(Level::Fatal), "");
    }

    #[test]
    fn a_marked_text_that_is_no_json_is_quoted() {
        let line = logged(Level::Info, Format::Json, || {
            tracing::info!(key = "\0],\"level\":\"x\"", "m");
        });
        let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(parsed["key"], "\0],\"level\":\"x\"");
        assert_eq!(parsed["level"], "info");
    }

    #[test]
    fn times_are_utc_with_microseconds() {
        for (seconds, micros, text) in [
            (0, 0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399, 1, "2000-02-28T23:59:59.000001Z"),
            (951_782_400, 0, "2000-02-29T00:00:00.000000Z"),
            (1_767_366_245, 123_456, "2026-01-02T15:04:05.123456Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000000Z"),
        ] {
            let mut line = String::new();
            push_time(&mut line, UNIX_EPOCH + Duration::from_micros(seconds * 1_000_000 + micros));
            assert_eq!(line, text);
        }
    }

    #[test]
    fn callers_are_short() {
        for (file, short) in [
            ("crates/server/src/server.rs", "server/server.rs:1"),
            ("crates/server/src/node/commit_loop.rs", "node/commit_loop.rs:1"),
            ("main.rs", "main.rs:1"),
        ] {
            let mut line = String::new();
            push_caller(&mut line, file, 1);
            assert_eq!(line, short);
        }
    }

    #[test]
    fn files_are_appended_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etcd.log");
        std::fs::write(&path, "before\n").unwrap();
        let output = Output::from_name(path.to_str().unwrap());
        let settings = Settings { outputs: vec![output], ..Settings::default() };
        let subscriber = tracing_subscriber::registry().with(Lines::open(&settings).unwrap());
        tracing::subscriber::with_default(subscriber, || tracing::info!("after"));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("before\n{\"level\":\"info\"") && text.ends_with("}\n"), "{text}");

        let missing = Settings {
            outputs: vec![Output::File(dir.path().join("no/such/dir"))],
            ..Settings::default()
        };
        assert!(matches!(Lines::open(&missing), Err(Error::Open { .. })));
    }
}
