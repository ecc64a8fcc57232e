//! The membership in the shape of etcd's old store, as it stands in `.snap` files and snapshot messages.

use std::ops::ControlFlow;

use retcd_state_machine::backend::Failure;
use retcd_state_machine::cluster::Member;
use retcd_state_machine::schema::{Bucket, cluster};
use retcd_storage::backend::Pinned;
use serde_json::{Value, json};

use crate::Version;

/// The places of the store's event queue, all of which must be there: etcd up to 3.5 goes on to write into them.
const EVENTS_MAX: usize = 1000;

/// Who belongs to the cluster, as of one state of the database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Membership {
    members: Vec<Member>,
    /// Ids as they are stored, hex.
    removed: Vec<String>,
    version: Option<String>,
}

impl Membership {
    /// A membership that nobody has left.
    pub fn of(members: &[Member], version: Option<String>) -> Self {
        Membership { members: members.to_vec(), removed: Vec::new(), version }
    }

    /// # Errors
    /// A fault of the disk or of the data.
    pub fn read(state: &Pinned) -> Result<Self, Failure> {
        let mut membership = Membership::default();
        let mut outcome = Ok(());
        state.scan(Bucket::Members, &[], &mut |_, json| match serde_json::from_slice(json) {
            Ok(member) => {
                membership.members.push(member);
                ControlFlow::Continue(())
            }
            Err(error) => {
                outcome = Err(Failure::because("a stored member", error));
                ControlFlow::Break(())
            }
        })?;
        outcome?;
        state.scan(Bucket::MembersRemoved, &[], &mut |id, _| {
            membership.removed.push(String::from_utf8_lossy(id).into_owned());
            ControlFlow::Continue(())
        })?;
        membership.version = state
            .get(Bucket::Cluster, cluster::VERSION)?
            .map(|version| String::from_utf8_lossy(&version).into_owned());
        Ok(membership)
    }

    /// The same, with a cluster version that is not above `target`.
    #[must_use]
    pub(crate) fn lowered_to(mut self, target: Version) -> Self {
        let is_above =
            |text: &String| text.parse::<Version>().is_ok_and(|version| version > target);
        if self.version.as_ref().is_some_and(is_above) {
            self.version = Some(target.stored());
        }
        self
    }

    /// The store's JSON, with nothing in it but the members.
    pub fn to_store_json(&self) -> Vec<u8> {
        let members =
            self.members.iter().map(|member| (format!("{:x}", member.id), member_node(member)));
        let removed = self
            .removed
            .iter()
            .map(|id| (id.clone(), leaf(&format!("/0/removed_members/{id}"), "")));
        let mut cluster = vec![
            ("members".to_owned(), directory("/0/members", members)),
            ("removed_members".to_owned(), directory("/0/removed_members", removed)),
        ];
        if let Some(version) = &self.version {
            cluster.push(("version".to_owned(), leaf("/0/version", version)));
        }
        let root =
            [("0".to_owned(), directory("/0", cluster)), ("1".to_owned(), directory("/1", []))];
        let queue = vec![Value::Null; EVENTS_MAX];
        let events = json!({
            "Queue": {"Events": queue, "Size": 0, "Front": 0, "Back": 0, "Capacity": EVENTS_MAX},
            "StartIndex": 0,
            "LastIndex": 0,
        });
        let store = json!({
            "Root": directory("/", root),
            "WatcherHub": {"EventHistory": events},
            "CurrentIndex": 0,
            "Stats": {},
            "CurrentVersion": 2,
        });
        store.to_string().into_bytes()
    }
}

fn member_node(member: &Member) -> Value {
    let path = format!("/0/members/{:x}", member.id);
    let mut raft = json!({"peerURLs": member.peer_urls});
    if member.is_learner {
        raft["isLearner"] = true.into();
    }
    let mut attributes = json!({});
    if !member.name.is_empty() {
        attributes["name"] = member.name.clone().into();
    }
    if !member.client_urls.is_empty() {
        attributes["clientURLs"] = member.client_urls.clone().into();
    }
    let children = [("attributes", attributes), ("raftAttributes", raft)];
    let children = children.map(|(name, json)| {
        let node = leaf(&format!("{path}/{name}"), &json.to_string());
        (name.to_owned(), node)
    });
    directory(&path, children)
}

fn leaf(path: &str, value: &str) -> Value {
    node(path, value, &Value::Null)
}

fn directory(path: &str, children: impl IntoIterator<Item = (String, Value)>) -> Value {
    node(path, "", &Value::Object(children.into_iter().collect()))
}

fn node(path: &str, value: &str, children: &Value) -> Value {
    json!({
        "Path": path,
        "CreatedIndex": 0,
        "ModifiedIndex": 0,
        "ExpireTime": "0001-01-01T00:00:00Z",
        "Value": value,
        "Children": children,
    })
}
