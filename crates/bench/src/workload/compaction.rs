//! How much a compaction holds up writers.
//!
//! Puts go on at a steady rate. Their latencies are taken twice: with nothing else going on, and while all history is
//! being compacted, until the server says that the last revision is gone (`physical`).

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use prost::Message;
use retcd_api::etcdserverpb::{CompactionRequest, CompactionResponse, RangeRequest, RangeResponse};

use super::preload::Preload;
use super::put::Put;
use crate::client::{Channel, Method};
use crate::engine::{Extent, Load, Measured, drive};
use crate::keys::ALL_KEYS;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Compact {
    /// Revisions to write before, over all keys; 0 compacts what is there
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) revisions: u64,
    /// Puts per request while writing these
    #[arg(long, default_value_t = 100)]
    pub(crate) batch: u64,
}

/// Both windows, and the time from the request to its answer.
pub(crate) struct Stall {
    pub(crate) quiet: Measured,
    pub(crate) compacting: Measured,
    pub(crate) took: Duration,
}

/// A shorter window holds too few puts to have a 99th percentile.
const WINDOW_MIN: Duration = Duration::from_millis(500);

impl Compact {
    pub(crate) fn run(&self, load: &Load, quiet: Duration) -> Result<Stall> {
        ensure!(
            self.revisions.is_multiple_of(load.keys.count()),
            "--revisions must be a multiple of the number of keys"
        );
        let times = self.revisions / load.keys.count();
        if times > 0 {
            Preload::new(self.batch, times).run(load)?;
        }
        let endpoint = &load.endpoints[0];
        let quiet = drive(&Put {}, load, Extent::For(quiet))?;
        let mut took = Duration::ZERO;
        let mut compact = || {
            let begun = Instant::now();
            compact_all(endpoint)?;
            took = begun.elapsed();
            Ok(())
        };
        let compacting = drive(&Put {}, load, Extent::While(WINDOW_MIN, &mut compact))?;
        Ok(Stall { quiet, compacting, took })
    }
}

/// Compacts up to the newest revision and waits until the space is free.
fn compact_all(endpoint: &str) -> Result<()> {
    let newest = RangeRequest { key: ALL_KEYS.0, ..RangeRequest::default() };
    let newest: RangeResponse = ask(endpoint, Method::Range, &newest)?;
    let revision = newest.header.context("an answer without a header")?.revision;
    let request = CompactionRequest { revision, physical: true };
    ask::<CompactionResponse>(endpoint, Method::Compact, &request)
        .context("the compaction failed")?;
    Ok(())
}

/// One call on a connection of its own.
fn ask<A: Message + Default>(endpoint: &str, method: Method, request: &impl Message) -> Result<A> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(async { Channel::connect(endpoint).await?.ask(method, request).await })?)
}
