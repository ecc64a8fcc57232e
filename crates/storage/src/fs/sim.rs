//! A disk in memory that can fail and crash, repeatably from one seed.
//!
//! Every file has bytes as programs see them, bytes that are durable, and the writes between the two; so has the set of
//! names. A crash decides for every sector how many of these writes had reached it, and for the names how many changes.
//!
//! ```text
//! durable   ████████████████░░░░░░░░            sector: all or nothing of a write, each sector for itself
//! writes    ........████████████....            names:  a prefix of the changes, as a journal gives it
//! crash     ████████░░░░████████░░░░
//! ```
//!
//! - A failed sync is worse than none: what was written may be lost for good although it can still be read until the
//!   crash, as with a page cache that drops what it could not write.
//! - Directories are durable at once: a missing one only makes a start fail, and says nothing about a log.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Access, File, Fs};

const SECTOR_BYTES: usize = 512;

/// What a crash tears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tear {
    /// A sector is written whole or not at all, as disks promise.
    Sector,
    /// The last write to a sector may end at any byte.
    Byte,
}

/// What fails, besides crashes. Chances are per million operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// Writes that fail with `ENOSPC`, after a part of their bytes.
    pub no_space_per_million: u32,
    /// Writes that fail with `EIO`, after a part of their bytes.
    pub write_error_per_million: u32,
    /// Syncs that fail with `EIO`.
    pub sync_error_per_million: u32,
}

/// A simulated disk. Clones are the same disk.
#[derive(Debug, Clone)]
pub struct SimFs {
    disk: Arc<Mutex<Disk>>,
}

impl SimFs {
    /// An empty disk. One seed and one order of calls give one history.
    pub fn new(seed: u64) -> Self {
        let disk = Disk {
            random: Random(seed),
            tear: Tear::Sector,
            faults: Faults::default(),
            operations: 0,
            stops_at: None,
            boot: 0,
            next_id: 0,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_changes: Vec::new(),
            dirs: BTreeSet::new(),
            inodes: BTreeMap::new(),
        };
        SimFs { disk: Arc::new(Mutex::new(disk)) }
    }

    pub fn set_tear(&self, tear: Tear) {
        self.disk.lock().tear = tear;
    }

    pub fn set_faults(&self, faults: Faults) {
        self.disk.lock().faults = faults;
    }

    /// Changes (writes, syncs, names) tried so far.
    pub fn operations(&self) -> u64 {
        self.disk.lock().operations
    }

    /// Stops the machine in the change with this number: it and all later calls fail, until [`SimFs::crash`].
    pub fn stop_at(&self, operation: u64) {
        self.disk.lock().stops_at = Some(operation);
    }

    /// Takes the power away and starts again: what was not synced is there, gone or torn. Handles from before are dead.
    pub fn crash(&self) {
        self.disk.lock().crash();
    }

    /// Makes all durable and starts again, as after a process that was killed while the machine went on.
    pub fn restart_process(&self) {
        self.disk.lock().restart_process();
    }

    /// Inverts bits of a file, now and durably. `false` when there is no such byte.
    pub fn flip(&self, path: &Path, offset: usize, bits: u8) -> bool {
        let mut disk = self.disk.lock();
        let Some(inode) = disk.names.get(path).copied().and_then(|id| disk.inodes.get_mut(&id))
        else {
            return false;
        };
        for bytes in [&mut inode.bytes, &mut inode.durable] {
            match bytes.get_mut(offset) {
                Some(byte) => *byte ^= bits,
                None => return false,
            }
        }
        true
    }
}

impl Fs for SimFs {
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>> {
        let mut disk = self.disk.lock();
        if access == Access::Replace {
            disk.change()?;
        }
        let id = disk.open(path, access)?;
        let handle = disk.new_id();
        let boot = disk.boot;
        drop(disk);
        Ok(Box::new(SimFile { disk: Arc::clone(&self.disk), id, handle, boot }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.change()?;
        let id = *disk.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        disk.change_name(NameChange::Rename { from: from.to_path_buf(), to: to.to_path_buf(), id });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.change()?;
        if !disk.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        disk.change_name(NameChange::Remove { path: path.to_path_buf() });
        Ok(())
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.change()?;
        disk.dirs.extend(path.ancestors().map(Path::to_path_buf));
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.change()?;
        let chance = disk.faults.sync_error_per_million;
        if disk.fails(chance) {
            return Err(io_error(libc::EIO));
        }
        disk.sync_names(path);
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let disk = self.disk.lock();
        disk.is_up()?;
        if !disk.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let here = disk.names.keys().filter(|path| path.parent() == Some(dir));
        let name = |path: &PathBuf| Some(path.file_name()?.to_str()?.to_owned());
        Ok(here.filter_map(name).collect())
    }
}

#[derive(Debug)]
struct SimFile {
    disk: Arc<Mutex<Disk>>,
    id: u64,
    handle: u64,
    boot: u64,
}

impl SimFile {
    /// Runs with the file, when the handle is still alive.
    fn with<T>(&self, run: impl FnOnce(&mut Disk) -> io::Result<T>) -> io::Result<T> {
        let mut disk = self.disk.lock();
        if disk.boot != self.boot {
            return Err(io::Error::other("the handle is from before the crash"));
        }
        run(&mut disk)
    }
}

impl File for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(|disk| {
            disk.is_up()?;
            let bytes = &disk.inode(self.id).bytes;
            let from = position(offset)?.min(bytes.len());
            let len = buffer.len().min(bytes.len() - from);
            buffer[..len].copy_from_slice(&bytes[from..from + len]);
            Ok(len)
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let offset = position(offset)?;
        self.with(|disk| {
            let stopped = disk.change();
            let error = if stopped.is_err() {
                stopped
            } else if disk.fails(disk.faults.no_space_per_million) {
                Err(io_error(libc::ENOSPC))
            } else if disk.fails(disk.faults.write_error_per_million) {
                Err(io_error(libc::EIO))
            } else {
                Ok(())
            };
            let done = if error.is_ok() { bytes.len() } else { disk.part_of(offset, bytes.len()) };
            disk.inode(self.id).write(Write::Bytes { offset, bytes: bytes[..done].to_vec() });
            error
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|disk| {
            disk.change()?;
            if disk.fails(disk.faults.sync_error_per_million) {
                disk.lose(self.id);
                return Err(io_error(libc::EIO));
            }
            disk.inode(self.id).sync();
            Ok(())
        })
    }

    fn size(&self) -> io::Result<u64> {
        self.with(|disk| {
            disk.is_up()?;
            Ok(disk.inode(self.id).bytes.len() as u64)
        })
    }

    fn set_size(&self, size_bytes: u64) -> io::Result<()> {
        let size = position(size_bytes)?;
        self.with(|disk| {
            disk.change()?;
            disk.inode(self.id).write(Write::Size(size));
            Ok(())
        })
    }

    fn try_lock(&self) -> io::Result<bool> {
        self.with(|disk| {
            let owner = disk.inode(self.id).locked_by.get_or_insert(self.handle);
            Ok(*owner == self.handle)
        })
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut disk = self.disk.lock();
        if let Some(inode) = disk.inodes.get_mut(&self.id)
            && inode.locked_by == Some(self.handle)
        {
            inode.locked_by = None;
        }
    }
}

fn position(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(io::Error::other)
}

fn io_error(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

#[derive(Debug)]
struct Disk {
    random: Random,
    tear: Tear,
    faults: Faults,
    operations: u64,
    stops_at: Option<u64>,
    /// Counts crashes: handles of another boot are dead.
    boot: u64,
    next_id: u64,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    /// What leads from the durable names to the names.
    name_changes: Vec<NameChange>,
    dirs: BTreeSet<PathBuf>,
    inodes: BTreeMap<u64, Inode>,
}

#[derive(Debug, Clone)]
enum NameChange {
    Create { path: PathBuf, id: u64 },
    Rename { from: PathBuf, to: PathBuf, id: u64 },
    Remove { path: PathBuf },
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            NameChange::Create { path, id } => {
                names.insert(path.clone(), *id);
            }
            NameChange::Rename { from, to, id } => {
                names.remove(from);
                names.insert(to.clone(), *id);
            }
            NameChange::Remove { path } => {
                names.remove(path);
            }
        }
    }

    fn is_in(&self, dir: &Path) -> bool {
        match self {
            NameChange::Create { path, .. } | NameChange::Remove { path } => {
                path.parent() == Some(dir)
            }
            NameChange::Rename { from, to, .. } => {
                from.parent() == Some(dir) || to.parent() == Some(dir)
            }
        }
    }
}

impl Disk {
    fn is_up(&self) -> io::Result<()> {
        match self.stops_at {
            Some(stop) if self.operations > stop => Err(io::Error::other("the machine is down")),
            _ => Ok(()),
        }
    }

    /// Counts a change and stops the machine when it is the one to stop in.
    fn change(&mut self) -> io::Result<()> {
        let is_last = self.stops_at.is_some_and(|stop| self.operations >= stop);
        self.operations += 1;
        if is_last { Err(io::Error::other("the machine stops")) } else { Ok(()) }
    }

    fn fails(&mut self, per_million: u32) -> bool {
        per_million > 0 && self.random.below(1_000_000) < per_million as usize
    }

    /// How many of `len` bytes at `offset` a write did before it failed: whole sectors, unless they tear.
    fn part_of(&mut self, offset: usize, len: usize) -> usize {
        let part = self.random.below(len + 1);
        match self.tear {
            Tear::Byte => part,
            Tear::Sector => {
                let end = (offset + part) / SECTOR_BYTES * SECTOR_BYTES;
                end.saturating_sub(offset)
            }
        }
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn inode(&mut self, id: u64) -> &mut Inode {
        self.inodes.entry(id).or_default()
    }

    fn open(&mut self, path: &Path, access: Access) -> io::Result<u64> {
        self.is_up()?;
        let there = self.names.get(path).copied();
        match access {
            Access::Read | Access::Write => there.ok_or_else(|| io::ErrorKind::NotFound.into()),
            Access::Replace => {
                if !path.parent().is_some_and(|dir| self.dirs.contains(dir)) {
                    return Err(io::ErrorKind::NotFound.into());
                }
                let id = there.unwrap_or_else(|| {
                    let id = self.new_id();
                    self.change_name(NameChange::Create { path: path.to_path_buf(), id });
                    id
                });
                self.inode(id).write(Write::Size(0));
                Ok(id)
            }
        }
    }

    fn change_name(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.name_changes.push(change);
    }

    /// A journal writes changes in order: a synced one takes those before it along.
    fn sync_names(&mut self, dir: &Path) {
        let last = self.name_changes.iter().rposition(|change| change.is_in(dir));
        let count = last.map_or(0, |last| last + 1);
        self.keep_names(count);
    }

    fn keep_names(&mut self, count: usize) {
        for change in self.name_changes.drain(..count) {
            change.apply(&mut self.durable_names);
        }
    }

    fn crash(&mut self) {
        let ids: Vec<_> = self.inodes.keys().copied().collect();
        for id in ids {
            self.lose(id);
        }
        let kept = self.random.below(self.name_changes.len() + 1);
        self.keep_names(kept);
        self.boot_again();
    }

    fn restart_process(&mut self) {
        for inode in self.inodes.values_mut() {
            inode.sync();
        }
        self.keep_names(self.name_changes.len());
        self.boot_again();
    }

    fn boot_again(&mut self) {
        self.boot += 1;
        self.stops_at = None;
        self.name_changes.clear();
        self.names.clone_from(&self.durable_names);
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        self.inodes.retain(|id, _| named.contains(id));
        for inode in self.inodes.values_mut() {
            inode.bytes.clone_from(&inode.durable);
            inode.locked_by = None;
        }
    }

    /// Decides what of the unsynced writes of a file is durable; the rest is lost.
    fn lose(&mut self, id: u64) {
        let tear = self.tear;
        let inode = self.inodes.entry(id).or_default();
        inode.lose(&mut self.random, tear);
    }
}

#[derive(Debug, Default)]
struct Inode {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    /// What leads from the durable bytes to the bytes.
    writes: Vec<Write>,
    locked_by: Option<u64>,
}

#[derive(Debug)]
enum Write {
    Bytes { offset: usize, bytes: Vec<u8> },
    Size(usize),
}

impl Write {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Write::Bytes { offset, bytes } => {
                let end = offset + bytes.len();
                if to.len() < end {
                    to.resize(end, 0);
                }
                to[*offset..end].copy_from_slice(bytes);
            }
            Write::Size(size) => to.resize(*size, 0),
        }
    }

    /// The size of a file of `size` bytes after this write.
    fn size_after(&self, size: usize) -> usize {
        match self {
            Write::Bytes { offset, bytes } => size.max(offset + bytes.len()),
            Write::Size(size) => *size,
        }
    }
}

impl Inode {
    fn write(&mut self, write: Write) {
        write.apply(&mut self.bytes);
        self.writes.push(write);
    }

    fn sync(&mut self) {
        for write in self.writes.drain(..) {
            write.apply(&mut self.durable);
        }
    }

    fn lose(&mut self, random: &mut Random, tear: Tear) {
        if self.writes.is_empty() {
            return;
        }
        let sized = random.below(self.writes.len() + 1);
        let size = self.writes[..sized]
            .iter()
            .fold(self.durable.len(), |size, write| write.size_after(size));
        let widest = self.writes.iter().fold(self.durable.len().max(size), |widest, write| {
            widest.max(write.size_after(widest))
        });
        let mut result = self.durable.clone();
        result.resize(widest, 0);
        for start in (0..widest).step_by(SECTOR_BYTES) {
            let sector = &mut result[start..widest.min(start + SECTOR_BYTES)];
            let count = random.below(self.writes.len() + 1);
            for write in &self.writes[..count] {
                overlay(sector, start, write, SECTOR_BYTES);
            }
            if tear == Tear::Byte
                && let Some(torn) = self.writes.get(count)
            {
                overlay(sector, start, torn, random.below(SECTOR_BYTES));
            }
        }
        result.resize(size, 0);
        self.durable = result;
        self.writes.clear();
    }
}

/// Applies the part of a write that lies in the sector at `start`, up to `limit` bytes of the sector.
fn overlay(sector: &mut [u8], start: usize, write: &Write, limit: usize) {
    let end = start + sector.len().min(limit);
    match write {
        Write::Bytes { offset, bytes } => {
            let from = start.max(*offset);
            let to = end.min(offset + bytes.len());
            if from < to {
                sector[from - start..to - start]
                    .copy_from_slice(&bytes[from - offset..to - offset]);
            }
        }
        Write::Size(size) => {
            let from = start.max(*size);
            if from < end {
                sector[from - start..end - start].fill(0);
            }
        }
    }
}

/// `SplitMix64`: small, and the same everywhere.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is above 0.
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_keeps_what_was_synced_and_no_more_than_was_written() {
        for seed in 0..200 {
            let (fs, file) = disk_with_file(seed);
            file.write_at(&[1; 2000], 0).unwrap();
            file.sync().unwrap();
            fs.sync_dir(Path::new("/d")).unwrap();
            file.write_at(&[2; 1000], 1500).unwrap();
            fs.crash();
            assert!(file.size().is_err(), "a handle does not outlive the crash");
            let bytes = contents(&fs);
            assert!(bytes.len() == 2000 || bytes.len() == 2500, "{}", bytes.len());
            assert!(bytes[..1500].iter().all(|byte| *byte == 1));
            assert!(bytes[1500..2000].iter().all(|byte| [1, 2].contains(byte)));
            for sector in bytes[1536..2000].chunks(512) {
                assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is whole");
            }
        }
    }

    #[test]
    fn crashes_lose_write_and_keep_different_things_from_different_seeds() {
        let outcomes: BTreeSet<Vec<u8>> = (0..1000)
            .map(|seed| {
                let (fs, file) = disk_with_file(seed);
                fs.sync_dir(Path::new("/d")).unwrap();
                file.write_at(&[7; 1024], 0).unwrap();
                fs.crash();
                contents(&fs)
            })
            .collect();
        assert!(outcomes.contains(&Vec::new()));
        assert!(outcomes.contains(&vec![7; 1024]));
        assert!(outcomes.iter().any(|bytes| bytes.len() == 1024 && bytes[..512] == [0; 512]));
        let (fs, file) = disk_with_file(3);
        let (twin, twin_file) = disk_with_file(3);
        for (fs, file) in [(&fs, &file), (&twin, &twin_file)] {
            fs.sync_dir(Path::new("/d")).unwrap();
            file.write_at(&[7; 4096], 0).unwrap();
            fs.crash();
        }
        assert_eq!(contents(&fs), contents(&twin));
    }

    #[test]
    fn a_name_is_durable_only_after_its_directory_was_synced() {
        let lost = (0..50).any(|seed| {
            let (fs, file) = disk_with_file(seed);
            file.sync().unwrap();
            fs.crash();
            fs.list(Path::new("/d")).unwrap().is_empty()
        });
        assert!(lost);
    }

    #[test]
    fn a_failed_sync_loses_writes_that_can_still_be_read() {
        let lost = (0..50).any(|seed| {
            let (fs, file) = disk_with_file(seed);
            fs.sync_dir(Path::new("/d")).unwrap();
            file.write_at(&[7; 512], 0).unwrap();
            fs.set_faults(Faults { sync_error_per_million: 1_000_000, ..Faults::default() });
            assert_eq!(file.sync().unwrap_err().raw_os_error(), Some(libc::EIO));
            fs.set_faults(Faults::default());
            assert_eq!(contents(&fs), vec![7; 512]);
            file.sync().unwrap();
            fs.crash();
            contents(&fs) != vec![7; 512]
        });
        assert!(lost, "a second sync that succeeds does not bring them back");
    }

    #[test]
    fn a_lock_ends_with_its_handle() {
        let (fs, file) = disk_with_file(0);
        let other = fs.open(Path::new("/d/f"), Access::Write).unwrap();
        assert!(file.try_lock().unwrap());
        assert!(!other.try_lock().unwrap());
        drop(file);
        assert!(other.try_lock().unwrap());
    }

    fn disk_with_file(seed: u64) -> (SimFs, Box<dyn File>) {
        let fs = SimFs::new(seed);
        fs.create_dir_all(Path::new("/d")).unwrap();
        let file = fs.open(Path::new("/d/f"), Access::Replace).unwrap();
        (fs, file)
    }

    fn contents(fs: &SimFs) -> Vec<u8> {
        let file = fs.open(Path::new("/d/f"), Access::Read).unwrap();
        crate::fs::read_all(file.as_ref()).unwrap()
    }
}
