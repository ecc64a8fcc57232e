//! The endpoints of one service: writing, listing and watching them.

use std::collections::{BTreeMap, VecDeque};

use retcd_api::error::RpcError;
use retcd_api::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, WatchCreateRequest, WatchResponse,
};
use retcd_api::mvccpb::event::EventType;
use retcd_api::mvccpb::{Event, KeyValue};
use serde::{Deserialize, Serialize};

use super::Error;
use crate::{Client, Subscription, Txn, prefix_end};

/// Where an instance of a service can be reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Endpoint {
    /// `host:port`.
    pub addr: String,
    /// Whatever the instance wants to say about itself; `Null` for nothing.
    pub metadata: serde_json::Value,
}

/// A change to the endpoints of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// There is an endpoint, or it is another one than before.
    Add {
        /// Its key, with the name of the service and a slash before it.
        key: String,
        /// Where it is.
        endpoint: Endpoint,
        /// The lease it lives under, 0 for none.
        lease: i64,
    },
    /// There is no endpoint any more.
    Delete {
        /// The key it had.
        key: String,
    },
}

/// An endpoint as it is stored. Go leaves nothing out when it writes, and takes what it finds when it reads.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Stored {
    /// 0, "add", in all that is stored.
    #[serde(default, alias = "op")]
    op: u8,
    #[serde(default, alias = "addr")]
    addr: String,
    #[serde(default, alias = "metadata")]
    metadata: serde_json::Value,
}

impl Endpoint {
    /// An endpoint without metadata.
    pub fn new(addr: impl Into<String>) -> Self {
        Endpoint { addr: addr.into(), metadata: serde_json::Value::Null }
    }

    fn encode(&self) -> Vec<u8> {
        let stored = Stored { op: 0, addr: self.addr.clone(), metadata: self.metadata.clone() };
        serde_json::to_vec(&stored).expect("JSON values and strings can be written as JSON")
    }

    /// `None` for values that are something else.
    fn decode(value: &[u8]) -> Option<Self> {
        let stored: Stored = serde_json::from_slice(value).ok()?;
        Some(Endpoint { addr: stored.addr, metadata: stored.metadata })
    }
}

/// The endpoints of a service.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use retcd_client::concurrency::Session;
/// use retcd_client::naming::{Endpoint, Endpoints};
/// use retcd_client::{Client, Config};
///
/// let client = Client::new(&Config::default())?;
/// let session = Session::start(&client).await?;
/// let service = Endpoints::new(&client, "my-service")?;
/// let here = Endpoint::new("10.0.0.7:80");
/// service.add("my-service/10.0.0.7:80", here, session.lease()).await?;
/// assert_eq!(service.list().await?.len(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Endpoints {
    client: Client,
    target: String,
}

impl Endpoints {
    /// The endpoints of the service `target`.
    ///
    /// # Errors
    /// [`Error::InvalidTarget`] for an empty name.
    pub fn new(client: &Client, target: &str) -> Result<Self, Error> {
        if target.is_empty() {
            return Err(Error::InvalidTarget);
        }
        Ok(Endpoints { client: client.clone(), target: target.to_owned() })
    }

    /// Adds or replaces an endpoint. `key` begins with the name of the service and a slash; `lease` 0 makes the
    /// endpoint stay until it is deleted.
    pub async fn add(
        &self,
        key: impl Into<String>,
        endpoint: Endpoint,
        lease: i64,
    ) -> Result<(), Error> {
        self.update(vec![Update::Add { key: key.into(), endpoint, lease }]).await
    }

    /// Deletes an endpoint. One that does not exist is no error.
    pub async fn delete(&self, key: impl Into<String>) -> Result<(), Error> {
        self.update(vec![Update::Delete { key: key.into() }]).await
    }

    /// Makes all of the changes, or none.
    ///
    /// # Errors
    /// [`Error::ForeignKey`] for a key that is not below the service.
    pub async fn update(&self, updates: Vec<Update>) -> Result<(), Error> {
        let mut txn = Txn::new();
        for update in updates {
            txn = match update {
                Update::Add { key, endpoint, lease } => txn.put(PutRequest {
                    key: self.own(key)?.into(),
                    value: endpoint.encode().into(),
                    lease,
                    ..Default::default()
                }),
                Update::Delete { key } => txn.delete_range(DeleteRangeRequest {
                    key: self.own(key)?.into(),
                    ..Default::default()
                }),
            };
        }
        self.client.txn(txn.into_request()).await?;
        Ok(())
    }

    fn own(&self, key: String) -> Result<String, Error> {
        if key.starts_with(&self.prefix()) {
            return Ok(key);
        }
        Err(Error::ForeignKey { target: self.target.clone(), key })
    }

    fn prefix(&self) -> String {
        format!("{}/", self.target)
    }

    /// The endpoints by key, as the member that is asked happens to know them. Values that are no endpoints are left
    /// out.
    pub async fn list(&self) -> Result<BTreeMap<String, Endpoint>, Error> {
        let (stored, _) = self.read().await?;
        Ok(stored.into_iter().map(|(key, (endpoint, _))| (key, endpoint)).collect())
    }

    /// The endpoints with their leases, and the revision they were read at.
    async fn read(&self) -> Result<(BTreeMap<String, (Endpoint, i64)>, i64), Error> {
        let prefix = self.prefix();
        let request = RangeRequest {
            range_end: prefix_end(prefix.as_bytes()).into(),
            key: prefix.into(),
            serializable: true,
            ..Default::default()
        };
        let reply = self.client.range(request).await?;
        let revision = reply.header.map_or(0, |header| header.revision);
        let endpoints = reply
            .kvs
            .into_iter()
            .filter_map(|kv| Some((key_of(&kv), (Endpoint::decode(&kv.value)?, kv.lease))));
        Ok((endpoints.collect(), revision))
    }

    /// Lists the endpoints and follows what becomes of them.
    pub async fn watch(&self) -> Result<EndpointWatch, Error> {
        let mut watch = EndpointWatch {
            endpoints: self.clone(),
            known: BTreeMap::new(),
            unread: VecDeque::new(),
            subscription: None,
        };
        watch.look().await?;
        Ok(watch)
    }
}

/// The changes to the endpoints of a service, beginning with those that were there.
#[derive(Debug)]
pub struct EndpointWatch {
    endpoints: Endpoints,
    /// What was reported, so that a second look reports only differences.
    known: BTreeMap<String, (Endpoint, i64)>,
    unread: VecDeque<Vec<Update>>,
    subscription: Option<Subscription>,
}

impl EndpointWatch {
    /// The next changes: at least one, and all of a transaction together. May be dropped at any point and called
    /// again.
    ///
    /// # Errors
    /// What ended the watch. Calling again lists anew and goes on with the differences.
    pub async fn next(&mut self) -> Result<Vec<Update>, Error> {
        loop {
            if let Some(updates) = self.unread.pop_front() {
                return Ok(updates);
            }
            match &mut self.subscription {
                None => self.look().await?,
                Some(subscription) => match subscription.next().await {
                    Ok(reply) => self.note(&reply),
                    Err(error) => {
                        self.subscription = None;
                        // What happened is forgotten; what is now can still be listed.
                        if error != crate::Error::Rpc(RpcError::Compacted) {
                            return Err(error.into());
                        }
                    }
                },
            }
        }
    }

    async fn look(&mut self) -> Result<(), Error> {
        let (listed, revision) = self.endpoints.read().await?;
        let prefix = self.endpoints.prefix();
        let request = WatchCreateRequest {
            range_end: prefix_end(prefix.as_bytes()).into(),
            key: prefix.into(),
            start_revision: revision + 1,
            ..Default::default()
        };
        self.subscription = Some(self.endpoints.client.watch(request).await);
        let updates = differences(&self.known, &listed);
        self.known = listed;
        if !updates.is_empty() {
            self.unread.push_back(updates);
        }
        Ok(())
    }

    fn note(&mut self, reply: &WatchResponse) {
        let updates: Vec<Update> = reply.events.iter().filter_map(update_of).collect();
        for update in &updates {
            match update.clone() {
                Update::Add { key, endpoint, lease } => {
                    self.known.insert(key, (endpoint, lease));
                }
                Update::Delete { key } => {
                    self.known.remove(&key);
                }
            }
        }
        if !updates.is_empty() {
            self.unread.push_back(updates);
        }
    }
}

/// What turns `known` into `listed`.
fn differences(
    known: &BTreeMap<String, (Endpoint, i64)>,
    listed: &BTreeMap<String, (Endpoint, i64)>,
) -> Vec<Update> {
    let gone = known.keys().filter(|key| !listed.contains_key(*key));
    let gone = gone.map(|key| Update::Delete { key: key.clone() });
    let new = listed.iter().filter(|(key, endpoint)| known.get(*key) != Some(endpoint));
    let new = new.map(|(key, (endpoint, lease))| Update::Add {
        key: key.clone(),
        endpoint: endpoint.clone(),
        lease: *lease,
    });
    gone.chain(new).collect()
}

/// `None` for values that are no endpoints.
fn update_of(event: &Event) -> Option<Update> {
    let kv = event.kv.as_ref()?;
    let key = key_of(kv);
    Some(match event.r#type() {
        EventType::Put => {
            Update::Add { key, endpoint: Endpoint::decode(&kv.value)?, lease: kv.lease }
        }
        EventType::Delete => Update::Delete { key },
    })
}

fn key_of(kv: &KeyValue) -> String {
    String::from_utf8_lossy(&kv.key).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_those_of_go() {
        let plain = Endpoint::new("1.2.3.4:80");
        assert_eq!(plain.encode(), br#"{"Op":0,"Addr":"1.2.3.4:80","Metadata":null}"#);
        let zone = Endpoint { metadata: json!({"zone": "a"}), ..plain.clone() };
        assert_eq!(Endpoint::decode(&zone.encode()), Some(zone));
        assert_eq!(Endpoint::decode(br#"{"Addr":"1.2.3.4:80"}"#), Some(plain), "by hand");
        for other in ["", "1.2.3.4", r#"{"Addr":1}"#, r#"{"Op":-1}"#] {
            assert_eq!(Endpoint::decode(other.as_bytes()), None, "{other:?}");
        }
    }

    #[test]
    fn a_second_look_reports_differences_only() {
        let of = |pairs: &[(&str, &str)]| -> BTreeMap<String, (Endpoint, i64)> {
            pairs.iter().map(|(key, addr)| ((*key).to_owned(), (Endpoint::new(*addr), 7))).collect()
        };
        let known = of(&[("s/a", "1"), ("s/b", "2"), ("s/c", "3")]);
        let listed = of(&[("s/a", "1"), ("s/b", "9"), ("s/d", "4")]);
        let add = |key: &str, addr: &str| Update::Add {
            key: key.to_owned(),
            endpoint: Endpoint::new(addr),
            lease: 7,
        };
        assert_eq!(
            differences(&known, &listed),
            [Update::Delete { key: "s/c".to_owned() }, add("s/b", "9"), add("s/d", "4")]
        );
        assert_eq!(differences(&known, &known), []);
    }
}
