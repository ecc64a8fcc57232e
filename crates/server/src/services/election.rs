//! Election: a [line](super::waiting_line) whose first leads, with a value that the leader may change.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use prost::Message;
use retcd_api::error::RpcError;
use retcd_api::etcdserverpb as pb;
use retcd_api::etcdserverpb::request_op::Request as Op;
use retcd_api::etcdserverpb::watch_create_request::FilterType;
use retcd_api::mvccpb::KeyValue;
use retcd_api::mvccpb::event::EventType;
use retcd_api::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ResignRequest,
};

use super::kv::{encoded, reading};
use super::waiting_line::{
    Line, Place, Turn, if_created_at, lease_or_new, own_message, removal, without_code,
};
use super::watch::Subscription;
use super::{Answer, HeaderKind, Services, decode, guard, kv};
use crate::grpc::{Credentials, MessageStream, Metadata, frame_prefix};
use crate::node::read_error;

pub(super) async fn campaign(
    services: &Services,
    metadata: &Metadata,
    message: Bytes,
) -> Result<Answer, RpcError> {
    let request = decode(message)?;
    win(services, metadata, request).await.map_err(without_code)
}

/// Waits in line until nobody is before. A candidate who was there already, by the same lease, stays in its place, with
/// its new value.
async fn win(
    services: &Services,
    metadata: &Metadata,
    request: CampaignRequest,
) -> Result<Answer, RpcError> {
    let lease = lease_or_new(services, metadata, request.lease).await?;
    let line = Line::of(&request.name);
    let mut place = Place::enter(services, metadata, line, lease, request.value.clone()).await?;
    if place.found_value.as_ref().is_some_and(|found| *found != request.value) {
        let revision = place.create_revision;
        set_value(services, metadata, place.key(), revision, lease, request.value).await?;
    }
    // etcd answers a candidate whose key is gone as if it had won. It leads nothing: its next proclamation would fail
    // with this same error.
    if !place.is_first && place.wait().await? == Turn::Lost {
        return Err(RpcError::ElectionNotLeader);
    }
    let (rev, revision) = (place.create_revision, place.entered_at);
    let leader = LeaderKey { name: request.name, key: place.keep(), rev, lease };
    let response = CampaignResponse { header: None, leader: Some(leader) };
    Ok(Answer::message(HeaderKind::Full { revision }, &response))
}

pub(super) async fn proclaim(
    services: &Services,
    metadata: &Metadata,
    message: Bytes,
) -> Result<Answer, RpcError> {
    let request: ProclaimRequest = decode(message)?;
    let leader = request.leader.ok_or(RpcError::LeaderFieldMissing)?;
    let proclaimed = async {
        let lease = lease_or_new(services, metadata, leader.lease).await?;
        set_value(services, metadata, &leader.key, leader.rev, lease, request.value).await
    };
    proclaimed.await.map_err(without_code)
}

/// Changes the value of a key in line, if it is still the one created then.
async fn set_value(
    services: &Services,
    metadata: &Metadata,
    key: &Bytes,
    create_revision: i64,
    lease: i64,
    value: Bytes,
) -> Result<Answer, RpcError> {
    let put = pb::PutRequest { key: key.clone(), value, lease, ..Default::default() };
    let request = if_created_at(key, create_revision, Op::RequestPut(put));
    let answer = kv::txn(services, metadata, encoded(&request)).await?;
    if !own_message::<pb::TxnResponse>(&answer.body).succeeded {
        return Err(RpcError::ElectionNotLeader);
    }
    Ok(Answer { body: Bytes::new(), ..answer })
}

/// Leaves the line. Who does not stand there any more has nothing left to do.
pub(super) async fn resign(
    services: &Services,
    metadata: &Metadata,
    message: Bytes,
) -> Result<Answer, RpcError> {
    let request: ResignRequest = decode(message)?;
    let leader = request.leader.ok_or(RpcError::LeaderFieldMissing)?;
    let removal = encoded(&removal(&leader.key, leader.rev));
    let removed = kv::txn(services, metadata, removal).await;
    removed.map(|answer| Answer { body: Bytes::new(), ..answer }).map_err(without_code)
}

pub(super) async fn leader(
    services: &Services,
    metadata: &Metadata,
    message: Bytes,
) -> Result<Answer, RpcError> {
    let request: LeaderRequest = decode(message)?;
    services.node.read_barrier().await.map_err(without_code)?;
    let line = Line::of(&request.name);
    guard::permit(services, metadata, reading(&line.first())).await.map_err(without_code)?;
    let (revision, leader) = first(services, &line).map_err(without_code)?;
    let kv = Some(leader.ok_or(RpcError::ElectionNoLeader)?);
    Ok(Answer::message(HeaderKind::Full { revision }, &LeaderResponse { header: None, kv }))
}

/// The present leader as this member sees it, and the revision of that sight.
fn first(services: &Services, line: &Line) -> Result<(i64, Option<KeyValue>), RpcError> {
    let response = services.reader.range(&line.first()).map_err(read_error)?;
    let found: pb::RangeResponse = own_message(&response.body);
    Ok((response.revision, found.kvs.into_iter().next()))
}

/// Tells every leader and what each proclaims.
///
/// It looks for the leader and then watches that one key; when the key goes, it looks again. Leaders that came and went
/// between are not told, and nothing is told twice or out of order: revisions only rise. Without a leader it watches for
/// the first key of the line.
pub(super) struct Observe {
    services: Arc<Services>,
    line: Line,
    /// The leader's key as it was told last, and its revision then. A later look may find no other: a successor has
    /// often been put in line before its predecessor's last word, so revisions alone do not tell.
    told: Option<(Bytes, i64)>,
    state: State,
}

enum State {
    /// This member may be behind the others, or the caller be one who may not look.
    Waiting(Pin<Box<dyn Future<Output = Result<(), RpcError>> + Send>>),
    Looking,
    Watching {
        news: Subscription,
        has_leader: bool,
    },
    Failed(RpcError),
    Done,
}

/// Asked once, as for a watch.
async fn may_observe(
    services: Arc<Services>,
    credentials: Credentials,
    first: pb::RangeRequest,
) -> Result<(), RpcError> {
    services.node.read_barrier().await?;
    guard::permit_with(&services, &credentials, reading(&first)).await.map(drop)
}

impl Observe {
    pub(super) fn open(
        services: &Arc<Services>,
        metadata: &Metadata,
        message: Bytes,
    ) -> Result<Self, RpcError> {
        let request: LeaderRequest = decode(message)?;
        let line = Line::of(&request.name);
        let fresh = Box::pin(may_observe(services.clone(), metadata.credentials(), line.first()));
        let services = services.clone();
        Ok(Observe { services, line, told: None, state: State::Waiting(fresh) })
    }

    /// One step. Ready with `Ok` when there may be another.
    fn step(
        &mut self,
        context: &mut Context<'_>,
        output: &mut BytesMut,
    ) -> Poll<Result<(), RpcError>> {
        match &mut self.state {
            State::Waiting(fresh) => {
                ready!(fresh.as_mut().poll(context))?;
                self.state = State::Looking;
            }
            State::Looking => self.look(output)?,
            State::Watching { news, has_leader } => {
                let response = ready!(news.poll_next(context))?;
                let has_leader = *has_leader;
                self.follow(response, has_leader, output);
            }
            State::Failed(_) | State::Done => return Poll::Pending,
        }
        Poll::Ready(Ok(()))
    }

    fn look(&mut self, output: &mut BytesMut) -> Result<(), RpcError> {
        let (revision, leader) = first(&self.services, &self.line)?;
        match leader {
            Some(leader) => {
                let key = leader.key.clone();
                // After a compaction of what was to be read, the leader may be one that was told already.
                if self.told != Some((key.clone(), leader.mod_revision)) {
                    self.tell(revision, leader, output);
                }
                self.watch_leader(key, revision + 1);
            }
            None => self.watch_line(revision + 1),
        }
        Ok(())
    }

    /// Reads news about the leader, or about the line while there is none.
    fn follow(&mut self, response: pb::WatchResponse, has_leader: bool, output: &mut BytesMut) {
        if response.canceled {
            self.state = State::Looking;
            return;
        }
        for event in response.events {
            let is_put = event.r#type() == EventType::Put;
            let Some(kv) = event.kv else { continue };
            if !is_put {
                self.state = State::Looking;
                return;
            }
            let (key, revision) = (kv.key.clone(), kv.mod_revision);
            self.tell(revision, kv, output);
            if !has_leader {
                self.watch_leader(key, revision + 1);
                return;
            }
        }
    }

    fn watch_leader(&mut self, key: Bytes, start_revision: i64) {
        let watcher = pb::WatchCreateRequest { key, start_revision, ..Default::default() };
        self.state = State::Watching { news: Subscription::open([watcher]), has_leader: true };
    }

    fn watch_line(&mut self, start_revision: i64) {
        let watcher = pb::WatchCreateRequest {
            key: self.line.prefix.clone(),
            range_end: self.line.end(),
            start_revision,
            filters: vec![FilterType::Nodelete.into()],
            ..Default::default()
        };
        self.state = State::Watching { news: Subscription::open([watcher]), has_leader: false };
    }

    fn tell(&mut self, revision: i64, leader: KeyValue, output: &mut BytesMut) {
        self.told = Some((leader.key.clone(), leader.mod_revision));
        let header = self.services.headers.message(revision, self.services.node.term());
        let response = LeaderResponse { header: Some(header), kv: Some(leader) };
        output.extend_from_slice(&frame_prefix(response.encoded_len()));
        response.encode(output).expect("a growing buffer has room");
    }
}

impl MessageStream for Observe {
    fn poll_messages(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, RpcError>>> {
        let mut output = BytesMut::new();
        // One message, or those of one watch answer, at a time: a slow reader holds nothing up but itself.
        while output.is_empty() {
            match std::mem::replace(&mut self.state, State::Done) {
                State::Failed(error) => return Poll::Ready(Some(Err(without_code(error)))),
                State::Done => return Poll::Ready(None),
                state => self.state = state,
            }
            if let Err(error) = ready!(self.step(context, &mut output)) {
                self.state = State::Failed(error);
            }
        }
        Poll::Ready(Some(Ok(output.freeze())))
    }
}
