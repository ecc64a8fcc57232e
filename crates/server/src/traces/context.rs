//! Ids, and who decides whether a call is told about: W3C's `traceparent`.

use std::cell::Cell;
use std::hash::{BuildHasher, Hasher};

use http::HeaderMap;

pub(super) type TraceId = u128;
pub(super) type SpanId = u64;

const TRACEPARENT: &str = "traceparent";
const SAMPLED: u8 = 1;

/// The trace that a span belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Context {
    pub(super) trace: TraceId,
}

impl Context {
    /// The trace of a call, with the span that it was made in; none when the call is not sampled.
    pub(super) fn of_call(
        headers: &HeaderMap,
        samples_per_million: u32,
    ) -> Option<(Self, Option<SpanId>)> {
        let parent = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok());
        if let Some((trace, span, flags)) = parent.and_then(parse) {
            return (flags & SAMPLED != 0).then_some((Self { trace }, Some(span)));
        }
        // Without a chance there is no need for dice.
        if samples_per_million == 0 {
            return None;
        }
        let trace = u128::from(random_id()) << 64 | u128::from(random_id());
        is_sampled(trace, samples_per_million).then_some((Self { trace }, None))
    }
}

/// By the id alone, so that every member decides alike: OpenTelemetry's ratio sampler.
#[expect(clippy::cast_possible_truncation, reason = "the low half of the id is meant")]
fn is_sampled(trace: TraceId, samples_per_million: u32) -> bool {
    let bound = (u128::from(samples_per_million) << 63) / 1_000_000;
    u128::from((trace as u64) >> 1) < bound
}

/// Trace, span and flags of `00-<32 hex>-<16 hex>-<2 hex>`. Later versions may say more behind that.
fn parse(text: &str) -> Option<(TraceId, SpanId, u8)> {
    let mut parts = text.split('-');
    let [version, trace, span, flags] = std::array::from_fn(|_| parts.next());
    let (version, trace, span, flags) = (version?, trace?, span?, flags?);
    let is_hex = |text: &str, digits: usize| {
        text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_known = version == "00" && parts.next().is_none() || version != "00" && version != "ff";
    if !(is_hex(version, 2)
        && is_known
        && is_hex(trace, 32)
        && is_hex(span, 16)
        && is_hex(flags, 2))
    {
        return None;
    }
    let trace = u128::from_str_radix(trace, 16).ok().filter(|id| *id != 0)?;
    let span = u64::from_str_radix(span, 16).ok().filter(|id| *id != 0)?;
    Some((trace, span, u8::from_str_radix(flags, 16).ok()?))
}

/// An id that no other span has, for all that matters: `SplitMix64` from a start that the standard library draws.
pub(super) fn random_id() -> u64 {
    thread_local! {
        static STATE: Cell<u64> =
            Cell::new(std::collections::hash_map::RandomState::new().build_hasher().finish());
    }
    loop {
        let state = STATE.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        STATE.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let id = mixed ^ (mixed >> 31);
        if id != 0 {
            return id;
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(parent: &'static str) -> HeaderMap {
        [(http::HeaderName::from_static(TRACEPARENT), HeaderValue::from_static(parent))]
            .into_iter()
            .collect()
    }

    #[test]
    fn the_caller_decides_when_it_says_so() {
        let sampled = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let (context, parent) = Context::of_call(&headers(sampled), 0).unwrap();
        assert_eq!(context.trace, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!(parent, Some(0x00f0_67aa_0ba9_02b7));
        let not = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        assert_eq!(Context::of_call(&headers(not), 1_000_000), None);
    }

    #[test]
    fn what_is_no_parent_leaves_it_to_the_rate() {
        for text in [
            "",
            "x",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(Context::of_call(&headers(text), 0), None, "{text}");
            let (_, parent) = Context::of_call(&headers(text), 1_000_000).unwrap();
            assert_eq!(parent, None, "{text}");
        }
        let later = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more";
        assert!(Context::of_call(&headers(later), 0).is_some());
    }

    #[test]
    fn the_rate_counts_ids() {
        let half = |trace| is_sampled(trace, 500_000);
        assert!(half(0) && half(u128::from(u64::MAX / 2)) && !half(u128::from(u64::MAX)));
        assert!(is_sampled(u128::MAX, 1_000_000) && !is_sampled(0, 0));
        assert!(!half(u128::MAX) && half(u128::MAX << 64), "only the low half counts");
    }

    #[test]
    fn ids_differ() {
        let ids: std::collections::BTreeSet<_> = (0..1000).map(|_| random_id()).collect();
        assert_eq!(ids.len(), 1000);
    }
}
