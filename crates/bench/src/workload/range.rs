//! Reads: one key, n neighbours, the count of all keys, the first page of all keys.
//!
//! Every answer must hold exactly the keys that a preloaded server has, else it counts as an error: a fast answer
//! without data is no result.

use anyhow::{Result, ensure};
use retcd_api::etcdserverpb::{RangeRequest, RangeResponse};

use super::unexpected;
use crate::client::{CallError, Channel, Method};
use crate::engine::{Load, Operation, Workload};
use crate::keys::{ALL_KEYS, KeyStream};
use crate::wire;

/// The place of the key-value pairs in a `RangeResponse`.
const KVS_FIELD: u64 = 2;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Range {
    /// Neighbouring keys per request
    #[arg(long, default_value_t = 1)]
    n: u64,
    /// Read what the member has, without asking the others
    #[arg(long)]
    serializable: bool,
}

pub(crate) struct Reader {
    keys: KeyStream,
    n: u64,
    serializable: bool,
}

impl Reader {
    pub(crate) fn single_keys(client: usize, load: &Load, serializable: bool) -> Self {
        Reader { keys: load.key_stream(client), n: 1, serializable }
    }

    pub(crate) fn keys(&mut self) -> &mut KeyStream {
        &mut self.keys
    }

    fn request(&mut self) -> RangeRequest {
        let serializable = self.serializable;
        if self.n == 1 {
            return RangeRequest {
                key: self.keys.next_key(),
                serializable,
                ..RangeRequest::default()
            };
        }
        let (key, range_end) = self.keys.next_range(self.n);
        RangeRequest { key, range_end, serializable, ..RangeRequest::default() }
    }
}

impl Workload for Range {
    const NAME: &'static str = "range";
    const UNIT: &'static str = "key";
    type Operation = Reader;

    fn check(&self, load: &Load) -> Result<()> {
        ensure!(
            self.n > 0 && self.n <= load.keys.count(),
            "-n must lie between 1 and the number of keys"
        );
        Ok(())
    }

    fn operation(&self, client: usize, load: &Load) -> Reader {
        Reader { keys: load.key_stream(client), n: self.n, serializable: self.serializable }
    }
}

impl Operation for Reader {
    async fn once(&mut self, channel: &mut Channel) -> Result<u64, CallError> {
        let request = self.request();
        expect_keys(&channel.call(Method::Range, &request).await?, self.n)
    }
}

fn expect_keys(answer: &[u8], expected: u64) -> Result<u64, CallError> {
    match wire::count_field(answer, KVS_FIELD) {
        Some(keys) if keys == expected => Ok(keys),
        Some(keys) => {
            Err(unexpected(format!("{keys} keys instead of {expected}: is the server preloaded?")))
        }
        None => Err(unexpected("not a range response")),
    }
}

/// Counts all keys, without returning them.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Count {
    /// Read what the member has, without asking the others
    #[arg(long)]
    serializable: bool,
}

pub(crate) struct Counter {
    request: RangeRequest,
    expected: u64,
}

impl Workload for Count {
    const NAME: &'static str = "count";
    const UNIT: &'static str = "request";
    type Operation = Counter;

    fn operation(&self, _: usize, load: &Load) -> Counter {
        let (key, range_end) = ALL_KEYS;
        let serializable = self.serializable;
        let request = RangeRequest {
            key,
            range_end,
            serializable,
            count_only: true,
            ..RangeRequest::default()
        };
        Counter { request, expected: load.keys.count() }
    }
}

impl Operation for Counter {
    async fn once(&mut self, channel: &mut Channel) -> Result<u64, CallError> {
        let answer: RangeResponse = channel.ask(Method::Range, &self.request).await?;
        match u64::try_from(answer.count) {
            Ok(count) if count == self.expected => Ok(1),
            _ => {
                Err(unexpected(format!("a count of {} instead of {}", answer.count, self.expected)))
            }
        }
    }
}

/// Reads the first page of all keys, as a paginated list does.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Limit {
    /// Keys per page
    #[arg(long, default_value_t = 1_000)]
    limit: u64,
    /// Read what the member has, without asking the others
    #[arg(long)]
    serializable: bool,
}

pub(crate) struct Pager {
    request: RangeRequest,
    expected: u64,
}

impl Workload for Limit {
    const NAME: &'static str = "limit";
    const UNIT: &'static str = "request";
    type Operation = Pager;

    fn check(&self, _: &Load) -> Result<()> {
        ensure!(self.limit > 0 && i64::try_from(self.limit).is_ok(), "--limit is out of range");
        Ok(())
    }

    fn operation(&self, _: usize, load: &Load) -> Pager {
        let (key, range_end) = ALL_KEYS;
        let limit = i64::try_from(self.limit).unwrap_or(i64::MAX);
        let request = RangeRequest {
            key,
            range_end,
            limit,
            serializable: self.serializable,
            ..RangeRequest::default()
        };
        Pager { request, expected: self.limit.min(load.keys.count()) }
    }
}

impl Operation for Pager {
    async fn once(&mut self, channel: &mut Channel) -> Result<u64, CallError> {
        let answer = channel.call(Method::Range, &self.request).await?;
        expect_keys(&answer, self.expected).map(|_| 1)
    }
}
