//! The library's log lines, passed on to `tracing`.
//!
//! The library reports every message and vote at its `info`; for operators that is `debug`. Changes of role and leader
//! are reported by the node itself at `info`.

use std::fmt::{self, Write as _};

use slog::{Drain, KV as _, Level, Logger, OwnedKVList, Record};

pub(crate) fn logger() -> Logger {
    Logger::root(ToTracing, slog::o!())
}

struct ToTracing;

impl Drain for ToTracing {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &Record<'_>, context: &OwnedKVList) -> Result<(), slog::Never> {
        match record.level() {
            Level::Critical | Level::Error => {
                tracing::error!(target: "raft", fields = %Fields { record, context }, "{}", record.msg());
            }
            Level::Warning => {
                tracing::warn!(target: "raft", fields = %Fields { record, context }, "{}", record.msg());
            }
            Level::Info => {
                tracing::debug!(target: "raft", fields = %Fields { record, context }, "{}", record.msg());
            }
            Level::Debug => {
                tracing::trace!(target: "raft", fields = %Fields { record, context }, "{}", record.msg());
            }
            // Whole entries with their payloads: nothing that belongs into a log.
            Level::Trace => {}
        }
        Ok(())
    }
}

/// The key-value pairs of a record, formatted only when somebody listens.
struct Fields<'a> {
    record: &'a Record<'a>,
    context: &'a OwnedKVList,
}

impl fmt::Display for Fields<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = FieldList { text: String::new() };
        let written = self
            .record
            .kv()
            .serialize(self.record, &mut list)
            .and_then(|()| self.context.serialize(self.record, &mut list));
        written.map_err(|_| fmt::Error)?;
        formatter.write_str(&list.text)
    }
}

struct FieldList {
    text: String,
}

impl slog::Serializer for FieldList {
    fn emit_arguments(&mut self, key: slog::Key, value: &fmt::Arguments<'_>) -> slog::Result {
        let separator = if self.text.is_empty() { "" } else { " " };
        write!(self.text, "{separator}{key}={value}")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_written_as_pairs() {
        let location = slog::record_static!(Level::Info, "");
        let arguments = format_args!("became {}", "leader");
        let pairs = slog::b!("term" => 3, "to" => 2);
        let record = Record::new(&location, &arguments, pairs);
        let context = OwnedKVList::from(slog::o!("raft_id" => 1));
        let text = Fields { record: &record, context: &context }.to_string();
        let mut parts: Vec<_> = text.split(' ').collect();
        parts.sort_unstable();
        assert_eq!(parts, ["raft_id=1", "term=3", "to=2"]);
    }
}
