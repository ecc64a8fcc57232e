//! The pieces of a database between a connection and a file.
//!
//! A bounded queue with an explicit end: a sender that goes away without a word (its task was cancelled, its thread
//! ended) leaves a broken database behind, never a short one that looks whole.

use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::mpsc;

/// Pieces that wait: enough that neither side stands still for the other.
const CHUNKS_MAX: usize = 4;

enum Piece {
    Data(Bytes),
    Broken(io::Error),
    End,
}

/// A queue for one database.
pub(crate) fn chunks() -> (ChunkSender, Chunks) {
    let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
    (ChunkSender(sender), Chunks { receiver, is_over: false })
}

/// The receiver has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nobody takes the database any more")]
pub(crate) struct Closed;

impl From<Closed> for io::Error {
    fn from(closed: Closed) -> Self {
        io::Error::new(io::ErrorKind::BrokenPipe, closed)
    }
}

/// The writing end. Dropped before [`finish`](Self::finish), it leaves a broken database.
pub(crate) struct ChunkSender(mpsc::Sender<Piece>);

impl ChunkSender {
    /// Waits for room.
    pub(crate) async fn send(&self, data: Bytes) -> Result<(), Closed> {
        self.push(Piece::Data(data)).await
    }

    /// The database is whole.
    pub(crate) async fn finish(self) -> Result<(), Closed> {
        self.push(Piece::End).await
    }

    /// The database is worth nothing.
    pub(crate) async fn fail(self, error: io::Error) {
        let _ = self.push(Piece::Broken(error)).await;
    }

    async fn push(&self, piece: Piece) -> Result<(), Closed> {
        self.0.send(piece).await.map_err(|_| Closed)
    }

    /// As [`send`](Self::send), for threads outside of the runtime.
    pub(crate) fn blocking_send(&self, data: Bytes) -> Result<(), Closed> {
        self.0.blocking_send(Piece::Data(data)).map_err(|_| Closed)
    }

    /// As [`finish`](Self::finish), for threads outside of the runtime.
    pub(crate) fn blocking_finish(self) -> Result<(), Closed> {
        self.0.blocking_send(Piece::End).map_err(|_| Closed)
    }

    /// As [`fail`](Self::fail), for threads outside of the runtime.
    pub(crate) fn blocking_fail(self, error: io::Error) {
        let _ = self.0.blocking_send(Piece::Broken(error));
    }
}

/// The reading end.
pub(crate) struct Chunks {
    receiver: mpsc::Receiver<Piece>,
    is_over: bool,
}

impl Chunks {
    /// The next piece; `None` when the database is whole.
    ///
    /// # Errors
    /// The database will never be whole. Nothing comes after it.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// As [`next`](Self::next), for threads outside of the runtime.
    pub(crate) fn blocking_next(&mut self) -> io::Result<Option<Bytes>> {
        if self.is_over {
            return Ok(None);
        }
        let piece = self.receiver.blocking_recv();
        self.read(piece)
    }

    pub(crate) fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Option<Bytes>>> {
        if self.is_over {
            return Poll::Ready(Ok(None));
        }
        self.receiver.poll_recv(context).map(|piece| self.read(piece))
    }

    fn read(&mut self, piece: Option<Piece>) -> io::Result<Option<Bytes>> {
        self.is_over = !matches!(piece, Some(Piece::Data(_)));
        match piece {
            Some(Piece::Data(data)) => Ok(Some(data)),
            Some(Piece::End) => Ok(None),
            Some(Piece::Broken(error)) => Err(error),
            None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the database breaks off")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_whole_only_when_its_sender_says_so() {
        let (sender, mut chunks) = chunks();
        sender.blocking_send("a".into()).unwrap();
        sender.blocking_finish().unwrap();
        assert_eq!(chunks.blocking_next().unwrap(), Some("a".into()));
        assert_eq!(chunks.blocking_next().unwrap(), None);
        assert_eq!(chunks.blocking_next().unwrap(), None);
    }

    #[test]
    fn a_sender_that_goes_away_breaks_the_database() {
        let (sender, mut chunks) = chunks();
        sender.blocking_send("a".into()).unwrap();
        drop(sender);
        assert_eq!(chunks.blocking_next().unwrap(), Some("a".into()));
        assert_eq!(chunks.blocking_next().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);

        let (sender, mut chunks) = self::chunks();
        sender.blocking_fail(io::Error::other("no disk"));
        assert_eq!(chunks.blocking_next().unwrap_err().to_string(), "no disk");
    }

    #[test]
    fn a_receiver_that_goes_away_is_noticed() {
        let (sender, chunks) = chunks();
        drop(chunks);
        assert_eq!(sender.blocking_send("a".into()), Err(Closed));
    }
}
