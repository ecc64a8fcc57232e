//! Results in every output format.

use retcd_command_line::go::json;
use retcd_command_line::table::draw;
use retcd_command_line::units::size;
use retcd_command_line::{Exit, Failure, Invocation, write_out};

/// The value of `--write-out`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Format {
    Fields,
    Json,
    Protobuf,
    Simple,
    Table,
}

impl Format {
    pub(crate) fn of(invocation: &Invocation) -> Result<Self, Failure> {
        match invocation.flags.text("write-out") {
            "fields" => Ok(Format::Fields),
            "json" => Ok(Format::Json),
            "protobuf" => Ok(Format::Protobuf),
            "simple" => Ok(Format::Simple),
            "table" => Ok(Format::Table),
            _ => Err(Failure::new(Exit::BadFeature, "unsupported output format")),
        }
    }

    /// Writes one result, which is a row of columns.
    pub(crate) fn print<const N: usize>(self, columns: &[Column; N]) -> Result<(), Failure> {
        let cells = || columns.each_ref().map(Column::cell);
        let text = match self {
            Format::Protobuf => {
                let message = "protobuf not supported as output format";
                return Err(Failure::new(Exit::BadFeature, message));
            }
            Format::Simple => cells().join(", ") + "\n",
            Format::Table => draw(&columns.each_ref().map(|column| column.title), &[cells()]),
            Format::Fields => {
                let line = |column: &Column| format!("{:?} : {}\n", column.field, column.plain());
                columns.iter().map(line).collect()
            }
            Format::Json => {
                let object = json::object(|object| {
                    for column in columns {
                        match &column.value {
                            Value::Text(text) => object.string(column.key, text),
                            _ => object.json(column.key, column.plain()),
                        }
                    }
                });
                object + "\n"
            }
        };
        write_out(text.as_bytes())
    }
}

/// A part of a result, with its names: in the head of a table, as a field, in JSON.
pub(crate) struct Column {
    pub(crate) title: &'static str,
    pub(crate) field: &'static str,
    pub(crate) key: &'static str,
    pub(crate) value: Value,
}

pub(crate) enum Value {
    Number(i64),
    /// Hexadecimal for people.
    Hash(u32),
    /// In units for people.
    Bytes(i64),
    Text(String),
}

impl Column {
    /// For people.
    fn cell(&self) -> String {
        match &self.value {
            Value::Hash(hash) => format!("{hash:x}"),
            Value::Bytes(bytes) => size(*bytes),
            Value::Number(_) | Value::Text(_) => self.plain(),
        }
    }

    fn plain(&self) -> String {
        match &self.value {
            Value::Number(number) | Value::Bytes(number) => number.to_string(),
            Value::Hash(hash) => hash.to_string(),
            Value::Text(text) => text.clone(),
        }
    }
}
