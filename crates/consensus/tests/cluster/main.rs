//! Clusters in one thread: golden scripts, step by step, and simulations from a seed.

mod member;
mod random;
mod scripts;
mod simulation;
