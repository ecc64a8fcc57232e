//! The header of an answer: field 1 of every response, encoded by hand since every call needs one.

use prost::encoding::{encode_varint, encoded_len_varint};
use retcd_api::etcdserverpb::ResponseHeader;

/// Which header a response has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeaderKind {
    Full {
        revision: i64,
    },
    /// As in the answers about members: no revision.
    WithoutRevision,
    /// The response has no header, or its message stands complete in the body.
    None,
}

/// What stays the same in every header.
pub(crate) struct Headers {
    cluster_id: u64,
    member_id: u64,
    /// Both, encoded.
    ids: Vec<u8>,
}

const HEADER: u8 = 1 << 3 | 2;
const CLUSTER_ID: u8 = 1 << 3;
const MEMBER_ID: u8 = 2 << 3;
const REVISION: u8 = 3 << 3;
const RAFT_TERM: u8 = 4 << 3;

impl Headers {
    pub(crate) fn new(cluster_id: u64, member_id: u64) -> Self {
        let mut ids = Vec::new();
        put_nonzero(&mut ids, CLUSTER_ID, cluster_id);
        put_nonzero(&mut ids, MEMBER_ID, member_id);
        Headers { cluster_id, member_id, ids }
    }

    /// The header as a message, where a whole response is put together anyway.
    pub(crate) fn message(&self, revision: i64, raft_term: u64) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.cluster_id,
            member_id: self.member_id,
            revision,
            raft_term,
        }
    }

    pub(crate) fn encode(&self, kind: HeaderKind, raft_term: u64) -> Vec<u8> {
        let revision = match kind {
            HeaderKind::Full { revision } => revision.cast_unsigned(),
            HeaderKind::WithoutRevision => 0,
            HeaderKind::None => return Vec::new(),
        };
        let len = self.ids.len() + len_nonzero(revision) + len_nonzero(raft_term);
        let mut header = Vec::with_capacity(2 + len);
        header.push(HEADER);
        encode_varint(len as u64, &mut header);
        header.extend_from_slice(&self.ids);
        put_nonzero(&mut header, REVISION, revision);
        put_nonzero(&mut header, RAFT_TERM, raft_term);
        header
    }
}

fn put_nonzero(bytes: &mut Vec<u8>, tag: u8, value: u64) {
    if value != 0 {
        bytes.push(tag);
        encode_varint(value, bytes);
    }
}

fn len_nonzero(value: u64) -> usize {
    if value == 0 { 0 } else { 1 + encoded_len_varint(value) }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use retcd_api::etcdserverpb::PutResponse;

    use super::*;

    #[test]
    fn the_header_is_field_one_of_the_response() {
        let headers = Headers::new(u64::MAX, 7);
        let decode =
            |kind, term| PutResponse::decode(&headers.encode(kind, term)[..]).unwrap().header;
        let expected =
            ResponseHeader { cluster_id: u64::MAX, member_id: 7, revision: 300, raft_term: 2 };
        assert_eq!(decode(HeaderKind::Full { revision: 300 }, 2), Some(expected));
        let expected = ResponseHeader { revision: 0, raft_term: 0, ..expected };
        assert_eq!(decode(HeaderKind::WithoutRevision, 0), Some(expected));
        assert_eq!(decode(HeaderKind::None, 2), None);
    }
}
