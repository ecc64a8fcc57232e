//! Versions of etcd, as far as files are concerned.

use std::fmt;
use std::str::FromStr;

/// Major and minor number: what decides about formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
}

impl Version {
    pub const V3_5: Self = Version { major: 3, minor: 5 };
    /// From here on files name their version.
    pub const V3_6: Self = Version { major: 3, minor: 6 };
    /// The newest that this program knows.
    pub const NEWEST: Self = Version { major: 3, minor: 7 };

    /// As it stands in files: `3.7.0`.
    pub fn stored(self) -> String {
        format!("{self}.0")
    }
}

/// `3.7` and `3.7.0` are the same.
impl FromStr for Version {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut numbers = text.split('.').map(str::parse::<u32>);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Ok(Version { major, minor }),
            _ => Err(()),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}
