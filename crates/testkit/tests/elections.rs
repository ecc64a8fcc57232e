//! The election service, as candidates and observers use it.

mod contenders;

use std::time::Duration;

use bytes::Bytes;
use contenders::{Fixture, assert_refused, is_ours, revision, soon};
use retcd_api::etcdserverpb::compare::{CompareResult, TargetUnion};
use retcd_api::etcdserverpb::{DeleteRangeRequest, PutRequest};
use retcd_api::mvccpb::KeyValue;
use retcd_api::v3electionpb::election_client::ElectionClient;
use retcd_api::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ProclaimResponse, ResignRequest,
};
use retcd_client::{Client, Txn, compare};
use tokio::task::{JoinHandle, JoinSet};
use tonic::transport::Channel;
use tonic::{Status, Streaming};

const NAME: &str = "room";
const LINE: &str = "room/";

#[derive(Clone)]
struct Elections(ElectionClient<Channel>);

impl Elections {
    async fn connect(fixture: &Fixture) -> Self {
        Elections(ElectionClient::new(fixture.connect().await))
    }

    async fn campaign(
        &mut self,
        lease: i64,
        value: &'static str,
    ) -> Result<CampaignResponse, Status> {
        let request = CampaignRequest { name: NAME.into(), lease, value: value.into() };
        soon(self.0.campaign(request)).await.map(tonic::Response::into_inner)
    }

    async fn proclaim(
        &mut self,
        leader: &LeaderKey,
        value: &'static str,
    ) -> Result<ProclaimResponse, Status> {
        let request = ProclaimRequest { leader: Some(leader.clone()), value: value.into() };
        soon(self.0.proclaim(request)).await.map(tonic::Response::into_inner)
    }

    async fn resign(&mut self, leader: &LeaderKey) -> i64 {
        let request = ResignRequest { leader: Some(leader.clone()) };
        let response = soon(self.0.resign(request)).await.expect("anybody may resign");
        revision(response.into_inner().header)
    }

    async fn leader(&mut self) -> Result<LeaderResponse, Status> {
        let request = LeaderRequest { name: NAME.into() };
        soon(self.0.leader(request)).await.map(tonic::Response::into_inner)
    }

    /// Begins to observe. The server answers the call itself only with its first message.
    fn observe(&self) -> Observer {
        let mut elections = self.0.clone();
        let request = LeaderRequest { name: NAME.into() };
        let opening = tokio::spawn(async move { elections.observe(request).await });
        Observer { stream: Opening::Asked(opening), seen: 0 }
    }
}

enum Opening {
    Asked(JoinHandle<Result<tonic::Response<Streaming<LeaderResponse>>, Status>>),
    Open(Box<Streaming<LeaderResponse>>),
}

struct Observer {
    stream: Opening,
    /// The revision of the last message.
    seen: i64,
}

impl Observer {
    async fn next(&mut self) -> KeyValue {
        if let Opening::Asked(opening) = &mut self.stream {
            let opened = soon(opening).await.expect("no panic").expect("anybody may observe");
            self.stream = Opening::Open(Box::new(opened.into_inner()));
        }
        let Opening::Open(stream) = &mut self.stream else { unreachable!("opened above") };
        let message = soon(stream.message()).await.expect("observing goes on");
        let message = message.expect("observing has no end");
        let revision = revision(message.header);
        // etcd may tell one revision twice, when it finds no leader and looks again.
        let is_next = revision > self.seen || !is_ours() && revision == self.seen;
        assert!(is_next, "{revision} came after {}", self.seen);
        self.seen = revision;
        message.kv.expect("there is a leader")
    }

    async fn expect(&mut self, value: &'static str) -> KeyValue {
        let kv = self.next().await;
        assert_eq!(kv.value, value);
        kv
    }
}

fn leader_of(response: CampaignResponse) -> LeaderKey {
    response.leader.expect("a winner has a key")
}

/// Stands for election and waits until the key is in line, as the `place`th.
async fn wait_in_line(
    fixture: &Fixture,
    lease: i64,
    value: &'static str,
    place: usize,
) -> JoinHandle<Result<CampaignResponse, Status>> {
    let mut elections = Elections::connect(fixture).await;
    let waiting = tokio::spawn(async move { elections.campaign(lease, value).await });
    fixture.queue_of(LINE, place).await;
    waiting
}

#[tokio::test]
async fn the_first_candidate_wins_and_may_campaign_again_with_another_value() {
    let fixture = Fixture::start().await;
    let mut elections = Elections::connect(&fixture).await;
    let lease = fixture.lease().await;
    let before = fixture.write().await;
    let won = elections.campaign(lease, "one").await.expect("nobody else stands");
    assert_eq!(revision(won.header), before + 1);
    let key = Bytes::from(format!("room/{lease:x}"));
    let leader = LeaderKey { name: NAME.into(), key, rev: before + 1, lease };
    assert_eq!(won.leader.as_ref(), Some(&leader));

    let same = elections.campaign(lease, "one").await.expect("it leads");
    assert_eq!((revision(same.header), same.leader), (before + 1, won.leader.clone()));
    let other = elections.campaign(lease, "two").await.expect("it leads");
    assert_eq!(revision(other.header), before + 1, "from before the new value");
    assert_eq!(other.leader, won.leader);
    let [kv] = &fixture.queue(LINE).await[..] else { panic!("there is one candidate") };
    assert_eq!((&kv.value[..], kv.version, kv.lease), (&b"two"[..], 2, lease));
    assert_eq!((kv.create_revision, kv.mod_revision), (before + 1, before + 2));
}

#[tokio::test]
async fn a_candidate_keeps_its_place_whatever_its_value() {
    let fixture = Fixture::start().await;
    let mut elections = Elections::connect(&fixture).await;
    let first = leader_of(elections.campaign(fixture.lease().await, "a").await.expect("first"));
    let lease = fixture.lease().await;
    let second = wait_in_line(&fixture, lease, "b", 2).await;
    let third = wait_in_line(&fixture, fixture.lease().await, "c", 3).await;
    let entered = fixture.queue(LINE).await[1].create_revision;
    let mut again = elections.clone();
    let second_again = tokio::spawn(async move { again.campaign(lease, "b2").await });
    while fixture.queue(LINE).await[1].value != "b2" {
        assert!(!second_again.is_finished(), "somebody else leads");
    }
    assert!(!second.is_finished() && !third.is_finished(), "somebody else leads");

    let resigned = elections.resign(&first).await;
    let won = soon(second).await.expect("no panic").expect("the line moved up");
    assert_eq!(revision(won.header), entered, "the moment of entering, not of winning");
    assert!(entered < resigned);
    let won_again = soon(second_again).await.expect("no panic").expect("the same candidate");
    assert_eq!(
        (won_again.leader.as_ref(), won.leader.as_ref().map(|leader| leader.rev)),
        (won.leader.as_ref(), Some(entered))
    );
    let present = elections.leader().await.expect("somebody leads");
    assert_eq!((revision(present.header), present.kv.unwrap().value), (resigned, "b2".into()));
    assert!(!third.is_finished(), "somebody else leads");
    elections.resign(&leader_of(won)).await;
    soon(third).await.expect("no panic").expect("the line moved up");
}

#[tokio::test]
async fn only_the_leader_proclaims() {
    let fixture = Fixture::start().await;
    let mut elections = Elections::connect(&fixture).await;
    let lease = fixture.lease().await;
    let leader = leader_of(elections.campaign(lease, "one").await.expect("nobody else stands"));
    let proclaimed = elections.proclaim(&leader, "two").await.expect("it leads");
    assert_eq!(revision(proclaimed.header), leader.rev + 1);
    let kv = elections.leader().await.expect("somebody leads").kv.unwrap();
    assert_eq!((&kv.value[..], kv.version, kv.lease), (&b"two"[..], 2, lease));

    let impostor = LeaderKey { rev: leader.rev - 1, ..leader.clone() };
    assert_refused(elections.proclaim(&impostor, "three").await, "election: not leader");
    let nobody = soon(elections.0.proclaim(ProclaimRequest::default())).await;
    assert_refused(nobody, "\"leader\" field must be provided");
    fixture.client.lease_revoke(lease).await.expect("the lease is there");
    assert_refused(elections.proclaim(&leader, "four").await, "election: not leader");
    assert_eq!(fixture.queue(LINE).await, []);
}

#[tokio::test]
async fn a_resignation_counts_once_and_only_from_the_one_who_stands() {
    let fixture = Fixture::start().await;
    let mut elections = Elections::connect(&fixture).await;
    assert_refused(elections.leader().await, "election: no leader");
    let lease = fixture.lease().await;
    let leader = leader_of(elections.campaign(lease, "one").await.expect("nobody else stands"));
    let impostor = LeaderKey { rev: leader.rev - 1, ..leader.clone() };
    assert_eq!(elections.resign(&impostor).await, leader.rev, "nothing was done");
    assert_eq!(elections.resign(&leader).await, leader.rev + 1);
    assert_eq!(elections.resign(&leader).await, leader.rev + 1, "nothing was left to do");
    assert_refused(elections.leader().await, "election: no leader");
    let nobody = soon(elections.0.resign(ResignRequest::default())).await;
    assert_refused(nobody, "\"leader\" field must be provided");
}

#[tokio::test]
async fn an_unknown_lease_is_refused() {
    let fixture = Fixture::start().await;
    let refused = Elections::connect(&fixture).await.campaign(7, "one").await;
    assert_refused(refused, "etcdserver: requested lease not found");
}

#[tokio::test]
async fn a_candidate_that_goes_away_leaves_the_line() {
    let fixture = Fixture::start().await;
    let mut elections = Elections::connect(&fixture).await;
    elections.campaign(fixture.lease().await, "one").await.expect("nobody else stands");
    let gone = wait_in_line(&fixture, fixture.lease().await, "two", 2).await;
    gone.abort();
    let queue = fixture.queue_of(LINE, 1).await;
    assert_eq!(queue[0].value, "one");
}

#[tokio::test]
async fn a_candidate_whose_lease_ends_does_not_win() {
    if !is_ours() {
        // In etcd it does.
        return;
    }
    let fixture = Fixture::start().await;
    let mut elections = Elections::connect(&fixture).await;
    elections.campaign(fixture.lease().await, "one").await.expect("nobody else stands");
    let lost = fixture.lease().await;
    let waiting = wait_in_line(&fixture, lost, "two", 2).await;
    fixture.client.lease_revoke(lost).await.expect("the lease is there");
    assert_refused(soon(waiting).await.expect("no panic"), "election: not leader");
}

#[tokio::test]
async fn a_leader_whose_lease_ends_makes_room() {
    let fixture = Fixture::start().await;
    let mut elections = Elections::connect(&fixture).await;
    let lease = fixture.lease().await;
    elections.campaign(lease, "one").await.expect("nobody else stands");
    let next = wait_in_line(&fixture, fixture.lease().await, "two", 2).await;
    fixture.client.lease_revoke(lease).await.expect("the lease is there");
    soon(next).await.expect("no panic").expect("the line moved up");
}

#[tokio::test]
async fn an_observer_sees_the_present_leader_first() {
    let fixture = Fixture::start().await;
    let mut elections = Elections::connect(&fixture).await;
    elections.campaign(fixture.lease().await, "one").await.expect("nobody else stands");
    let now = fixture.write().await;
    let mut observer = elections.observe();
    observer.expect("one").await;
    assert_eq!(observer.seen, now, "the revision of the look, not of the key");
}

#[tokio::test]
async fn an_observer_sees_every_proclamation_and_every_new_leader() {
    let fixture = Fixture::start().await;
    let mut elections = Elections::connect(&fixture).await;
    let mut observer = elections.observe();
    let lease = fixture.lease().await;
    let leader = leader_of(elections.campaign(lease, "one").await.expect("nobody else stands"));
    assert_eq!(observer.expect("one").await.create_revision, leader.rev);
    for (value, version) in [("two", 2), ("three", 3)] {
        elections.proclaim(&leader, value).await.expect("it leads");
        let kv = observer.expect(value).await;
        assert_eq!((kv.version, kv.mod_revision), (version, observer.seen));
    }
    // A candidate that waits is no news.
    let next = wait_in_line(&fixture, fixture.lease().await, "next", 2).await;
    elections.proclaim(&leader, "four").await.expect("it leads");
    observer.expect("four").await;

    // etcd fails a candidate when the compaction comes between its look at the line and its watch.
    if is_ours() {
        fixture.compact().await;
    }
    elections.proclaim(&leader, "five").await.expect("it leads");
    observer.expect("five").await;
    elections.resign(&leader).await;
    let next = leader_of(soon(next).await.expect("no panic").expect("the line moved up"));
    let kv = observer.expect("next").await;
    assert_eq!((kv.key, kv.create_revision), (next.key.clone(), next.rev));

    elections.resign(&next).await;
    if is_ours() {
        fixture.compact().await;
    }
    elections.campaign(lease, "again").await.expect("nobody else stands");
    observer.expect("again").await;
}

#[tokio::test]
async fn observers_never_go_back_while_leaders_come_and_go() {
    let fixture = Fixture::start().await;
    let mut elections = Elections::connect(&fixture).await;
    let mut observer = elections.observe();
    let lease = fixture.lease().await;
    for _ in 0..100 {
        let leader = leader_of(elections.campaign(lease, "x").await.expect("nobody else stands"));
        elections.proclaim(&leader, "y").await.expect("it leads");
        elections.resign(&leader).await;
    }
    elections.campaign(lease, "last").await.expect("nobody else stands");
    while observer.next().await.value != "last" {}
}

/// How many elections go on at the same time, with how many candidates each, and how often each is won.
const ROOMS: usize = 10;
const CANDIDATES: usize = 4;
const VICTORIES: usize = 100;
/// Of so many leaders one is deposed: its lease ends, and it does not know.
const DEPOSED_OF: usize = 4;
/// Enough for a busy machine.
const LONG: Duration = Duration::from_secs(600);

#[tokio::test]
async fn contended_campaigns_never_have_two_leaders() {
    let fixture = Fixture::start().await;
    let mut rooms = JoinSet::new();
    for number in 0..ROOMS {
        let (client, elections) = (fixture.client.clone(), Elections::connect(&fixture).await);
        rooms.spawn(contest(client, elections, format!("room-{number}")));
    }
    let all = tokio::time::timeout(LONG, rooms.join_all()).await.expect("it happens in time");
    let refused: usize = all.into_iter().sum();
    assert_eq!(refused, ROOMS * (VICTORIES / DEPOSED_OF - 1));
}

/// Candidates follow each other in one room. Returns how often a deposed leader was refused.
async fn contest(client: Client, mut elections: Elections, name: String) -> usize {
    let (mut waiting, mut deposed, mut refused) = (JoinSet::new(), None::<LeaderKey>, 0);
    for victory in 1..=VICTORIES {
        while waiting.len() < CANDIDATES {
            let lease = client.lease_grant(600, 0).await.expect("the member grants").id;
            let request = CampaignRequest { name: name.clone().into(), lease, value: "x".into() };
            let mut elections = elections.0.clone();
            waiting.spawn(async move { elections.campaign(request).await });
        }
        let won = waiting.join_next().await.expect("somebody stands").expect("no panic");
        let leader = leader_of(won.expect("every lease is alive").into_inner());
        assert!(hang_sign(&client, &name, &leader).await, "two leaders in {name}");
        if let Some(deposed) = deposed.take() {
            let late = elections.proclaim(&deposed, "late").await;
            assert_refused(late, "election: not leader");
            refused += 1;
        }
        if victory % DEPOSED_OF == 0 {
            client.lease_revoke(leader.lease).await.expect("the lease is there");
            deposed = Some(leader);
        } else {
            let key = format!("{name}-inside").into();
            let sign = DeleteRangeRequest { key, ..Default::default() };
            client.delete_range(sign).await.expect("the member serves");
            elections.resign(&leader).await;
        }
    }
    refused
}

/// Hangs a sign at the door that lives as long as the leader's lease, if it leads and no other sign hangs there.
async fn hang_sign(client: &Client, name: &str, leader: &LeaderKey) -> bool {
    let sign = Bytes::from(format!("{name}-inside"));
    let made_at = |key: &Bytes, revision| {
        compare(key.clone(), CompareResult::Equal, TargetUnion::CreateRevision(revision))
    };
    let put = PutRequest { key: sign.clone(), lease: leader.lease, ..Default::default() };
    let txn = Txn::new().when(made_at(&leader.key, leader.rev)).when(made_at(&sign, 0)).put(put);
    client.txn(txn.into_request()).await.expect("every lease is alive").succeeded
}
