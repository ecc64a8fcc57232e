//! Runs the scripts of `tests/scripts`: what a client of one member is answered, in etcdctl's words.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

use prost::Message;
use retcd_api::error::RpcError;
use retcd_api::etcdserverpb as pb;
use retcd_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use retcd_api::etcdserverpb::range_request::{SortOrder, SortTarget};
use retcd_api::etcdserverpb::request_op::Request;
use retcd_api::etcdserverpb::response_op::Response as OpResponse;
use retcd_api::membershippb;
use retcd_api::mvccpb::KeyValue;
use retcd_api::raftpb::{ConfChange, ConfChangeType};
use retcd_state_machine::auth::Action;
use retcd_state_machine::cluster::Member as ClusterMember;
use retcd_state_machine::mvcc::KeyValue as Stored;
use retcd_state_machine::watch::History;
use retcd_state_machine::{Config, ReadError, Rejection, Response, check};

use super::member::{Member, request};

#[test]
fn scripts() -> std::io::Result<()> {
    let mut failures = Vec::new();
    for area in ["alarm", "auth", "cluster", "mvcc", "txn"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts").join(area);
        let entries: Vec<_> = folder.read_dir()?.collect::<Result<_, _>>()?;
        let paths: BTreeSet<_> = entries.iter().map(std::fs::DirEntry::path).collect();
        assert!(!paths.is_empty(), "no scripts about {area}");
        for path in paths {
            if let Err(error) = goldenscript::run(&mut Runner::new(), &path) {
                failures.push(format!("{}: {error}", path.display()));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

/// What a script may say. `END` stands for the end of the key space.
#[derive(Debug, goldenscript::Command)]
pub(crate) enum Command {
    /// Puts keys, each as its own request.
    Put {
        #[arg(pos, many, optional)]
        flags: Vec<String>,
        #[arg(key, many)]
        pairs: Vec<(String, String)>,
    },
    /// Gets keys. Flags: prefix, from, keys, count, quiet.
    Get {
        key: String,
        end: Option<String>,
        #[arg(key, optional)]
        rev: i64,
        #[arg(key, optional)]
        limit: i64,
        #[arg(key, optional)]
        order: String,
        #[arg(key, optional)]
        sort: String,
        #[arg(key, optional)]
        show: String,
        #[arg(key, optional)]
        min_mod: i64,
        #[arg(key, optional)]
        max_mod: i64,
        #[arg(key, optional)]
        min_create: i64,
        #[arg(key, optional)]
        max_create: i64,
    },
    /// Streams a range in chunks of about that many bytes.
    Stream {
        key: String,
        end: Option<String>,
        #[arg(key, optional)]
        rev: i64,
        #[arg(key, optional)]
        limit: i64,
        #[arg(key, optional)]
        order: String,
        #[arg(key, optional)]
        show: String,
        #[arg(key, optional)]
        min_mod: i64,
        #[arg(key)]
        chunk: usize,
    },
    Del {
        key: String,
        end: Option<String>,
        #[arg(key, optional)]
        prev: bool,
    },
    /// A transaction: `if=[compares] then=[ops] else=[ops]`, see [`parse`].
    Txn {
        #[arg(key = "if", optional)]
        compares: String,
        #[arg(key = "then", optional)]
        success: String,
        #[arg(key = "else", optional)]
        failure: String,
        /// Answer it without the log, as a server does with a read-only one.
        #[arg(key, optional)]
        read: bool,
        #[arg(key)]
        ops_max: Option<usize>,
    },
    Compact(i64),
    /// Everything that happened from a revision on.
    History(i64),
    Grant {
        id: i64,
        ttl: i64,
    },
    Revoke(i64),
    /// The keys of a lease.
    Lease(i64),
    Leases,
    Alarm {
        action: String,
        kind: String,
        #[arg(optional)]
        member: u64,
    },
    /// Starts over with a quota.
    Quota(u64),
    /// Writes everything to the backend, finishes all compactions.
    Flush,
    /// Restarts from what was flushed and replays the rest of the log.
    Restart,
    /// Restarts another member from this one's snapshot and goes on with it.
    Install,
    MemberAdd {
        id: u64,
        url: String,
        #[arg(key, optional)]
        learner: bool,
    },
    MemberPromote(u64),
    MemberUpdate {
        id: u64,
        url: String,
    },
    MemberRemove(u64),
    MemberPublish {
        id: u64,
        name: String,
        url: String,
    },
    MemberList,
    ClusterVersion(String),
    Downgrade(String),
    /// The records of the backend.
    Records,
    Hash(i64),
    Status,
    /// On whose behalf all that follows is asked: `nobody`, or a user, as of the present auth revision or an older one.
    As {
        user: String,
        #[arg(key, optional)]
        revision: u64,
    },
    AuthEnable,
    AuthDisable,
    AuthStatus,
    /// A user; the hash of its password is the password itself, in base64. Without one it has no password.
    UserAdd {
        name: String,
        #[arg(key)]
        password: Option<String>,
    },
    UserDelete(String),
    UserGet(String),
    UserList,
    UserPasswd {
        name: String,
        #[arg(key, optional)]
        password: String,
    },
    UserGrantRole {
        user: String,
        role: String,
    },
    UserRevokeRole {
        user: String,
        role: String,
    },
    RoleAdd(String),
    RoleDelete(String),
    RoleGet(String),
    RoleList,
    RoleGrant {
        role: String,
        kind: String,
        key: String,
        #[arg(optional)]
        end: Option<String>,
    },
    RoleRevoke {
        role: String,
        key: String,
        #[arg(optional)]
        end: Option<String>,
    },
    /// Gives a user the token with these letters.
    Login {
        user: String,
        letters: String,
    },
    /// Whose token this is, after so many more seconds.
    Token {
        token: String,
        #[arg(key, optional)]
        after: u64,
    },
    /// Whether the caller may do what the server asks for before the log, or without it.
    May {
        what: String,
        #[arg(optional)]
        lease: i64,
    },
    /// The buckets of users and roles.
    AuthRecords,
}

pub(crate) struct Runner {
    pub(crate) member: Member,
}

impl Runner {
    fn new() -> Self {
        Runner { member: Member::new(Config::default()) }
    }

    pub(crate) fn propose(
        &mut self,
        set: impl FnOnce(&mut pb::InternalRaftRequest),
    ) -> Result<Response, Box<dyn Error>> {
        self.member.propose(request(set)).map_err(|rejection| refusal(&rejection))
    }

    /// A request without an answer worth showing.
    pub(crate) fn run_simple(
        &mut self,
        set: impl FnOnce(&mut pb::InternalRaftRequest),
    ) -> Result<String, Box<dyn Error>> {
        let response = self.propose(set)?;
        assert!(response.body.is_empty());
        Ok(format!("revision {}\n", response.revision))
    }

    /// What a server does before a read.
    fn permit(&self, action: Action<'_>) -> Result<(), Box<dyn Error>> {
        let permitted = self.member.reader().permit(self.member.caller.as_ref(), action);
        permitted.map_err(|rejection| refusal(&rejection))
    }

    fn change_members(
        &mut self,
        kind: ConfChangeType,
        id: u64,
        context: Vec<u8>,
    ) -> Result<String, Box<dyn Error>> {
        let change =
            ConfChange { r#type: kind.into(), node_id: id, context: context.into(), id: 1 };
        let applied = self.member.change_members(&change);
        let node = applied.conf_change.expect("a membership entry").node_id;
        match applied.outcome {
            Ok(_) => Ok(format!("raft: {kind:?} {node}\n")),
            Err(rejection) => Err(format!("{} (raft: node {node})", refusal(&rejection)).into()),
        }
    }
}

/// What a client sees of a refusal.
pub(crate) fn refusal(rejection: &Rejection) -> Box<dyn Error> {
    RpcError::from(rejection).to_string().into()
}

fn read_refusal(error: ReadError) -> Box<dyn Error> {
    match error {
        ReadError::Rejection(rejection) => refusal(&rejection),
        ReadError::Failure(failure) => failure.into(),
    }
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(
        &mut self,
        command: &Command,
        _: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        let mut out = String::new();
        match command {
            Command::Put { flags, pairs } => {
                for (key, value) in pairs.iter().filter(|(key, _)| key != "lease") {
                    let put = put_request(flags, pairs, key, value)?;
                    check::put(&put).map_err(|rejection| refusal(&rejection))?;
                    let response = self.propose(|request| request.put = Some(put))?;
                    let answer = pb::PutResponse::decode(&response.body[..])?;
                    writeln!(out, "revision {}", response.revision)?;
                    if let Some(kv) = answer.prev_kv {
                        writeln!(out, "prev {}", show_kv(&kv))?;
                    }
                }
            }
            Command::Get {
                key,
                end,
                rev,
                limit,
                order,
                sort,
                show,
                min_mod,
                max_mod,
                min_create,
                max_create,
            } => {
                let mut get = pb::RangeRequest {
                    limit: *limit,
                    min_mod_revision: *min_mod,
                    max_mod_revision: *max_mod,
                    min_create_revision: *min_create,
                    max_create_revision: *max_create,
                    ..range_request(key, end.as_deref(), *rev, show)
                };
                (get.sort_order, get.sort_target) = (sort_order(order)?, sort_target(sort)?);
                check::range(&get).map_err(|rejection| refusal(&rejection))?;
                self.permit(Action::Read { key: &get.key, range_end: &get.range_end })?;
                let response = self.member.reader().range(&get).map_err(read_refusal)?;
                let answer = pb::RangeResponse::decode(&response.body[..])?;
                write!(out, "{}", show_range(&answer))?;
                writeln!(out, "revision {}", response.revision)?;
            }
            Command::Stream { key, end, rev, limit, order, show, min_mod, chunk } => {
                let mut get = pb::RangeRequest {
                    limit: *limit,
                    min_mod_revision: *min_mod,
                    ..range_request(key, end.as_deref(), *rev, show)
                };
                get.sort_order = sort_order(order)?;
                check::range_stream(&get).map_err(|rejection| refusal(&rejection))?;
                let stream =
                    self.member.reader().range_stream(&get, *chunk).map_err(read_refusal)?;
                for chunk in stream {
                    let chunk = chunk.map_err(read_refusal)?;
                    let part = pb::RangeResponse::decode(&chunk.response.body[..])?;
                    let keys: Vec<_> = part.kvs.iter().map(|kv| text(&kv.key)).collect();
                    write!(out, "chunk {}", keys.join(" "))?;
                    if chunk.is_last {
                        write!(
                            out,
                            " last count={} more={} revision={}",
                            part.count, part.more, chunk.response.revision
                        )?;
                    }
                    writeln!(out)?;
                }
            }
            Command::Del { key, end, prev } => {
                let delete = pb::DeleteRangeRequest {
                    prev_kv: *prev,
                    ..delete_request(key, end.as_deref())
                };
                check::delete_range(&delete).map_err(|rejection| refusal(&rejection))?;
                let response = self.propose(|request| request.delete_range = Some(delete))?;
                let answer = pb::DeleteRangeResponse::decode(&response.body[..])?;
                write!(out, "{}", show_delete(&answer))?;
                writeln!(out, "revision {}", response.revision)?;
            }
            Command::Txn { compares, success, failure, read, ops_max } => {
                let txn = parse::txn(compares, success, failure)?;
                check::txn(&txn, ops_max.unwrap_or(128))
                    .map_err(|rejection| refusal(&rejection))?;
                let response = if *read {
                    assert!(check::is_read_only(&txn), "the transaction writes");
                    self.permit(Action::Txn(&txn))?;
                    self.member.reader().txn_read_only(&txn).map_err(read_refusal)?
                } else {
                    self.propose(|request| request.txn = Some(txn))?
                };
                show_txn(&pb::TxnResponse::decode(&response.body[..])?, 0, &mut out)?;
                writeln!(out, "revision {}", response.revision)?;
            }
            Command::Compact(revision) => {
                let compaction = pb::CompactionRequest { revision: *revision, physical: false };
                return self.run_simple(|request| request.compaction = Some(compaction));
            }
            Command::History(from) => {
                let mut records = Vec::new();
                self.member.reader().records(*from, usize::MAX, &mut records)?;
                for record in records {
                    let kv = KeyValue::decode(&record.kv[..])?;
                    let verb = if record.is_tombstone { "DELETE" } else { "PUT" };
                    let revision = record.revision;
                    writeln!(out, "{}.{} {verb} {}", revision.main, revision.sub, show_kv(&kv))?;
                }
            }
            Command::Grant { id, ttl } => {
                let grant = pb::LeaseGrantRequest { id: *id, ttl: *ttl };
                let response = self.propose(|request| request.lease_grant = Some(grant))?;
                let answer = pb::LeaseGrantResponse::decode(&response.body[..])?;
                writeln!(
                    out,
                    "lease {} ttl={} revision {}",
                    answer.id, answer.ttl, response.revision
                )?;
            }
            Command::Revoke(id) => {
                return self.run_simple(|request| {
                    request.lease_revoke = Some(pb::LeaseRevokeRequest { id: *id });
                });
            }
            Command::Lease(id) => {
                let reader = self.member.reader();
                let lessor = reader.lessor();
                match lessor.keys(*id) {
                    Some(keys) => {
                        writeln!(out, "keys: {}", keys.map(text).collect::<Vec<_>>().join(" "))?;
                    }
                    None => writeln!(out, "no such lease")?,
                }
            }
            Command::Leases => {
                let leases = self.member.reader().lessor().leases();
                writeln!(out, "{leases:?}")?;
            }
            Command::Alarm { action, kind, member } => {
                let alarm = pb::AlarmRequest {
                    action: match &action[..] {
                        "list" => 0,
                        "activate" => 1,
                        "deactivate" => 2,
                        other => return Err(format!("unknown action {other}").into()),
                    },
                    member_id: *member,
                    alarm: alarm_type(kind)?,
                };
                let response = self.propose(|request| request.alarm = Some(alarm))?;
                for alarm in pb::AlarmResponse::decode(&response.body[..])?.alarms {
                    writeln!(out, "{:?} member {}", alarm.alarm(), alarm.member_id)?;
                }
                writeln!(out, "revision {}", response.revision)?;
            }
            Command::Quota(bytes) => {
                self.member =
                    Member::new(Config { quota_bytes: Some(*bytes), ..Config::default() });
            }
            Command::Flush => {
                self.member.flush_all();
                self.member.compact(2, usize::MAX);
            }
            Command::Restart => self.member.restart(),
            Command::Install => {
                self.member.flush_all();
                let mut other = Member::new(self.member.config.clone());
                other.install_from(&self.member);
                self.member = other;
            }
            Command::MemberAdd { id, url, learner } => {
                let member = member(*id, url, *learner);
                let kind = if *learner {
                    ConfChangeType::ConfChangeAddLearnerNode
                } else {
                    ConfChangeType::ConfChangeAddNode
                };
                return self.change_members(kind, *id, member.to_addition_context(false));
            }
            Command::MemberPromote(id) => {
                let context = member(*id, "", true).to_addition_context(true);
                return self.change_members(ConfChangeType::ConfChangeAddNode, *id, context);
            }
            Command::MemberUpdate { id, url } => {
                let context = member(*id, url, false).to_json();
                return self.change_members(ConfChangeType::ConfChangeUpdateNode, *id, context);
            }
            Command::MemberRemove(id) => {
                return self.change_members(ConfChangeType::ConfChangeRemoveNode, *id, Vec::new());
            }
            Command::MemberPublish { id, name, url } => {
                let attributes =
                    membershippb::Attributes { name: name.clone(), client_urls: vec![url.clone()] };
                let set = membershippb::ClusterMemberAttrSetRequest {
                    member_id: *id,
                    member_attributes: Some(attributes),
                };
                return self.run_simple(|request| request.cluster_member_attr_set = Some(set));
            }
            Command::MemberList => {
                for member in self.member.reader().members() {
                    writeln!(out, "{}", String::from_utf8(member.to_json())?)?;
                }
                writeln!(out, "removed {:?}", self.member.reader().removed_members())?;
                if let Some(state) = self.member.conf_state() {
                    writeln!(out, "voters {:?} learners {:?}", state.voters, state.learners)?;
                }
            }
            Command::ClusterVersion(version) => {
                let set = membershippb::ClusterVersionSetRequest { ver: version.clone() };
                return self.run_simple(|request| request.cluster_version_set = Some(set));
            }
            Command::Downgrade(version) => {
                let set = membershippb::DowngradeInfoSetRequest {
                    enabled: version != "cancel",
                    ver: version.clone(),
                };
                return self.run_simple(|request| request.downgrade_info_set = Some(set));
            }
            Command::Records => {
                for (bucket, key, value) in self.member.backend.contents() {
                    if let Some((revision, is_tombstone)) =
                        retcd_state_machine::mvcc::RecordKey::decode(&key)
                        && bucket == retcd_state_machine::schema::Bucket::Key
                    {
                        let verb = if is_tombstone { "DELETE" } else { "PUT" };
                        let key = text(Stored::decode(&value).ok_or("no key-value")?.key);
                        writeln!(out, "{}.{} {verb} {key}", revision.main, revision.sub)?;
                    }
                }
            }
            Command::Hash(revision) => {
                let hash = self.member.reader().hash_kv(*revision).map_err(read_refusal)?;
                writeln!(
                    out,
                    "hash {} compact_revision {} hash_revision {} revision {}",
                    hash.hash, hash.compact_revision, hash.hash_revision, hash.current_revision
                )?;
            }
            Command::Status => {
                let reader = self.member.reader();
                writeln!(
                    out,
                    "revision {} compacted {}",
                    reader.revision(),
                    reader.compacted_revision()
                )?;
                writeln!(out, "finished compaction {}", reader.finished_compaction_revision())?;
                writeln!(out, "keys {}", reader.census().live_versions)?;
                writeln!(out, "cluster version {:?}", reader.cluster_version())?;
                writeln!(out, "{:?}", reader.downgrade())?;
            }
            about_users => return super::auth::run(self, about_users),
        }
        Ok(out)
    }
}

fn put_request(
    flags: &[String],
    pairs: &[(String, String)],
    key: &str,
    value: &str,
) -> Result<pb::PutRequest, Box<dyn Error>> {
    let options: BTreeMap<_, _> = pairs.iter().cloned().collect();
    let has = |flag: &str| flags.iter().any(|given| given == flag);
    Ok(pb::PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        lease: options.get("lease").map_or(Ok(0), |lease| lease.parse())?,
        prev_kv: has("prev"),
        ignore_value: has("ignore_value"),
        ignore_lease: has("ignore_lease"),
    })
}

fn range_request(key: &str, end: Option<&str>, revision: i64, show: &str) -> pb::RangeRequest {
    pb::RangeRequest {
        key: key.to_owned().into(),
        range_end: range_end(end),
        revision,
        keys_only: show == "keys",
        count_only: show == "count",
        ..Default::default()
    }
}

fn delete_request(key: &str, end: Option<&str>) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest { key: key.to_owned().into(), range_end: range_end(end), prev_kv: false }
}

pub(crate) fn range_end(end: Option<&str>) -> bytes::Bytes {
    match end {
        None => bytes::Bytes::new(),
        Some("END") => bytes::Bytes::from_static(b"\0"),
        Some(end) => end.to_owned().into(),
    }
}

fn sort_order(name: &str) -> Result<i32, Box<dyn Error>> {
    Ok(match name {
        "" => SortOrder::None.into(),
        "ascend" => SortOrder::Ascend.into(),
        "descend" => SortOrder::Descend.into(),
        number => number.parse()?,
    })
}

fn sort_target(name: &str) -> Result<i32, Box<dyn Error>> {
    Ok(match name {
        "" | "key" => SortTarget::Key.into(),
        "version" => SortTarget::Version.into(),
        "create" => SortTarget::Create.into(),
        "mod" => SortTarget::Mod.into(),
        "value" => SortTarget::Value.into(),
        number => number.parse()?,
    })
}

fn alarm_type(name: &str) -> Result<i32, Box<dyn Error>> {
    Ok(pb::AlarmType::from_str_name(&name.to_uppercase()).ok_or("unknown alarm")?.into())
}

fn member(id: u64, url: &str, is_learner: bool) -> ClusterMember {
    ClusterMember { id, peer_urls: vec![url.to_owned()], is_learner, ..ClusterMember::default() }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn show_kv(kv: &KeyValue) -> String {
    let mut out = format!("{}={}", text(&kv.key), text(&kv.value));
    for (name, number) in [
        ("create", kv.create_revision),
        ("mod", kv.mod_revision),
        ("version", kv.version),
        ("lease", kv.lease),
    ] {
        if number != 0 {
            let _ = write!(out, " {name}={number}");
        }
    }
    out
}

fn show_range(answer: &pb::RangeResponse) -> String {
    let mut out = String::new();
    for kv in &answer.kvs {
        let _ = writeln!(out, "{}", show_kv(kv));
    }
    let more = if answer.more { " more" } else { "" };
    let _ = writeln!(out, "count {}{more}", answer.count);
    out
}

fn show_delete(answer: &pb::DeleteRangeResponse) -> String {
    let mut out = format!("deleted {}\n", answer.deleted);
    for kv in &answer.prev_kvs {
        let _ = writeln!(out, "prev {}", show_kv(kv));
    }
    out
}

fn show_txn(
    answer: &pb::TxnResponse,
    depth: usize,
    out: &mut String,
) -> Result<(), Box<dyn Error>> {
    let indent = "  ".repeat(depth);
    writeln!(out, "{indent}{}", if answer.succeeded { "SUCCESS" } else { "FAILURE" })?;
    for response in &answer.responses {
        let (name, header, lines) = match response.response.as_ref().ok_or("an empty answer")? {
            OpResponse::ResponseRange(inner) => ("get", &inner.header, show_range(inner)),
            OpResponse::ResponsePut(inner) => {
                let prev = inner.prev_kv.as_ref().map(|kv| format!("prev {}\n", show_kv(kv)));
                ("put", &inner.header, prev.unwrap_or_default())
            }
            OpResponse::ResponseDeleteRange(inner) => ("del", &inner.header, show_delete(inner)),
            OpResponse::ResponseTxn(inner) => {
                let mut lines = String::new();
                show_txn(inner, depth + 1, &mut lines)?;
                ("txn", &inner.header, lines)
            }
        };
        let header = header.as_ref().ok_or("an operation without header")?;
        assert_eq!(*header, pb::ResponseHeader { revision: header.revision, ..Default::default() });
        writeln!(out, "{indent}{name} revision {}", header.revision)?;
        for line in lines.lines() {
            writeln!(out, "{indent}  {line}")?;
        }
    }
    Ok(())
}

/// Transactions in text.
///
/// Compares, separated by `;`: `TARGET(KEY[,END]) OP OPERAND` with etcdctl's targets `ver create mod val lease` and
/// the operators `= ! > <`. Operations, separated by `;`: `put KEY VALUE [lease=N] [prev] [ignore_value]
/// [ignore_lease]`, `get KEY [END] [rev=N]`, `del KEY [END] [prev]`, `txn {COMPARES} {OPS} {OPS}`, `none` for an
/// operation that is not set.
mod parse {
    use super::*;

    pub(super) fn txn(
        compares: &str,
        success: &str,
        failure: &str,
    ) -> Result<pb::TxnRequest, Box<dyn Error>> {
        Ok(pb::TxnRequest {
            compare: pieces(compares, ';').into_iter().map(compare).collect::<Result<_, _>>()?,
            success: pieces(success, ';').into_iter().map(op).collect::<Result<_, _>>()?,
            failure: pieces(failure, ';').into_iter().map(op).collect::<Result<_, _>>()?,
        })
    }

    /// Splits at a separator that is not inside braces.
    fn pieces(text: &str, separator: char) -> Vec<&str> {
        let (mut pieces, mut depth, mut start) = (Vec::new(), 0, 0);
        for (position, found) in text.char_indices() {
            match found {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ if found == separator && depth == 0 => {
                    pieces.push(&text[start..position]);
                    start = position + 1;
                }
                _ => {}
            }
        }
        pieces.push(&text[start..]);
        pieces.into_iter().map(str::trim).filter(|piece| !piece.is_empty()).collect()
    }

    fn compare(text: &str) -> Result<pb::Compare, Box<dyn Error>> {
        let (target, rest) = text.split_once('(').ok_or("a compare is TARGET(KEY) OP OPERAND")?;
        let (range, rest) = rest.split_once(')').ok_or("a compare is TARGET(KEY) OP OPERAND")?;
        let (key, end) = range.split_once(',').map_or((range, None), |(key, end)| (key, Some(end)));
        let (operator, operand) = rest.trim().split_once(' ').unwrap_or_else(|| (rest.trim(), ""));
        let number = || operand.parse::<i64>();
        let (target, union) = match target {
            "ver" => (CompareTarget::Version as i32, TargetUnion::Version(number()?)),
            "create" => (CompareTarget::Create as i32, TargetUnion::CreateRevision(number()?)),
            "mod" => (CompareTarget::Mod as i32, TargetUnion::ModRevision(number()?)),
            "val" => (CompareTarget::Value as i32, TargetUnion::Value(operand.to_owned().into())),
            "lease" => (CompareTarget::Lease as i32, TargetUnion::Lease(number()?)),
            // The number of the target, with a modification revision whatever it is.
            other => (other.parse()?, TargetUnion::ModRevision(number()?)),
        };
        let result = match operator {
            "=" => CompareResult::Equal as i32,
            "!" => CompareResult::NotEqual as i32,
            ">" => CompareResult::Greater as i32,
            "<" => CompareResult::Less as i32,
            other => other.parse()?,
        };
        Ok(pb::Compare {
            result,
            target,
            key: key.to_owned().into(),
            range_end: range_end(end),
            target_union: Some(union),
        })
    }

    fn op(text: &str) -> Result<pb::RequestOp, Box<dyn Error>> {
        let words = pieces(text, ' ');
        let option = |name: &str| {
            words
                .iter()
                .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
                .map(str::parse::<i64>)
                .transpose()
        };
        let has = |flag: &str| words.contains(&flag);
        let word = |position: usize| {
            let word = words.get(position).copied();
            word.filter(|word| {
                !word.contains('=') && !["prev", "ignore_value", "ignore_lease"].contains(word)
            })
        };
        let key = word(1).unwrap_or_default();
        let request = match words[0] {
            "none" => None,
            "put" => Some(Request::RequestPut(pb::PutRequest {
                key: key.to_owned().into(),
                value: word(2).unwrap_or_default().to_owned().into(),
                lease: option("lease")?.unwrap_or(0),
                prev_kv: has("prev"),
                ignore_value: has("ignore_value"),
                ignore_lease: has("ignore_lease"),
            })),
            "get" => Some(Request::RequestRange(range_request(
                key,
                word(2),
                option("rev")?.unwrap_or(0),
                "",
            ))),
            "del" => Some(Request::RequestDeleteRange(pb::DeleteRangeRequest {
                prev_kv: has("prev"),
                ..delete_request(key, word(2))
            })),
            "txn" => {
                let part = |position: usize| {
                    words
                        .get(position)
                        .and_then(|part| part.strip_prefix('{')?.strip_suffix('}'))
                        .unwrap_or("")
                };
                Some(Request::RequestTxn(txn(part(1), part(2), part(3))?))
            }
            other => return Err(format!("unknown operation {other}").into()),
        };
        Ok(pb::RequestOp { request })
    }
}
