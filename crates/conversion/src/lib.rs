//! Databases and data dirs between etcd's form and ours.
//!
//! Log and `.snap` files are the same in both; the database is bbolt there and LMDB here, with the same buckets and the
//! same bytes in them. So everything is a plain loop over buckets, in memory that does not grow with the database:
//!
//! | from | to | by |
//! |---|---|---|
//! | etcd's data dir | ours, in place | [`adopt()`] |
//! | our data dir | a new one for etcd | [`export()`] |
//! | a snapshot file | a new data dir of ours | [`restore()`] |
//! | a snapshot from a member | a database of ours | [`load()`] |
//! | a database of ours | a snapshot for a member or a client | [`write()`] |
//! | a database file of either kind | what can be asked of it | [`open_stored`] |

mod adopt;
mod buckets;
mod check;
mod error;
mod export;
mod membership;
mod restore;
mod stored;
mod stored_file;
#[cfg(test)]
mod tests;
mod version;

pub use adopt::adopt;
pub use buckets::{load, write};
pub use check::Found;
pub use error::Error;
pub use export::export;
pub use membership::Membership;
pub use restore::{NewCluster, restore};
pub use stored::{applied_index, durable_state, storage_version};
pub use stored_file::{BboltFile, open_stored};
pub use version::Version;
