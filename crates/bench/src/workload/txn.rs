//! Transactions: puts without a condition, and read, compare, write as a user of optimistic locking does it.

use anyhow::{Result, ensure};
use bytes::Bytes;
use retcd_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use retcd_api::etcdserverpb::{
    Compare, PutRequest, RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse,
    request_op,
};

use super::put::Writer;
use crate::client::{CallError, Channel, Method};
use crate::engine::{Load, Operation, Workload};
use crate::keys::{self, KeyStream};

/// Puts `--ops` keys in one transaction.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct TxnPut {
    /// Puts per transaction
    #[arg(long, default_value_t = 1)]
    ops: u64,
}

pub(crate) struct Batch {
    writer: Writer,
    ops: u64,
}

impl Batch {
    pub(crate) fn new(writer: Writer, ops: u64) -> Self {
        Batch { writer, ops }
    }

    /// A put of its own, outside of any transaction.
    pub(crate) async fn put_one(&mut self, channel: &mut Channel) -> Result<u64, CallError> {
        self.writer.once(channel).await
    }

    pub(crate) async fn put(&mut self, channel: &mut Channel, ops: u64) -> Result<u64, CallError> {
        let success = (0..ops).map(|_| put_op(self.writer.request())).collect();
        channel.call(Method::Txn, &TxnRequest { success, ..TxnRequest::default() }).await?;
        Ok(ops)
    }
}

impl Workload for TxnPut {
    const NAME: &'static str = "txn-put";
    const UNIT: &'static str = "put";
    type Operation = Batch;

    fn check(&self, load: &Load) -> Result<()> {
        ensure!(self.ops > 0, "--ops must be positive");
        // A transaction must not put one key twice, which only keys in order make sure of.
        ensure!(self.ops == 1 || load.cursor.is_some(), "--ops above 1 needs --sequential");
        ensure!(self.ops <= load.keys.count(), "--ops must not exceed the number of keys");
        Ok(())
    }

    fn operation(&self, client: usize, load: &Load) -> Batch {
        Batch::new(Writer::new(client, load), self.ops)
    }
}

impl Operation for Batch {
    async fn once(&mut self, channel: &mut Channel) -> Result<u64, CallError> {
        self.put(channel, self.ops).await
    }
}

/// Reads a key, then writes it if nobody else has meanwhile. One operation goes on until it succeeds.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct TxnCas {}

pub(crate) struct Swapper {
    keys: KeyStream,
    value: Bytes,
}

impl Workload for TxnCas {
    const NAME: &'static str = "txn-cas";
    const UNIT: &'static str = "swap";
    type Operation = Swapper;

    fn operation(&self, client: usize, load: &Load) -> Swapper {
        Swapper { keys: load.key_stream(client), value: keys::value(load.value_size) }
    }
}

impl Operation for Swapper {
    async fn once(&mut self, channel: &mut Channel) -> Result<u64, CallError> {
        let key = self.keys.next_key();
        loop {
            let read = RangeRequest { key: key.clone(), ..RangeRequest::default() };
            let seen: RangeResponse = channel.ask(Method::Range, &read).await?;
            let mod_revision = seen.kvs.first().map_or(0, |kv| kv.mod_revision);
            let swap = TxnRequest {
                compare: vec![unchanged_since(key.clone(), mod_revision)],
                success: vec![put_op(PutRequest {
                    key: key.clone(),
                    value: self.value.clone(),
                    ..PutRequest::default()
                })],
                ..TxnRequest::default()
            };
            let answer: TxnResponse = channel.ask(Method::Txn, &swap).await?;
            if answer.succeeded {
                return Ok(1);
            }
        }
    }
}

fn put_op(put: PutRequest) -> RequestOp {
    RequestOp { request: Some(request_op::Request::RequestPut(put)) }
}

/// Revision 0 stands for a key that does not exist.
fn unchanged_since(key: Bytes, mod_revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key,
        target_union: Some(TargetUnion::ModRevision(mod_revision)),
        ..Compare::default()
    }
}
