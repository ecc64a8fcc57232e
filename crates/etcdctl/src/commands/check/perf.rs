//! `check perf`: writes at a given rate, and says whether the cluster keeps up.

use std::time::Duration;

use retcd_client::Client;
use tokio::time::{Instant, sleep_until};

use super::load::{Load, Pace, Summary, Writes};
use super::{AUTO_COMPACT, AUTO_DEFRAG, LOAD, Size, load_size};
use crate::interrupts::Interrupts;
use crate::print::write_out;
use crate::progress::{Progress, Unit};
use crate::session::Session;
use retcd_command_line::{Action, Command, Flag, Invocation};
use retcd_command_line::{Exit, Failure};

pub(super) const COMMAND: Command = Command {
    operands: "[options]",
    short: "Checks the performance of the etcd cluster",
    long: "Checks the performance of the etcd cluster.\n\n\
           Writes keys of 256 bytes with values of 1024 bytes for a minute, and deletes them again:\n\n  \
           load     writes/s   clients\n  \
           small         150        50\n  \
           medium       1000       200\n  \
           large        8000       500\n  \
           xLarge      15000      1000\n\n\
           Passes when nine tenths of the writes are done in time, none took longer than 500 ms, and the standard \
           deviation is at most 100 ms.",
    flags: &[
        LOAD,
        Flag::text("prefix", "/etcdctl-check-perf/", "prefix of the keys to write"),
        AUTO_COMPACT,
        AUTO_DEFRAG,
        Flag::duration("duration", "1m0s", "how long to write"),
    ],
    ..Command::new("perf", "", Action::Run(run))
};

const WRITES: Writes = Writes { prefix: String::new(), key_bytes: 256, value_bytes: 1024 };
/// At most this share of the wanted rate is too low.
const RATE_MIN: f64 = 0.9;
/// Seconds.
const SLOWEST_MAX: f64 = 0.5;
const DEVIATION_MAX: f64 = 0.1;
/// How long cleaning up may take.
const CLEANUP: Duration = Duration::from_secs(30);
/// How often the progress is looked at.
const STEP: Duration = Duration::from_secs(1);

fn run(invocation: &Invocation) -> Result<(), Failure> {
    let flags = &invocation.flags;
    let (rate, clients) = match load_size(flags)? {
        Size::Small => (150, 50),
        Size::Medium => (1_000, 200),
        Size::Large => (8_000, 500),
        Size::ExtraLarge => (15_000, 1_000),
    };
    let duration = flags.duration("duration");
    let writes = Writes { prefix: flags.text("prefix").to_owned(), ..WRITES };
    let session = Session::open(invocation)?;
    session.block_on(async {
        let client = session.endless_client();
        super::require_empty(&client, &writes.prefix, true).await?;
        let clients = session.separate_clients(clients)?;
        let load = Load::start(clients, &writes, Pace::per_second(rate, duration));
        let summary = watch(load, duration).await?;
        clean_up(&client, &writes.prefix, flags.bool(AUTO_COMPACT.name)).await?;
        if flags.bool(AUTO_DEFRAG.name) {
            super::defragment(&session).await?;
        }
        judge(&summary, f64::from(rate))
    })
}

/// Waits until the time is over or somebody has seen enough.
async fn watch(load: Load, duration: Duration) -> Result<Summary, Failure> {
    let mut interrupts = Interrupts::listen()?;
    let mut progress = Progress::new("check perf", Unit::Of("s"), duration.as_secs());
    let start = Instant::now();
    let mut next = start + STEP;
    while next <= start + duration {
        tokio::select! {
            () = sleep_until(next) => progress.set(start.elapsed().as_secs()),
            () = interrupts.next() => {
                load.stop();
                break;
            }
        }
        next += STEP;
    }
    Ok(load.finish().await)
}

/// A cluster that cannot delete has been measured all the same.
async fn clean_up(client: &Client, prefix: &str, compacts: bool) -> Result<(), Failure> {
    match super::delete_all(&client.with_timeout(CLEANUP), prefix).await {
        Ok(revision) if compacts => super::compact(client, revision).await,
        Ok(_) => Ok(()),
        Err(error) => write_out(
            format!("FAIL: Cleanup failed during key deletion: ERROR({error})\n").as_bytes(),
        ),
    }
}

fn judge(summary: &Summary, wanted: f64) -> Result<(), Failure> {
    if !summary.errors.is_empty() {
        super::report_errors(summary)?;
    }
    let (lines, has_passed) = verdict(summary, wanted);
    write_out(lines.as_bytes())?;
    if has_passed { Ok(()) } else { Err(Failure::silent(Exit::Error)) }
}

/// The lines to print, and whether all is well.
fn verdict(summary: &Summary, wanted: f64) -> (String, bool) {
    // etcd cuts the fraction off and counts one up.
    let rate = format!("{:.0} writes/s", summary.rate().trunc() + 1.0);
    let (slowest, deviation) = (summary.slowest(), summary.deviation());
    let is_fast = summary.rate() / wanted > RATE_MIN;
    let is_quick = slowest <= SLOWEST_MAX;
    let is_steady = deviation <= DEVIATION_MAX;
    let has_passed = is_fast && is_quick && is_steady && summary.errors.is_empty();
    let lines = [
        if is_fast {
            format!("PASS: Throughput is {rate}")
        } else {
            format!("FAIL: Throughput too low: {rate}")
        },
        if is_quick {
            format!("PASS: Slowest request took {slowest:.6}s")
        } else {
            format!("Slowest request took too long: {slowest:.6}s")
        },
        if is_steady {
            format!("PASS: Stddev is {deviation:.6}s")
        } else {
            format!("Stddev too high: {deviation:.6}s")
        },
        if has_passed { "PASS\n" } else { "FAIL\n" }.to_owned(),
    ];
    (lines.join("\n"), has_passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_etcds() {
        let good = Summary::of(&[0.25; 300], 2);
        let expected = "PASS: Throughput is 151 writes/s\nPASS: Slowest request took 0.250000s\n\
                        PASS: Stddev is 0.000000s\nPASS\n";
        assert_eq!(verdict(&good, 150.0), (expected.to_owned(), true));
        let bad = Summary::of(&[0.25, 1.25], 2);
        let expected = "FAIL: Throughput too low: 2 writes/s\n\
                        Slowest request took too long: 1.250000s\nStddev too high: 0.500000s\nFAIL\n";
        assert_eq!(verdict(&bad, 150.0), (expected.to_owned(), false));
    }
}
