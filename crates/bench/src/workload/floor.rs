//! What one client's put cannot beat on this machine: one gRPC round trip to a server that syncs one log record and
//! answers, all on one thread.
//!
//! The two parts are timed by themselves too, but their sum is no floor: what a round trip costs depends on whether
//! client and server share a core and on how deep the other core sleeps (0.02 to 0.07 ms on the same virtual machine),
//! and a sync in between changes both.

use std::cell::Cell;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderValue};
use retcd_api::etcdserverpb::{PutResponse, ResponseHeader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{LocalSet, spawn_local};

use super::put::Put;
use crate::client::frame;
use crate::engine::{Extent, Load, Measured, Tally, drive};

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Floor {
    /// Directory of the file that is synced: on the disk of the servers to compare with
    #[arg(long, default_value = ".")]
    pub(crate) dir: PathBuf,
}

/// Both parts of the floor, and the whole.
pub(crate) struct FloorTimes {
    /// A record written and synced, nothing else.
    pub(crate) sync: Tally,
    /// A round trip, nothing else.
    pub(crate) echo: Measured,
    /// A round trip with a synced record in it.
    pub(crate) logged: Measured,
}

/// One page, the least that a disk writes.
const RECORD_BYTES: usize = 4096;
/// As many pages are there before the first is timed, written once: a log that allocates while it is synced also
/// waits for the file system's journal.
const RECORDS: u64 = 2048;

impl Floor {
    /// `load` gives the clients of the echo; its endpoint is replaced.
    pub(crate) fn run(&self, load: &Load, window: Duration) -> Result<FloorTimes> {
        let log = || {
            Log::new(&self.dir).with_context(|| format!("cannot write to {}", self.dir.display()))
        };
        Ok(FloorTimes {
            sync: sync_times(&log()?, window)?,
            echo: echo_times(None, load, window)?,
            logged: echo_times(Some(log()?), load, window)?,
        })
    }
}

/// A file of pages that are there already, written over and over.
struct Log {
    file: File,
    next: Cell<u64>,
}

impl Log {
    /// The file has no name any more, so that nobody has to remove it.
    fn new(dir: &Path) -> std::io::Result<Log> {
        let log = Log { file: tempfile::tempfile_in(dir)?, next: Cell::new(0) };
        for _ in 0..RECORDS {
            log.write()?;
        }
        log.file.sync_all()?;
        Ok(log)
    }

    fn append(&self) -> std::io::Result<()> {
        self.write()?;
        self.file.sync_data()
    }

    fn write(&self) -> std::io::Result<()> {
        let number = self.next.replace((self.next.get() + 1) % RECORDS);
        self.file.write_all_at(&[0x5a; RECORD_BYTES], number * RECORD_BYTES as u64)
    }
}

/// Writes page after page and syncs each, as a log does.
fn sync_times(log: &Log, window: Duration) -> std::io::Result<Tally> {
    let mut tally = Tally::new();
    let begun = Instant::now();
    loop {
        let started = Instant::now();
        if started - begun >= window {
            return Ok(tally);
        }
        log.append()?;
        tally.record(started.elapsed(), 1);
    }
}

/// Puts to a server on another thread that answers each with the same bytes, once it is in `log`.
fn echo_times(log: Option<Log>, load: &Load, window: Duration) -> Result<Measured> {
    let (stop, stopped) = oneshot::channel::<()>();
    let (address, bound) = std::sync::mpsc::channel();
    let server = thread::spawn(move || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        LocalSet::new().block_on(&runtime, async {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            address.send(listener.local_addr()?)?;
            tokio::select! {
                result = accept(listener, log.map(Rc::new)) => result,
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

async fn accept(listener: TcpListener, log: Option<Rc<Log>>) -> Result<()> {
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        spawn_local(echo(socket, log.clone()));
    }
}

/// Ends when the client goes.
async fn echo(socket: TcpStream, log: Option<Rc<Log>>) -> Result<()> {
    let answer = answer();
    let mut connection = h2::server::handshake(socket).await?;
    while let Some(request) = connection.accept().await {
        let (request, mut respond) = request?;
        let (answer, log) = (answer.clone(), log.clone());
        spawn_local(async move {
            let mut body = request.into_body();
            while let Some(chunk) = body.data().await {
                body.flow_control().release_capacity(chunk?.len())?;
            }
            log.map_or(Ok(()), |log| log.append())?;
            let mut head = http::Response::new(());
            head.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            let mut send = respond.send_response(head, false)?;
            send.send_data(answer, false)?;
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            anyhow::Ok(send.send_trailers(trailers)?)
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
