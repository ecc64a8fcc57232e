//! Lines to systemd's journal, in its own protocol: one datagram per line, with the fields that etcd sends.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// Where journald listens.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

pub(super) struct Journal {
    socket: UnixDatagram,
    /// Named for every line: a journal that was started again is another socket.
    path: PathBuf,
    /// The name of the program.
    identifier: String,
}

impl Journal {
    pub(super) fn open() -> io::Result<Self> {
        let program = std::env::args_os().next().unwrap_or_default();
        let identifier = Path::new(&program).file_name().unwrap_or_default();
        Self::at(Path::new(SOCKET), &identifier.to_string_lossy())
    }

    fn at(path: &Path, identifier: &str) -> io::Result<Self> {
        // Whether somebody listens.
        UnixDatagram::unbound()?.connect(path)?;
        let socket = UnixDatagram::unbound()?;
        Ok(Self { socket, path: path.to_owned(), identifier: identifier.to_owned() })
    }

    /// `package` is where the line comes from.
    ///
    /// # Errors
    /// When the journal does not take it: it is not there any more, or the line is too large for a datagram.
    pub(super) fn write(&self, line: &str, level: tracing::Level, package: &str) -> io::Result<()> {
        let mut datagram = Vec::with_capacity(line.len() + 100);
        push(&mut datagram, "PRIORITY", priority(level));
        push(&mut datagram, "MESSAGE", line.trim_end_matches('\n'));
        push(&mut datagram, "PACKAGE", package);
        push(&mut datagram, "SYSLOG_IDENTIFIER", &self.identifier);
        self.socket.send_to(&datagram, &self.path).map(drop)
    }
}

/// As syslog numbers them.
fn priority(level: tracing::Level) -> &'static str {
    match level {
        tracing::Level::ERROR => "3",
        tracing::Level::WARN => "4",
        tracing::Level::INFO => "6",
        tracing::Level::DEBUG | tracing::Level::TRACE => "7",
    }
}

/// `NAME=value`, or for a value of several lines the name, the length in 8 bytes and the value.
fn push(datagram: &mut Vec<u8>, name: &str, value: &str) {
    datagram.extend(name.as_bytes());
    if value.contains('\n') {
        datagram.push(b'\n');
        datagram.extend((value.len() as u64).to_le_bytes());
    } else {
        datagram.push(b'=');
    }
    datagram.extend(value.as_bytes());
    datagram.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_datagram_of_fields() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let error = Journal::at(&path, "etcd").map(drop).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);

        let received = |journald: &UnixDatagram| {
            let mut buffer = [0; 200];
            let length = journald.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        };
        let journald = UnixDatagram::bind(&path).unwrap();
        let journal = Journal::at(&path, "etcd").unwrap();
        journal.write("{\"msg\":\"m\"}\n", tracing::Level::WARN, "server").unwrap();
        assert_eq!(
            received(&journald),
            "PRIORITY=4\nMESSAGE={\"msg\":\"m\"}\nPACKAGE=server\nSYSLOG_IDENTIFIER=etcd\n"
        );
        journal.write("a\nb\n", tracing::Level::INFO, "node").unwrap();
        assert_eq!(
            received(&journald),
            "PRIORITY=6\nMESSAGE\n\x03\0\0\0\0\0\0\0a\nb\nPACKAGE=node\nSYSLOG_IDENTIFIER=etcd\n"
        );

        drop(journald);
        journal.write("lost\n", tracing::Level::INFO, "node").unwrap_err();
        std::fs::remove_file(&path).unwrap();
        let journald = UnixDatagram::bind(&path).unwrap();
        journal.write("again\n", tracing::Level::ERROR, "node").unwrap();
        assert!(received(&journald).starts_with("PRIORITY=3\nMESSAGE=again\n"));
    }
}
