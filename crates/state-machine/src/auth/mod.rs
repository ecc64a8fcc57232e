//! Users, their roles, and what these permit.
//!
//! ```text
//!   token, certificate ──(server)──► Identity: user, auth revision ──► header of the log entry
//!                                                                            │
//!   Auth: users ─► roles ─► permissions ──(merged per user)──► Action permitted? ◄┘  apply, reads, watches
//! ```
//!
//! Everything here is replicated: it changes by log entries, stands in the buckets `auth`, `authUsers` and `authRoles`,
//! and is the same on all members. Secrets are made before the proposal: a password comes as its hash, a token as its
//! letters. Only `Tokens` are this member's own, since each member counts their time for itself.
//!
//! The *auth revision* counts the changes. An identity carries the one that it was found at; a request with an older one
//! than the store's is refused, as what the user was allowed may have been taken away since. The client then logs in
//! again.
//!
//! What a user may do with keys is merged when it changes, for the users that it changes for; asking is a binary search.
//!
//! | module | question |
//! |---|---|
//! | `user`, `role` | how they are managed |
//! | `permission` | which keys are covered |
//! | `action` | what a request needs |
//! | `requests` | what an entry of the log does here |
//! | `token` | who was given which token |

mod action;
mod permission;
mod requests;
mod role;
mod token;
mod user;

use std::collections::BTreeMap;

use retcd_api::authpb;

pub(crate) use self::action::Caller;
pub use self::action::{Action, Identity};
pub(crate) use self::requests::needs;
pub(crate) use self::token::Tokens;
use crate::auth::permission::Permissions;
use crate::backend::{Change, Failure};
use crate::rejection::Rejection;
use crate::schema::{Bucket, auth as keys};

/// The user without whom authentication cannot be switched on, and the role that may do everything.
pub const ROOT: &str = "root";

/// The replicated part.
#[derive(Debug, Default)]
pub(crate) struct Auth {
    is_enabled: bool,
    /// 1 in a fresh cluster.
    revision: u64,
    /// The revision is in the backend, or on its way to it.
    is_revision_stored: bool,
    users: BTreeMap<String, User>,
    roles: BTreeMap<String, authpb::Role>,
}

#[derive(Debug)]
struct User {
    /// Roles ascend.
    stored: authpb::User,
    permissions: Permissions,
}

impl User {
    fn has_role(&self, role: &str) -> bool {
        self.stored.roles.binary_search_by(|held| held.as_str().cmp(role)).is_ok()
    }

    /// Whether the user may do everything.
    fn is_admin(&self) -> bool {
        self.has_role(ROOT)
    }
}

/// What a change stores, or why it is refused. Nothing was changed then.
type Changes = Result<Vec<Change>, Rejection>;

impl Auth {
    pub(crate) fn is_enabled(&self) -> bool {
        self.is_enabled
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// Takes over what is stored. Call [`restored`](Self::restored) at the end.
    pub(crate) fn restore(
        &mut self,
        bucket: Bucket,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), Failure> {
        use prost::Message;

        let name = || {
            String::from_utf8(key.to_vec())
                .map_err(|error| Failure::because("the name of a stored user or role", error))
        };
        match bucket {
            Bucket::Auth if key == keys::ENABLED => self.is_enabled = value == [1],
            Bucket::Auth if key == keys::REVISION => {
                let bytes = value
                    .try_into()
                    .map_err(|_| Failure::new("the stored auth revision has not 8 bytes"))?;
                self.revision = u64::from_be_bytes(bytes);
                self.is_revision_stored = true;
            }
            Bucket::AuthUsers => {
                let stored = authpb::User::decode(value)
                    .map_err(|error| Failure::because("a stored user", error))?;
                self.users.insert(name()?, User { stored, permissions: Permissions::default() });
            }
            Bucket::AuthRoles => {
                let role = authpb::Role::decode(value)
                    .map_err(|error| Failure::because("a stored role", error))?;
                self.roles.insert(name()?, role);
            }
            _ => {}
        }
        Ok(())
    }

    /// Everything is there.
    pub(crate) fn restored(&mut self) {
        if self.revision == 0 {
            self.revision = 1;
            self.is_revision_stored = false;
        }
        self.merge_permissions(|_| true);
    }

    /// The revision of a fresh cluster, once: it is stored with the first entry.
    pub(crate) fn take_first_revision(&mut self) -> Option<Change> {
        let is_stored = std::mem::replace(&mut self.is_revision_stored, true);
        (!is_stored).then(|| self.revision_change())
    }

    /// Asks who may do what from now on.
    fn enable(&mut self) -> Changes {
        if self.is_enabled {
            return Ok(Vec::new());
        }
        let root = self.users.get(ROOT).ok_or(Rejection::RootUserNotFound)?;
        if !root.is_admin() {
            return Err(Rejection::RootRoleNotGranted);
        }
        self.is_enabled = true;
        Ok(vec![change(Bucket::Auth, keys::ENABLED, Some(vec![1]))])
    }

    /// Lets everybody do everything.
    fn disable(&mut self) -> Vec<Change> {
        if !self.is_enabled {
            return Vec::new();
        }
        self.is_enabled = false;
        self.changed([change(Bucket::Auth, keys::ENABLED, Some(vec![0]))])
    }

    /// Counts a change of who may do what.
    fn changed(&mut self, changes: impl IntoIterator<Item = Change>) -> Vec<Change> {
        self.revision += 1;
        changes.into_iter().chain([self.revision_change()]).collect()
    }

    fn revision_change(&self) -> Change {
        change(Bucket::Auth, keys::REVISION, Some(self.revision.to_be_bytes().to_vec()))
    }

    /// Merges the permissions of some users anew.
    fn merge_permissions(&mut self, is_affected: impl Fn(&User) -> bool) {
        let Auth { users, roles, .. } = self;
        for user in users.values_mut().filter(|user| is_affected(user)) {
            // A role that does not exist permits nothing; the role root needs no permissions.
            let roles = user.stored.roles.iter().filter_map(|role| roles.get(role));
            user.permissions = Permissions::merge(roles.flat_map(|role| &role.key_permission));
        }
    }
}

fn change(bucket: Bucket, key: &[u8], value: Option<Vec<u8>>) -> Change {
    Change { bucket, key: key.to_vec(), value }
}
