//! The bytes of watch answers.
//!
//! An answer is one gRPC message: a byte 0 (not compressed), its length as four bytes big endian, a `WatchResponse`.
//! Field numbers rise from the header (1) over the watch id (2) to the events (11):
//!
//! ```text
//! 00 llll llll | 0a .. header | 10 .. watch id | 38 01 if a piece follows | 5a .. event | 5a .. event …
//!   per watcher    per revision    per watcher                                 per record
//! ```
//!
//! So header and events are encoded once and copied behind each watcher's own few bytes. The `KeyValue` inside an
//! event is never decoded: it is copied as the store has it.

use bytes::{BufMut, BytesMut};
use prost::Message;
use retcd_api::etcdserverpb::WatchResponse;

use super::History;
use crate::backend::Failure;
use crate::mvcc::Record;

/// Byte 0 and four bytes of length in front of every gRPC message.
const FRAME_BYTES: usize = 5;
/// Messages of this size and above are cut whether the watcher asked for it or not: no client reads longer ones, and
/// the frame could not say their length.
pub(super) const MESSAGE_BYTES_MAX: usize = i32::MAX as usize;
/// Tag byte and the byte 1: `WatchResponse.fragment = true`.
const FRAGMENT_FIELD: [u8; 2] = [7 << 3, 1];
const WATCH_ID_TAG: u8 = 2 << 3;
const EVENT_TAG: u8 = 11 << 3 | 2;
/// `Event.type = DELETE`.
const DELETE_FIELD: [u8; 2] = [1 << 3, 1];
const EVENT_KV_TAG: u8 = 2 << 3 | 2;
const EVENT_PREV_KV_TAG: u8 = 3 << 3 | 2;
const KEY_TAG: u8 = 1 << 3 | 2;
const CREATE_REVISION_TAG: u8 = 2 << 3;
const MOD_REVISION_TAG: u8 = 3 << 3;

/// The header of an answer as its field 1.
#[derive(Debug)]
pub(super) struct Header {
    bytes: [u8; Header::BYTES_MAX],
    len: u8,
}

impl Header {
    /// Tag and length, then four numbers of a tag and at most ten bytes.
    const BYTES_MAX: usize = 2 + 4 * 11;

    pub(super) fn new(cluster_id: u64, member_id: u64, revision: i64, raft_term: u64) -> Self {
        let mut bytes = [0; Header::BYTES_MAX];
        let mut rest = &mut bytes[2..];
        let numbers = [cluster_id, member_id, revision.cast_unsigned(), raft_term];
        for (tag, number) in [1 << 3, 2 << 3, 3 << 3, 4 << 3].into_iter().zip(numbers) {
            if number != 0 {
                rest.put_u8(tag);
                put_varint(&mut rest, number);
            }
        }
        let body_len = Header::BYTES_MAX - 2 - rest.len();
        let short = u8::try_from(body_len).expect("a header is shorter than 46 bytes");
        bytes[..2].copy_from_slice(&[1 << 3 | 2, short]);
        Header { bytes, len: short + 2 }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// Where an encoded event lies.
pub(super) type Span = std::ops::Range<usize>;

/// The events of a run of records, each encoded when it is first needed.
#[derive(Debug, Default)]
pub(super) struct Events {
    bytes: Vec<u8>,
    /// By record: the span without and the one with the previous value.
    spans: Vec<[Option<Span>; 2]>,
}

impl Events {
    /// Memory of the buffer that is kept for the next run.
    const KEPT_BYTES: usize = 1 << 20;

    pub(super) fn reset(&mut self, records: usize) {
        self.bytes.clear();
        self.bytes.shrink_to(Events::KEPT_BYTES);
        self.spans.clear();
        self.spans.resize(records, [None, None]);
    }

    /// The event of a record as a field of its answer. `position` counts from the record of the last `reset`.
    pub(super) fn span(
        &mut self,
        record: &Record,
        position: usize,
        prev_kv: bool,
        history: &impl History,
    ) -> Result<Span, Failure> {
        if let Some(span) = &self.spans[position][usize::from(prev_kv)] {
            return Ok(span.clone());
        }
        let before = if prev_kv { value_before(record, history)? } else { None };
        let start = self.bytes.len();
        put_event(&mut self.bytes, record, before.as_deref());
        let span = start..self.bytes.len();
        self.spans[position][usize::from(prev_kv)] = Some(span.clone());
        Ok(span)
    }
}

/// The value before the revision of the record: what the whole request found, not a state inside of it.
fn value_before(
    record: &Record,
    history: &impl History,
) -> Result<Option<crate::backend::Encoded>, Failure> {
    let main = record.revision.main;
    if !record.is_tombstone && create_revision(&record.kv) == main.cast_unsigned() {
        return Ok(None);
    }
    history.value_at(record.key(), main - 1)
}

/// Field 2 of an encoded `KeyValue`; 0 when it is absent.
fn create_revision(kv: &[u8]) -> u64 {
    let key_len = crate::mvcc::encoded_key(kv).len();
    match kv.get(1 + varint_len(key_len as u64) + key_len..) {
        Some([CREATE_REVISION_TAG, number @ ..]) => {
            prost::encoding::decode_varint(&mut &*number).unwrap_or(0)
        }
        _ => 0,
    }
}

fn put_event(out: &mut Vec<u8>, record: &Record, before: Option<&[u8]>) {
    let kv_len = if record.is_tombstone { deleted_kv_len(record) } else { record.kv.len() };
    let mut len = field_len(kv_len);
    if record.is_tombstone {
        len += DELETE_FIELD.len();
    }
    if let Some(before) = before {
        len += field_len(before.len());
    }
    out.reserve(field_len(len));
    put_prefix(out, EVENT_TAG, len);
    if record.is_tombstone {
        out.put_slice(&DELETE_FIELD);
        put_prefix(out, EVENT_KV_TAG, kv_len);
        put_deleted_kv(out, record);
    } else {
        put_prefix(out, EVENT_KV_TAG, kv_len);
        out.put_slice(&record.kv);
    }
    if let Some(before) = before {
        put_prefix(out, EVENT_PREV_KV_TAG, before.len());
        out.put_slice(before);
    }
}

/// The `KeyValue` of a DELETE event: the key, and the revision that deleted it.
fn put_deleted_kv(out: &mut Vec<u8>, record: &Record) {
    put_prefix(out, KEY_TAG, record.key().len());
    out.put_slice(record.key());
    out.put_u8(MOD_REVISION_TAG);
    put_varint(out, record.revision.main.cast_unsigned());
}

fn deleted_kv_len(record: &Record) -> usize {
    field_len(record.key().len()) + 1 + varint_len(record.revision.main.cast_unsigned())
}

/// Events for one watcher: parts of one buffer, in order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer<'a> {
    pub(super) header: &'a Header,
    pub(super) events: &'a Events,
    pub(super) spans: &'a [Span],
}

impl Answer<'_> {
    /// Appends the answer as one message, or in pieces when it is not smaller than `fragment_bytes`. Every piece holds
    /// an event at least, so an event that is too large for a piece goes alone.
    #[inline]
    pub(super) fn put(self, out: &mut BytesMut, watch_id: i64, fragment_bytes: usize) {
        let len = self.message_len(watch_id, false);
        if len < fragment_bytes {
            return self.put_message(out, watch_id, false, len);
        }
        self.put_in_pieces(out, watch_id, fragment_bytes);
    }

    #[cold]
    fn put_in_pieces(self, out: &mut BytesMut, watch_id: i64, fragment_bytes: usize) {
        let mut rest = self.spans;
        while !rest.is_empty() {
            let (piece, later) = rest.split_at(self.piece_events(rest, watch_id, fragment_bytes));
            let (piece, more) = (Answer { spans: piece, ..self }, !later.is_empty());
            piece.put_message(out, watch_id, more, piece.message_len(watch_id, more));
            rest = later;
        }
    }

    /// How many of `spans` stay below `fragment_bytes` together; 1 at least.
    fn piece_events(self, spans: &[Span], watch_id: i64, fragment_bytes: usize) -> usize {
        let mut len = Answer { spans: &[], ..self }.message_len(watch_id, true);
        let fits = |span: &&Span| {
            len += span.len();
            len < fragment_bytes
        };
        spans.iter().take_while(fits).count().max(1)
    }

    fn message_len(self, watch_id: i64, more: bool) -> usize {
        let id_len = if watch_id == 0 { 0 } else { 1 + varint_len(watch_id.cast_unsigned()) };
        let fragment_len = if more { FRAGMENT_FIELD.len() } else { 0 };
        let events_len: usize = self.spans.iter().map(Span::len).sum();
        usize::from(self.header.len) + id_len + fragment_len + events_len
    }

    #[inline]
    fn put_message(self, out: &mut BytesMut, watch_id: i64, more: bool, len: usize) {
        put_frame(out, len);
        out.put_slice(self.header.as_bytes());
        if watch_id != 0 {
            out.put_u8(WATCH_ID_TAG);
            put_varint(out, watch_id.cast_unsigned());
        }
        if more {
            out.put_slice(&FRAGMENT_FIELD);
        }
        for span in self.spans {
            out.put_slice(&self.events.bytes[span.clone()]);
        }
    }
}

/// Appends an answer without events.
pub(super) fn put_control(out: &mut BytesMut, response: &WatchResponse) {
    put_frame(out, response.encoded_len());
    response.encode(out).expect("a growing buffer has room");
}

fn put_frame(out: &mut BytesMut, message_len: usize) {
    out.reserve(FRAME_BYTES + message_len);
    out.put_u8(0);
    out.put_u32(u32::try_from(message_len).expect("a message is smaller than 4 GiB"));
}

fn put_prefix(out: &mut Vec<u8>, tag: u8, len: usize) {
    out.put_u8(tag);
    put_varint(out, len as u64);
}

/// Tag, length and content of a field of `len` bytes.
fn field_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

fn varint_len(number: u64) -> usize {
    prost::encoding::encoded_len_varint(number)
}

#[inline]
fn put_varint(out: &mut impl BufMut, number: u64) {
    prost::encoding::encode_varint(number, out);
}

#[cfg(test)]
mod tests {
    use retcd_api::etcdserverpb::ResponseHeader;

    use super::*;

    #[test]
    fn a_header_is_what_prost_encodes() {
        for (cluster_id, member_id, revision, raft_term) in
            [(0, 0, 0, 0), (1, 2, 3, 4), (u64::MAX, u64::MAX, i64::MAX, u64::MAX), (300, 0, 1, 0)]
        {
            let header = ResponseHeader { cluster_id, member_id, revision, raft_term };
            let response = WatchResponse { header: Some(header), ..Default::default() };
            assert_eq!(
                Header::new(cluster_id, member_id, revision, raft_term).as_bytes(),
                response.encode_to_vec()
            );
        }
    }
}
