//! What clients say on a stream: create, cancel, and ask for progress.

use retcd_api::etcdserverpb::watch_create_request::FilterType;
use retcd_api::etcdserverpb::watch_request::RequestUnion;
use retcd_api::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchRequest, WatchResponse,
};

use super::History;
use super::hub::{Hub, StreamId};
use super::watcher::{KeyRange, Options, State, Watcher};
use crate::backend::Failure;

/// The watch id of answers that belong to no watcher, or to all of the stream.
pub(super) const NO_WATCH_ID: i64 = -1;

// Clients know these texts.
const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const EMPTY_RANGE: &str = "mvcc: watcher range is empty";
const DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";

impl Hub {
    /// Handles one request of the client: create, cancel or progress. The permission to watch the range was checked.
    /// A closed or unknown stream is ignored, as is a request without content.
    pub fn request(
        &mut self,
        stream: StreamId,
        request: WatchRequest,
        history: &impl History,
    ) -> Result<(), Failure> {
        let Some(index) = self.find(stream) else { return Ok(()) };
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => {
                self.advance(history)?;
                if let Err(reason) = self.create(index, &create, history) {
                    self.refuse(stream, reason, history);
                }
            }
            Some(RequestUnion::CancelRequest(WatchCancelRequest { watch_id })) => {
                self.cancel(index, watch_id, history);
            }
            Some(RequestUnion::ProgressRequest(_)) => self.request_progress(index, history)?,
            None => {}
        }
        Ok(())
    }

    /// Answers a create request that must not become a watcher: created and canceled, watch id -1, with `reason`,
    /// which must not be empty. Other watchers are untouched and no id is used up.
    pub fn refuse(&mut self, stream: StreamId, reason: &str, history: &impl History) {
        let Some(index) = self.find(stream) else { return };
        let response = WatchResponse {
            watch_id: NO_WATCH_ID,
            created: true,
            canceled: true,
            cancel_reason: reason.to_owned(),
            ..Default::default()
        };
        self.put_control(index, history.current_revision(), history, response);
    }

    /// Returns the reason when it is refused. The hub has advanced, so whatever is compacted lies behind it.
    fn create(
        &mut self,
        stream: u32,
        request: &WatchCreateRequest,
        history: &impl History,
    ) -> Result<(), &'static str> {
        if request.start_revision < 0 {
            return Err(COMPACTED);
        }
        let range = KeyRange::from_request(&request.key, &request.range_end).ok_or(EMPTY_RANGE)?;
        let watch_id = self.watch_id(stream, request.watch_id)?;
        let current = history.current_revision();
        let start = request.start_revision;
        let from = if start == 0 { current + 1 } else { start };
        let watcher = Watcher {
            watch_id,
            stream,
            interest: 0,
            seat: 0,
            start_revision: start,
            progress_notify: request.progress_notify,
            fragment: request.fragment,
            state: State::Synced,
        };
        let index = self.add_watcher(&range, options(request), from, watcher);
        if from < self.next_revision {
            self.start_catching_up(index, from);
        }
        let response = WatchResponse { watch_id, created: true, ..Default::default() };
        self.put_control(stream, current, history, response);
        Ok(())
    }

    /// The id of a new watcher: the one that was asked for, or a free one.
    fn watch_id(&mut self, stream: u32, asked: i64) -> Result<i64, &'static str> {
        let stream = &mut self.streams[stream];
        match asked {
            0 => Ok(stream.choose_watch_id()),
            id if stream.watchers.contains_key(&id) => Err(DUPLICATE_ID),
            id => Ok(id),
        }
    }

    /// An unknown id gets no answer.
    fn cancel(&mut self, stream: u32, watch_id: i64, history: &impl History) {
        let Some(watcher) = self.streams[stream].watchers.remove(&watch_id) else { return };
        self.remove_watcher(watcher);
        let response = WatchResponse { watch_id, canceled: true, ..Default::default() };
        self.put_control(stream, history.current_revision(), history, response);
    }
}

fn options(request: &WatchCreateRequest) -> Options {
    let has = |filter: FilterType| request.filters.contains(&i32::from(filter));
    Options {
        no_put: has(FilterType::Noput),
        no_delete: has(FilterType::Nodelete),
        prev_kv: request.prev_kv,
    }
}
