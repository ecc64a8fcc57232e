//! Members, learners and the cluster version.
//!
//! Membership changes are Raft's own entries; their context is JSON in etcd's form. Every member checks a change when
//! it applies it and reaches the same verdict; a refused one changes nothing and is handed to Raft without a node.

use std::collections::{BTreeMap, BTreeSet};

use retcd_api::etcdserverpb as pb;
use retcd_api::membershippb;
use retcd_api::raftpb::{ConfChange, ConfChangeType};
use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};

use crate::backend::{Change, Failure};
use crate::flush::meta_change;
use crate::rejection::Rejection;
use crate::schema::{Bucket, cluster as keys, meta};

/// A member as the log made it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    pub id: u64,
    #[serde(rename = "peerURLs", default, deserialize_with = "null_as_empty")]
    pub peer_urls: Vec<String>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_learner: bool,
    /// Empty until the member has started and published itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(
        rename = "clientURLs",
        default,
        deserialize_with = "null_as_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub client_urls: Vec<String>,
}

/// The context of a change that adds a member.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Addition {
    #[serde(flatten)]
    member: Member,
    /// The member exists as a learner and becomes a voter; nothing else of it changes.
    #[serde(default)]
    is_promote: bool,
}

/// Where the v2 store has the members and the version.
const V2_MEMBERS: &str = "/0/members/";
const V2_VERSION: &str = "/0/version";

/// A member's attributes there.
#[derive(Debug, Deserialize)]
struct V2Attributes {
    #[serde(default)]
    name: String,
    #[serde(rename = "clientURLs", default, deserialize_with = "null_as_empty")]
    client_urls: Vec<String>,
}

/// The state of a downgrade.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Downgrade {
    /// Text such as `3.6.0`; empty when not enabled.
    #[serde(rename = "target-version", default)]
    pub target_version: String,
    #[serde(rename = "enabled", default)]
    pub is_enabled: bool,
}

impl Member {
    /// The context of a conf change that adds this member or, as a promotion, makes a learner a voter.
    pub fn to_addition_context(&self, is_promotion: bool) -> Vec<u8> {
        json(&Addition { member: self.clone(), is_promote: is_promotion })
    }

    /// The context of a conf change that bootstraps this member or updates its URLs; also how it is stored.
    pub fn to_json(&self) -> Vec<u8> {
        json(self)
    }

    pub fn is_started(&self) -> bool {
        !self.name.is_empty()
    }
}

/// The members of a new cluster, ascending by id, alike on all of them. `named`: names with their peer URLs.
pub fn first_members<'a>(
    named: impl Iterator<Item = (&'a str, Vec<String>)>,
    token: &str,
) -> Vec<Member> {
    let member = |(name, mut peer_urls): (&str, Vec<String>)| {
        peer_urls.sort();
        Member {
            id: member_id(&peer_urls, token),
            name: name.to_owned(),
            peer_urls,
            ..Member::default()
        }
    };
    let mut members: Vec<Member> = named.map(member).collect();
    members.sort_by_key(|member| member.id);
    members
}

/// A member's id: from its sorted peer URLs and the cluster token, or the time of its addition in seconds.
pub fn member_id(sorted_peer_urls: &[String], token: &str) -> u64 {
    let mut hash = Sha1::new();
    for url in sorted_peer_urls {
        hash.update(url);
    }
    hash.update(token);
    first_eight_bytes(hash)
}

/// The cluster's id: from the ids of its first members, ascending.
pub fn cluster_id(first: &[Member]) -> u64 {
    let mut hash = Sha1::new();
    for member in first {
        hash.update(member.id.to_be_bytes());
    }
    first_eight_bytes(hash)
}

fn first_eight_bytes(hash: Sha1) -> u64 {
    let digest = hash.finalize();
    u64::from_be_bytes(*digest.first_chunk().expect("SHA-1 has twenty bytes"))
}

/// Who belongs to the cluster.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cluster {
    members: BTreeMap<u64, Member>,
    /// Ids that can never come back.
    removed: BTreeSet<u64>,
    version: Option<String>,
    downgrade: Downgrade,
}

impl Cluster {
    /// Takes over one stored entry of the buckets `members`, `members_removed` and `cluster`.
    pub(crate) fn restore(
        &mut self,
        bucket: Bucket,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), Failure> {
        match bucket {
            Bucket::Members => {
                let member: Member = parse(value)?;
                self.members.insert(member.id, member);
            }
            Bucket::MembersRemoved => {
                let text = String::from_utf8_lossy(key);
                let id = u64::from_str_radix(&text, 16).map_err(|error| {
                    Failure::because(format!("removed member id {text:?}"), error)
                })?;
                self.removed.insert(id);
            }
            Bucket::Cluster if key == keys::VERSION => {
                self.version = Some(String::from_utf8_lossy(value).into_owned());
            }
            Bucket::Cluster if key == keys::DOWNGRADE => self.downgrade = parse(value)?,
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    pub(crate) fn member(&self, id: u64) -> Option<&Member> {
        self.members.get(&id)
    }

    pub(crate) fn removed(&self) -> impl Iterator<Item = u64> {
        self.removed.iter().copied()
    }

    pub(crate) fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    pub(crate) fn downgrade(&self) -> &Downgrade {
        &self.downgrade
    }

    /// Whether a change may be made now.
    pub(crate) fn check(
        &self,
        change: &ConfChange,
        learners_max: usize,
    ) -> Result<Result<(), Rejection>, Failure> {
        let id = change.node_id;
        if self.removed.contains(&id) {
            return Ok(Err(Rejection::MemberNotFound(id)));
        }
        match change.r#type() {
            ConfChangeType::ConfChangeRemoveNode => Ok(self.known(id).map(|_| ())),
            ConfChangeType::ConfChangeUpdateNode => {
                let update: Member = parse(&change.context)?;
                Ok(self.known(id).and_then(|_| self.check_urls(&update.peer_urls, id)))
            }
            ConfChangeType::ConfChangeAddNode | ConfChangeType::ConfChangeAddLearnerNode => {
                let addition: Addition = parse(&change.context)?;
                Ok(if addition.is_promote {
                    self.check_promotion(id)
                } else {
                    let is_learner = change.r#type() == ConfChangeType::ConfChangeAddLearnerNode
                        && addition.member.is_learner;
                    self.check_addition(id, &addition.member, is_learner, learners_max)
                })
            }
        }
    }

    fn known(&self, id: u64) -> Result<&Member, Rejection> {
        self.members.get(&id).ok_or(Rejection::MemberNotFound(id))
    }

    fn check_promotion(&self, id: u64) -> Result<(), Rejection> {
        if self.known(id)?.is_learner { Ok(()) } else { Err(Rejection::MemberNotLearner(id)) }
    }

    fn check_addition(
        &self,
        id: u64,
        member: &Member,
        is_learner: bool,
        learners_max: usize,
    ) -> Result<(), Rejection> {
        if self.members.contains_key(&id) {
            return Err(Rejection::MemberExists(id));
        }
        self.check_urls(&member.peer_urls, id)?;
        let learners = self.members.values().filter(|member| member.is_learner).count();
        if is_learner && learners >= learners_max {
            return Err(Rejection::TooManyLearners { limit: learners_max });
        }
        Ok(())
    }

    /// No peer URL belongs to two members.
    fn check_urls(&self, urls: &[String], id: u64) -> Result<(), Rejection> {
        let mut others = self.members.values().filter(|member| member.id != id);
        if others.any(|member| member.peer_urls.iter().any(|url| urls.contains(url))) {
            return Err(Rejection::PeerUrlExists);
        }
        Ok(())
    }

    /// Makes a change that [`check`](Self::check) let pass; returns what to store.
    pub(crate) fn apply(&mut self, change: &ConfChange) -> Result<Vec<Change>, Failure> {
        let id = change.node_id;
        match change.r#type() {
            ConfChangeType::ConfChangeRemoveNode => {
                self.members.remove(&id);
                self.removed.insert(id);
                return Ok(vec![
                    member_change(Bucket::Members, id, None),
                    member_change(Bucket::MembersRemoved, id, Some(b"removed".to_vec())),
                ]);
            }
            ConfChangeType::ConfChangeUpdateNode => {
                let update: Member = parse(&change.context)?;
                self.members.entry(id).or_default().peer_urls = update.peer_urls;
            }
            ConfChangeType::ConfChangeAddNode | ConfChangeType::ConfChangeAddLearnerNode => {
                let addition: Addition = parse(&change.context)?;
                if addition.is_promote {
                    self.members.entry(id).or_default().is_learner = false;
                } else {
                    self.members.insert(id, Member { id, ..addition.member });
                }
            }
        }
        Ok(self.stored(id))
    }

    /// What a member publishes of itself once it runs. Ignored when it was removed meanwhile.
    pub(crate) fn set_attributes(
        &mut self,
        request: &membershippb::ClusterMemberAttrSetRequest,
    ) -> Vec<Change> {
        let Some(member) = self.members.get_mut(&request.member_id) else { return Vec::new() };
        let attributes = request.member_attributes.clone().unwrap_or_default();
        member.name = attributes.name;
        member.client_urls = attributes.client_urls;
        self.stored(request.member_id)
    }

    /// What etcd 3.5 writes into its v2 store: a member's name and client URLs, and the cluster version. Other paths are
    /// of no interest.
    pub(crate) fn apply_v2(&mut self, request: &pb::Request) -> Vec<Change> {
        if request.method != "PUT" {
            return Vec::new();
        }
        if request.path == V2_VERSION {
            return self.set_version(&request.val);
        }
        let id =
            request.path.strip_prefix(V2_MEMBERS).and_then(|path| path.strip_suffix("/attributes"));
        let id = id.and_then(|id| u64::from_str_radix(id, 16).ok());
        let attributes = serde_json::from_str::<V2Attributes>(&request.val);
        let (Some(member_id), Ok(attributes)) = (id, attributes) else { return Vec::new() };
        let member_attributes =
            membershippb::Attributes { name: attributes.name, client_urls: attributes.client_urls };
        self.set_attributes(&membershippb::ClusterMemberAttrSetRequest {
            member_id,
            member_attributes: Some(member_attributes),
        })
    }

    /// The storage version follows the cluster version, from the release on that knows one.
    pub(crate) fn set_version(&mut self, version: &str) -> Vec<Change> {
        self.version = Some(version.to_owned());
        let mut changes = vec![cluster_change(keys::VERSION, version.into())];
        if has_storage_version(version) {
            changes.push(meta_change(meta::STORAGE_VERSION, version.into()));
        }
        changes
    }

    pub(crate) fn set_downgrade(
        &mut self,
        request: &membershippb::DowngradeInfoSetRequest,
    ) -> Vec<Change> {
        let target_version = if request.enabled { request.ver.clone() } else { String::new() };
        self.downgrade = Downgrade { target_version, is_enabled: request.enabled };
        vec![cluster_change(keys::DOWNGRADE, json(&self.downgrade))]
    }

    fn stored(&self, id: u64) -> Vec<Change> {
        let member = self.members.get(&id);
        member
            .map(|member| member_change(Bucket::Members, id, Some(member.to_json())))
            .into_iter()
            .collect()
    }
}

fn member_change(bucket: Bucket, id: u64, value: Option<Vec<u8>>) -> Change {
    Change { bucket, key: format!("{id:x}").into_bytes(), value }
}

fn cluster_change(key: &[u8], value: Vec<u8>) -> Change {
    Change { bucket: Bucket::Cluster, key: key.to_vec(), value: Some(value) }
}

/// 3.6 was the first release to write one.
fn has_storage_version(version: &str) -> bool {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    let (major, minor) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    (major, minor) >= (3, 6)
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("these types have a JSON form")
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|error| Failure::because("membership JSON", error))
}

/// Go writes an empty list as `null`.
fn null_as_empty<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, url: &str) -> Member {
        Member { id, peer_urls: vec![url.to_owned()], ..Member::default() }
    }

    fn change(kind: ConfChangeType, node_id: u64, context: Vec<u8>) -> ConfChange {
        ConfChange { r#type: kind.into(), node_id, context: context.into(), id: 0 }
    }

    fn add(member: &Member) -> ConfChange {
        let kind = if member.is_learner {
            ConfChangeType::ConfChangeAddLearnerNode
        } else {
            ConfChangeType::ConfChangeAddNode
        };
        change(kind, member.id, member.to_addition_context(false))
    }

    fn check(cluster: &Cluster, change: &ConfChange) -> Result<(), Rejection> {
        cluster.check(change, 1).unwrap()
    }

    fn cluster(members: &[Member]) -> Cluster {
        let mut cluster = Cluster::default();
        for member in members {
            assert_eq!(check(&cluster, &add(member)), Ok(()));
            cluster.apply(&add(member)).unwrap();
        }
        cluster
    }

    /// Ids as they are in etcd with default flags.
    #[test]
    fn ids_are_those_of_etcd() {
        let named = [("default", vec!["http://localhost:2380".to_owned()])];
        let members = first_members(named.into_iter(), "etcd-cluster");
        assert_eq!(format!("{:x}", members[0].id), "8e9e05c52164694d");
        assert_eq!(format!("{:x}", cluster_id(&members)), "cdf818194e3a8c32");
    }

    #[test]
    fn members_have_the_json_of_etcd() {
        let mut member = member(7, "http://a:1");
        assert_eq!(member.to_json(), br#"{"id":7,"peerURLs":["http://a:1"]}"#);
        member.is_learner = true;
        member.name = "n".into();
        member.client_urls = vec!["c".into()];
        let text =
            r#"{"id":7,"peerURLs":["http://a:1"],"isLearner":true,"name":"n","clientURLs":["c"]}"#;
        assert_eq!(member.to_json(), text.as_bytes());
        assert_eq!(parse::<Member>(text.as_bytes()).unwrap(), member);
        let go = br#"{"id":7,"peerURLs":null,"name":"","isPromote":true}"#;
        assert!(parse::<Addition>(go).unwrap().is_promote);
    }

    #[test]
    fn ids_and_urls_are_used_once() {
        let mut cluster = cluster(&[member(1, "http://a:1"), member(2, "http://b:1")]);
        assert_eq!(
            check(&cluster, &add(&member(1, "http://c:1"))),
            Err(Rejection::MemberExists(1))
        );
        assert_eq!(check(&cluster, &add(&member(3, "http://a:1"))), Err(Rejection::PeerUrlExists));
        let update =
            |url| change(ConfChangeType::ConfChangeUpdateNode, 1, member(1, url).to_json());
        assert_eq!(check(&cluster, &update("http://b:1")), Err(Rejection::PeerUrlExists));
        assert_eq!(check(&cluster, &update("http://a:1")), Ok(()));
        let remove = change(ConfChangeType::ConfChangeRemoveNode, 2, Vec::new());
        assert_eq!(check(&cluster, &remove), Ok(()));
        cluster.apply(&remove).unwrap();
        assert_eq!(check(&cluster, &remove), Err(Rejection::MemberNotFound(2)));
        assert_eq!(
            check(&cluster, &add(&member(2, "http://b:1"))),
            Err(Rejection::MemberNotFound(2))
        );
    }

    #[test]
    fn a_learner_becomes_a_voter_and_an_update_leaves_it_one() {
        let learner = Member { is_learner: true, ..member(2, "http://b:1") };
        let mut cluster = cluster(&[member(1, "http://a:1"), learner.clone()]);
        let second = Member { is_learner: true, ..member(3, "http://c:1") };
        assert_eq!(check(&cluster, &add(&second)), Err(Rejection::TooManyLearners { limit: 1 }));
        let update =
            change(ConfChangeType::ConfChangeUpdateNode, 2, member(2, "http://d:1").to_json());
        cluster.apply(&update).unwrap();
        assert!(cluster.member(2).unwrap().is_learner);
        let promote =
            change(ConfChangeType::ConfChangeAddNode, 2, learner.to_addition_context(true));
        assert_eq!(check(&cluster, &promote), Ok(()));
        cluster.apply(&promote).unwrap();
        assert_eq!(cluster.member(2).unwrap(), &member(2, "http://d:1"));
        assert_eq!(check(&cluster, &promote), Err(Rejection::MemberNotLearner(2)));
    }

    #[test]
    fn members_of_etcd_3_5_publish_themselves_through_the_v2_store() {
        let mut cluster = cluster(&[member(0x1a, "http://a:1")]);
        let put = |path: &str, val: &str| pb::Request {
            id: 1,
            method: "PUT".into(),
            path: path.into(),
            val: val.into(),
        };
        cluster.apply_v2(&put(
            "/0/members/1a/attributes",
            r#"{"name":"n","clientURLs":["http://a:2"]}"#,
        ));
        let known = cluster.member(0x1a).unwrap();
        assert_eq!(
            (known.name.as_str(), known.client_urls.as_slice()),
            ("n", &["http://a:2".to_owned()][..])
        );
        cluster.apply_v2(&put("/0/version", "3.5.0"));
        assert_eq!(cluster.version(), Some("3.5.0"));
        let nothing = [
            put("/0/members/1a/attributes", "no JSON"),
            put("/0/members/zz/attributes", "{}"),
            put("/1/anything", "v"),
            pb::Request { method: "SYNC".into(), ..pb::Request::default() },
        ];
        for request in nothing {
            assert!(cluster.apply_v2(&request).is_empty(), "{request:?}");
        }
    }

    #[test]
    fn what_is_stored_is_restored() {
        let mut original = cluster(&[member(0xabc, "http://a:1"), member(2, "http://b:1")]);
        let mut changes = original.stored(0xabc);
        changes.extend(
            original.apply(&change(ConfChangeType::ConfChangeRemoveNode, 2, Vec::new())).unwrap(),
        );
        changes.extend(original.set_version("3.7.0"));
        let downgrade =
            membershippb::DowngradeInfoSetRequest { enabled: true, ver: "3.6.0".into() };
        changes.extend(original.set_downgrade(&downgrade));
        let mut restored = Cluster::default();
        for change in changes {
            if let Some(value) = change.value {
                restored.restore(change.bucket, &change.key, &value).unwrap();
            }
        }
        assert_eq!(restored.members, original.members);
        assert_eq!(restored.removed, original.removed);
        assert_eq!(
            (restored.version(), restored.downgrade()),
            (Some("3.7.0"), original.downgrade())
        );
    }
}
