//! A range answered in chunks at one revision.

use retcd_api::etcdserverpb::RangeRequest;

use super::key_range::KeyRange;
use super::kv;
use super::range::{Halt, Query, Scan, Show, View, decode};
use crate::machine::Response;
use crate::reader::{Pinned, ReadError};
use crate::rejection::Rejection;

/// Keys of the first chunk; later ones adapt to their size.
const FIRST_CHUNK: usize = 10;

/// One piece of a [`RangeStream`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The body is a `RangeResponse` without its header. Only the last one holds count and more.
    pub response: Response,
    /// The header belongs to the last chunk only.
    pub is_last: bool,
}

/// The chunks of one streamed range. Writes after its start are invisible; a compaction above its revision ends it.
pub struct RangeStream {
    view: Pinned,
    request: RangeRequest,
    /// Main revision of all chunks.
    at: i64,
    /// The first key of the next chunk. `None` when all is said.
    next: Option<Vec<u8>>,
    chunk_bytes: usize,
    chunk_keys: usize,
    /// Keys to go before the request's limit.
    left: usize,
    sent: u64,
}

/// What one walk brought.
struct Piece {
    body: Vec<u8>,
    keys: usize,
    /// Where to go on, if there is more.
    next: Option<Vec<u8>>,
}

impl RangeStream {
    pub(crate) fn new(view: Pinned, request: &RangeRequest, chunk_bytes: usize, at: i64) -> Self {
        let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0);
        RangeStream {
            view,
            at,
            next: Some(request.key.to_vec()),
            chunk_bytes,
            chunk_keys: FIRST_CHUNK,
            left: limit.unwrap_or(usize::MAX),
            sent: 0,
            request: request.clone(),
        }
    }

    fn chunk(&mut self, from: &[u8]) -> Result<Chunk, Halt> {
        if self.request.count_only {
            let count = self.count_from(from)?;
            return Ok(self.last_chunk(Vec::new(), false, count));
        }
        let piece = self.piece(from, self.chunk_keys.min(self.left))?;
        self.left -= piece.keys;
        self.sent += piece.keys as u64;
        self.adapt(piece.body.len());
        match piece.next {
            Some(next) if self.left > 0 => {
                self.next = Some(next);
                let response = Response { revision: self.view.current(), body: piece.body };
                Ok(Chunk { response, is_last: false })
            }
            Some(next) => {
                let count = self.sent + self.count_from(&next)?;
                Ok(self.last_chunk(piece.body, true, count))
            }
            None => Ok(self.last_chunk(piece.body, false, self.sent)),
        }
    }

    /// Up to `keys` keys. Other targets than the key are sorted within the piece only.
    fn piece(&self, from: &[u8], keys: usize) -> Result<Piece, Halt> {
        let query = Query::new(&self.request);
        let mut scan =
            Scan::new(self.rest(from), self.at, query.show()).take(keys.saturating_add(1));
        self.view.scan(&mut scan)?;
        let is_more = scan.items.len() > keys;
        scan.items.truncate(keys);
        scan.fetch(&self.view, |_| true)?;
        let mut next = None;
        if is_more && let Some(last) = scan.items.last() {
            let mut key = decode(scan.bytes(last))?.key.to_vec();
            key.push(0);
            next = Some(key);
        }
        query.sort(&mut scan, &self.view)?;
        let mut body = Vec::new();
        query.encode(&scan, &mut body)?;
        Ok(Piece { body, keys: scan.items.len(), next })
    }

    /// How many keys there are from `from` on.
    fn count_from(&self, from: &[u8]) -> Result<u64, Halt> {
        let mut scan = Scan::new(self.rest(from), self.at, Show::Count).counting();
        self.view.scan(&mut scan)?;
        Ok(scan.count)
    }

    fn rest<'a>(&'a self, from: &'a [u8]) -> KeyRange<'a> {
        KeyRange { start: from, ..KeyRange::new(&self.request.key, &self.request.range_end) }
    }

    fn last_chunk(&self, mut body: Vec<u8>, is_more: bool, count: u64) -> Chunk {
        kv::put_int64(3, i64::from(is_more), &mut body);
        kv::put_int64(4, count.cast_signed(), &mut body);
        Chunk { response: Response { revision: self.view.current(), body }, is_last: true }
    }

    /// Doubles chunks that are far smaller than wanted, halves those that are far larger.
    fn adapt(&mut self, bytes: usize) {
        if bytes < self.chunk_bytes / 2 {
            self.chunk_keys = self.chunk_keys.saturating_mul(2);
        } else if bytes > self.chunk_bytes.saturating_mul(2) {
            self.chunk_keys = (self.chunk_keys / 2).max(1);
        }
    }
}

impl Iterator for RangeStream {
    type Item = Result<Chunk, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let from = self.next.take()?;
        let halt = match self.chunk(&from) {
            Ok(chunk) => return Some(Ok(chunk)),
            Err(halt) => halt,
        };
        let compacted = self.view.compacted_now();
        Some(Err(match halt {
            Halt::Rejected(rejection) => rejection.into(),
            Halt::Overtaken => Rejection::Compacted { requested: self.at, compacted }.into(),
            Halt::Missing(_) if compacted > self.at => {
                Rejection::Compacted { requested: self.at, compacted }.into()
            }
            Halt::Missing(_) | Halt::Failed(_) => ReadError::Failure(super::write::fault(halt)),
        }))
    }
}
