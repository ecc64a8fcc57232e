//! Frames and records as bytes: one place for encode and decode.
//!
//! Encoding goes straight into the batch buffer. The crc of a record stands before its data, so a record's data is
//! handed over as two parts (the head built on the stack, the payload where it lies) and copied once.
//!
//! Fields that are zero are written as etcd writes them (proto2, always present), and a list of numbers is unpacked:
//! the bytes are those of etcd.
//!
//! Decoding is strict: known fields, in order, no bytes left. The crc covers only `data`, so this is what notices a
//! flipped bit in the rest.

use bytes::Bytes;
use retcd_api::raftpb::{ConfState, Entry, EntryType, HardState};
use retcd_api::walpb;

/// Bytes of the length field in front of a record.
pub(super) const LENGTH_BYTES: u64 = 8;
/// Frames start at multiples of this, so the length field is never torn.
const ALIGNMENT: usize = 8;
/// The longest start of a record, up to its data: kind 2 bytes, crc 6, length of the data 11.
pub(super) const HEAD_BYTES_MAX: u64 = 19;
/// Marks a length field that names padding, in its top byte.
const PADDED: u64 = 0x80;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Metadata,
    Entry,
    State,
    Crc,
    Snapshot,
}

impl Kind {
    fn number(self) -> u8 {
        match self {
            Kind::Metadata => 1,
            Kind::Entry => 2,
            Kind::State => 3,
            Kind::Crc => 4,
            Kind::Snapshot => 5,
        }
    }

    fn from_number(number: u64) -> Option<Self> {
        [Kind::Metadata, Kind::Entry, Kind::State, Kind::Crc, Kind::Snapshot]
            .into_iter()
            .find(|kind| u64::from(kind.number()) == number)
    }
}

/// A log entry whose data lies somewhere else.
#[derive(Debug, Clone, Copy)]
pub struct EntryRef<'a> {
    pub term: u64,
    pub index: u64,
    pub entry_type: EntryType,
    pub data: &'a [u8],
}

impl<'a> From<&'a Entry> for EntryRef<'a> {
    fn from(entry: &'a Entry) -> Self {
        EntryRef {
            term: entry.term,
            index: entry.index,
            entry_type: entry.r#type(),
            data: &entry.data,
        }
    }
}

impl EntryRef<'_> {
    /// Whether [`decode_entry`] takes it: Raft writes no entry of term 0 and etcd no membership change without data.
    pub(super) fn is_plausible(&self) -> bool {
        self.term > 0 && (self.entry_type == EntryType::EntryNormal || !self.data.is_empty())
    }
}

/// Appends frames to a buffer and carries the running crc.
#[derive(Debug)]
pub(super) struct Encoder {
    crc: u32,
}

impl Encoder {
    pub(super) fn new(crc: u32) -> Self {
        Encoder { crc }
    }

    /// The crc record that opens a segment: it only tells the running value.
    pub(super) fn crc(&self, out: &mut Vec<u8>) {
        frame(out, Kind::Crc, self.crc, None);
    }

    pub(super) fn metadata(&mut self, out: &mut Vec<u8>, metadata: &[u8]) {
        self.record(out, Kind::Metadata, metadata, &[]);
    }

    pub(super) fn entry(&mut self, out: &mut Vec<u8>, entry: &EntryRef<'_>) {
        let mut head = Head::default();
        head.field(1, entry_type_number(entry.entry_type));
        head.field(2, entry.term);
        head.field(3, entry.index);
        if !entry.data.is_empty() {
            head.length(4, entry.data.len());
        }
        self.record(out, Kind::Entry, head.as_bytes(), entry.data);
    }

    pub(super) fn state(&mut self, out: &mut Vec<u8>, state: &HardState) {
        let mut head = Head::default();
        head.field(1, state.term);
        head.field(2, state.vote);
        head.field(3, state.commit);
        self.record(out, Kind::State, head.as_bytes(), &[]);
    }

    pub(super) fn snapshot(&mut self, out: &mut Vec<u8>, snapshot: &walpb::Snapshot) {
        let mut head = Head::default();
        head.field(1, snapshot.index);
        head.field(2, snapshot.term);
        let conf_state = snapshot.conf_state.as_ref().map(encode_conf_state).unwrap_or_default();
        if snapshot.conf_state.is_some() {
            head.length(3, conf_state.len());
        }
        self.record(out, Kind::Snapshot, head.as_bytes(), &conf_state);
    }

    fn record(&mut self, out: &mut Vec<u8>, kind: Kind, head: &[u8], payload: &[u8]) {
        self.crc = crc32c::crc32c_append(self.crc, head);
        self.crc = crc32c::crc32c_append(self.crc, payload);
        frame(out, kind, self.crc, Some((head, payload)));
    }
}

fn entry_type_number(entry_type: EntryType) -> u64 {
    match entry_type {
        EntryType::EntryNormal => 0,
        EntryType::EntryConfChange => 1,
        EntryType::EntryConfChangeV2 => 2,
    }
}

/// Writes one frame: length field, record, padding.
fn frame(out: &mut Vec<u8>, kind: Kind, crc: u32, data: Option<(&[u8], &[u8])>) {
    let mut head = Head::default();
    head.field(1, u64::from(kind.number()));
    head.field(2, u64::from(crc));
    let (first, second) = data.unwrap_or_default();
    if data.is_some() {
        head.length(3, first.len() + second.len());
    }
    let length = head.as_bytes().len() + first.len() + second.len();
    let padding = padding(length);
    out.reserve(ALIGNMENT + length + padding);
    out.extend_from_slice(&length_field(length).to_le_bytes());
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(first);
    out.extend_from_slice(second);
    out.extend_from_slice(&[0; ALIGNMENT][..padding]);
}

fn padding(length: usize) -> usize {
    length.next_multiple_of(ALIGNMENT) - length
}

fn length_field(length: usize) -> u64 {
    let padding = padding(length) as u64;
    let top = if padding == 0 { 0 } else { PADDED | padding };
    (top << 56) | length as u64
}

/// Lengths that a length field tells. `None` when we would not have written it.
pub(super) fn decode_length_field(field: u64) -> Option<FrameLength> {
    let record = field & ((1 << 56) - 1);
    let length = usize::try_from(record).ok()?;
    (length.checked_add(ALIGNMENT).is_some() && length_field(length) == field)
        .then(|| FrameLength { record, padding: padding(length) as u64 })
}

/// Bytes of a frame behind its length field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameLength {
    pub(super) record: u64,
    pub(super) padding: u64,
}

impl FrameLength {
    /// With length field and padding.
    pub(super) fn whole(self) -> u64 {
        LENGTH_BYTES + self.record + self.padding
    }
}

/// A record that was read but not yet checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) kind: Kind,
    pub(super) crc: u32,
    /// `None` for a crc record, and only there.
    pub(super) data: Option<Bytes>,
}

/// Reads a record; its data stays a part of `bytes`.
pub(super) fn decode_record(bytes: &Bytes) -> Option<Record> {
    let mut fields = Fields { bytes };
    let kind = Kind::from_number(fields.number(1)?)?;
    let crc = u32::try_from(fields.optional_number(2)?).ok()?;
    let data = match kind {
        Kind::Crc => None,
        Kind::Metadata | Kind::Entry | Kind::State | Kind::Snapshot => Some(fields.rest(3)?),
    };
    let data = data.map(|data| bytes.slice_ref(data));
    (data.is_some() || fields.bytes.is_empty()).then_some(Record { kind, crc, data })
}

/// Whether the first bytes of a record (all, or [`HEAD_BYTES_MAX`]) agree with its length: the length of the data in
/// them must be what the length field leaves for it. Tells a damaged length from a record that was torn behind its head.
pub(super) fn head_agrees(head: &[u8], record_bytes: u64) -> bool {
    let mut fields = Fields { bytes: head };
    let Some(data_bytes) = fields.head() else { return false };
    let head_bytes = (head.len() - fields.bytes.len()) as u64;
    head_bytes.checked_add(data_bytes) == Some(record_bytes)
}

/// Reads a log entry; its data stays a part of `bytes`.
///
/// A membership change without data is refused: nobody writes one, but a state record whose kind was damaged looks
/// like it.
pub(super) fn decode_entry(bytes: &Bytes) -> Option<Entry> {
    let mut fields = Fields { bytes };
    let entry_type = EntryType::try_from(i32::try_from(fields.optional_number(1)?).ok()?).ok()?;
    let term = fields.number(2)?;
    let index = fields.number(3)?;
    let data =
        if fields.bytes.is_empty() { Bytes::new() } else { bytes.slice_ref(fields.rest(4)?) };
    let is_plausible = EntryRef { term, index, entry_type, data: &data }.is_plausible();
    is_plausible.then_some(Entry { term, index, r#type: entry_type.into(), data })
}

/// Reads a hard state. One of term 0 is refused: nobody writes it, but an empty entry whose kind was damaged looks
/// like it.
pub(super) fn decode_state(bytes: &Bytes) -> Option<HardState> {
    let mut fields = Fields { bytes };
    let term = fields.number(1)?;
    let vote = fields.optional_number(2)?;
    let commit = fields.optional_number(3)?;
    (term > 0 && fields.bytes.is_empty()).then_some(HardState { term, vote, commit })
}

/// The conf state as etcd encodes it: each id with its own tag.
fn encode_conf_state(conf_state: &ConfState) -> Vec<u8> {
    let mut out = Vec::new();
    let lists = [
        &conf_state.voters,
        &conf_state.learners,
        &conf_state.voters_outgoing,
        &conf_state.learners_next,
    ];
    for (number, ids) in (1..).zip(lists) {
        for id in ids {
            let mut head = Head::default();
            head.field(number, *id);
            out.extend_from_slice(head.as_bytes());
        }
    }
    let mut head = Head::default();
    head.field(5, u64::from(conf_state.auto_leave));
    out.extend_from_slice(head.as_bytes());
    out
}

/// A few protobuf fields on the stack: at most three numbers and a length, 11 bytes each.
struct Head {
    bytes: [u8; 44],
    len: usize,
}

impl Default for Head {
    fn default() -> Self {
        Head { bytes: [0; 44], len: 0 }
    }
}

impl Head {
    /// A varint field.
    fn field(&mut self, number: u8, value: u64) {
        self.push(number << 3);
        self.varint(value);
    }

    /// The tag and length of a bytes field; its content follows elsewhere.
    fn length(&mut self, number: u8, len: usize) {
        self.push(number << 3 | 2);
        self.varint(len as u64);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.push((value & 0x7f) as u8);
    }

    fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Protobuf fields that must come in order.
struct Fields<'a> {
    bytes: &'a [u8],
}

impl<'a> Fields<'a> {
    /// The varint field `number`, which must be next.
    fn number(&mut self, number: u8) -> Option<u64> {
        self.tag(number << 3)?;
        self.varint()
    }

    /// The varint field `number` if it is next, else 0.
    fn optional_number(&mut self, number: u8) -> Option<u64> {
        if self.bytes.first() == Some(&(number << 3)) { self.number(number) } else { Some(0) }
    }

    /// The bytes field `number`, which must be next and last.
    fn rest(&mut self, number: u8) -> Option<&'a [u8]> {
        let len = usize::try_from(self.length(number)?).ok()?;
        (len == self.bytes.len()).then_some(self.bytes)
    }

    /// All of a record up to its data, whose length is returned.
    fn head(&mut self) -> Option<u64> {
        Kind::from_number(self.number(1)?)?;
        self.optional_number(2)?;
        if self.bytes.is_empty() { Some(0) } else { self.length(3) }
    }

    /// The length of the bytes field `number`, which must be next.
    fn length(&mut self, number: u8) -> Option<u64> {
        self.tag(number << 3 | 2)?;
        self.varint()
    }

    fn tag(&mut self, tag: u8) -> Option<()> {
        let (first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        (*first == tag).then_some(())
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (first, rest) = self.bytes.split_first()?;
            self.bytes = rest;
            let part = u64::from(first & 0x7f);
            if shift == 63 && part > 1 {
                return None;
            }
            value |= part << shift;
            if first & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn a_length_field_names_its_padding() {
        assert_eq!(length_field(8), 8);
        assert_eq!(length_field(9), 0x8700_0000_0000_0009);
        assert_eq!(length_field(15), 0x8100_0000_0000_000f);
        for length in 1..100 {
            let whole = decode_length_field(length_field(length)).unwrap().whole();
            assert_eq!(whole % 8, 0);
            assert!(whole >= 8 + length as u64);
        }
        assert_eq!(decode_length_field(9), None, "padding is missing");
        assert_eq!(
            decode_length_field(0x8700_0000_0000_0008),
            None,
            "padding where none is needed"
        );
    }

    #[test]
    fn what_is_written_by_hand_is_what_protobuf_reads() {
        let entry = Entry {
            term: 300,
            index: u64::MAX,
            r#type: EntryType::EntryConfChangeV2.into(),
            data: Bytes::from_static(b"change"),
        };
        let record = only_record(|encoder, out| encoder.entry(out, &EntryRef::from(&entry)));
        assert_eq!((record.r#type, record.crc), (2, crc32c::crc32c(&record.data)));
        assert_eq!(Entry::decode(record.data.clone()).unwrap(), entry);
        assert_eq!(decode_entry(&record.data), Some(entry));

        let state = HardState { term: 7, vote: 0, commit: 1 << 40 };
        let record = only_record(|encoder, out| encoder.state(out, &state));
        assert_eq!(record.r#type, 3);
        assert_eq!(HardState::decode(record.data.clone()).unwrap(), state);
        assert_eq!(decode_state(&record.data), Some(state));

        let conf_state = ConfState {
            voters: vec![1, u64::MAX],
            learners: vec![300],
            voters_outgoing: vec![5],
            learners_next: vec![6],
            auto_leave: true,
        };
        let snapshot = walpb::Snapshot { index: 9, term: 2, conf_state: Some(conf_state) };
        let record = only_record(|encoder, out| encoder.snapshot(out, &snapshot));
        assert_eq!(record.r#type, 5);
        assert_eq!(walpb::Snapshot::decode(record.data).unwrap(), snapshot);
    }

    #[test]
    fn the_bytes_of_a_first_segment_are_those_of_etcd() {
        let mut out = Vec::new();
        let mut encoder = Encoder::new(0);
        encoder.crc(&mut out);
        encoder.metadata(&mut out, b"m");
        encoder.snapshot(&mut out, &walpb::Snapshot::default());
        let crc_record = [4, 0, 0, 0, 0, 0, 0, 0x84, 8, 4, 16, 0, 0, 0, 0, 0];
        assert_eq!(out[..16], crc_record);
        let crc = crc32c::crc32c(b"m");
        let metadata = decode_record(&Bytes::copy_from_slice(&out[24..24 + 11])).unwrap();
        assert_eq!(
            metadata,
            Record { kind: Kind::Metadata, crc, data: Some(Bytes::from_static(b"m")) }
        );
        assert!(out.len().is_multiple_of(8));
        assert!(
            out.windows(4).any(|bytes| bytes == [8, 0, 16, 0]),
            "index and term stand there as zeros"
        );
    }

    #[test]
    fn a_record_with_more_or_less_than_its_fields_is_refused() {
        let whole = Bytes::from_static(&[8, 2, 16, 5, 26, 1, 7]);
        assert!(decode_record(&whole).is_some());
        for end in 0..whole.len() {
            assert_eq!(decode_record(&whole.slice(..end)), None, "cut at {end}");
        }
        assert_eq!(decode_record(&Bytes::from_static(&[8, 2, 16, 5, 26, 1, 7, 0])), None);
        assert_eq!(
            decode_record(&Bytes::from_static(&[8, 4, 16, 5, 26, 1, 7])),
            None,
            "crc has no data"
        );
        assert_eq!(
            decode_record(&Bytes::from_static(&[8, 6, 16, 5, 26, 1, 7])),
            None,
            "unknown kind"
        );
    }

    #[test]
    fn states_and_entries_cannot_be_taken_for_each_other() {
        let mut out = Vec::new();
        let mut encoder = Encoder::new(0);
        let entry = EntryRef { term: 4, index: 9, entry_type: EntryType::EntryNormal, data: &[] };
        encoder.entry(&mut out, &entry);
        let record = decode_record(&unframed(&out)).unwrap();
        assert_eq!(decode_state(record.data.as_ref().unwrap()), None);

        for term in 1..9 {
            out.clear();
            encoder.state(&mut out, &HardState { term, vote: 2, commit: 8 });
            let record = decode_record(&unframed(&out)).unwrap();
            assert_eq!(decode_entry(record.data.as_ref().unwrap()), None, "term {term}");
        }
    }

    fn only_record(encode: impl FnOnce(&mut Encoder, &mut Vec<u8>)) -> walpb::Record {
        let mut out = Vec::new();
        encode(&mut Encoder::new(0), &mut out);
        walpb::Record::decode(unframed(&out)).unwrap()
    }

    fn unframed(frame: &[u8]) -> Bytes {
        let field = u64::from_le_bytes(frame[..8].try_into().unwrap());
        let length = decode_length_field(field).unwrap();
        assert_eq!(length.whole(), frame.len() as u64);
        Bytes::copy_from_slice(&frame[8..8 + usize::try_from(length.record).unwrap()])
    }
}
