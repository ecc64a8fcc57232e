//! Reads and writes of single keys by the same clients.

use anyhow::{Result, ensure};

use super::put::Writer;
use super::range::Reader;
use crate::client::{CallError, Channel};
use crate::engine::{Load, Operation, Workload};

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Mixed {
    /// Percentage of requests that read
    #[arg(long, default_value_t = 80)]
    reads: u64,
    /// Read what the member has, without asking the others
    #[arg(long)]
    serializable: bool,
}

pub(crate) struct User {
    reader: Reader,
    writer: Writer,
    reads: u64,
}

impl Workload for Mixed {
    const NAME: &'static str = "mixed";
    const UNIT: &'static str = "request";
    type Operation = User;

    fn check(&self, _: &Load) -> Result<()> {
        ensure!(self.reads <= 100, "--reads is a percentage");
        Ok(())
    }

    fn operation(&self, client: usize, load: &Load) -> User {
        let reader = Reader::single_keys(client, load, self.serializable);
        User { reader, writer: Writer::new(client, load), reads: self.reads }
    }
}

impl Operation for User {
    async fn once(&mut self, channel: &mut Channel) -> Result<u64, CallError> {
        if self.reader.keys().random().below(100) < self.reads {
            self.reader.once(channel).await
        } else {
            self.writer.once(channel).await
        }
    }
}
