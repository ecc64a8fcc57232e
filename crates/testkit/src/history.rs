//! What clients did and what they were told.

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
}

/// A version of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub value: String,
    pub create_revision: i64,
    pub mod_revision: i64,
    pub version: i64,
}

impl Op {
    /// The keys that the operation writes, with their new values, if it takes effect.
    pub fn writes(&self) -> Vec<(&str, Option<&str>)> {
        match self {
            Op::Put { key, value } | Op::Swap { key, value, .. } => vec![(key, Some(value))],
            Op::PutBoth { keys: [one, other], value } => {
                vec![(one, Some(value)), (other, Some(value))]
            }
            Op::Delete { key } => vec![(key, None)],
            Op::Get { .. } | Op::GetLocal { .. } => Vec::new(),
        }
    }

    /// The key that a read, or a write without effect, looks at.
    pub fn key(&self) -> &str {
        match self {
            Op::Put { key, .. }
            | Op::Swap { key, .. }
            | Op::Delete { key }
            | Op::Get { key }
            | Op::GetLocal { key } => key,
            Op::PutBoth { keys: [one, _], .. } => one,
        }
    }

    pub fn is_write(&self) -> bool {
        match self {
            Op::Put { .. } | Op::PutBoth { .. } | Op::Delete { .. } | Op::Swap { .. } => true,
            Op::Get { .. } | Op::GetLocal { .. } => false,
        }
    }
}
