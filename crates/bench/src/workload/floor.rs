//! What one client's put cannot beat on this machine: one `fdatasync` of a log record, and one gRPC round trip.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderValue};
use retcd_api::etcdserverpb::{PutResponse, ResponseHeader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::put::Put;
use crate::client::frame;
use crate::engine::{Extent, Load, Measured, Tally, drive};

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Floor {
    /// Directory of the file that is synced: on the disk of the servers to compare with
    #[arg(long, default_value = ".")]
    pub(crate) dir: PathBuf,
}

/// Both parts of the floor.
pub(crate) struct FloorTimes {
    pub(crate) sync: Tally,
    pub(crate) echo: Measured,
}

/// One page, the least that a disk writes.
const RECORD_BYTES: usize = 4096;
/// As many pages are there before the first is timed, written once: a log that allocates while it is synced also
/// waits for the file system's journal.
const RECORDS: u64 = 2048;

impl Floor {
    /// `load` gives the clients of the echo; its endpoint is replaced.
    pub(crate) fn run(&self, load: &Load, window: Duration) -> Result<FloorTimes> {
        let sync = sync_times(&self.dir, window)
            .with_context(|| format!("cannot write to {}", self.dir.display()))?;
        Ok(FloorTimes { sync, echo: echo_times(load, window)? })
    }
}

/// Writes page after page and syncs each, as a log does.
fn sync_times(dir: &Path, window: Duration) -> std::io::Result<Tally> {
    let file = tempfile::NamedTempFile::new_in(dir)?;
    let file = file.as_file();
    let record = [0x5a; RECORD_BYTES];
    for number in 0..RECORDS {
        write_record(file, number, &record)?;
    }
    file.sync_all()?;
    let mut tally = Tally::new();
    let begun = Instant::now();
    for number in (0..RECORDS).cycle() {
        let started = Instant::now();
        if started - begun >= window {
            break;
        }
        write_record(file, number, &record)?;
        file.sync_data()?;
        tally.record(started.elapsed(), 1);
    }
    Ok(tally)
}

fn write_record(file: &File, number: u64, record: &[u8]) -> std::io::Result<()> {
    file.write_all_at(record, number * RECORD_BYTES as u64)
}

/// Puts to a server on another thread that answers each with the same bytes.
fn echo_times(load: &Load, window: Duration) -> Result<Measured> {
    let (stop, stopped) = oneshot::channel::<()>();
    let (address, bound) = std::sync::mpsc::channel();
    let server = thread::spawn(move || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            address.send(listener.local_addr()?)?;
            tokio::select! {
                result = accept(listener) => result,
                _ = stopped => Ok(()),
            }
        })
    });
    let endpoint = bound.recv().context("the echo server did not start")?.to_string();
    let load = Load { endpoints: vec![endpoint], pids: Vec::new(), ..load.clone() };
    let measured = drive(&Put {}, &load, Extent::For(window));
    // The server has gone already only if it failed, which the join tells.
    let _ = stop.send(());
    server.join().map_err(|_| anyhow!("the echo server panicked"))??;
    measured
}

async fn accept(listener: TcpListener) -> Result<()> {
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        tokio::spawn(echo(socket));
    }
}

/// Ends when the client goes.
async fn echo(socket: TcpStream) -> Result<(), h2::Error> {
    let answer = answer();
    let mut connection = h2::server::handshake(socket).await?;
    while let Some(request) = connection.accept().await {
        let (request, mut respond) = request?;
        let answer = answer.clone();
        tokio::spawn(async move {
            let mut body = request.into_body();
            while let Some(chunk) = body.data().await {
                body.flow_control().release_capacity(chunk?.len())?;
            }
            let mut head = http::Response::new(());
            head.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            let mut send = respond.send_response(head, false)?;
            send.send_data(answer, false)?;
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            send.send_trailers(trailers)
        });
    }
    Ok(())
}

fn answer() -> Bytes {
    let header = ResponseHeader {
        cluster_id: u64::MAX,
        member_id: u64::MAX,
        revision: 1 << 20,
        raft_term: 2,
    };
    frame(&mut BytesMut::new(), &PutResponse { header: Some(header), prev_kv: None })
}
