//! Other processes: what they use, and servers that this tool starts and ends itself.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use retcd_api::etcdserverpb::{RangeRequest, RangeResponse};
use serde::Serialize;
use tempfile::TempDir;

use crate::client::{CallError, Channel, Method};
use crate::keys::ALL_KEYS;

/// Processor time that a process and its threads have used so far, user and system.
///
/// The kernel counts in ticks of 10 ms: a window of two seconds is exact to half a percent of a core.
pub(crate) fn cpu_time(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let ticks = cpu_ticks(&stat).with_context(|| format!("{path} has another form"))?;
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// The sum of fields 14 and 15; counted from behind the name, which may hold spaces and brackets itself.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// What a process holds in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Memory {
    /// Everything resident, also pages of mapped files, which the kernel may drop at any time.
    pub(crate) rss_bytes: u64,
    /// The part that has no file behind it: the heap and the stacks.
    pub(crate) anonymous_bytes: u64,
}

pub(crate) fn memory(pid: u32) -> Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    memory_in(&status).with_context(|| format!("{path} has another form"))
}

fn memory_in(status: &str) -> Option<Memory> {
    let bytes = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    };
    Some(Memory { rss_bytes: bytes("VmRSS:")?, anonymous_bytes: bytes("RssAnon:")? })
}

/// How a server under test is started.
///
/// In the command, `{dir}` stands for its data directory, `{client}` and `{peer}` for its ports. A command without
/// any of them gets the usual flags of a member that is its own cluster.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    pub(crate) name: String,
    pub(crate) command: Vec<String>,
}

/// Large enough that no workload here meets the space quota.
const QUOTA_BYTES: u64 = 8 << 30;

impl std::str::FromStr for Launch {
    type Err = anyhow::Error;

    /// Reads `name=command line`; without a name, the name of the program is taken.
    fn from_str(text: &str) -> Result<Launch> {
        let (name, line) = match text.split_once('=') {
            Some((name, line)) if !name.contains(['/', ' ', '-']) => (name.to_owned(), line),
            _ => (String::new(), text),
        };
        let command = words(line)?;
        let program = command.first().ok_or_else(|| anyhow!("{text:?} has no command"))?;
        let name = if name.is_empty() { file_name(program) } else { name };
        Ok(Launch { name, command })
    }
}

impl Launch {
    /// The same server with more flags, under a name that says so.
    pub(crate) fn with_flags(&self, flags: &[String]) -> Launch {
        let command = self.command.iter().chain(flags).cloned().collect();
        Launch { name: self.name.clone(), command }
    }

    fn arguments(&self, home: &Home) -> Vec<String> {
        let places = [
            ("{dir}", home.data_dir()),
            ("{client}", home.client_port.to_string()),
            ("{peer}", home.peer_port.to_string()),
        ];
        let mut arguments = self.command.clone();
        let has_places =
            arguments.iter().any(|word| places.iter().any(|(place, _)| word.contains(place)));
        if !has_places {
            arguments.extend(member_flags());
        }
        for argument in &mut arguments {
            for (place, text) in &places {
                *argument = argument.replace(place, text);
            }
        }
        arguments
    }
}

fn member_flags() -> impl Iterator<Item = String> {
    [
        "--name=bench".to_owned(),
        "--data-dir={dir}".to_owned(),
        "--listen-client-urls=http://127.0.0.1:{client}".to_owned(),
        "--advertise-client-urls=http://127.0.0.1:{client}".to_owned(),
        "--listen-peer-urls=http://127.0.0.1:{peer}".to_owned(),
        "--initial-advertise-peer-urls=http://127.0.0.1:{peer}".to_owned(),
        "--initial-cluster=bench=http://127.0.0.1:{peer}".to_owned(),
        format!("--quota-backend-bytes={QUOTA_BYTES}"),
    ]
    .into_iter()
}

fn file_name(program: &str) -> String {
    Path::new(program)
        .file_name()
        .map_or_else(|| program.to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Splits a command line at blanks; single and double quotes keep blanks together.
pub(crate) fn words(line: &str) -> Result<Vec<String>> {
    let mut out = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            None if c == '\'' || c == '"' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c.is_whitespace() => out.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    ensure!(quote.is_none(), "a quote is left open in {line:?}");
    out.extend(word);
    Ok(out)
}

/// Where a server lives: a data directory and two ports, kept over restarts. Dropping it deletes the data.
pub(crate) struct Home {
    dir: TempDir,
    client_port: u16,
    peer_port: u16,
}

impl Home {
    /// Below `parent`, which decides on which disk the server is measured.
    pub(crate) fn new(parent: &Path) -> Result<Home> {
        let dir = tempfile::Builder::new()
            .prefix("etcd-bench-")
            .tempdir_in(parent)
            .with_context(|| format!("cannot make a directory below {}", parent.display()))?;
        let [client_port, peer_port] = free_ports()?;
        Ok(Home { dir, client_port, peer_port })
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.client_port)
    }

    fn data_dir(&self) -> String {
        self.dir.path().join("data").to_string_lossy().into_owned()
    }

    fn log(&self) -> std::path::PathBuf {
        self.dir.path().join("server.log")
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(10).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

/// Both are taken before either is given back, so that they differ.
fn free_ports() -> Result<[u16; 2]> {
    let sockets = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
    Ok([sockets[0].local_addr()?.port(), sockets[1].local_addr()?.port()])
}

/// How long a server took to be of use after its process had been started.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct StartTimes {
    /// Until it took a connection.
    pub(crate) listening: Duration,
    /// Until it had answered a linearizable read.
    pub(crate) first_answer: Duration,
    /// Processor time it had used by then.
    pub(crate) cpu: Duration,
}

/// How long a start or an orderly stop may take before it counts as failed.
const START_LIMIT: Duration = Duration::from_secs(180);
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// How often a starting server is asked: fine enough to time it, rare enough not to disturb it.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A running server. It is killed when dropped; [`Server::stop`] ends it in good order.
pub(crate) struct Server {
    child: Child,
    endpoint: String,
}

impl Server {
    /// Starts `launch` at `home` and waits for its first answer.
    pub(crate) fn start(launch: &Launch, home: &Home) -> Result<(Server, StartTimes)> {
        let arguments = launch.arguments(home);
        let log = File::options().create(true).append(true).open(home.log())?;
        let begun = Instant::now();
        let child = Command::new(&arguments[0])
            .args(&arguments[1..])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", arguments[0]))?;
        let mut server = Server { child, endpoint: home.endpoint() };
        let times = server.wait_until_ready(begun).with_context(|| {
            format!("{} did not start; its log ends with\n{}", launch.name, home.log_tail())
        })?;
        Ok((server, times))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    fn wait_until_ready(&mut self, begun: Instant) -> Result<StartTimes> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut listening = None;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("the process ended with {status}");
            }
            let error = match runtime.block_on(first_answer(&self.endpoint, begun, &mut listening))
            {
                Ok(first_answer) => {
                    let listening = listening.expect("an answer comes over a connection");
                    return Ok(StartTimes { listening, first_answer, cpu: cpu_time(self.pid())? });
                }
                Err(error) => error,
            };
            if begun.elapsed() > START_LIMIT {
                return Err(error).context("no answer in time");
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Asks the server to end (SIGTERM) and waits until it has.
    pub(crate) fn stop(mut self) -> Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw);
        let pid = pid.ok_or_else(|| anyhow!("process id {} is out of range", self.pid()))?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let begun = Instant::now();
        while self.child.try_wait()?.is_none() {
            ensure!(
                begun.elapsed() < STOP_LIMIT,
                "the server still runs {STOP_LIMIT:?} after SIGTERM"
            );
            thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only if the process has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

async fn first_answer(
    endpoint: &str,
    begun: Instant,
    listening: &mut Option<Duration>,
) -> Result<Duration, CallError> {
    let mut channel = Channel::connect(endpoint).await?;
    listening.get_or_insert_with(|| begun.elapsed());
    let request = RangeRequest { key: ALL_KEYS.0, ..RangeRequest::default() };
    channel.ask::<RangeResponse>(Method::Range, &request).await?;
    Ok(begun.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_any_name() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 120 34 0 0 20";
        assert_eq!(cpu_ticks(&format!("77 (etcd) {fields}")), Some(154));
        assert_eq!(cpu_ticks(&format!("77 (a) b (c) {fields}")), Some(154));
        assert_eq!(cpu_ticks("77 (etcd) S 1"), None);
    }

    #[test]
    fn own_figures_can_be_read() {
        let pid = std::process::id();
        cpu_time(pid).unwrap();
        let memory = memory(pid).unwrap();
        assert!(memory.rss_bytes >= memory.anonymous_bytes && memory.anonymous_bytes > 0);
    }

    #[test]
    fn memory_is_read_from_the_status_file() {
        let status = "Name:\tetcd\nVmRSS:\t    2048 kB\nRssAnon:\t     512 kB\n";
        assert_eq!(
            memory_in(status),
            Some(Memory { rss_bytes: 2 << 20, anonymous_bytes: 512 << 10 })
        );
        assert_eq!(memory_in("Name:\tkthreadd\n"), None);
    }

    #[test]
    fn command_lines_are_split_at_blanks_outside_quotes() {
        assert_eq!(words("a  --b='c d' \"\" e").unwrap(), ["a", "--b=c d", "", "e"]);
        assert!(words("a 'b").is_err());
        assert_eq!(words("  ").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_launch_has_a_name() {
        let named: Launch = "old=/opt/etcd --log-level=error".parse().unwrap();
        assert_eq!((named.name.as_str(), named.command.len()), ("old", 2));
        let unnamed: Launch = "/opt/etcd --log-level=error".parse().unwrap();
        assert_eq!((unnamed.name.as_str(), unnamed.command.len()), ("etcd", 2));
        assert!("name=".parse::<Launch>().is_err());
    }

    #[test]
    fn places_are_filled_in_and_missing_flags_added() {
        let home = Home::new(&std::env::temp_dir()).unwrap();
        let own: Launch = "x=server --at {client} --data={dir}".parse().unwrap();
        let own = own.arguments(&home);
        assert_eq!(own[2], home.client_port.to_string());
        assert_eq!(own[3], format!("--data={}", home.data_dir()));
        assert_eq!(own.len(), 4);

        let bare: Launch = "x=server".parse().unwrap();
        let bare = bare.with_flags(&["--more".to_owned()]).arguments(&home);
        assert_eq!(bare[1], "--more");
        assert!(bare.contains(&format!("--data-dir={}", home.data_dir())));
        assert!(bare.iter().all(|word| !word.contains('{')));
    }

    #[test]
    fn a_server_that_ends_at_once_is_reported_with_its_log() {
        let home = Home::new(&std::env::temp_dir()).unwrap();
        let launch: Launch = "sh=sh -c 'echo no such flag; exit 3'".parse().unwrap();
        let error = Server::start(&launch, &home).err().expect("the process ends");
        let text = format!("{error:#}");
        assert!(text.contains("no such flag") && text.contains("exit status: 3"), "{text}");
    }
}
