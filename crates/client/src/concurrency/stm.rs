//! Transactions over several keys, written as ordinary code.
//!
//! The body reads and writes through [`Stm`]. Writes are kept back; at the end one etcd transaction carries them out
//! on the condition that what was read has not changed. If it has, the body runs again.
//!
//! ```text
//!   level                   all reads see one revision   reads unchanged at commit   written keys unchanged, too
//!   SerializableSnapshot    yes                          yes                         yes
//!   Serializable            yes                          yes                         -
//!   RepeatableReads         each key its own             yes                         -
//!   ReadCommitted           each key its own             -                           -
//! ```

use std::collections::BTreeMap;

use bytes::Bytes;
use retcd_api::error::RpcError;
use retcd_api::etcdserverpb::compare::{CompareResult, TargetUnion};
use retcd_api::etcdserverpb::response_op::Response;
use retcd_api::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse, TxnRequest, TxnResponse,
};

use crate::{Client, Error, Txn, compare};

/// What transactions may notice of each other; the levels of Go's `concurrency.STM`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// As [`Self::Serializable`], and keys that are written must not have changed since the first read.
    #[default]
    SerializableSnapshot,
    /// All reads see the revision of the first one, and must still hold at the commit.
    Serializable,
    /// Reading a key twice gives the same, and what was read must still hold at the commit. Two keys may be read at
    /// different revisions.
    RepeatableReads,
    /// Reads see any committed value, and nothing is checked at the commit.
    ReadCommitted,
}

/// What a transaction has come to.
#[derive(Debug)]
pub struct Committed<T> {
    /// What the body returned, in the run that was committed.
    pub value: T,
    /// The server's answer to the commit.
    pub response: TxnResponse,
}

/// One run of a transaction's body.
#[derive(Debug)]
pub struct Stm {
    client: Client,
    isolation: Isolation,
    reads: BTreeMap<Bytes, Read>,
    writes: BTreeMap<Bytes, Write>,
    /// What the failed commit has read in passing, all at one revision: spares the next run its round trips.
    prefetched: BTreeMap<Bytes, Read>,
    /// The revision of the first read.
    revision: Option<i64>,
    /// The history at `revision` was compacted while the body ran.
    is_outdated: bool,
}

/// A key as it was read.
#[derive(Debug, Clone)]
struct Read {
    value: Option<Bytes>,
    /// 0 for a key that did not exist.
    mod_revision: i64,
    /// The revision at which the store was read.
    revision: i64,
}

#[derive(Debug, Clone)]
enum Write {
    Put { value: Bytes, lease: i64 },
    Delete,
}

/// Runs `body` until what it has read and written could be committed.
///
/// The body may run several times, so it should change nothing but through the [`Stm`].
///
/// ```no_run
/// # async fn example() -> Result<(), retcd_client::Error> {
/// use retcd_client::concurrency::{Isolation, Stm, transact};
/// use retcd_client::{Client, Config, Error};
///
/// let client = Client::new(&Config::default())?;
/// transact(&client, Isolation::default(), async |stm: &mut Stm| {
///     let (from, to) = (stm.get("from").await?, stm.get("to").await?);
///     stm.put("from", to.unwrap_or_default());
///     stm.put("to", from.unwrap_or_default());
///     Ok::<(), Error>(())
/// })
/// .await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Those of the body, which end the transaction without writing anything, and those of the commit. A commit whose
/// answer was lost ([`Error::ConnectionLost`]) may have happened and is not tried again.
pub async fn transact<T, E: From<Error>>(
    client: &Client,
    isolation: Isolation,
    mut body: impl AsyncFnMut(&mut Stm) -> Result<T, E>,
) -> Result<Committed<T>, E> {
    let mut stm = Stm::new(client, isolation);
    loop {
        match body(&mut stm).await {
            Ok(value) => {
                let response = client.txn(stm.commit_request()).await?;
                if response.succeeded {
                    return Ok(Committed { value, response });
                }
                stm.start_over(&response);
            }
            Err(_) if stm.is_outdated => stm = Stm::new(client, isolation),
            Err(error) => return Err(error),
        }
    }
}

impl Stm {
    fn new(client: &Client, isolation: Isolation) -> Self {
        Stm {
            client: client.clone(),
            isolation,
            reads: BTreeMap::new(),
            writes: BTreeMap::new(),
            prefetched: BTreeMap::new(),
            revision: None,
            is_outdated: false,
        }
    }

    /// The value of a key, `None` when there is none. Sees what this run has written.
    pub async fn get(&mut self, key: impl Into<Bytes>) -> Result<Option<Bytes>, Error> {
        let key = key.into();
        match self.writes.get(&key) {
            Some(Write::Put { value, .. }) => Ok(Some(value.clone())),
            Some(Write::Delete) => Ok(None),
            None => Ok(self.read(key).await?.value),
        }
    }

    /// The mod revision of a key as it is stored, 0 when it does not exist. Counts as reading it.
    pub async fn revision(&mut self, key: impl Into<Bytes>) -> Result<i64, Error> {
        Ok(self.read(key.into()).await?.mod_revision)
    }

    /// Writes a key, at the commit.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.put_with_lease(key, value, 0);
    }

    /// Writes a key under a lease, at the commit.
    pub fn put_with_lease(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>, lease: i64) {
        self.writes.insert(key.into(), Write::Put { value: value.into(), lease });
    }

    /// Deletes a key, at the commit.
    pub fn delete(&mut self, key: impl Into<Bytes>) {
        self.writes.insert(key.into(), Write::Delete);
    }

    async fn read(&mut self, key: Bytes) -> Result<Read, Error> {
        if let Some(read) = self.reads.get(&key) {
            return Ok(read.clone());
        }
        let read = match self.take_prefetched(&key) {
            Some(read) => read,
            None => self.fetch(&key).await?,
        };
        if self.is_snapshot() {
            self.revision.get_or_insert(read.revision);
        }
        self.reads.insert(key, read.clone());
        Ok(read)
    }

    /// Only together: a key that was not prefetched is read at the same revision as those that were.
    fn take_prefetched(&mut self, key: &Bytes) -> Option<Read> {
        let read = self.prefetched.remove(key)?;
        (self.revision.is_none_or(|revision| revision == read.revision)).then_some(read)
    }

    async fn fetch(&mut self, key: &Bytes) -> Result<Read, Error> {
        let request = RangeRequest {
            key: key.clone(),
            revision: self.revision.unwrap_or(0),
            // A snapshot is read through the leader even at a fixed revision: a member that lags behind has not got
            // it yet. The other levels take what they get and check at the commit, if at all.
            serializable: !self.is_snapshot(),
            ..Default::default()
        };
        match self.client.range(request).await {
            Ok(reply) => {
                let revision = reply.header.map_or(0, |header| header.revision);
                // Later reads report the newest revision, not the one they were asked for.
                Ok(Read::new(&reply, self.revision.unwrap_or(revision)))
            }
            Err(error) => {
                self.is_outdated |= error == Error::Rpc(RpcError::Compacted);
                Err(error)
            }
        }
    }

    fn is_snapshot(&self) -> bool {
        match self.isolation {
            Isolation::SerializableSnapshot | Isolation::Serializable => true,
            Isolation::RepeatableReads | Isolation::ReadCommitted => false,
        }
    }

    fn commit_request(&self) -> TxnRequest {
        let mut txn = self.conditions().into_iter().fold(Txn::new(), Txn::when);
        for (key, write) in &self.writes {
            txn = match write.clone() {
                Write::Put { value, lease } => {
                    txn.put(PutRequest { key: key.clone(), value, lease, ..Default::default() })
                }
                Write::Delete => {
                    txn.delete_range(DeleteRangeRequest { key: key.clone(), ..Default::default() })
                }
            };
        }
        if !self.is_snapshot() {
            return txn.into_request();
        }
        let again = |key: &Bytes| RangeRequest { key: key.clone(), ..Default::default() };
        self.reads.keys().map(again).fold(txn.otherwise(), Txn::range).into_request()
    }

    fn conditions(&self) -> Vec<Compare> {
        let unchanged = self.reads.iter().map(|(key, read)| {
            let seen = TargetUnion::ModRevision(read.mod_revision);
            compare(key.clone(), CompareResult::Equal, seen)
        });
        match (self.isolation, self.revision) {
            (Isolation::ReadCommitted, _) => Vec::new(),
            (Isolation::SerializableSnapshot, Some(revision)) => {
                let not_since = self.writes.keys().map(|key| {
                    let after = TargetUnion::ModRevision(revision + 1);
                    compare(key.clone(), CompareResult::Less, after)
                });
                unchanged.chain(not_since).collect()
            }
            (
                Isolation::SerializableSnapshot
                | Isolation::Serializable
                | Isolation::RepeatableReads,
                _,
            ) => unchanged.collect(),
        }
    }

    /// Prepares the next run with what the failed commit has read.
    fn start_over(&mut self, response: &TxnResponse) {
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        let keys = std::mem::take(&mut self.reads).into_keys();
        let reads = response.responses.iter().filter_map(|op| match op.response.as_ref()? {
            Response::ResponseRange(range) => Some(Read::new(range, revision)),
            Response::ResponsePut(_)
            | Response::ResponseDeleteRange(_)
            | Response::ResponseTxn(_) => None,
        });
        self.prefetched = keys.zip(reads).collect();
        self.writes.clear();
        self.is_outdated = false;
        self.revision = None;
    }
}

impl Read {
    fn new(reply: &RangeResponse, revision: i64) -> Self {
        let kv = reply.kvs.first();
        Read {
            value: kv.map(|kv| kv.value.clone()),
            mod_revision: kv.map_or(0, |kv| kv.mod_revision),
            revision,
        }
    }
}
