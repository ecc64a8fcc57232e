//! One direction of one connection.
//!
//! Two halves with a bounded queue between them: one reads and says when each chunk arrives, the other waits for that
//! time, and for the direction to be passable. So a delay is a delay of each chunk and not of the sum of all before it,
//! and a cut that begins while chunks are under way holds them, too.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::rules::Direction;
use retcd_checkers::Dice;

const CHUNK_BYTES_MAX: usize = 16 * 1024;
/// Chunks under way. At 125 ms a chunk this still lets 8 MiB a second through; a full queue makes the sender wait.
const CHUNKS_MAX: usize = 64;

struct Chunk {
    arrival: Instant,
    bytes: Bytes,
}

/// Moves bytes until the source ends, and the end with them. An error breaks the whole connection.
pub(super) async fn pump(
    first: Vec<u8>,
    source: OwnedReadHalf,
    sink: OwnedWriteHalf,
    direction: Direction,
    dice: Dice,
) -> io::Result<()> {
    let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
    tokio::try_join!(
        take(first.into(), source, sender, direction.clone(), dice),
        deliver(receiver, sink, direction),
    )?;
    Ok(())
}

async fn take(
    first: Bytes,
    mut source: OwnedReadHalf,
    chunks: mpsc::Sender<Chunk>,
    direction: Direction,
    mut dice: Dice,
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    let mut bytes = first;
    let mut arrival = Instant::now();
    loop {
        if !bytes.is_empty() {
            // TCP keeps the order: nothing overtakes a chunk that is late.
            arrival = arrival.max(Instant::now() + travel(&direction, &mut dice)?);
            if chunks.send(Chunk { arrival, bytes }).await.is_err() {
                return Ok(());
            }
        }
        buffer.reserve(CHUNK_BYTES_MAX);
        let mut limited = (&mut source).take(CHUNK_BYTES_MAX as u64);
        if limited.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        bytes = buffer.split().freeze();
    }
}

fn travel(direction: &Direction, dice: &mut Dice) -> io::Result<std::time::Duration> {
    match direction.fault() {
        None => Ok(std::time::Duration::ZERO),
        Some(fault) => fault
            .travel(dice)
            .ok_or_else(|| io::Error::new(io::ErrorKind::ConnectionReset, "lost too often")),
    }
}

async fn deliver(
    mut chunks: mpsc::Receiver<Chunk>,
    mut sink: OwnedWriteHalf,
    mut direction: Direction,
) -> io::Result<()> {
    while let Some(Chunk { arrival, bytes }) = chunks.recv().await {
        if arrival > Instant::now() {
            sleep_until(arrival).await;
        }
        direction.passable().await;
        sink.write_all(&bytes).await?;
    }
    // The end of the stream is a packet like any other.
    direction.passable().await;
    sink.shutdown().await
}
