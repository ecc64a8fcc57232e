//! Load over the JSON gateway, each client on an HTTP/1.1 connection of its own: puts, and watches that wait.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};

use crate::client::{CallError, Channel};
use crate::engine::{Load, Operation, Workload};
use crate::keys::{self, KeyStream};
use crate::process::memory;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct GatewayPut {}

pub(crate) struct GatewayWriter {
    endpoint: String,
    keys: KeyStream,
    value: String,
    connection: Option<tokio::io::BufReader<tokio::net::TcpStream>>,
}

impl Workload for GatewayPut {
    const NAME: &'static str = "gateway-put";
    const UNIT: &'static str = "put";
    type Operation = GatewayWriter;

    fn operation(&self, client: usize, load: &Load) -> GatewayWriter {
        GatewayWriter {
            endpoint: load.endpoints[client % load.endpoints.len()].clone(),
            keys: load.key_stream(client),
            value: BASE64_STANDARD.encode(keys::value(load.value_size)),
            connection: None,
        }
    }
}

impl GatewayWriter {
    async fn connect(&self) -> std::io::Result<tokio::net::TcpStream> {
        let stream = tokio::net::TcpStream::connect(&self.endpoint).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn put(&mut self) -> std::io::Result<String> {
        let key = BASE64_STANDARD.encode(self.keys.next_key());
        let body = format!(r#"{{"key":"{key}","value":"{}"}}"#, self.value);
        let connection = self.connection.as_mut().ok_or(std::io::ErrorKind::NotConnected)?;
        connection.get_mut().write_all(request("/v3/kv/put", &body).as_bytes()).await?;
        let (mut status, mut line, mut length) = (String::new(), String::new(), 0);
        connection.read_line(&mut status).await?;
        while connection.read_line(&mut line).await? > 2 {
            length = content_length(&line).unwrap_or(length);
            line.clear();
        }
        let mut answer = vec![0; length];
        connection.read_exact(&mut answer).await?;
        Ok(status)
    }
}

impl Operation for GatewayWriter {
    /// The channel is not used: this is another door.
    async fn prepare(&mut self, _: &mut Channel) -> Result<(), CallError> {
        match self.connect().await {
            Ok(stream) => self.connection = Some(tokio::io::BufReader::new(stream)),
            Err(source) => {
                return Err(CallError::Connect { endpoint: self.endpoint.clone(), source });
            }
        }
        Ok(())
    }

    async fn once(&mut self, _: &mut Channel) -> Result<u64, CallError> {
        match self.put().await {
            Ok(status) if status.contains(" 200 ") => Ok(1),
            Ok(status) => Err(CallError::Unexpected(status)),
            Err(error) => Err(CallError::Unexpected(error.to_string())),
        }
    }
}

fn request(path: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {length}\r\n\r\n{body}")
}

fn content_length(field: &str) -> Option<usize> {
    let (name, value) = field.split_once(':')?;
    let is_it = name.eq_ignore_ascii_case("content-length");
    is_it.then(|| value.trim().parse().ok()).flatten()
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct GatewayWatches {
    /// Watches that are open at the same time, on a key each
    #[arg(long, default_value_t = 10_000)]
    watches: u64,
}

/// What open watches hold, and how fast they are.
pub(crate) struct Waiting {
    /// Resident memory of the server, for each watch.
    pub(crate) bytes_each: f64,
    /// From a put until one of the watches has its event, in order.
    pub(crate) delays: Vec<Duration>,
}

/// Watches that are opened before the first look at the memory: they find what is there for all.
const FIRST_WATCHES: u64 = 100;
/// Watches whose event is waited for.
const EVENTS: u64 = 100;
const PATIENCE: Duration = Duration::from_secs(60);

impl GatewayWatches {
    pub(crate) fn run(&self, load: &Load) -> Result<Waiting> {
        let &[pid] = &load.pids[..] else {
            anyhow::bail!("give the one server's process with --pid")
        };
        ensure!(self.watches > 0, "there is nothing to measure");
        raise_file_limit(self.watches)?;
        let endpoint = &load.endpoints[0];
        let open = |number: u64| OpenWatch::open(endpoint, number);
        let mut watches: Vec<_> = (0..FIRST_WATCHES).map(open).collect::<Result<_>>()?;
        let before = memory(pid)?.rss_bytes;
        for number in FIRST_WATCHES..FIRST_WATCHES + self.watches {
            watches.push(open(number)?);
        }
        let grown = memory(pid)?.rss_bytes.saturating_sub(before);
        let step = (watches.len() as u64 / EVENTS).max(1);
        let mut writer = connect(endpoint)?;
        let mut delays = Vec::new();
        for (number, watch) in (0..).zip(&mut watches).step_by(step as usize) {
            let begun = Instant::now();
            writer.get_mut().write_all(request("/v3/kv/put", &key(number)).as_bytes())?;
            ensure!(watch.next()?.contains(r#""events""#), "this is no event");
            delays.push(begun.elapsed());
            read_answer(&mut writer)?;
        }
        delays.sort_unstable();
        Ok(Waiting { bytes_each: grown as f64 / self.watches as f64, delays })
    }
}

fn key(number: u64) -> String {
    format!(r#"{{"key":"{}"}}"#, BASE64_STANDARD.encode(format!("watched-{number}")))
}

/// This process needs a file for each watch, and a few more.
fn raise_file_limit(watches: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let needed = watches + FIRST_WATCHES + 100;
    if limit.current.is_some_and(|current| current < needed) {
        let raised = Rlimit { current: Some(needed), ..limit };
        setrlimit(Resource::Nofile, raised).context("the limit of open files is too low")?;
    }
    Ok(())
}

fn connect(endpoint: &str) -> Result<BufReader<TcpStream>> {
    let stream =
        TcpStream::connect(endpoint).with_context(|| format!("cannot connect to {endpoint}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // What this side holds is not what is measured, but there are many.
    Ok(BufReader::with_capacity(512, stream))
}

/// Reads a head; returns the length that it tells.
fn read_head(connection: &mut BufReader<TcpStream>) -> Result<usize> {
    let (mut line, mut length) = (String::new(), 0);
    connection.read_line(&mut line)?;
    ensure!(line.contains(" 200 "), "the server answered {line:?}");
    while connection.read_line(&mut line)? > 2 {
        length = line.lines().last().and_then(content_length).unwrap_or(length);
    }
    Ok(length)
}

fn read_answer(connection: &mut BufReader<TcpStream>) -> Result<()> {
    let mut answer = vec![0; read_head(connection)?];
    Ok(connection.read_exact(&mut answer)?)
}

struct OpenWatch(BufReader<TcpStream>);

impl OpenWatch {
    fn open(endpoint: &str, number: u64) -> Result<Self> {
        let mut connection = connect(endpoint)?;
        let create = format!(r#"{{"create_request":{}}}"#, key(number));
        connection.get_mut().write_all(request("/v3/watch", &create).as_bytes())?;
        read_head(&mut connection)?;
        let mut watch = OpenWatch(connection);
        ensure!(watch.next()?.contains(r#""created""#), "the watch was not created");
        Ok(watch)
    }

    /// The next chunk: servers send a message in each.
    fn next(&mut self) -> Result<String> {
        let mut size = String::new();
        self.0.read_line(&mut size)?;
        let size = usize::from_str_radix(size.trim(), 16).context("no chunk")?;
        let mut chunk = vec![0; size + 2];
        self.0.read_exact(&mut chunk)?;
        Ok(String::from_utf8_lossy(&chunk).into_owned())
    }
}
