//! Members that make a mistake are found out.

use std::panic::catch_unwind;

use retcd_sim::{Plan, Sabotage, simulate};

/// Some mistakes need a coincidence to matter.
const SEEDS: u64 = 2000;

/// Where to begin: a seed that found it once. Another one does as well, when this one has become another history.
fn first_seed(sabotage: Sabotage) -> u64 {
    match sabotage {
        Sabotage::ForgetVotes => 480,
        Sabotage::RenewWithoutIndex => 65,
        Sabotage::AcknowledgeBeforeSync
        | Sabotage::SkipApply
        | Sabotage::ReadWithoutIndex
        | Sabotage::ResumeTooLate
        | Sabotage::ResumeTooEarly
        | Sabotage::ExpireEarly => 0,
    }
}

#[test]
fn every_sabotage_is_found() {
    for sabotage in Sabotage::ALL {
        let is_found = |seed: &u64| {
            // The shipped code itself may find that something is impossible.
            let run = catch_unwind(|| simulate(Plan::of(*seed), Some(sabotage), false));
            match run {
                Ok(run) => {
                    if let Some(violation) = run.violations.first() {
                        println!("{sabotage:?}: seed {seed}: {violation}");
                    }
                    !run.violations.is_empty()
                }
                Err(_) => true,
            }
        };
        let first = first_seed(sabotage);
        let found = (first..first + SEEDS).find(is_found);
        assert!(found.is_some(), "{sabotage:?} is not found");
    }
}
