//! What clients did and what they were told.

use retcd_api::mvccpb::KeyValue;

/// One operation of one client. Times are nanoseconds of one clock that all clients share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub client: usize,
    pub op: Op,
    /// Before the request left.
    pub called: u64,
    /// After the answer came; `u64::MAX` when none did, since the operation may still take effect.
    pub returned: u64,
    pub outcome: Outcome,
}

/// A request.
///
/// Values are never used twice, so a value tells which operation wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    Put {
        key: String,
        value: String,
    },
    /// A put that ties the key to a lease.
    PutLeased {
        key: String,
        value: String,
        lease: i64,
    },
    /// Two keys in one transaction, so in one revision.
    PutBoth {
        keys: [String; 2],
        value: String,
    },
    Delete {
        key: String,
    },
    /// A put, if the key was last changed at this revision (0: if it does not exist); otherwise a read.
    Swap {
        key: String,
        expected: i64,
        value: String,
    },
    /// The end of a lease: all keys that are tied to it vanish in one revision.
    Revoke {
        lease: i64,
    },
    /// A linearizable read.
    Get {
        key: String,
    },
    /// A serializable read: the state of one member, which may lag.
    GetLocal {
        key: String,
    },
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Ok(Answer),
    /// It certainly took no effect.
    Failed(String),
    /// Nobody told whether it took effect, or will.
    Unknown(String),
}

/// What the server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It changed something, at this revision.
    Written { revision: i64 },
    /// It changed nothing: a read, a swap whose condition did not hold, a deletion of nothing. At this revision this
    /// is what was there.
    Read { revision: i64, found: Option<Version> },
    /// A lease is gone. Whether it had keys, and so a revision of its own, is not told.
    Revoked { revision: i64 },
}

impl Answer {
    pub fn revision(&self) -> i64 {
        match self {
            Answer::Written { revision }
            | Answer::Read { revision, .. }
            | Answer::Revoked { revision } => *revision,
        }
    }
}

/// A version of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub value: String,
    pub create_revision: i64,
    pub mod_revision: i64,
    pub version: i64,
    /// 0 for none.
    pub lease: i64,
}

impl From<&KeyValue> for Version {
    fn from(kv: &KeyValue) -> Self {
        Version {
            value: String::from_utf8_lossy(&kv.value).into_owned(),
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            version: kv.version,
            lease: kv.lease,
        }
    }
}

/// What an operation leaves of a key: its value and lease, or nothing.
pub type Written<'a> = Option<(&'a str, i64)>;

impl Op {
    /// The keys that the operation writes, with what it leaves of them, if it takes effect. Which keys the end of a lease
    /// takes is not known from the operation alone.
    pub fn writes(&self) -> Vec<(&str, Written<'_>)> {
        match self {
            Op::Put { key, value } | Op::Swap { key, value, .. } => vec![(key, Some((value, 0)))],
            Op::PutLeased { key, value, lease } => vec![(key, Some((value, *lease)))],
            Op::PutBoth { keys: [one, other], value } => {
                vec![(one, Some((value, 0))), (other, Some((value, 0)))]
            }
            Op::Delete { key } => vec![(key, None)],
            Op::Revoke { .. } | Op::Get { .. } | Op::GetLocal { .. } => Vec::new(),
        }
    }

    /// The key that a read, or a write without effect, looks at.
    pub fn key(&self) -> &str {
        match self {
            Op::Put { key, .. }
            | Op::PutLeased { key, .. }
            | Op::Swap { key, .. }
            | Op::Delete { key }
            | Op::Get { key }
            | Op::GetLocal { key } => key,
            Op::PutBoth { keys: [one, _], .. } => one,
            Op::Revoke { .. } => "",
        }
    }

    pub fn is_write(&self) -> bool {
        match self {
            Op::Put { .. }
            | Op::PutLeased { .. }
            | Op::PutBoth { .. }
            | Op::Delete { .. }
            | Op::Swap { .. }
            | Op::Revoke { .. } => true,
            Op::Get { .. } | Op::GetLocal { .. } => false,
        }
    }
}
