//! The client's end of a stream: cuts its bytes into answers, and joins fragments.

use std::collections::BTreeMap;

use prost::Message;
use retcd_api::etcdserverpb::WatchResponse;

#[derive(Default)]
pub(crate) struct Reader {
    bytes: Vec<u8>,
    pieces: BTreeMap<i64, WatchResponse>,
}

impl Reader {
    /// The answers that are complete with these bytes, each as it came.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Vec<WatchResponse> {
        self.bytes.extend_from_slice(bytes);
        let mut responses = Vec::new();
        while let Some((frame, rest)) = self.bytes.split_first_chunk::<5>() {
            let (compressed, len) = (frame[0], &frame[1..]);
            assert_eq!(compressed, 0);
            let len = u32::from_be_bytes(len.try_into().unwrap()) as usize;
            let Some(message) = rest.get(..len) else { break };
            responses.push(WatchResponse::decode(message).unwrap());
            self.bytes.drain(..5 + len);
        }
        responses
    }

    /// The answer that is complete with this one, its pieces joined.
    pub(crate) fn join(&mut self, response: WatchResponse) -> Option<WatchResponse> {
        let id = response.watch_id;
        let whole = match self.pieces.remove(&id) {
            None => response,
            Some(mut first) => {
                assert_eq!(first.header, response.header, "pieces have one header");
                first.fragment = response.fragment;
                first.events.extend(response.events);
                first
            }
        };
        if whole.fragment {
            self.pieces.insert(id, whole);
            return None;
        }
        Some(whole)
    }
}
