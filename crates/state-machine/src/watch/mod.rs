//! Watch: clients hear of every change of the keys they name, in order, without gap or doubling.

mod history;
mod hub;

pub use history::{History, HistoryError};
pub use hub::{Config, Counters, Hub, StreamId};
