//! Puts a load on a server and measures exactly one window of it.
//!
//! Each thread has its own single-threaded runtime and its share of the connections and clients: tokio's
//! multi-threaded scheduler costs half as much again per request. A client is a task that makes one request at a time.
//!
//! - **Closed loop**: the next request starts when the last one is answered. The rate adapts to the server, so
//!   latencies of a stalled server look better than a user would find them.
//! - **Open loop** (`--rate`): requests are due at fixed times, and latencies count from these. A request that had to
//!   wait for a free client has waited for the server (no coordinated omission).
//!
//! The phases are set up, warm up, measure, done. What counts is what completes while measuring; the processor time
//! of the servers is read at the same two moments.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use hdrhistogram::Histogram;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::client::{CallError, Channel};
use crate::keys::{KeySpace, KeyStream};
use crate::process;

/// One client's requests.
pub(crate) trait Operation: Send + 'static {
    /// What must be there before the first request.
    fn prepare(
        &mut self,
        channel: &mut Channel,
    ) -> impl Future<Output = Result<(), CallError>> + Send {
        let _ = channel;
        async { Ok(()) }
    }

    /// Makes one request, checks the answer, and says how many units (keys, leases, ...) were served.
    fn once(
        &mut self,
        channel: &mut Channel,
    ) -> impl Future<Output = Result<u64, CallError>> + Send;
}

/// What the clients of a run do.
pub(crate) trait Workload: Sync + 'static {
    const NAME: &'static str;
    /// What one unit is, in the singular.
    const UNIT: &'static str;
    /// Whether an operation is what is measured. A watch measures events instead.
    const MEASURES_OPERATIONS: bool = true;
    type Operation: Operation;

    /// Refuses arguments that do not fit together, before anything is started.
    fn check(&self, load: &Load) -> Result<()> {
        let _ = load;
        Ok(())
    }

    /// Opens what the clients of a thread share.
    fn set_up(&self, site: &mut Site, load: &Load) -> impl Future<Output = Result<(), CallError>> {
        let _ = (site, load);
        async { Ok(()) }
    }

    fn operation(&self, client: usize, load: &Load) -> Self::Operation;
}

/// How much load, on whom.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) endpoints: Vec<String>,
    pub(crate) pids: Vec<u32>,
    pub(crate) connections: usize,
    pub(crate) clients: usize,
    pub(crate) threads: usize,
    /// Requests per second of all clients; `None` for a closed loop.
    pub(crate) rate: Option<f64>,
    pub(crate) warm_up: Duration,
    pub(crate) keys: KeySpace,
    /// The shared place in the key space, when keys come in order.
    pub(crate) cursor: Option<Arc<AtomicU64>>,
    pub(crate) value_size: usize,
}

impl Load {
    pub(crate) fn key_stream(&self, client: usize) -> KeyStream {
        KeyStream::new(self.keys, self.cursor.clone(), client)
    }
}

/// What ends the measured window.
pub(crate) enum Extent<'a> {
    For(Duration),
    /// A number of requests; everything is measured, from the first one on.
    Total(u64),
    /// The window is as long as this takes, but not shorter than the time given.
    While(Duration, &'a mut dyn FnMut() -> Result<()>),
}

/// What was counted inside the window.
#[derive(Debug)]
pub(crate) struct Tally {
    /// In nanoseconds.
    pub(crate) latencies: Histogram<u64>,
    pub(crate) requests: u64,
    pub(crate) units: u64,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
}

/// Latencies are kept to three digits between these; longer ones count as the longest.
const LATENCY_MIN_NANOS: u64 = 1_000;
const LATENCY_MAX_NANOS: u64 = 120_000_000_000;

impl Tally {
    pub(crate) fn new() -> Self {
        let latencies = Histogram::new_with_bounds(LATENCY_MIN_NANOS, LATENCY_MAX_NANOS, 3);
        let latencies = latencies.expect("the bounds are valid constants");
        Tally { latencies, requests: 0, units: 0, errors: 0, first_error: None }
    }

    pub(crate) fn record(&mut self, latency: Duration, units: u64) {
        self.latencies.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
        self.requests += 1;
        self.units += units;
    }

    fn record_error(&mut self, error: &CallError) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| error.to_string());
    }

    fn add(&mut self, other: &Tally) {
        self.latencies.add(&other.latencies).expect("all histograms have the same bounds");
        self.requests += other.requests;
        self.units += other.units;
        self.errors += other.errors;
        if self.first_error.is_none() {
            self.first_error.clone_from(&other.first_error);
        }
    }
}

/// The result of a run.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) window: Duration,
    pub(crate) tally: Tally,
    /// Of all `pids` together; `None` without any.
    pub(crate) server_cpu: Option<Duration>,
    pub(crate) client_cpu: Duration,
}

const WARM_UP: u8 = 0;
const MEASURE: u8 = 1;
const DONE: u8 = 2;

/// What all clients of a run share.
#[derive(Debug)]
pub(crate) struct Run {
    phase: AtomicU8,
    issued: AtomicU64,
    total: u64,
    pace: Option<Pace>,
    /// Why the run was ended from within.
    failure: OnceLock<String>,
}

/// The timetable of an open loop.
#[derive(Debug)]
struct Pace {
    interval: Duration,
    begun: OnceLock<Instant>,
    due: Semaphore,
}

impl Run {
    fn new(total: u64, rate: Option<f64>) -> Self {
        let pace = rate.map(|rate| Pace {
            interval: Duration::from_secs_f64(1.0 / rate),
            begun: OnceLock::new(),
            due: Semaphore::new(0),
        });
        let phase = AtomicU8::new(WARM_UP);
        Run { phase, issued: AtomicU64::new(0), total, pace, failure: OnceLock::new() }
    }

    pub(crate) fn is_measuring(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == MEASURE
    }

    fn is_done(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == DONE
    }

    fn enter(&self, phase: u8) {
        self.phase.store(phase, Ordering::Relaxed);
        if phase == DONE
            && let Some(pace) = &self.pace
        {
            pace.due.close();
        }
    }

    /// Ends the run from within: what the workload stands on is gone. The first reason is kept.
    pub(crate) fn fail(&self, error: &CallError) {
        self.failure.get_or_init(|| with_sources(error));
        self.enter(DONE);
    }

    /// Waits for the next request of the calling client and says when it was due; `None` when no more are to come.
    async fn next_due(&self) -> Option<Instant> {
        if self.is_done() {
            return None;
        }
        let Some(pace) = &self.pace else {
            let number = self.issued.fetch_add(1, Ordering::Relaxed);
            return (number < self.total).then(Instant::now);
        };
        pace.due.acquire().await.ok()?.forget();
        let number = self.issued.fetch_add(1, Ordering::Relaxed);
        let begun = pace.begun.get().expect("requests are due only after the beginning");
        let offset = Duration::from_secs_f64(number as f64 * pace.interval.as_secs_f64());
        (number < self.total).then(|| *begun + offset)
    }
}

/// The grid of the timetable: a due request is started at most this much late.
const PACE_GRID: Duration = Duration::from_micros(200);

/// Declares requests due, on a thread of its own: the runtime's timers are a millisecond coarse.
fn keep_pace(run: &Run, pace: &Pace) {
    let begun = *pace.begun.get_or_init(Instant::now);
    let mut declared = 0;
    while !run.is_done() {
        let due = (begun.elapsed().as_secs_f64() / pace.interval.as_secs_f64()) as usize + 1;
        pace.due.add_permits(due - declared);
        declared = due;
        let next = begun + Duration::from_secs_f64(due as f64 * pace.interval.as_secs_f64());
        // Looks at the phase now and then, however slow the pace is.
        let pause = next.saturating_duration_since(Instant::now());
        thread::sleep(pause.clamp(PACE_GRID, Duration::from_millis(50)));
    }
}

/// What belongs to one thread of a run.
pub(crate) struct Site {
    pub(crate) thread: usize,
    pub(crate) threads: usize,
    pub(crate) channels: Vec<Channel>,
    pub(crate) run: Arc<Run>,
    pub(crate) tally: Arc<Mutex<Tally>>,
}

/// No holder of the lock can panic half way through a change.
pub(crate) fn locked(tally: &Mutex<Tally>) -> std::sync::MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long the last requests may take after the window was closed.
const FINISH_LIMIT: Duration = Duration::from_secs(60);

/// How soon a failure of a background task is noticed.
const FAILURE_POLL: Duration = Duration::from_millis(100);

enum Report {
    Ready,
    Finished(Result<Tally>),
}

/// Runs `workload` under `load` and measures one window.
///
/// # Errors
/// When a connection cannot be made or is lost, or when requests are not answered. Refused requests are counted.
pub(crate) fn drive<W: Workload>(
    workload: &W,
    load: &Load,
    extent: Extent<'_>,
) -> Result<Measured> {
    workload.check(load)?;
    ensure!(
        load.connections > 0 && load.clients > 0,
        "a run needs at least one connection and one client"
    );
    ensure!(
        load.rate.is_none_or(|rate| rate > 0.0 && rate.is_finite()),
        "the rate must be positive"
    );
    let total = if let Extent::Total(total) = extent { total } else { u64::MAX };
    let run = Arc::new(Run::new(total, load.rate));
    let threads = load.threads.clamp(1, load.connections.min(load.clients));
    let (go, _) = tokio::sync::watch::channel(false);
    let (reports, inbox) = channel();
    thread::scope(|scope| {
        for thread in 0..threads {
            let site = SiteStart {
                thread,
                threads,
                run: &run,
                load,
                workload,
                go: go.subscribe(),
                reports: reports.clone(),
            };
            scope.spawn(move || site.work());
        }
        drop(reports);
        let outcome = conduct(&run, load, extent, threads, &inbox, || {
            go.send_replace(true);
            if let Some(pace) = &run.pace {
                let run = &run;
                scope.spawn(move || keep_pace(run, pace));
            }
        });
        run.enter(DONE);
        // Ends threads whose start was never given, and those whose requests are never answered.
        drop(go);
        outcome
    })
}

/// Leads the threads through the phases; reads the processor times at the borders of the window.
fn conduct(
    run: &Run,
    load: &Load,
    extent: Extent<'_>,
    threads: usize,
    inbox: &Receiver<Report>,
    start: impl FnOnce(),
) -> Result<Measured> {
    for _ in 0..threads {
        match inbox.recv().context("a thread ended before it was ready")? {
            Report::Ready => {}
            Report::Finished(result) => {
                result?;
                bail!("a thread finished before the start");
            }
        }
    }
    let mut finished = Vec::with_capacity(threads);
    if let Extent::Total(_) = extent {
        run.enter(MEASURE);
    }
    let mut before = Reading::take(load)?;
    start();
    if !matches!(extent, Extent::Total(_)) {
        wait(run, inbox, Some(load.warm_up), threads, &mut finished)?;
        before = Reading::take(load)?;
        run.enter(MEASURE);
    }
    match extent {
        Extent::For(duration) => wait(run, inbox, Some(duration), threads, &mut finished)?,
        Extent::Total(_) => wait(run, inbox, None, threads, &mut finished)?,
        Extent::While(at_least, job) => {
            job()?;
            let rest = at_least.saturating_sub(before.at.elapsed());
            wait(run, inbox, Some(rest), threads, &mut finished)?;
        }
    }
    let after = Reading::take(load)?;
    run.enter(DONE);
    wait(run, inbox, Some(FINISH_LIMIT), threads, &mut finished)?;
    ensure!(
        finished.len() == threads,
        "requests were still unanswered {FINISH_LIMIT:?} after the end"
    );
    let mut tally = Tally::new();
    for part in &finished {
        tally.add(part);
    }
    Ok(Measured {
        window: after.at - before.at,
        tally,
        server_cpu: (!load.pids.is_empty()).then(|| after.servers.saturating_sub(before.servers)),
        client_cpu: after.client.saturating_sub(before.client),
    })
}

/// Until all threads have finished, or for `limit`. The first failure ends the run.
fn wait(
    run: &Run,
    inbox: &Receiver<Report>,
    limit: Option<Duration>,
    threads: usize,
    finished: &mut Vec<Tally>,
) -> Result<()> {
    let deadline = limit.map(|limit| Instant::now() + limit);
    while finished.len() < threads {
        if let Some(failure) = run.failure.get() {
            bail!("{failure}");
        }
        let rest = deadline.map_or(FAILURE_POLL, |at| at.saturating_duration_since(Instant::now()));
        match inbox.recv_timeout(rest.min(FAILURE_POLL)) {
            Ok(Report::Finished(tally)) => finished.push(tally?),
            Err(RecvTimeoutError::Timeout) if deadline.is_some_and(|at| Instant::now() >= at) => {
                break;
            }
            Ok(Report::Ready) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                bail!("a thread of the load generator ended without a result")
            }
        }
    }
    match run.failure.get() {
        Some(failure) => bail!("{failure}"),
        None => Ok(()),
    }
}

/// Processor times at one moment.
struct Reading {
    at: Instant,
    servers: Duration,
    client: Duration,
}

impl Reading {
    fn take(load: &Load) -> Result<Reading> {
        let servers =
            load.pids.iter().map(|&pid| process::cpu_time(pid)).sum::<Result<Duration>>()?;
        Ok(Reading { at: Instant::now(), servers, client: process::cpu_time(std::process::id())? })
    }
}

struct SiteStart<'a, W> {
    thread: usize,
    threads: usize,
    run: &'a Arc<Run>,
    load: &'a Load,
    workload: &'a W,
    go: tokio::sync::watch::Receiver<bool>,
    reports: Sender<Report>,
}

impl<W: Workload> SiteStart<'_, W> {
    fn work(self) {
        let reports = self.reports.clone();
        let result = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(anyhow::Error::from)
            .and_then(|runtime| {
                let given_up = given_up(self.go.clone());
                runtime.block_on(async {
                    tokio::select! {
                        result = self.serve() => result,
                        () = given_up => Err(anyhow!("the run was given up")),
                    }
                })
            });
        // The conductor is gone only if the run has failed already.
        drop(reports.send(Report::Finished(result)));
    }

    async fn serve(mut self) -> Result<Tally> {
        let mut site = Site {
            thread: self.thread,
            threads: self.threads,
            channels: self.connect().await?,
            run: Arc::clone(self.run),
            tally: Arc::new(Mutex::new(Tally::new())),
        };
        self.workload.set_up(&mut site, self.load).await.context("cannot set up the run")?;
        let mut clients = Vec::new();
        for (place, client) in (self.thread..self.load.clients).step_by(self.threads).enumerate() {
            let mut channel = site.channels[place % site.channels.len()].clone();
            let mut operation = self.workload.operation(client, self.load);
            operation.prepare(&mut channel).await.context("cannot prepare a client")?;
            clients.push((operation, channel));
        }
        drop(self.reports.send(Report::Ready));
        self.go.wait_for(|go| *go).await.context("the run was given up before its start")?;
        let mut tasks = JoinSet::new();
        for (operation, channel) in clients {
            let (run, tally) = (Arc::clone(&site.run), Arc::clone(&site.tally));
            tasks.spawn(client::<W>(operation, channel, run, tally));
        }
        while let Some(ended) = tasks.join_next().await {
            ended.map_err(|panic| anyhow!(panic)).and_then(|result| Ok(result?))?;
        }
        let mut tally = Tally::new();
        tally.add(&locked(&site.tally));
        Ok(tally)
    }

    /// This thread's share of the connections, spread over all endpoints.
    async fn connect(&self) -> Result<Vec<Channel>, CallError> {
        let endpoints = &self.load.endpoints;
        let mut channels = Vec::new();
        for connection in (self.thread..self.load.connections).step_by(self.threads) {
            channels.push(Channel::connect(&endpoints[connection % endpoints.len()]).await?);
        }
        Ok(channels)
    }
}

/// Resolves when the conductor has dropped its end.
async fn given_up(mut go: tokio::sync::watch::Receiver<bool>) {
    while go.changed().await.is_ok() {}
}

async fn client<W: Workload>(
    mut operation: W::Operation,
    mut channel: Channel,
    run: Arc<Run>,
    tally: Arc<Mutex<Tally>>,
) -> Result<(), CallError> {
    while let Some(due) = run.next_due().await {
        let result = operation.once(&mut channel).await;
        match result {
            Ok(units) if W::MEASURES_OPERATIONS && run.is_measuring() => {
                locked(&tally).record(due.elapsed(), units);
            }
            Ok(_) => {}
            // Also errors of the warm-up count: a run with any is not one to quote.
            Err(error) if error.is_answer() => locked(&tally).record_error(&error),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The error and what caused it, on one line.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
