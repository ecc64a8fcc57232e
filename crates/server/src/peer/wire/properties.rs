//! Random histories over the append stream, cut into random pieces.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use retcd_api::raftpb::{Entry, Message, MessageType};

use super::append::{Decoder, Encoder};
use super::frame::{Error, Item};

/// What a leader might send next: where it goes on, the term, the payloads, or a link heartbeat.
#[derive(Debug, Clone)]
enum Step {
    Heartbeat,
    /// Goes on after the last entry, `terms` later.
    GoOn {
        terms: u64,
        payloads: Vec<Vec<u8>>,
    },
    /// Goes back to another place, as after a refusal.
    Jump {
        index: u64,
        payloads: Vec<Vec<u8>>,
    },
}

fn payloads() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..5)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => Just(Step::Heartbeat),
        6 => (prop_oneof![8 => Just(0u64), 1 => 1..3u64], payloads())
            .prop_map(|(terms, payloads)| Step::GoOn { terms, payloads }),
        1 => (0..50u64, payloads()).prop_map(|(index, payloads)| Step::Jump { index, payloads }),
    ]
}

/// The items that a leader puts on the stream.
fn items(steps: &[Step]) -> Vec<Item> {
    let (mut term, mut index, mut last_term) = (1, 0, 0);
    let mut items = Vec::new();
    for step in steps {
        let payloads = match step {
            Step::Heartbeat => {
                items.push(Item::LinkHeartbeat);
                continue;
            }
            Step::GoOn { terms, payloads } => {
                term += terms;
                payloads
            }
            Step::Jump { index: to, payloads } => {
                index = *to;
                payloads
            }
        };
        let entries: Vec<_> = payloads
            .iter()
            .zip(index + 1..)
            .map(|(data, index)| Entry {
                term,
                index,
                data: Bytes::copy_from_slice(data),
                ..Entry::default()
            })
            .collect();
        let len = entries.len() as u64;
        items.push(Item::Message(Message {
            r#type: MessageType::MsgApp.into(),
            from: 7,
            to: 9,
            term,
            log_term: last_term,
            index,
            commit: index / 2,
            entries,
            ..Message::default()
        }));
        index += len;
        last_term = if len > 0 { term } else { last_term };
    }
    items
}

fn encode(items: &[Item]) -> BytesMut {
    let (mut encoder, mut buffer) = (Encoder::default(), BytesMut::new());
    for item in items {
        match item {
            Item::LinkHeartbeat => Encoder::encode_link_heartbeat(&mut buffer),
            Item::Message(message) => encoder.encode(message, &mut buffer),
        }
    }
    buffer
}

fn decode(bytes: &[u8], piece: usize) -> Result<(Vec<Item>, bool), Error> {
    let (mut decoder, mut buffer, mut items) = (Decoder::new(9, 7), BytesMut::new(), Vec::new());
    for piece in bytes.chunks(piece) {
        buffer.extend_from_slice(piece);
        while let Some(item) = decoder.decode(&mut buffer)? {
            items.push(item);
        }
    }
    Ok((items, buffer.is_empty() && decoder.is_between_messages()))
}

proptest! {
    #[test]
    fn what_was_encoded_comes_out_however_it_is_cut(
        steps in prop::collection::vec(step(), 0..30),
        piece in 1..64usize,
    ) {
        let items = items(&steps);
        let (decoded, is_whole) = decode(&encode(&items), piece).unwrap();
        prop_assert_eq!(decoded, items);
        prop_assert!(is_whole);
    }

    #[test]
    fn a_cut_stream_gives_a_true_prefix_and_is_seen_to_be_cut(
        steps in prop::collection::vec(step(), 1..10),
        cut in any::<prop::sample::Index>(),
    ) {
        let items = items(&steps);
        let bytes = encode(&items);
        let cut = cut.index(bytes.len());
        let (decoded, is_whole) = decode(&bytes[..cut], 16).unwrap();
        prop_assert!(decoded.len() < items.len());
        prop_assert_eq!(&decoded[..], &items[..decoded.len()]);
        prop_assert_eq!(is_whole, encode(&items[..decoded.len()]).len() == cut);
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), piece in 1..64usize) {
        let _ = decode(&bytes, piece);
    }
}
