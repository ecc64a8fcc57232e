//! `migrate`: changes the version that a member's storage says it has.
//!
//! Up to now the versions differ in nothing but the name: 3.5 has none.

use prost::Message;
use retcd_api::etcdserverpb::InternalRaftRequest;
use retcd_api::raftpb::EntryType;
use retcd_command_line::go::number::parse_int;
use retcd_command_line::{Action, Command, Failure, Flag, Invocation};
use retcd_conversion::Version;
use retcd_state_machine::backend::{Backend, Batch, Change};
use retcd_state_machine::schema::{Bucket, meta};
use retcd_storage::backend::{LmdbBackend, Options};
use retcd_storage::data_dir::Layout;
use retcd_storage::fs::RealFs;
use retcd_storage::wal;

use crate::file::{expect_there, lock_dir};
use crate::log;

pub(super) const COMMAND: Command = Command {
    short: "Changes the storage version of a data directory, for another version of etcd",
    flags: &[
        Flag::text("data-dir", "", "the data directory, not in use by a server").required(),
        Flag::text("target-version", "", "the version to change to, at least 3.5, as \"X.Y\": 3.6")
            .required(),
        Flag::bool("force", "overwrite the version even where it cannot be changed; risky"),
    ],
    ..Command::new("migrate", "", Action::Run(run))
};

fn run(invocation: &Invocation) -> Result<(), Failure> {
    let target = version(invocation.flags.text("target-version"))?;
    let layout = Layout::new(invocation.flags.text("data-dir"), None);
    let path = layout.backend_path();
    expect_there(&path)?;
    let _lock = lock_dir(&layout, invocation)?;
    let backend =
        LmdbBackend::open(&path, Options::default()).map_err(|error| Failure::error(&error))?;
    let current = current(&backend)?;
    if current == target {
        let version = current.to_string();
        log::info("storage version up-to-date", &[("storage-version", &version)]);
        return Ok(());
    }
    let needed = needed(&layout).inspect_err(|_| log::error("Failed to finalize config", &[]))?;
    match check(current, target, needed) {
        Ok(()) => {
            log::info("updated storage version", &[("new-storage-version", &target.stored())]);
        }
        Err(refusal) if invocation.flags.bool("force") => {
            log::info("normal migrate failed, trying with force", &[("error", &refusal)]);
            let version = target.to_string();
            log::warn("forcefully set storage version", &[("storage-version", &version)]);
        }
        Err(refusal) => return Err(Failure::error(&refusal)),
    }
    write(&backend, target)
}

/// Reads `X.Y`.
pub(super) fn version(text: &str) -> Result<Version, Failure> {
    let Some((major, minor)) = text.split_once('.').filter(|(_, rest)| !rest.contains('.')) else {
        let message = format!("wrong target version format, expected \"X.Y\", got {text:?}");
        return Err(Failure::bad_args(message));
    };
    let number = |text: &str| {
        let number = parse_int(text, 10).map(|number| u32::try_from(number).unwrap_or(0));
        number
            .map_err(|error| Failure::bad_args(format!("failed to parse target version: {error}")))
    };
    let version = Version { major: number(major)?, minor: number(minor)? };
    if version < Version::V3_5 {
        let message = format!("target version \"{version}\" not supported. Minimal \"3.5\"");
        return Err(Failure::bad_args(message));
    }
    Ok(version)
}

fn current(backend: &LmdbBackend) -> Result<Version, Failure> {
    let get = |key| backend.get(Bucket::Meta, key).map_err(|error| Failure::error(&error));
    if let Some(stored) = get(meta::STORAGE_VERSION)? {
        let text = String::from_utf8_lossy(&stored).into_owned();
        return text
            .parse()
            .map_err(|()| Failure::error(&format!("the storage version {text:?} is no version")));
    }
    if get(meta::TERM)?.is_some() {
        return Ok(Version::V3_5);
    }
    log::error(
        "failed to detect storage version. Please make sure you are using data dir from etcd v3.5 and older",
        &[],
    );
    Err(Failure::error(&"missing term information"))
}

/// The version of etcd that understands all of the log behind the last snapshot; `None` when any does.
fn needed(layout: &Layout) -> Result<Option<Version>, Failure> {
    let failed = |error: wal::Error| Failure::error(&format!("failed to read wal: {error}"));
    let dir = layout.wal_dir();
    let valid = wal::valid_snapshots(&RealFs, &dir).map_err(failed)?;
    let from = valid.last().cloned().unwrap_or_default();
    let log = wal::read(&RealFs, &dir, &from).map_err(failed)?;
    let requests = log
        .entries
        .iter()
        .filter(|entry| entry.r#type() == EntryType::EntryNormal)
        .filter_map(|entry| InternalRaftRequest::decode(entry.data.clone()).ok());
    // The one request that came after 3.5; it is there to stand for those that may come.
    let versions = requests.filter_map(|request| request.downgrade_version_test).map(|test| {
        test.ver.parse().map_or(Version::V3_6, |version: Version| version.max(Version::V3_6))
    });
    Ok(versions.max())
}

fn check(current: Version, target: Version, needed: Option<Version>) -> Result<(), String> {
    let plan = |reason: String| Err(format!("cannot create migration plan: {reason}"));
    if current.major != target.major {
        return plan("changing major storage version is not supported".to_owned());
    }
    if current.max(target) > Version::NEWEST {
        let is_upgrade = target > current;
        let unknown = if is_upgrade { next(current.max(Version::NEWEST)) } else { current };
        return plan(format!("version \"{}\" is not supported", unknown.stored()));
    }
    match needed {
        Some(needed) if target < current && target < needed => Err(format!(
            "cannot downgrade storage, WAL contains newer entries, as the target version ({}) is lower than the version ({}) \
             detected from WAL logs",
            target.stored(),
            needed.stored()
        )),
        _ => Ok(()),
    }
}

fn next(version: Version) -> Version {
    Version { minor: version.minor + 1, ..version }
}

fn write(backend: &LmdbBackend, target: Version) -> Result<(), Failure> {
    let value = (target >= Version::V3_6).then(|| target.stored().into_bytes());
    let change = Change { bucket: Bucket::Meta, key: meta::STORAGE_VERSION.to_vec(), value };
    let batch = Batch { changes: vec![change], ..Batch::default() };
    backend.commit(&batch).map_err(|error| Failure::error(&error))
}
