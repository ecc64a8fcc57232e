//! How far the backend has come: where a Raft snapshot may stand.

use retcd_api::raftpb::ConfState;

use crate::backend::Failure;
use crate::open::number;
use crate::reader::Reader;
use crate::schema::{Bucket, meta, parse_conf_state};

/// The last entry whose effects the backend holds, and Raft's membership as of it.
#[derive(Debug, Clone, PartialEq)]
pub struct DurableState {
    pub index: u64,
    pub term: u64,
    pub conf_state: ConfState,
}

impl Reader {
    /// Reads it back from the backend. `None` before the first flush, or before Raft has members.
    pub fn durable_state(&self) -> Result<Option<DurableState>, Failure> {
        let backend = self.backend();
        let Some(conf_state) = backend.get(Bucket::Meta, meta::CONF_STATE)? else {
            return Ok(None);
        };
        Ok(Some(DurableState {
            index: number(&*backend, meta::CONSISTENT_INDEX)?,
            term: number(&*backend, meta::TERM)?,
            conf_state: parse_conf_state(&conf_state)?,
        }))
    }
}
