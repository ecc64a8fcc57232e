//! What a state of the database says of itself: the keys of bucket `meta`.

use retcd_state_machine::DurableState;
use retcd_state_machine::backend::Failure;
use retcd_state_machine::schema::{self, Bucket, meta};
use retcd_storage::backend::Pinned;

/// The last entry whose effects a state holds, and Raft's membership as of it. `None` before the first flush, or before
/// Raft has members.
pub fn durable_state(state: &Pinned) -> Result<Option<DurableState>, Failure> {
    let Some(conf_state) = state.get(Bucket::Meta, meta::CONF_STATE)? else { return Ok(None) };
    let conf_state = schema::parse_conf_state(&conf_state)?;
    let term = match state.get(Bucket::Meta, meta::TERM)? {
        Some(bytes) => {
            number(&bytes).ok_or_else(|| Failure::new("the stored term is no number"))?
        }
        None => 0,
    };
    Ok(Some(DurableState { index: applied_index(state)?, term, conf_state }))
}

/// The last entry whose effects a state holds; 0 for none.
pub fn applied_index(state: &Pinned) -> Result<u64, Failure> {
    let Some(bytes) = state.get(Bucket::Meta, meta::CONSISTENT_INDEX)? else { return Ok(0) };
    number(&bytes).ok_or_else(|| Failure::new("the stored index is no number"))
}

/// Text such as `3.7.0`; empty when the state names none.
pub fn storage_version(state: &Pinned) -> Result<String, Failure> {
    let version = state.get(Bucket::Meta, meta::STORAGE_VERSION)?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&version).into_owned())
}

/// 8 bytes, big endian.
pub(crate) fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}
