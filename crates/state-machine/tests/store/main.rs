//! The state machine from outside: scripts that say what requests answer, and random histories against a naive model.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_wrap,
    reason = "where a test is wrong it may fail"
)]

mod auth;
mod concurrent;
mod histories;
mod member;
mod model;
mod permissions;
mod scripts;
