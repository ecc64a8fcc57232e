//! A log file that steps aside when it is full.
//!
//! `etcd.log` becomes `etcd-2006-01-02T15-04-05.000.log` before a line that would make it too large, and lines go on in a
//! new `etcd.log`. These are the names of lumberjack, which does this for etcd: files that either of them left count for
//! both. A thread of its own compresses the old files and removes those that are too many or too old, so that no line
//! waits for it.
//!
//! No line is lost: when the file cannot step aside it grows, and a line that is larger than a file has one for itself.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

const MEGABYTE: u64 = 1 << 20;
const DEFAULT_MEGABYTES: u64 = 100;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// What stands in the name of a file that stepped aside, a digit for each zero. Sorts by time.
const STAMP: &str = "0000-00-00T00-00-00.000";
const COMPRESSED: &str = ".gz";

/// When a log file is full, and what becomes of it then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    pub max_bytes: u64,
    /// Age after which a file is removed; none: never.
    pub max_age: Option<Duration>,
    /// How many old files are kept; none: all.
    pub max_backups: Option<u64>,
    /// Whether names tell local time; otherwise UTC.
    pub local_time: bool,
    pub compress: bool,
}

/// Why `--log-rotation-config-json` cannot be read, in etcd's words.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("improperly formatted log rotation config: {0}")]
    Syntax(String),
    #[error(
        "invalid log rotation config: json: cannot unmarshal {0} into Go value of type embed.logRotationConfig"
    )]
    NoObject(&'static str),
    #[error(
        "invalid log rotation config: json: cannot unmarshal {found} into Go struct field \
         logRotationConfig.Logger.{field} of type {wanted}"
    )]
    Field { found: String, field: &'static str, wanted: &'static str },
}

impl Rotation {
    /// Reads `{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}`: megabytes, days and
    /// a count. What is missing, zero or less stands for 100 megabytes, and for no limit of the other two.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        let value = serde_json::from_str(text)
            .map_err(|error| Error::Syntax(syntax_error(text, &error)))?;
        let members = match value {
            Value::Object(members) => members,
            Value::Null => serde_json::Map::new(),
            other => return Err(Error::NoObject(kind(&other))),
        };
        // As for Go, names have no case.
        let find = |field: &str| members.iter().find(|(name, _)| name.eq_ignore_ascii_case(field));
        let number = |field| match find(field).map(|(_, value)| value) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_i64() {
                Some(number) => Ok(u64::try_from(number).ok().filter(|number| *number > 0)),
                None => Err(Error::Field { found: found(value), field, wanted: "int" }),
            },
        };
        let flag = |field| match find(field).map(|(_, value)| value) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => Err(Error::Field { found: found(value), field, wanted: "bool" }),
        };
        let days = |days| DAY.saturating_mul(u32::try_from(days).unwrap_or(u32::MAX));
        Ok(Self {
            max_bytes: number("maxsize")?.unwrap_or(DEFAULT_MEGABYTES).saturating_mul(MEGABYTE),
            max_age: number("maxage")?.map(days),
            max_backups: number("maxbackups")?,
            local_time: flag("localtime")?,
            compress: flag("compress")?,
        })
    }

    fn tidies(&self) -> bool {
        self.max_age.is_some() || self.max_backups.is_some() || self.compress
    }
}

/// The mistake in the words of Go's reader of JSON, where both know the same one.
fn syntax_error(text: &str, error: &serde_json::Error) -> String {
    if error.is_eof() {
        return "unexpected end of JSON input".to_owned();
    }
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or_default();
    let line = text.lines().nth(error.line().saturating_sub(1)).unwrap_or_default();
    let found = line.get(error.column().saturating_sub(1)..).and_then(|rest| rest.chars().next());
    let place = match (message, found) {
        ("expected value", _) | ("trailing comma", Some(']')) => "looking for beginning of value",
        ("trailing comma" | "key must be a string", _) => {
            "looking for beginning of object key string"
        }
        ("trailing characters", _) => "after top-level value",
        ("expected `,` or `}`", _) => "after object key:value pair",
        ("expected `,` or `]`", _) => "after array element",
        ("expected `:`", _) => "after object key",
        _ => return message.to_owned(),
    };
    found.map_or_else(|| message.to_owned(), |found| format!("invalid character {found:?} {place}"))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn found(value: &Value) -> String {
    match value {
        Value::Number(number) => format!("number {number}"),
        other => kind(other).to_owned(),
    }
}

/// The file that lines go to.
pub(super) struct RotatedFile {
    path: PathBuf,
    rotation: Rotation,
    file: File,
    bytes: u64,
    keeper: Option<Keeper>,
}

impl RotatedFile {
    /// Goes on with the file that is there, or makes one, and the directory for it.
    pub(super) fn open(path: &Path, rotation: Rotation) -> io::Result<Self> {
        let dir = dir(path);
        DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let bytes = file.metadata()?.len();
        let keeper = if rotation.tidies() {
            Some(Keeper::start(path.to_owned(), rotation.clone())?)
        } else {
            None
        };
        Ok(Self { path: path.to_owned(), rotation, file, bytes, keeper })
    }

    pub(super) fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let length = line.len() as u64;
        if self.bytes > 0 && self.bytes + length > self.rotation.max_bytes {
            // The next line tries it again; this one shall not be lost for it.
            let _ = self.rotate(SystemTime::now());
        }
        self.file.write_all(line)?;
        self.bytes += length;
        Ok(())
    }

    fn rotate(&mut self, now: SystemTime) -> io::Result<()> {
        let name = free_name(&self.path, now, self.rotation.local_time);
        match fs::rename(&self.path, name) {
            // Somebody has put it away, or only the second half of this was missing.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let before = self.file.metadata()?;
        let mode = before.permissions().mode();
        self.file = OpenOptions::new().create(true).append(true).mode(mode).open(&self.path)?;
        self.bytes = 0;
        give_to_owner(&self.file, &before);
        if let Some(keeper) = &self.keeper {
            keeper.ring();
        }
        Ok(())
    }
}

/// The owner stays the same where this process may decide that.
fn give_to_owner(file: &File, like: &fs::Metadata) {
    let _ = fchown(file, Some(like.uid()), Some(like.gid()));
}

/// Looks after the files that stepped aside, on a thread of its own.
struct Keeper {
    /// Whoever finds a bell that was not heard yet need not ring again.
    bell: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// The first look is for what an earlier process left.
    fn start(path: PathBuf, rotation: Rotation) -> io::Result<Self> {
        let (bell, heard) = sync_channel(1);
        let keep = move || keep(&path, &rotation, &heard);
        let thread = std::thread::Builder::new().name("log-rotation".to_owned()).spawn(keep)?;
        let keeper = Self { bell: Some(bell), thread: Some(thread) };
        keeper.ring();
        Ok(keeper)
    }

    fn ring(&self) {
        if let Some(bell) = &self.bell {
            let _ = bell.try_send(());
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.bell = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn keep(path: &Path, rotation: &Rotation, bell: &Receiver<()>) {
    while bell.recv().is_ok() {
        if let Err(error) = tidy(path, rotation, SystemTime::now()) {
            tracing::warn!(path = %path.display(), %error, "could not tidy up rotated log files");
        }
    }
}

/// Removes what is too much or too old, and compresses the rest. Goes on behind a failure and returns the first one.
fn tidy(path: &Path, rotation: &Rotation, now: SystemTime) -> io::Result<()> {
    let cutoff = rotation.max_age.map(|age| {
        let cutoff = now.checked_sub(age).unwrap_or(UNIX_EPOCH);
        stamp(cutoff, rotation.local_time)
    });
    let mut result = Ok(());
    let (mut count, mut last) = (0, String::new());
    for backup in backups(path)? {
        // A file and its compressed form are one.
        if backup.stamp != last {
            count += 1;
            last.clone_from(&backup.stamp);
        }
        let is_surplus = rotation.max_backups.is_some_and(|max| count > max);
        let is_old = cutoff.as_ref().is_some_and(|cutoff| backup.stamp < *cutoff);
        let done = if is_surplus || is_old {
            fs::remove_file(&backup.path)
        } else if rotation.compress && !backup.is_compressed {
            compress(&backup.path)
        } else {
            Ok(())
        };
        result = result.and(done);
    }
    result
}

/// A file that stepped aside.
struct Backup {
    stamp: String,
    path: PathBuf,
    is_compressed: bool,
}

/// All of them, the newest first.
fn backups(path: &Path) -> io::Result<Vec<Backup>> {
    let (stem, extension) = split_name(path);
    let prefix = format!("{stem}-");
    let mut backups = Vec::new();
    for entry in fs::read_dir(dir(path))? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(&prefix)) else {
            continue;
        };
        let (rest, is_compressed) = match rest.strip_suffix(COMPRESSED) {
            Some(rest) => (rest, true),
            None => (rest, false),
        };
        let stamp = rest.strip_suffix(&extension).filter(|stamp| is_stamp(stamp));
        if let Some(stamp) = stamp
            && entry.file_type()?.is_file()
        {
            backups.push(Backup { stamp: stamp.to_owned(), path: entry.path(), is_compressed });
        }
    }
    backups.sort_by(|one, other| other.stamp.cmp(&one.stamp));
    Ok(backups)
}

/// The original goes last, so that a compression that was interrupted begins anew.
fn compress(path: &Path) -> io::Result<()> {
    let mut source = File::open(path)?;
    let like = source.metadata()?;
    let mut target = path.as_os_str().to_owned();
    target.push(COMPRESSED);
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true).mode(like.permissions().mode());
    let written = options.open(&target).and_then(|file| {
        give_to_owner(&file, &like);
        let mut encoder = GzEncoder::new(file, Compression::default());
        io::copy(&mut source, &mut encoder)?;
        encoder.finish()?.sync_all()
    });
    if let Err(error) = written {
        let _ = fs::remove_file(&target);
        return Err(error);
    }
    fs::remove_file(path)
}

/// A name with the time in it that no file has: of several within a millisecond the later ones take the next.
fn free_name(path: &Path, now: SystemTime, local_time: bool) -> PathBuf {
    let (stem, extension) = split_name(path);
    let name = |millis| {
        let stamp = stamp(now + Duration::from_millis(millis), local_time);
        dir(path).join(format!("{stem}-{stamp}{extension}"))
    };
    let is_taken = |path: &PathBuf| {
        let mut compressed = path.as_os_str().to_owned();
        compressed.push(COMPRESSED);
        path.exists() || Path::new(&compressed).exists()
    };
    (0..u64::MAX).map(name).find(|path| !is_taken(path)).expect("there is a free millisecond")
}

/// The parts around the time: `etcd` and `.log`. The last dot divides, even when it is the first letter, as in Go.
fn split_name(path: &Path) -> (String, String) {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let (stem, extension) = name.split_at(name.rfind('.').unwrap_or(name.len()));
    (stem.to_owned(), extension.to_owned())
}

fn dir(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    }
}

fn is_stamp(text: &str) -> bool {
    let fits = |(c, like): (u8, u8)| if like == b'0' { c.is_ascii_digit() } else { c == like };
    text.len() == STAMP.len() && text.bytes().zip(STAMP.bytes()).all(fits)
}

fn stamp(time: SystemTime, local_time: bool) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs();
    let seconds = if local_time { to_local(seconds) } else { seconds };
    let (year, month, day) = super::date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}-{minute:02}-{second:02}.{:03}",
        since.subsec_millis()
    )
}

/// The seconds that a clock on the wall here shows, counted as if it were UTC.
#[allow(unsafe_code, reason = "std does not know the time zone")]
fn to_local(seconds: u64) -> u64 {
    let Ok(time) = libc::time_t::try_from(seconds) else { return seconds };
    // SAFETY: all fields are numbers, and a pointer that may be null.
    let mut parts: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both are ours for the call; libc keeps no pointer to them. The variable TZ is read, and nothing in this
    // process writes variables while it logs.
    if unsafe { libc::localtime_r(&raw const time, &raw mut parts) }.is_null() {
        return seconds;
    }
    seconds.saturating_add_signed(parts.tm_gmtoff)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    const NOW: Duration = Duration::from_millis(1_767_366_245_123);

    fn rotation(text: &str) -> Rotation {
        Rotation::from_json(text).unwrap()
    }

    fn now() -> SystemTime {
        UNIX_EPOCH + NOW
    }

    /// The names in a directory, sorted.
    fn names(dir: &Path) -> Vec<String> {
        let names = fs::read_dir(dir).unwrap();
        let mut names: Vec<_> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn settings_are_read_as_go_reads_them() {
        let default =
            rotation(crate::config::flags::Flag::named("log-rotation-config-json").default);
        let expected = Rotation {
            max_bytes: 100 << 20,
            max_age: None,
            max_backups: None,
            local_time: false,
            compress: false,
        };
        assert_eq!(default, expected);
        assert_eq!(rotation("null"), expected);
        assert_eq!(rotation("{\"MaxSize\": -1, \"maxage\": null, \"other\": []}"), expected);
        let all = "{\"maxsize\": 2, \"maxage\": 3, \"maxbackups\": 4, \"localtime\": true, \
                   \"compress\": true}";
        let expected = Rotation {
            max_bytes: 2 << 20,
            max_age: Some(3 * DAY),
            max_backups: Some(4),
            local_time: true,
            compress: true,
        };
        assert_eq!(rotation(all), expected);
    }

    #[test]
    fn mistakes_are_told_in_etcds_words() {
        let field =
            |text: &str| format!("invalid log rotation config: json: cannot unmarshal {text}");
        let syntax = |text: &str| format!("improperly formatted log rotation config: {text}");
        let member = "Go struct field logRotationConfig.Logger";
        for (text, message) in [
            ("", syntax("unexpected end of JSON input")),
            ("{\"maxsize\": 1", syntax("unexpected end of JSON input")),
            ("{\"maxsize\": }", syntax("invalid character '}' looking for beginning of value")),
            ("x", syntax("invalid character 'x' looking for beginning of value")),
            ("{} x", syntax("invalid character 'x' after top-level value")),
            ("{x}", syntax("invalid character 'x' looking for beginning of object key string")),
            ("{\"a\" 1}", syntax("invalid character '1' after object key")),
            ("{\"a\": 1 2}", syntax("invalid character '2' after object key:value pair")),
            ("[]", field("array into Go value of type embed.logRotationConfig")),
            ("5", field("number into Go value of type embed.logRotationConfig")),
            ("{\"maxsize\": true}", field(&format!("bool into {member}.maxsize of type int"))),
            ("{\"maxage\": 1.5}", field(&format!("number 1.5 into {member}.maxage of type int"))),
            (
                "{\"compress\": \"yes\"}",
                field(&format!("string into {member}.compress of type bool")),
            ),
        ] {
            assert_eq!(Rotation::from_json(text).unwrap_err().to_string(), message, "{text}");
        }
    }

    #[test]
    fn names_have_the_time_before_the_last_dot() {
        let dir = tempfile::tempdir().unwrap();
        for (name, backup) in [
            ("etcd.log", "etcd-2026-01-02T15-04-05.123.log"),
            ("etcd", "etcd-2026-01-02T15-04-05.123"),
            ("a.b.c", "a.b-2026-01-02T15-04-05.123.c"),
            (".log", "-2026-01-02T15-04-05.123.log"),
        ] {
            let path = free_name(&dir.path().join(name), now(), false);
            assert_eq!(path, dir.path().join(backup));
        }
        // Both forms of a file take its name.
        let path = dir.path().join("etcd.log");
        fs::write(free_name(&path, now(), false), "").unwrap();
        fs::write(dir.path().join("etcd-2026-01-02T15-04-05.124.log.gz"), "").unwrap();
        let next = free_name(&path, now(), false);
        assert_eq!(next, dir.path().join("etcd-2026-01-02T15-04-05.125.log"));
        assert_eq!(dir_of("etcd.log"), Path::new("."));
    }

    fn dir_of(path: &str) -> &Path {
        dir(Path::new(path))
    }

    #[test]
    fn local_time_is_a_whole_number_of_minutes_away() {
        let local = to_local(NOW.as_secs());
        let distance = local.abs_diff(NOW.as_secs());
        assert!(distance.is_multiple_of(60) && distance <= 14 * 3600, "{distance}");
        assert!(is_stamp(&stamp(now(), true)));
    }

    #[test]
    fn a_line_that_does_not_fit_any_more_begins_a_new_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made/etcd.log");
        let mut file = RotatedFile::open(&path, rotation("{\"maxsize\": 1}")).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let half = vec![b'x'; 1 << 19];
        file.write(&half).unwrap();
        file.write(&half).unwrap();
        assert_eq!(names(path.parent().unwrap()), ["etcd.log"]);
        file.write(b"next\n").unwrap();
        let two = names(path.parent().unwrap());
        assert!(two.len() == 2 && two[1] == "etcd.log", "{two:?}");
        let backup = path.with_file_name(&two[0]);
        assert_eq!(fs::metadata(&backup).unwrap().len(), 1 << 20);
        assert_eq!(fs::read(&path).unwrap(), b"next\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);

        // What is there counts, also for the next process; and a line without a place in any file has one of its own.
        drop(file);
        let mut file = RotatedFile::open(&path, rotation("{\"maxsize\": 1}")).unwrap();
        file.write(&vec![b'y'; 3 << 20]).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 3 << 20);
        file.write(b"z\n").unwrap();
        assert_eq!(names(path.parent().unwrap()).len(), 4);
    }

    #[test]
    fn a_file_that_cannot_step_aside_grows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gone/etcd.log");
        let mut file = RotatedFile::open(&path, rotation("{\"maxsize\": 1}")).unwrap();
        file.write(&vec![b'x'; 1 << 20]).unwrap();
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
        file.write(b"more\n").unwrap();
        assert_eq!(file.file.metadata().unwrap().len(), (1 << 20) + 5);
        fs::create_dir(path.parent().unwrap()).unwrap();
        file.write(b"new\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new\n");
    }

    #[test]
    fn old_files_are_compressed_by_the_keeper() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etcd.log");
        let left = dir.path().join("etcd-2020-01-01T00-00-00.000.log");
        fs::write(&left, "left\n").unwrap();
        let mut file =
            RotatedFile::open(&path, rotation("{\"maxsize\": 1, \"compress\": true}")).unwrap();
        let full = vec![b'x'; 1 << 20];
        file.write(&full).unwrap();
        file.write(b"next\n").unwrap();
        // The keeper finishes what it was told.
        drop(file);
        let names = names(dir.path());
        assert_eq!(names.len(), 3, "{names:?}");
        assert_eq!((&*names[0], &*names[2]), ("etcd-2020-01-01T00-00-00.000.log.gz", "etcd.log"));
        let mut text = Vec::new();
        let compressed = File::open(dir.path().join(&names[1])).unwrap();
        flate2::read::GzDecoder::new(compressed).read_to_end(&mut text).unwrap();
        assert_eq!(text, full);
    }

    #[test]
    fn files_that_are_too_many_or_too_old_are_removed_and_others_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etcd.log");
        let others = [
            "etcd-2026-01-02.log",
            "etcd-2026-01-0xT00-00-00.000.log",
            "etcd.log",
            "other-2026-01-01T00-00-00.000.log",
        ];
        let backups = [
            "etcd-2025-12-30T15-04-05.122.log",
            "etcd-2025-12-30T15-04-05.124.log",
            "etcd-2026-01-01T00-00-00.000.log",
            "etcd-2026-01-01T00-00-00.000.log.gz",
            "etcd-2026-01-02T00-00-00.000.log.gz",
        ];
        for name in others.iter().chain(&backups) {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let left = |expected: &[&str]| {
            let mut expected = [expected, &others].concat();
            expected.sort_unstable();
            assert_eq!(names(dir.path()), expected);
        };
        tidy(&path, &rotation("{}"), now()).unwrap();
        left(&backups);
        tidy(&path, &rotation("{\"maxage\": 3}"), now()).unwrap();
        left(&backups[1..]);
        tidy(&path, &rotation("{\"maxbackups\": 2}"), now()).unwrap();
        left(&backups[2..]);
        tidy(&path, &rotation("{\"maxbackups\": 1, \"maxage\": 30}"), now()).unwrap();
        left(&backups[4..]);
    }
}
