//! The few system calls that std does not offer.
//!
//! JUSTIFICATION: locks that Go etcd honours (open file description locks; std has only `flock`), and advice on memory
//! maps, have no safe interface in std. Each call below is one line, takes borrowed handles, and touches no memory of
//! ours, or only a map whose owner is borrowed.
#![allow(unsafe_code, reason = "system calls without a safe interface in std")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Takes the exclusive lock of a log segment in the way etcd does, so that the two never write one log.
///
/// Linux: a write lock of the whole file, owned by the open file description. `false`: held by another.
#[cfg(target_os = "linux")]
pub(crate) fn try_lock_segment(file: &File) -> io::Result<bool> {
    #[allow(clippy::cast_possible_truncation, reason = "small constants that libc gives as c_int")]
    let request = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open for the time of the call, and `request` is a valid, initialised `flock` that the
    // kernel only reads.
    let code = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const request) };
    outcome(code)
}

/// Takes the exclusive lock of a log segment. `false`: held by another.
#[cfg(not(target_os = "linux"))]
pub(crate) fn try_lock_segment(file: &File) -> io::Result<bool> {
    try_flock(file)
}

/// Takes the exclusive `flock` of a file or directory, which ends with the handle. `false`: held by another.
pub(crate) fn try_flock(file: &File) -> io::Result<bool> {
    // SAFETY: the descriptor is open for the time of the call; no memory is passed.
    let code = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    outcome(code)
}

fn outcome(code: libc::c_int) -> io::Result<bool> {
    if code == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(error),
    }
}
