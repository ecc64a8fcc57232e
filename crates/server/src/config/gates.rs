//! Feature gates: switches for functions that are young, named as etcd names them.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    AllAlpha,
    AllBeta,
    CompactHashCheck,
    FastLeaseKeepAlive,
    InitialCorruptCheck,
    LeaseCheckpoint,
    LeaseCheckpointPersist,
    PriorityRequest,
    SetMemberLocalAddr,
    StopGrpcServiceOnDefrag,
    TxnModeWriteWithSharedBuffer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Alpha,
    Beta,
}

/// A row of [`GATES`].
#[derive(Debug)]
pub struct Row {
    pub gate: Gate,
    pub name: &'static str,
    pub default: bool,
    pub stage: Stage,
}

#[rustfmt::skip]
/// In the order of [`Gate`]'s variants.
pub static GATES: &[Row] = &[
    row(Gate::AllAlpha, "AllAlpha", false, Stage::Alpha),
    row(Gate::AllBeta, "AllBeta", false, Stage::Beta),
    row(Gate::CompactHashCheck, "CompactHashCheck", false, Stage::Alpha),
    row(Gate::FastLeaseKeepAlive, "FastLeaseKeepAlive", true, Stage::Beta),
    row(Gate::InitialCorruptCheck, "InitialCorruptCheck", false, Stage::Alpha),
    row(Gate::LeaseCheckpoint, "LeaseCheckpoint", false, Stage::Alpha),
    row(Gate::LeaseCheckpointPersist, "LeaseCheckpointPersist", false, Stage::Alpha),
    row(Gate::PriorityRequest, "PriorityRequest", false, Stage::Alpha),
    row(Gate::SetMemberLocalAddr, "SetMemberLocalAddr", false, Stage::Alpha),
    row(Gate::StopGrpcServiceOnDefrag, "StopGRPCServiceOnDefrag", false, Stage::Alpha),
    row(Gate::TxnModeWriteWithSharedBuffer, "TxnModeWriteWithSharedBuffer", true, Stage::Beta),
];

const fn row(gate: Gate, name: &'static str, default: bool, stage: Stage) -> Row {
    Row { gate, name, default, stage }
}

impl Gate {
    pub fn find(name: &str) -> Option<Self> {
        GATES.iter().find(|row| row.name == name).map(|row| row.gate)
    }
}

impl Stage {
    /// As the metric `etcd_server_feature_enabled` prints it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Alpha => "ALPHA",
            Self::Beta => "BETA",
        }
    }
}

/// What is wrong with a list of gates. Texts are etcd's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("missing bool value for {0}")]
    MissingValue(String),
    #[error("invalid value of {0}={1}, err: not a bool")]
    Value(String, String),
    #[error("unrecognized feature gate: {0}")]
    Unknown(String),
    #[error(
        "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint"
    )]
    NeedsLeaseCheckpoint,
}

/// Which gates are on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureGates {
    enabled: [bool; GATES.len()],
}

impl Default for FeatureGates {
    fn default() -> Self {
        Self { enabled: std::array::from_fn(|index| GATES[index].default) }
    }
}

impl FeatureGates {
    /// Reads `Name=bool,...`. `AllAlpha` and `AllBeta` set the gates of a stage that the list does not name.
    ///
    /// # Errors
    /// Also when a gate is on whose function this server does not have.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let gates = Self::read(text)?;
        gates.check()?;
        Ok(gates)
    }

    /// Reads a list, whatever of it can be had.
    ///
    /// # Errors
    /// Not a list of pairs; an unknown name.
    pub(super) fn read(text: &str) -> Result<Self, Error> {
        let pairs = text
            .split(',')
            .map(str::trim)
            .filter(|pair| !pair.is_empty())
            .map(parse_pair)
            .collect::<Result<Vec<_>, _>>()?;
        let mut gates = Self::default();
        for (all, stage) in [("AllAlpha", Stage::Alpha), ("AllBeta", Stage::Beta)] {
            if let Some((_, on)) = pairs.iter().rev().find(|(name, _)| *name == all) {
                gates.set_stage(stage, *on);
            }
        }
        for (name, on) in pairs {
            let gate = Gate::find(name).ok_or_else(|| Error::Unknown(name.to_owned()))?;
            gates.enabled[gate as usize] = on;
        }
        Ok(gates)
    }

    fn set_stage(&mut self, stage: Stage, on: bool) {
        for (row, enabled) in GATES.iter().zip(&mut self.enabled) {
            if row.stage == stage {
                *enabled = on;
            }
        }
    }

    fn check(&self) -> Result<(), Error> {
        if self.is_enabled(Gate::LeaseCheckpointPersist) && !self.is_enabled(Gate::LeaseCheckpoint)
        {
            return Err(Error::NeedsLeaseCheckpoint);
        }
        Ok(())
    }

    pub fn is_enabled(&self, gate: Gate) -> bool {
        self.enabled[gate as usize]
    }

    pub fn iter(&self) -> impl Iterator<Item = (&'static Row, bool)> {
        GATES.iter().zip(self.enabled)
    }
}

fn parse_pair(pair: &str) -> Result<(&str, bool), Error> {
    let (name, value) = pair.split_once('=').ok_or_else(|| Error::MissingValue(pair.to_owned()))?;
    let (name, value) = (name.trim(), value.trim());
    match super::value::Kind::Bool.parse(value) {
        Ok(super::value::Value::Bool(on)) => Ok((name, on)),
        _ => Err(Error::Value(name.to_owned(), value.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_stands_in_the_order_of_the_variants() {
        for (index, row) in GATES.iter().enumerate() {
            assert_eq!(row.gate as usize, index, "{}", row.name);
        }
    }

    #[test]
    fn beta_is_on_and_alpha_off_by_default() {
        let gates = FeatureGates::parse("").unwrap();
        assert_eq!(gates, FeatureGates::default());
        for (row, on) in gates.iter() {
            let is_group = matches!(row.gate, Gate::AllAlpha | Gate::AllBeta);
            assert_eq!(on, row.stage == Stage::Beta && !is_group, "{}", row.name);
        }
    }

    #[test]
    fn a_named_gate_wins_over_its_stage() {
        let gates = FeatureGates::parse("FastLeaseKeepAlive=true, AllBeta=false").unwrap();
        assert!(gates.is_enabled(Gate::FastLeaseKeepAlive));
        assert!(!gates.is_enabled(Gate::TxnModeWriteWithSharedBuffer));
    }

    #[test]
    fn what_cannot_be_read_or_honoured() {
        let error = |text| FeatureGates::parse(text).unwrap_err().to_string();
        assert_eq!(error("Nope=true"), "unrecognized feature gate: Nope");
        assert_eq!(error("AllBeta"), "missing bool value for AllBeta");
        assert!(error("AllBeta=maybe").starts_with("invalid value of AllBeta=maybe"));
        assert!(FeatureGates::parse("AllAlpha=true").is_ok());
        assert_eq!(error("LeaseCheckpointPersist=true"), Error::NeedsLeaseCheckpoint.to_string());
    }
}
