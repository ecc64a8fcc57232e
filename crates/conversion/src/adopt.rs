//! The database of a member that ran etcd until now.
//!
//! ```text
//! 1  db.tmp.convert    our database, made from etcd's, whole and durable
//! 2  db.bbolt          a second name for etcd's file
//! 3  db                now ours
//! ```
//!
//! A crash before the last step leaves etcd's file under its name, and the next start begins anew; after it the new one
//! is in use. Log and `.snap` files are the same for both programs: the log goes on where etcd has left it.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use retcd_api::raftpb::ConfState;
use retcd_state_machine::schema::{self, Bucket, meta};
use retcd_storage::backend::{Loader, Options};
use retcd_storage::data_dir::{Layout, is_bbolt};

use crate::check::Found;
use crate::{BboltFile, Error, Version, buckets};

/// The newest storage version that is read.
const KNOWN: &str = "3.7";

/// What is durable once it was reached. A test stops at each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Started,
    Converted,
    Kept,
    Replaced,
}

/// Replaces a bbolt file at `member/snap/db` by a database of ours with the same content, durably. Returns the name that
/// etcd's file has now; `None` when there is none to be replaced.
///
/// Memory does not grow with the database; the disk has to have room for a second one.
///
/// # Errors
/// The file is damaged, or of a version of etcd that is too old or too new; I/O. It is left as it was then.
pub fn adopt(layout: &Layout) -> Result<Option<PathBuf>, Error> {
    adopt_in_steps(layout, &mut |_| Ok(()))
}

pub(crate) fn adopt_in_steps(
    layout: &Layout,
    reached: &mut dyn FnMut(Step) -> Result<(), Error>,
) -> Result<Option<PathBuf>, Error> {
    let path = layout.backend_path();
    if !is_bbolt(&path)? {
        return Ok(None);
    }
    tracing::info!(path = %path.display(), "converting the database of etcd; its own file is kept");
    let new = with_suffix(&path, ".tmp.convert");
    let mut loader = Loader::create(&new, Options::default())?;
    reached(Step::Started)?;
    let found = buckets::load(&BboltFile::open(&path)?, &mut loader)?;
    check(&path, &found)?;
    if let Some(conf_state) = conf_state(&found) {
        loader.put(Bucket::Meta, meta::CONF_STATE, &schema::conf_state_json(&conf_state))?;
    }
    loader.finish()?;
    reached(Step::Converted)?;
    let kept = keep(&path)?;
    sync_dir(&layout.snap_dir())?;
    reached(Step::Kept)?;
    std::fs::rename(&new, &path).map_err(Error::io("rename", &new))?;
    sync_dir(&layout.snap_dir())?;
    reached(Step::Replaced)?;
    tracing::info!(
        path = %path.display(),
        kept = %kept.display(),
        consistent_index = found.index,
        revision = found.revision.main,
        "converted the database of etcd"
    );
    Ok(Some(kept))
}

fn check(path: &Path, found: &Found) -> Result<(), Error> {
    if found.index > 0 && !found.has_term {
        return Err(Error::TooOld { path: path.to_path_buf() });
    }
    let Some(text) = &found.storage_version else { return Ok(()) };
    if text.parse::<Version>().is_ok_and(|version| version <= Version::NEWEST) {
        return Ok(());
    }
    Err(Error::TooNew { path: path.to_path_buf(), version: text.clone(), known: KNOWN })
}

/// Raft's membership as of the database.
///
/// Who belongs to it, the stored members tell: what is stored as Raft's membership may be that of a cluster before a
/// restore, or missing. Who has a vote, either may tell: releases of etcd up to 3.5.24 forgot promotions in the former.
fn conf_state(found: &Found) -> Option<ConfState> {
    if found.members.is_empty() {
        return found.conf_state.clone();
    }
    let mut conf_state = ConfState::default();
    for (id, is_learner) in &found.members {
        let is_voter = |stored: &ConfState| stored.voters.contains(id);
        if *is_learner && !found.conf_state.as_ref().is_some_and(is_voter) {
            conf_state.learners.push(*id);
        } else {
            conf_state.voters.push(*id);
        }
    }
    Some(conf_state)
}

/// Gives etcd's file a second name: `db.bbolt`, or with a number when an older one has it.
fn keep(path: &Path) -> Result<PathBuf, Error> {
    let inode = |path: &Path| path.metadata().map(|metadata| metadata.ino());
    let own = inode(path).map_err(Error::io("inspect", path))?;
    let mut number = 1;
    loop {
        let suffix = if number == 1 { ".bbolt".to_owned() } else { format!(".bbolt.{number}") };
        let kept = with_suffix(path, &suffix);
        match std::fs::hard_link(path, &kept) {
            Ok(()) => return Ok(kept),
            // The start before this one has got so far.
            Err(_) if inode(&kept).is_ok_and(|inode| inode == own) => return Ok(kept),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(Error::io("link", &kept)(error)),
        }
    }
}

pub(crate) fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::io("sync", dir))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
