//! What a request needs: the permission check.
//!
//! The order of the refusals is etcd's. Who has the role root may do everything, and an administrator's auth revision
//! is not looked at where only administrators are asked for.

use retcd_api::etcdserverpb as pb;
use retcd_api::etcdserverpb::request_op::Request;

use super::permission::Access;
use super::{Auth, ROOT, User};
use crate::lease::Lessor;
use crate::mvcc::KeyRange;
use crate::rejection::Rejection;

/// Who asks, as of which auth revision. The server finds it out of a token or a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub user: String,
    pub revision: u64,
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub enum Action<'a> {
    /// Reading or watching keys.
    Read {
        key: &'a [u8],
        range_end: &'a [u8],
    },
    Put(&'a pb::PutRequest),
    DeleteRange(&'a pb::DeleteRangeRequest),
    /// All compares and both branches, whichever is taken.
    Txn(&'a pb::TxnRequest),
    /// Renewing or ending a lease: its keys live or die by it.
    ChangeLease(i64),
    /// Reading the keys of a lease.
    ReadLease(i64),
    /// Reading which leases there are.
    ReadAllLeases,
    ReadUser(&'a str),
    ReadRole(&'a str),
    /// What only an administrator may do.
    Administer,
}

/// Who asks: nobody has no name and revision 0, as in the header of an entry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller<'a> {
    pub(crate) user: &'a str,
    pub(crate) revision: u64,
}

impl<'a> From<Option<&'a Identity>> for Caller<'a> {
    fn from(identity: Option<&'a Identity>) -> Self {
        identity.map_or(Caller { user: "", revision: 0 }, |identity| Caller {
            user: &identity.user,
            revision: identity.revision,
        })
    }
}

impl<'a> From<Option<&'a pb::RequestHeader>> for Caller<'a> {
    fn from(header: Option<&'a pb::RequestHeader>) -> Self {
        header.map_or(Caller { user: "", revision: 0 }, |header| Caller {
            user: &header.username,
            revision: header.auth_revision,
        })
    }
}

impl Auth {
    /// Whether `caller` may do that. Everybody may while authentication is off.
    pub(crate) fn check(
        &self,
        caller: Caller<'_>,
        action: Action<'_>,
        lessor: &Lessor,
    ) -> Result<(), Rejection> {
        if !self.is_enabled() {
            return Ok(());
        }
        let check = Check { auth: self, caller, lessor };
        match action {
            Action::Read { key, range_end } => {
                check.keys(Access::Read, KeyRange::new(key, range_end))
            }
            Action::Put(put) => check.put(put),
            Action::DeleteRange(delete) => check.delete_range(delete),
            Action::Txn(txn) => check.txn(txn),
            Action::ChangeLease(id) => check.lease(Access::Write, id),
            Action::ReadLease(id) => check.lease(Access::Read, id),
            Action::ReadAllLeases => check.all_leases(),
            Action::ReadUser(name) if name == caller.user => Ok(()),
            Action::ReadRole(role) if check.holds(role) => Ok(()),
            Action::ReadUser(_) | Action::ReadRole(_) | Action::Administer => check.admin(),
        }
    }

    /// As whom the member itself acts: an administrator, as long as authentication is on.
    pub(crate) fn own_identity(&self) -> Option<Identity> {
        self.is_enabled().then(|| Identity { user: ROOT.to_owned(), revision: self.revision })
    }
}

#[derive(Clone, Copy)]
struct Check<'a> {
    auth: &'a Auth,
    caller: Caller<'a>,
    lessor: &'a Lessor,
}

impl Check<'_> {
    /// The caller, for what is about keys. A user who does not exist is no more than one who may do nothing.
    fn user(&self) -> Result<&User, Rejection> {
        let (given, current) = (self.caller.revision, self.auth.revision);
        if given == 0 {
            return Err(Rejection::UserNameEmpty);
        }
        if given < current {
            return Err(Rejection::OldAuthRevision { given, current });
        }
        self.auth.users.get(self.caller.user).ok_or(Rejection::PermissionDenied)
    }

    fn keys(&self, access: Access, range: KeyRange<'_>) -> Result<(), Rejection> {
        let user = self.user()?;
        if user.is_admin() || user.permissions.cover(access, range) {
            return Ok(());
        }
        Err(Rejection::PermissionDenied)
    }

    fn put(&self, put: &pb::PutRequest) -> Result<(), Rejection> {
        let key = KeyRange::new(&put.key, b"");
        self.keys(Access::Write, key)?;
        // Who could not end the lease must not hang another key on it.
        self.lease(Access::Write, put.lease)?;
        if put.prev_kv { self.keys(Access::Read, key) } else { Ok(()) }
    }

    fn delete_range(&self, delete: &pb::DeleteRangeRequest) -> Result<(), Rejection> {
        let range = KeyRange::new(&delete.key, &delete.range_end);
        self.keys(Access::Write, range)?;
        if delete.prev_kv { self.keys(Access::Read, range) } else { Ok(()) }
    }

    fn txn(&self, txn: &pb::TxnRequest) -> Result<(), Rejection> {
        for compare in &txn.compare {
            self.keys(Access::Read, KeyRange::new(&compare.key, &compare.range_end))?;
        }
        for op in txn.success.iter().chain(&txn.failure) {
            match &op.request {
                Some(Request::RequestRange(range)) => {
                    self.keys(Access::Read, KeyRange::new(&range.key, &range.range_end))?;
                }
                Some(Request::RequestPut(put)) => self.put(put)?,
                Some(Request::RequestDeleteRange(delete)) => self.delete_range(delete)?,
                Some(Request::RequestTxn(nested)) => self.txn(nested)?,
                None => {}
            }
        }
        Ok(())
    }

    /// The keys of a lease. One without keys, or that does not exist, has none to protect.
    fn lease(&self, access: Access, id: i64) -> Result<(), Rejection> {
        let Some(mut keys) = self.lessor.keys(id) else { return Ok(()) };
        if self.admin().is_ok() {
            return Ok(());
        }
        keys.try_for_each(|key| self.keys(access, KeyRange::new(key, b"")))
    }

    fn all_leases(&self) -> Result<(), Rejection> {
        if self.admin().is_ok() {
            return Ok(());
        }
        self.lessor.leases().into_iter().try_for_each(|id| self.lease(Access::Read, id))
    }

    fn holds(&self, role: &str) -> bool {
        self.auth.users.get(self.caller.user).is_some_and(|user| user.has_role(role))
    }

    fn admin(&self) -> Result<(), Rejection> {
        if self.caller.user.is_empty() {
            return Err(Rejection::UserNameEmpty);
        }
        if self.auth.user(self.caller.user)?.is_admin() {
            return Ok(());
        }
        Err(Rejection::PermissionDenied)
    }
}
