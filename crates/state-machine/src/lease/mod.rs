//! Leases: keys that vanish together when nobody asks for them to stay.
//!
//! Which leases exist, and which keys hang on them, is replicated: every member computes it from the log. When a lease
//! is over is not. Only the *primary*, the lessor of the leader, runs clocks; what it finds expired it proposes to
//! revoke, and the revoke is an entry like any other. So replay gives the same leases on every member, on every day.
//!
//! A new leader knows no clock of the old one and starts each lease again, with its full time, or with the remainder
//! that the old leader had noted in a *checkpoint*. A lease may so live longer than granted, never shorter.
//!
//! The lessor has no clock of its own: `now` is any monotonic time of this member, passed by the caller.

mod expiry;
mod lessor;

pub use lessor::{
    Config, GrantError, KeepAliveError, Lease, Lessor, MAX_TTL_SECS, NotFound, Renewed, TimeToLive,
};
