//! `ETCD_*` variables: every flag has one, and a flag on the command line must not have both.

use std::collections::{BTreeMap, BTreeSet};

use super::error::Error;
use super::flags::Known;
use super::notice::Notice;
use super::settings::{Refusal, Settings};

/// Adds what the variables say. `shadowing` holds the variables of the flags on the command line.
pub(super) fn read(
    variables: &BTreeMap<String, String>,
    shadowing: &BTreeSet<String>,
    settings: &mut Settings,
) -> Result<(), Error> {
    let known: BTreeMap<String, Known> =
        Known::all().map(|known| (known.variable(), known)).collect();
    for (name, value) in variables.iter().filter(|(name, _)| name.starts_with("ETCD_")) {
        if shadowing.contains(name) {
            return Err(Error::ShadowedVariable(name.clone()));
        }
        // An empty variable is an unset one.
        if value.is_empty() {
            continue;
        }
        if name == "ETCD_VERSION" {
            settings.notices.push(Notice::VersionVariable(value.clone()));
            continue;
        }
        let Some(known) = known.get(name) else {
            settings.notices.push(Notice::VariableUnknown(name.clone()));
            continue;
        };
        settings.set(*known, value).map_err(|refusal| match refusal {
            Refusal::Text(reason) => {
                Error::VariableValue { variable: name.clone(), value: value.clone(), reason }
            }
            Refusal::Gone(error) => error,
        })?;
        settings
            .notices
            .push(Notice::VariableUsed { name: name.clone(), value: shown(*known, value) });
    }
    Ok(())
}

/// The value for the log; a password stays out of it.
fn shown(known: Known, value: &str) -> String {
    if matches!(known.name(), "discovery-password" | "discovery-user") {
        "(hidden)".to_owned()
    } else {
        value.to_owned()
    }
}
