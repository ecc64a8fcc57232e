//! A real etcd in one cluster with this transport.
//!
//! The other member is a follower made of a few lines: it grants votes, keeps what the leader appends and says so. That
//! etcd elects itself, commits and answers its clients with that follower as half of its quorum proves the wire in both
//! directions; that it calls, that its database arrives, proves the rest.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request};
use parking_lot::Mutex;
use prost::Message as _;
use retcd_api::etcdserverpb as pb;
use retcd_api::raftpb::{Entry, Message, MessageType};
use retcd_net::url::Url;
use retcd_testkit::Port;
use sha1::{Digest, Sha1};

use super::member::{AT_ONCE, Member, Reply, poll_until, run};
use crate::peer::Dialer;
use crate::peer::client::Client;
use crate::peer::connection::{Connection, full_body};

/// A running etcd. Killed when dropped.
struct Etcd {
    process: Child,
    client_port: Port,
    peer_url: String,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The directory with the programs, or none and a word about it.
fn release() -> Option<PathBuf> {
    let dir = std::env::var_os("ETCD_REAL").map(PathBuf::from);
    if dir.is_none() {
        eprintln!("skipped: ETCD_REAL names no directory with a release of etcd");
    }
    dir
}

fn digest(parts: &[&[u8]]) -> u64 {
    let mut hash = Sha1::new();
    for part in parts {
        hash.update(part);
    }
    u64::from_be_bytes(*hash.finalize().first_chunk().unwrap())
}

const TOKEN: &str = "wire-test";

/// Who is in the cluster from its beginning.
struct Plan {
    /// Name and peer URL, ours first.
    members: Vec<(String, String)>,
    ids: Vec<u64>,
    cluster: u64,
    _ports: Vec<Port>,
}

impl Plan {
    fn new(etcds: usize) -> Self {
        let names = ["ours".to_owned()].into_iter().chain((0..etcds).map(|at| format!("go{at}")));
        let ports: Vec<_> = (0..=etcds).map(|_| Port::claim()).collect();
        let members: Vec<_> = names.zip(ports.iter().map(Port::url)).collect();
        let id = |url: &String| digest(&[url.as_bytes(), TOKEN.as_bytes()]);
        let ids: Vec<_> = members.iter().map(|(_, url)| id(url)).collect();
        let mut sorted = ids.clone();
        sorted.sort_unstable();
        let sorted: Vec<_> = sorted.iter().map(|id| id.to_be_bytes()).collect();
        let cluster = digest(&sorted.iter().map(|id| &id[..]).collect::<Vec<_>>());
        Self { members, ids, cluster, _ports: ports }
    }

    fn start_ours(&self, reply: Reply) -> Member {
        let ours = Member::start_at(self.ids[0], self.cluster, &self.members[0].1, Some(reply));
        for (id, (_, url)) in self.ids.iter().zip(&self.members).skip(1) {
            ours.network.add_peer(*id, std::slice::from_ref(url));
        }
        ours
    }

    fn start_etcd(&self, release: &Path, dir: &Path, at: usize) -> Etcd {
        let (name, peer_url) = &self.members[at];
        let client_port = Port::claim();
        let client_url = client_port.url();
        let all: Vec<_> = self.members.iter().map(|(name, url)| format!("{name}={url}")).collect();
        let mut command = Command::new(release.join("etcd"));
        command
            .args(["--name", name, "--initial-cluster", &all.join(",")])
            .args(["--initial-cluster-token", TOKEN, "--initial-cluster-state", "new"])
            .args(["--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url])
            .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
            .args(["--snapshot-count", "100", "--log-level", "error"])
            .arg("--data-dir")
            .arg(dir.join(name));
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Etcd { process, client_port, peer_url: peer_url.clone() }
    }
}

/// A follower's log, as much of it as its answers need.
struct Follower {
    /// One entry for each initial member stands at the beginning of every log.
    first_members: u64,
    entries: Mutex<Vec<Entry>>,
}

impl Follower {
    fn new(first_members: usize) -> Arc<Self> {
        Arc::new(Self { first_members: first_members as u64, entries: Mutex::default() })
    }

    fn reply(self: &Arc<Self>) -> Reply {
        let follower = self.clone();
        Box::new(move |message| follower.answer(message).into_iter().collect())
    }

    fn answer(&self, message: &Message) -> Option<Message> {
        let answer = |kind: MessageType| Message {
            r#type: kind.into(),
            from: message.to,
            to: message.from,
            term: message.term,
            ..Message::default()
        };
        match message.r#type() {
            MessageType::MsgPreVote => Some(answer(MessageType::MsgPreVoteResp)),
            MessageType::MsgVote => Some(answer(MessageType::MsgVoteResp)),
            MessageType::MsgHeartbeat => Some(Message {
                context: message.context.clone(),
                ..answer(MessageType::MsgHeartbeatResp)
            }),
            MessageType::MsgApp => {
                let result = self.append(message);
                let response = answer(MessageType::MsgAppResp);
                Some(match result {
                    Ok(last) => Message { index: last, ..response },
                    Err(last) => Message {
                        index: message.index,
                        reject: true,
                        reject_hint: last,
                        ..response
                    },
                })
            }
            _ => None,
        }
    }

    /// Returns the last index that is known to agree, or the last index at all when there is a gap.
    fn append(&self, message: &Message) -> Result<u64, u64> {
        let mut entries = self.entries.lock();
        let last = self.first_members + entries.len() as u64;
        if message.index > last {
            return Err(last);
        }
        for entry in &message.entries {
            let Some(at) = entry.index.checked_sub(self.first_members + 1) else { continue };
            entries.truncate(usize::try_from(at).unwrap());
            entries.push(entry.clone());
        }
        Ok(message.index + message.entries.len() as u64)
    }

    fn has_put(&self, key: &str, value: &str) -> bool {
        let entries = self.entries.lock();
        entries.iter().any(|entry| {
            let request = pb::InternalRaftRequest::decode(entry.data.clone()).ok();
            let put = request.and_then(|request| request.put);
            put.is_some_and(|put| put.key == key && put.value == value)
        })
    }
}

/// Runs etcdctl to its end without holding up the runtime.
async fn etcdctl(release: &Path, etcd: &Etcd, args: &[&str]) -> String {
    let mut command = Command::new(release.join("etcdctl"));
    command.args(["--endpoints", &etcd.client_port.url(), "--command-timeout", "20s"]).args(args);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn etcd_commits_with_this_transport_as_half_of_its_quorum() {
    let Some(release) = release() else { return };
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let plan = Plan::new(1);
        let go = plan.ids[1];
        let follower = Follower::new(2);
        let ours = plan.start_ours(follower.reply());
        let etcd = plan.start_etcd(&release, dir.path(), 1);

        let kinds = [MessageType::MsgPreVote, MessageType::MsgVote, MessageType::MsgApp];
        for kind in kinds {
            let wanted = |message: &&Message| message.r#type() == kind && message.from == go;
            let what = format!("{kind:?} of etcd");
            ours.told.until(&what, |state| state.messages.iter().find(wanted).map(|_| ())).await;
        }
        ours.streams_to(go).await;
        let peer = ours.network.shared().member(go).unwrap();
        poll_until("both streams of etcd are read", || peer.status.streams() == 2).await;

        // All four streams are up: appends come in etcd's short form, answers go back over ours.
        assert_eq!(etcdctl(&release, &etcd, &["put", "greeting", "hello"]).await, "OK\n");
        assert!(follower.has_put("greeting", "hello"));
        let large = "x".repeat(100_000);
        assert_eq!(etcdctl(&release, &etcd, &["put", "large", &large]).await, "OK\n");
        assert!(follower.has_put("large", &large));
        // A linearizable read wants heartbeats with a context answered.
        let read = etcdctl(&release, &etcd, &["get", "greeting", "--print-value-only"]).await;
        assert_eq!(read, "hello\n");
        let entries = follower.entries.lock().clone();
        let indexes: Vec<_> = entries.iter().map(|entry| entry.index).collect();
        assert_eq!(indexes, (3..3 + entries.len() as u64).collect::<Vec<_>>());

        // What members ask of each other.
        let url = Url::parse(&etcd.peer_url).unwrap();
        let client = Client { dialer: &Dialer::plain(), url: &url, limit: Duration::from_secs(5) };
        let membership = client.members().await.unwrap();
        assert_eq!(membership.cluster_id, plan.cluster);
        let mut ids: Vec<_> = membership.members.iter().map(|member| member.id).collect();
        ids.sort_unstable();
        let mut expected = plan.ids.clone();
        expected.sort_unstable();
        assert_eq!(ids, expected);
        assert!(client.version().await.unwrap().etcdserver.starts_with("3."));

        assert!(ours.network.active_since(go).is_some());
        assert_eq!(ours.network.longest_connected(&[go]), Some(go));
        let before = Instant::now();
        drop(etcd);
        ours.told.until("etcd died", |state| (state.died == [go]).then_some(())).await;
        assert!(before.elapsed() < AT_ONCE, "took {:?}", before.elapsed());
    });
}

/// A leader of one follower: appends what it is asked to, commits what the follower has.
struct Leader {
    term: u64,
    state: Mutex<LeaderState>,
}

#[derive(Default)]
struct LeaderState {
    /// From `FIRST_INDEX` on.
    entries: Vec<Entry>,
    committed: u64,
}

/// Two initial members stand before it.
const FIRST_INDEX: u64 = 3;

impl Leader {
    /// With the empty entry that a leader begins its term with.
    fn new(term: u64) -> Arc<Self> {
        let first = Entry { term, index: FIRST_INDEX, ..Entry::default() };
        let state = LeaderState { entries: vec![first], committed: FIRST_INDEX - 1 };
        Arc::new(Self { term, state: Mutex::new(state) })
    }

    fn message(&self, kind: MessageType, from: u64, to: u64) -> Message {
        Message { r#type: kind.into(), from, to, term: self.term, ..Message::default() }
    }

    /// An append of all entries from `index` on.
    fn append(&self, index: u64, from: u64, to: u64) -> Message {
        let state = self.state.lock();
        let at = usize::try_from(index - FIRST_INDEX).unwrap();
        Message {
            index: index - 1,
            log_term: if at == 0 { 1 } else { self.term },
            entries: state.entries[at..].to_vec(),
            commit: state.committed,
            ..self.message(MessageType::MsgApp, from, to)
        }
    }

    fn heartbeat(&self, from: u64, to: u64) -> Message {
        let commit = self.state.lock().committed;
        Message { commit, ..self.message(MessageType::MsgHeartbeat, from, to) }
    }

    fn answer(&self, message: &Message) -> Option<Message> {
        let (local, remote) = (message.to, message.from);
        match message.r#type() {
            MessageType::MsgAppResp if !message.reject => {
                self.state.lock().committed = message.index;
                Some(self.heartbeat(local, remote))
            }
            MessageType::MsgProp => {
                let index = {
                    let entries = &mut self.state.lock().entries;
                    let index = FIRST_INDEX + entries.len() as u64;
                    entries.extend(
                        message.entries.iter().cloned().zip(index..).map(|(entry, index)| Entry {
                            term: self.term,
                            index,
                            ..entry
                        }),
                    );
                    index
                };
                Some(self.append(index, local, remote))
            }
            MessageType::MsgReadIndex => Some(Message {
                index: self.state.lock().committed,
                entries: message.entries.clone(),
                ..self.message(MessageType::MsgReadIndexResp, local, remote)
            }),
            _ => None,
        }
    }
}

#[test]
fn etcd_follows_a_leader_behind_this_transport() {
    let Some(release) = release() else { return };
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let plan = Plan::new(1);
        let (local, go) = (plan.ids[0], plan.ids[1]);
        let leader = Leader::new(5);
        let answering = leader.clone();
        let reply = move |message: &Message| answering.answer(message).into_iter().collect();
        let ours = plan.start_ours(Box::new(reply));
        let etcd = plan.start_etcd(&release, dir.path(), 1);
        ours.streams_to(go).await;
        ours.network.send(vec![leader.append(FIRST_INDEX, local, go)]);
        let heartbeats = tokio::spawn({
            let (network, leader) = (ours.network.clone(), leader.clone());
            async move {
                let mut interval = tokio::time::interval(Duration::from_millis(100));
                loop {
                    interval.tick().await;
                    network.send(vec![leader.heartbeat(local, go)]);
                }
            }
        });
        ours.told.message(MessageType::MsgAppResp, FIRST_INDEX).await;

        // Proposals come forwarded, appends go in the short form, and etcd applies what they bring.
        for at in 0..20 {
            let (key, value) = (format!("key{at}"), format!("value{at}"));
            assert_eq!(etcdctl(&release, &etcd, &["put", &key, &value]).await, "OK\n");
            let read = etcdctl(&release, &etcd, &["get", &key, "--print-value-only"]).await;
            assert_eq!(read.trim_end(), value);
        }
        let status = etcdctl(&release, &etcd, &["endpoint", "status", "--write-out=json"]).await;
        assert!(status.contains(&format!("\"leader\":{local}")), "{status}");
        heartbeats.abort();
    });
}

/// More than etcd 3.5 keeps in its log behind a snapshot.
const PUTS: usize = 5_400;
const WRITERS: usize = 32;

/// Puts through the JSON gateway, over a few connections at a time.
async fn put_many(etcd: &Etcd) {
    let body = Bytes::from_static(br#"{"key":"a2V5","value":"dmFsdWU="}"#);
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let (url, body) = (Url::parse(&etcd.client_port.url()).unwrap(), body.clone());
            tokio::spawn(async move {
                let mut connection =
                    Connection::open(&Dialer::plain(), &url, Duration::from_secs(5)).await.unwrap();
                for _ in 0..PUTS / WRITERS {
                    let mut request = Request::new(full_body(body.clone()));
                    *request.method_mut() = Method::POST;
                    *request.uri_mut() = "/v3/kv/put".parse().unwrap();
                    let answer = connection.call(request).await.unwrap();
                    assert_eq!(answer.status(), 200, "{:?}", answer.body());
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
}

#[test]
fn etcd_sends_its_database_to_a_member_that_lags() {
    let Some(release) = release() else { return };
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let plan = Plan::new(2);
        // Two etcds are a quorum; ours takes votes and heartbeats and has lost every append.
        let follower = Follower::new(3);
        let reply: Reply = Box::new(move |message| {
            let is_append = message.r#type() == MessageType::MsgApp;
            follower.answer(message).into_iter().filter(|_| !is_append).collect()
        });
        let ours = plan.start_ours(reply);
        let etcds = [1, 2].map(|at| plan.start_etcd(&release, dir.path(), at));
        etcdctl(&release, &etcds[0], &["put", "first", "1"]).await;
        put_many(&etcds[0]).await;
        // The leader's log does not go back to where ours ends any more.
        let wanted = |message: &&Message| message.r#type() == MessageType::MsgSnap;
        let snapshot = ours
            .told
            .until("a snapshot", |state| state.messages.iter().find(wanted).cloned())
            .await;
        let metadata = snapshot.snapshot.unwrap().metadata.unwrap();
        assert!(metadata.index > 5_000, "{metadata:?}");
        let mut voters = metadata.conf_state.unwrap().voters;
        voters.sort_unstable();
        let mut expected = plan.ids.clone();
        expected.sort_unstable();
        assert_eq!(voters, expected);
        ours.told.with(|state| {
            // A bbolt file: the first page's header, then its magic number.
            let magic = state.received_database.get(16..20).unwrap();
            assert_eq!(u32::from_le_bytes(magic.try_into().unwrap()), 0xED0C_DAED);
            assert_eq!(state.received_database.len() % 4096, 0);
        });
    });
}
