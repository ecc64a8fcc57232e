//! Clusters in one thread: golden scripts, step by step, and simulations from a seed.

#![allow(clippy::unwrap_used, reason = "what is unwrapped here is what the tests claim")]

mod member;
mod random;
mod scripts;
mod simulation;
