//! Leases: keys that vanish together when nobody asks for them to stay.

mod lessor;

pub use lessor::{
    Config, GrantError, KeepAliveError, Lease, Lessor, MAX_TTL_SECS, NotFound, Renewed, TimeToLive,
};
