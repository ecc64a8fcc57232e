//! etcd's store in its plainest form: every version of every key, and every read a walk over all of it.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use retcd_api::etcdserverpb as pb;
use retcd_api::etcdserverpb::compare::TargetUnion;
use retcd_api::etcdserverpb::request_op::Request;
use retcd_api::etcdserverpb::response_op::Response;
use retcd_api::mvccpb::KeyValue;
use retcd_state_machine::{Census, Rejection};

/// One change: main revision, key, and the value or a tombstone.
pub(crate) type Change = (i64, Vec<u8>, Option<KeyValue>);

#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) changes: Vec<Change>,
    pub(crate) revision: i64,
    pub(crate) compacted: i64,
    leases: BTreeMap<i64, BTreeSet<Vec<u8>>>,
    /// The running request has changed something.
    is_dirty: bool,
}

type Answer<T> = Result<(i64, T), Rejection>;

impl Model {
    pub(crate) fn new() -> Self {
        Model {
            changes: Vec::new(),
            revision: 1,
            compacted: -1,
            leases: BTreeMap::new(),
            is_dirty: false,
        }
    }

    /// The live keys as of a main revision.
    pub(crate) fn state(&self, at: i64) -> BTreeMap<Vec<u8>, KeyValue> {
        let mut state = BTreeMap::new();
        for (main, key, value) in &self.changes {
            if *main > at {
                break;
            }
            match value {
                Some(value) => state.insert(key.clone(), value.clone()),
                None => state.remove(key),
            };
        }
        state
    }

    /// What a compaction at this revision leaves, counted.
    pub(crate) fn census(&self, compacted: i64) -> Census {
        let (kept, live) = (self.state(compacted), self.state(i64::MAX));
        let bytes = |kv: &KeyValue| kv.encoded_len() as u64;
        let mut census = Census {
            live_versions: live.len() as u64,
            live_bytes: live.values().map(bytes).sum(),
            ..Census::default()
        };
        for (main, key, value) in &self.changes {
            let is_kept = *main > compacted
                || match value {
                    // A key may be put more than once in a transaction's revision.
                    Some(value) => kept.get(key) == Some(value),
                    None => *main == compacted,
                };
            if is_kept {
                let tombstone = KeyValue { key: key.clone().into(), ..KeyValue::default() };
                census.historic_versions += 1;
                census.historic_bytes += bytes(value.as_ref().unwrap_or(&tombstone));
            }
        }
        census.historic_versions -= census.live_versions;
        census.historic_bytes -= census.live_bytes;
        census
    }

    fn reached(&self) -> i64 {
        self.revision + i64::from(self.is_dirty)
    }

    fn finish<T>(&mut self, answer: T) -> (i64, T) {
        self.revision = self.reached();
        self.is_dirty = false;
        (self.revision, answer)
    }

    fn select(&self, at: i64, key: &[u8], range_end: &[u8]) -> Vec<KeyValue> {
        let is_inside = |found: &[u8]| match range_end {
            [] => found == key,
            [0] => found >= key,
            end => found >= key && found < end,
        };
        self.state(at).into_iter().filter(|(found, _)| is_inside(found)).map(|(_, kv)| kv).collect()
    }

    pub(crate) fn range(&self, request: &pb::RangeRequest) -> Answer<pb::RangeResponse> {
        let (requested, current, compacted) = (request.revision, self.revision, self.compacted);
        if requested > current {
            return Err(Rejection::FutureRevision { requested, current });
        }
        if requested > 0 && requested < compacted {
            return Err(Rejection::Compacted { requested, compacted });
        }
        let at = if requested > 0 { requested } else { current };
        Ok((current, self.answer(at, request)))
    }

    fn answer(&self, at: i64, request: &pb::RangeRequest) -> pb::RangeResponse {
        use pb::range_request::{SortOrder, SortTarget};
        let mut kvs = self.select(at, &request.key, &request.range_end);
        let mut response = pb::RangeResponse { count: kvs.len() as i64, ..Default::default() };
        if request.count_only {
            return response;
        }
        let (order, target) = (request.sort_order(), request.sort_target());
        let keeps_order =
            order == SortOrder::None || (order == SortOrder::Ascend && target == SortTarget::Key);
        let bounds = [
            request.min_mod_revision,
            request.max_mod_revision,
            request.min_create_revision,
            request.max_create_revision,
        ];
        let limit = usize::try_from(request.limit).unwrap_or(0);
        if limit > 0 && keeps_order && bounds == [0; 4] {
            kvs.truncate(limit + 1);
        }
        kvs.retain(|kv| {
            (bounds[0] == 0 || kv.mod_revision >= bounds[0])
                && (bounds[1] == 0 || kv.mod_revision <= bounds[1])
                && (bounds[2] == 0 || kv.create_revision >= bounds[2])
                && (bounds[3] == 0 || kv.create_revision <= bounds[3])
        });
        let compare = |a: &KeyValue, b: &KeyValue| match target {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
            SortTarget::Value => a.value.cmp(&b.value),
        };
        kvs.sort_by(|a, b| if order == SortOrder::Descend { compare(b, a) } else { compare(a, b) });
        if limit > 0 && kvs.len() > limit {
            kvs.truncate(limit);
            response.more = true;
        }
        if request.keys_only {
            for kv in &mut kvs {
                kv.value.clear();
                if target != SortTarget::Value {
                    kv.lease = 0;
                }
            }
        }
        response.kvs = kvs;
        response
    }

    fn check_put(&self, request: &pb::PutRequest) -> Result<(), Rejection> {
        if request.lease != 0 && !self.leases.contains_key(&request.lease) {
            return Err(Rejection::LeaseNotFound(request.lease));
        }
        let keeps_something = request.ignore_value || request.ignore_lease;
        if keeps_something && self.select(self.revision, &request.key, b"").is_empty() {
            return Err(Rejection::KeyNotFound);
        }
        Ok(())
    }

    pub(crate) fn put(&mut self, request: &pb::PutRequest) -> Answer<pb::PutResponse> {
        self.check_put(request)?;
        let response = self.do_put(request);
        Ok(self.finish(response))
    }

    fn do_put(&mut self, request: &pb::PutRequest) -> pb::PutResponse {
        let old = self.select(self.reached(), &request.key, b"").pop();
        let main = self.revision + 1;
        let mut kv = KeyValue {
            key: request.key.clone(),
            value: request.value.clone(),
            lease: request.lease,
            create_revision: old.as_ref().map_or(main, |old| old.create_revision),
            mod_revision: main,
            version: old.as_ref().map_or(1, |old| old.version + 1),
        };
        if request.ignore_value {
            kv.value = old.as_ref().map(|old| old.value.clone()).unwrap_or_default();
        }
        if request.ignore_lease {
            kv.lease = old.as_ref().map_or(0, |old| old.lease);
        }
        self.detach(&request.key);
        if let Some(keys) = self.leases.get_mut(&kv.lease) {
            keys.insert(request.key.to_vec());
        }
        self.change(request.key.to_vec(), Some(kv));
        pb::PutResponse { header: None, prev_kv: old.filter(|_| request.prev_kv) }
    }

    fn change(&mut self, key: Vec<u8>, value: Option<KeyValue>) {
        self.is_dirty = true;
        self.changes.push((self.revision + 1, key, value));
    }

    fn detach(&mut self, key: &[u8]) {
        for keys in self.leases.values_mut() {
            keys.remove(key);
        }
    }

    pub(crate) fn delete(
        &mut self,
        request: &pb::DeleteRangeRequest,
    ) -> (i64, pb::DeleteRangeResponse) {
        let response = self.do_delete(request);
        self.finish(response)
    }

    fn do_delete(&mut self, request: &pb::DeleteRangeRequest) -> pb::DeleteRangeResponse {
        let kvs = self.select(self.reached(), &request.key, &request.range_end);
        for kv in &kvs {
            self.detach(&kv.key);
            self.change(kv.key.to_vec(), None);
        }
        let deleted = kvs.len() as i64;
        pb::DeleteRangeResponse {
            header: None,
            deleted,
            prev_kvs: if request.prev_kv { kvs } else { Vec::new() },
        }
    }

    pub(crate) fn txn(&mut self, request: &pb::TxnRequest) -> Answer<pb::TxnResponse> {
        let mut path = Vec::new();
        self.choose(request, &mut path);
        self.check(request, &mut path.iter())?;
        let response = self.run(request, &mut path.iter());
        Ok(self.finish(response))
    }

    fn choose(&self, request: &pb::TxnRequest, path: &mut Vec<bool>) {
        let succeeds = request.compare.iter().all(|compare| self.holds(compare));
        path.push(succeeds);
        for op in branch(request, succeeds) {
            if let Some(Request::RequestTxn(nested)) = &op.request {
                self.choose(nested, path);
            }
        }
    }

    fn holds(&self, compare: &pb::Compare) -> bool {
        let mut kvs = self.select(self.revision, &compare.key, &compare.range_end);
        if kvs.is_empty() {
            // 3 is VALUE.
            if compare.target == 3 {
                return false;
            }
            kvs.push(KeyValue::default());
        }
        kvs.iter().all(|kv| {
            let order = match (compare.target, &compare.target_union) {
                (0, Some(TargetUnion::Version(number))) => kv.version.cmp(number),
                (0, _) => kv.version.cmp(&0),
                (1, Some(TargetUnion::CreateRevision(number))) => kv.create_revision.cmp(number),
                (1, _) => kv.create_revision.cmp(&0),
                (2, Some(TargetUnion::ModRevision(number))) => kv.mod_revision.cmp(number),
                (2, _) => kv.mod_revision.cmp(&0),
                (3, Some(TargetUnion::Value(value))) => kv.value.cmp(value),
                (3, _) => kv.value[..].cmp(b""),
                (4, Some(TargetUnion::Lease(number))) => kv.lease.cmp(number),
                (4, _) => kv.lease.cmp(&0),
                _ => std::cmp::Ordering::Equal,
            };
            match compare.result {
                0 => order.is_eq(),
                1 => order.is_gt(),
                2 => order.is_lt(),
                3 => order.is_ne(),
                _ => true,
            }
        })
    }

    fn check<'p>(
        &self,
        request: &pb::TxnRequest,
        path: &mut impl Iterator<Item = &'p bool>,
    ) -> Result<(), Rejection> {
        for op in branch(request, *path.next().unwrap()) {
            match op.request.as_ref().unwrap() {
                Request::RequestRange(range) => {
                    let (requested, current, compacted) =
                        (range.revision, self.revision, self.compacted);
                    if requested > current {
                        return Err(Rejection::FutureRevision { requested, current });
                    }
                    if requested != 0 && requested < compacted {
                        return Err(Rejection::Compacted { requested, compacted });
                    }
                }
                Request::RequestPut(put) => self.check_put(put)?,
                Request::RequestTxn(nested) => self.check(nested, path)?,
                Request::RequestDeleteRange(_) => {}
            }
        }
        Ok(())
    }

    fn run<'p>(
        &mut self,
        request: &pb::TxnRequest,
        path: &mut impl Iterator<Item = &'p bool>,
    ) -> pb::TxnResponse {
        let succeeded = *path.next().unwrap();
        let mut responses = Vec::new();
        for op in branch(request, succeeded) {
            let mut response = match op.request.as_ref().unwrap() {
                Request::RequestRange(range) => {
                    let at = if range.revision > 0 { range.revision } else { self.reached() };
                    Response::ResponseRange(self.answer(at, range))
                }
                Request::RequestPut(put) => Response::ResponsePut(self.do_put(put)),
                Request::RequestDeleteRange(delete) => {
                    Response::ResponseDeleteRange(self.do_delete(delete))
                }
                Request::RequestTxn(nested) => Response::ResponseTxn(self.run(nested, path)),
            };
            let header =
                Some(pb::ResponseHeader { revision: self.reached(), ..Default::default() });
            match &mut response {
                Response::ResponseRange(inner) => inner.header = header,
                Response::ResponsePut(inner) => inner.header = header,
                Response::ResponseDeleteRange(inner) => inner.header = header,
                Response::ResponseTxn(inner) => inner.header = Some(pb::ResponseHeader::default()),
            }
            responses.push(pb::ResponseOp { response: Some(response) });
        }
        pb::TxnResponse { header: None, succeeded, responses }
    }

    pub(crate) fn compact(&mut self, requested: i64) -> Answer<()> {
        if requested <= self.compacted {
            return Err(Rejection::Compacted { requested, compacted: self.compacted });
        }
        if requested > self.revision {
            return Err(Rejection::FutureRevision { requested, current: self.revision });
        }
        self.compacted = requested;
        Ok((self.revision, ()))
    }

    pub(crate) fn grant(&mut self, id: i64) -> Answer<pb::LeaseGrantResponse> {
        if self.leases.contains_key(&id) {
            return Err(Rejection::LeaseExists(id));
        }
        self.leases.insert(id, BTreeSet::new());
        Ok((self.revision, pb::LeaseGrantResponse { id, ttl: 60, ..Default::default() }))
    }

    pub(crate) fn revoke(&mut self, id: i64) -> Answer<()> {
        let Some(keys) = self.leases.remove(&id) else { return Err(Rejection::LeaseNotFound(id)) };
        for key in keys {
            self.change(key, None);
        }
        Ok(self.finish(()))
    }

    pub(crate) fn lease_keys(&self, id: i64) -> Option<Vec<Vec<u8>>> {
        Some(self.leases.get(&id)?.iter().cloned().collect())
    }
}

fn branch(request: &pb::TxnRequest, succeeds: bool) -> &[pb::RequestOp] {
    if succeeds { &request.success } else { &request.failure }
}
