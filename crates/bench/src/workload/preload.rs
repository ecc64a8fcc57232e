//! Writes every key of the key space once, as fast as the server takes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, ensure};

use super::put::Writer;
use super::txn::Batch;
use crate::client::{CallError, Channel};
use crate::engine::{Extent, Load, Measured, Operation, Workload, drive};

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Preload {
    /// Keys per request; above 1 they travel in transactions, at most as many as the server allows
    #[arg(long, default_value_t = 100)]
    pub(crate) batch: u64,
    /// How often to write every key: more than once leaves history behind
    #[arg(long, default_value_t = 1)]
    pub(crate) times: u64,
    #[arg(skip)]
    pub(crate) rest: Arc<AtomicU64>,
}

impl Preload {
    pub(crate) fn new(batch: u64, times: u64) -> Self {
        Preload { batch, times, rest: Arc::default() }
    }

    /// # Errors
    /// Also when a single request was refused: what follows counts on all keys.
    pub(crate) fn run(&self, load: &Load) -> Result<Measured> {
        let mut load = load.clone();
        load.cursor = Some(Arc::default());
        load.rate = None;
        let keys = load.keys.count() * self.times;
        self.rest.store(keys, Ordering::Relaxed);
        let measured = drive(self, &load, Extent::Total(keys.div_ceil(self.batch)))?;
        if let Some(error) = &measured.tally.first_error {
            anyhow::bail!("{} requests of the preload failed: {error}", measured.tally.errors);
        }
        ensure!(
            measured.tally.units == keys,
            "{} of {keys} keys were written",
            measured.tally.units
        );
        Ok(measured)
    }
}

pub(crate) struct Loader {
    batch: Batch,
    size: u64,
    rest: Arc<AtomicU64>,
}

impl Workload for Preload {
    const NAME: &'static str = "preload";
    const UNIT: &'static str = "key";
    type Operation = Loader;

    fn check(&self, load: &Load) -> Result<()> {
        ensure!(self.batch > 0 && self.times > 0, "--batch and --times must be positive");
        ensure!(self.batch <= load.keys.count(), "a transaction must not put one key twice");
        Ok(())
    }

    fn operation(&self, client: usize, load: &Load) -> Loader {
        let batch = Batch::new(Writer::new(client, load), self.batch);
        Loader { batch, size: self.batch, rest: Arc::clone(&self.rest) }
    }
}

impl Operation for Loader {
    async fn once(&mut self, channel: &mut Channel) -> Result<u64, CallError> {
        let take = |rest: u64| Some(rest.saturating_sub(self.size));
        let before = self.rest.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        let ops = before.unwrap_or_else(|rest| rest).min(self.size);
        if self.size == 1 {
            self.batch.put_one(channel).await
        } else {
            self.batch.put(channel, ops).await
        }
    }
}
