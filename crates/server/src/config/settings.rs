//! The values that were given, under today's names, wherever they came from.

use std::collections::BTreeMap;
use std::time::Duration;

use retcd_net::UrlList;

use super::error::Error;
use super::flags::{DEPRECATED, Flag, Known, Meaning};
use super::notice::Notice;
use super::value::{Kind, Value};

/// Given values and remarks about them. Reading one that was not given yields the default of the table.
#[derive(Debug, Default)]
pub(super) struct Settings {
    given: BTreeMap<&'static str, Value>,
    pub(super) notices: Vec<Notice>,
}

/// Why a value was not taken: its text, or what it asks for.
pub(super) enum Refusal {
    Text(String),
    Gone(Error),
}

impl Settings {
    /// Takes a value for a name of the table, of an older release, or one that is ignored.
    pub(super) fn set(&mut self, known: Known, text: &str) -> Result<(), Refusal> {
        match known {
            Known::Flag(flag) => self.set_flag(flag, text),
            Known::Old(old, meaning) => self.set_old(known, old, meaning, text),
            Known::Ignored(name) => {
                self.notices.push(Notice::Ignored(name));
                Ok(())
            }
        }
    }

    fn set_flag(&mut self, flag: &'static Flag, text: &str) -> Result<(), Refusal> {
        let joined = match self.given.get(flag.name) {
            Some(Value::Text(before)) if flag.kind == Kind::Gates => format!("{before},{text}"),
            _ => text.to_owned(),
        };
        let value = flag.kind.parse(&joined).map_err(Refusal::Text)?;
        if self.given.insert(flag.name, value).is_none()
            && let Some((_, warning)) = DEPRECATED.iter().find(|(name, _)| *name == flag.name)
        {
            self.notices.push(Notice::Deprecated(warning));
        }
        Ok(())
    }

    fn set_old(
        &mut self,
        known: Known,
        old: &'static str,
        meaning: Meaning,
        text: &str,
    ) -> Result<(), Refusal> {
        let value = known.kind().parse(text).map_err(Refusal::Text)?;
        let is_true = value == Value::Bool(true);
        let (flag, text) = match meaning {
            Meaning::Renamed(name) => (Flag::named(name), text.to_owned()),
            Meaning::Gate(gate) => (Flag::named("feature-gates"), format!("{gate}={is_true}")),
            Meaning::DebugLevel if is_true => (Flag::named("log-level"), "debug".to_owned()),
            Meaning::DebugLevel | Meaning::Nothing => {
                self.notices.push(Notice::Ignored(old));
                return Ok(());
            }
            Meaning::Only(accepted, reason) => {
                let accepted = known.kind().parse(accepted).expect("a test reads it");
                if value != accepted {
                    let value = text.to_owned();
                    return Err(Refusal::Gone(Error::Gone { flag: old, value, reason }));
                }
                self.notices.push(Notice::Ignored(old));
                return Ok(());
            }
        };
        self.set_flag(flag, &text)?;
        let new = match meaning {
            Meaning::Renamed(_) => format!("--{}", flag.name),
            _ => format!("--{}={text}", flag.name),
        };
        self.notices.push(Notice::OldName { old, new });
        Ok(())
    }

    pub(super) fn is_given(&self, name: &str) -> bool {
        self.given.contains_key(Flag::named(name).name)
    }

    /// Whether a given value differs from what the server does without it. An empty text or list asks for nothing.
    pub(super) fn asks_for(&self, flag: &Flag) -> bool {
        match self.given.get(flag.name) {
            None => false,
            Some(Value::Text(text)) if text.is_empty() => false,
            Some(Value::List(list)) if list.is_empty() => false,
            Some(value) => *value != flag.default_value(),
        }
    }

    fn value(&self, name: &str) -> Value {
        let flag = Flag::named(name);
        self.given.get(flag.name).cloned().unwrap_or_else(|| flag.default_value())
    }

    pub(super) fn bool(&self, name: &str) -> bool {
        let Value::Bool(value) = self.value(name) else { panic!("--{name} is no bool") };
        value
    }

    pub(super) fn int(&self, name: &str) -> i64 {
        let Value::Int(value) = self.value(name) else { panic!("--{name} is no integer") };
        value
    }

    pub(super) fn uint(&self, name: &str) -> u64 {
        let Value::Uint(value) = self.value(name) else { panic!("--{name} is not unsigned") };
        value
    }

    pub(super) fn duration(&self, name: &str) -> Duration {
        let Value::Duration(value) = self.value(name) else { panic!("--{name} is no duration") };
        value
    }

    pub(super) fn text(&self, name: &str) -> String {
        let Value::Text(value) = self.value(name) else { panic!("--{name} is no text") };
        value
    }

    pub(super) fn list(&self, name: &str) -> Vec<String> {
        let Value::List(value) = self.value(name) else { panic!("--{name} is no list") };
        value
    }

    pub(super) fn urls(&self, name: &str) -> UrlList {
        let Value::Urls(value) = self.value(name) else { panic!("--{name} is no URL list") };
        value
    }
}
