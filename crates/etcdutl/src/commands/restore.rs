//! `snapshot restore`: a data dir for a member of a new cluster.

use std::path::Path;

use retcd_bbolt::trailer;
use retcd_command_line::{Action, Command, Failure, Flag, Invocation};
use retcd_conversion::{NewCluster, restore};
use retcd_net::{InitialCluster, UrlList};
use retcd_state_machine::cluster::{cluster_id, first_members};
use retcd_storage::data_dir::{Layout, is_bbolt};

use crate::file::{Stored, path_of};
use crate::log;

pub(super) const COMMAND: Command = Command {
    operands: "<filename> --data-dir {output dir} [options]",
    short: "Restores an etcd member snapshot to an etcd directory",
    flags: &[
        Flag::text("data-dir", "", "the directory to make (default: NAME.etcd)"),
        Flag::text("wal-dir", "", "the directory of the log (default: inside the data directory)"),
        Flag::text(
            "initial-cluster",
            "default=http://localhost:2380",
            "the members of the new cluster",
        ),
        Flag::text("initial-cluster-token", "etcd-cluster", "the token of the new cluster"),
        Flag::text(
            "initial-advertise-peer-urls",
            "http://localhost:2380",
            "the peer URLs of this member",
        ),
        Flag::text("name", "default", "the name of this member"),
        Flag::bool(
            "skip-hash-check",
            "take a file without a hash, as one copied from a data directory",
        ),
        Flag::uint_of("initial-memory-map-size", "10737418240", "taken, and of no use here"),
        Flag::uint_of("bump-revision", "0", "how much to increase the latest revision"),
        Flag::bool(
            "mark-compacted",
            "have everything before that revision compacted (required with --bump-revision)",
        ),
    ],
    takes_files: true,
    ..Command::new("restore", "", Action::Run(run))
};

fn run(invocation: &Invocation) -> Result<(), Failure> {
    let flags = &invocation.flags;
    let [file] = invocation.args.as_slice() else {
        return Err(Failure::bad_args("snapshot restore requires exactly one argument"));
    };
    let bump = Some(flags.uint("bump-revision")).filter(|bump| *bump > 0);
    if bump.is_some() != flags.bool("mark-compacted") {
        return Err(Failure::bad_args("--mark-compacted required if --revision-bump > 0"));
    }
    let new = new_cluster(invocation)?;
    let to = layout(invocation)?;
    let path = path_of(file);
    let (wal_dir, snap_dir) = (to.wal_dir(), to.snap_dir());
    let facts = [
        ("path", path.display().to_string()),
        ("wal-dir", wal_dir.display().to_string()),
        ("data-dir", to.data_dir().display().to_string()),
        ("snap-dir", snap_dir.display().to_string()),
    ];
    let facts: Vec<(&str, &str)> =
        facts.iter().map(|(name, value)| (*name, value.as_str())).collect();
    log::info("restoring snapshot", &facts);
    check_hash(&path, flags.bool("skip-hash-check"))?;
    let snapshot = Stored::open(&path, invocation)?;
    restore(&*snapshot.backend, &to, &new, bump).map_err(|error| Failure::error(&error))?;
    for member in &new.members {
        log::info(
            "added member",
            &[
                ("cluster-id", &format!("{:x}", new.id)),
                ("added-peer-id", &format!("{:x}", member.id)),
                ("added-peer-peer-urls", &member.peer_urls.join(",")),
            ],
        );
    }
    log::info("restored snapshot", &facts);
    Ok(())
}

/// The checks are those of a member's first start.
fn new_cluster(invocation: &Invocation) -> Result<NewCluster, Failure> {
    let flags = &invocation.flags;
    let advertised = UrlList::parse(flags.text("initial-advertise-peer-urls"))
        .map_err(|error| Failure::error(&error))?;
    let cluster = InitialCluster::parse(flags.text("initial-cluster"))
        .map_err(|error| Failure::error(&error))?;
    let name = flags.text("name");
    cluster.check(name, &advertised).map_err(|error| Failure::error(&error))?;
    let named = cluster.members().map(|(name, urls)| (name, urls.to_strings()));
    let members = first_members(named, flags.text("initial-cluster-token"));
    let own = members.iter().find(|member| member.name == name).map_or(0, |member| member.id);
    Ok(NewCluster { id: cluster_id(&members), members, own })
}

fn layout(invocation: &Invocation) -> Result<Layout, Failure> {
    let flags = &invocation.flags;
    let data_dir = match flags.text("data-dir") {
        "" => format!("{}.etcd", flags.text("name")),
        dir => dir.to_owned(),
    };
    if !is_free(Path::new(&data_dir)) {
        let message = format!("data-dir {data_dir:?} not empty or could not be read");
        return Err(Failure::error(&message));
    }
    let wal_dir = flags.text("wal-dir");
    if !wal_dir.is_empty() && Path::new(wal_dir).exists() {
        return Err(Failure::error(&format!("wal-dir {wal_dir:?} exists")));
    }
    Ok(Layout::new(data_dir, Some(wal_dir.into())))
}

/// Whether a directory is missing or empty.
pub(super) fn is_free(dir: &Path) -> bool {
    !dir.exists() || std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}

/// Compares the digest at the end of a snapshot with what it says of the rest. A database of ours never has one.
fn check_hash(path: &Path, is_skipped: bool) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        let error = retcd_command_line::go::in_go_words(&error);
        Failure::error(&format!("open {}: {error}", path.display()))
    };
    let bytes = path.metadata().map_err(failed)?.len();
    let is_etcds = is_bbolt(path).map_err(|error| Failure::error(&error))?;
    if is_skipped && (is_etcds || !trailer::is_present(bytes)) {
        return Ok(());
    }
    match trailer::verify_sha256_trailer(path) {
        Ok(_) => Ok(()),
        Err(trailer::Error::Io(error)) => Err(failed(error)),
        Err(trailer::Error::Missing { .. }) => {
            Err(Failure::error(&"snapshot missing hash but --skip-hash-check=false"))
        }
        Err(trailer::Error::Mismatch { expected, found }) => {
            let words = format!("expected sha256 {}, got {}", list(&expected), list(&found));
            Err(Failure::error(&words))
        }
    }
}

/// Bytes as Go prints them.
fn list(bytes: &[u8]) -> String {
    let numbers: Vec<String> = bytes.iter().map(u8::to_string).collect();
    format!("[{}]", numbers.join(" "))
}
