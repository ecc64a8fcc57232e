//! Runs the scripts of `tests/scripts/lease`. All times are seconds of the lessor's clock.

use std::error::Error;
use std::fmt::Write as _;
use std::time::Duration;

use retcd_api::leasepb;
use retcd_state_machine::lease::{Config, Lessor};

/// What a script may say. A new lessor is not primary.
#[derive(goldenscript::Command)]
enum Command {
    Grant {
        id: i64,
        ttl: i64,
    },
    /// Grants leases of these many consecutive ids.
    GrantMany {
        first: i64,
        count: i64,
        ttl: i64,
    },
    Revoke(i64),
    Attach {
        id: i64,
        keys: Vec<String>,
    },
    Detach {
        id: i64,
        keys: Vec<String>,
    },
    KeepAlive(i64),
    TimeToLive(i64),
    List,
    Promote {
        #[arg(key, optional)]
        extend: u64,
    },
    Demote,
    /// Moves the clock on, by seconds.
    Wait(f64),
    /// Takes what has expired.
    Expired {
        limit: Option<usize>,
    },
    /// Takes the checkpoints that are due.
    Due {
        limit: Option<usize>,
    },
    /// Applies a checkpoint.
    Checkpoint {
        id: i64,
        remaining: i64,
    },
    /// Starts again from what is stored of all leases, with another minimum.
    Restart {
        #[arg(key)]
        min: Option<i64>,
    },
}

struct Runner {
    lessor: Lessor,
    now: Duration,
}

fn config(min_ttl_secs: i64) -> Config {
    Config {
        min_ttl_secs,
        checkpoint_interval: Duration::from_secs(300),
        revoke_retry: Duration::from_secs(7),
    }
}

impl Runner {
    fn new() -> Self {
        Runner { lessor: Lessor::new(config(2)), now: Duration::ZERO }
    }

    fn restart(&mut self, min: i64) {
        let ids = self.lessor.leases();
        let stored: Vec<leasepb::Lease> =
            ids.into_iter().filter_map(|id| self.lessor.to_stored(id)).collect();
        self.lessor = Lessor::new(config(min));
        self.lessor.restore(stored);
    }

    fn time_to_live(&self, id: i64) -> String {
        let Some(lease) = self.lessor.time_to_live(id, self.now) else {
            return format!("{id}: no such lease\n");
        };
        let remaining = lease
            .remaining_secs
            .map_or_else(|| "unknown to this member".into(), |secs| format!("{secs}s remaining"));
        let keys = self.lessor.keys(id).into_iter().flatten();
        let keys: Vec<String> = keys.map(|key| key.escape_ascii().to_string()).collect();
        format!("{id}: granted {}s, {remaining}, keys {keys:?}\n", lease.granted_ttl_secs)
    }
}

fn list(ids: &[i64]) -> String {
    if let ([first, .., last], true) = (ids, ids.len() > 20) {
        return format!("{} leases, {first} to {last}\n", ids.len());
    }
    format!("{ids:?}\n")
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(
        &mut self,
        command: &Command,
        _context: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        let mut output = String::new();
        match command {
            Command::Grant { id, ttl } => {
                let lease = self.lessor.grant(*id, *ttl, self.now)?;
                writeln!(output, "{} granted for {}s", lease.id, lease.ttl_secs)?;
            }
            Command::GrantMany { first, count, ttl } => {
                for id in *first..first + count {
                    self.lessor.grant(id, *ttl, self.now)?;
                }
            }
            Command::Revoke(id) => {
                let keys = self.lessor.revoke(*id)?;
                let keys: Vec<String> =
                    keys.iter().map(|key| key.escape_ascii().to_string()).collect();
                writeln!(output, "delete {keys:?}")?;
            }
            Command::Attach { id, keys } => {
                for key in keys {
                    if !self.lessor.attach(*id, key.as_bytes()) {
                        writeln!(output, "{key} not attached")?;
                    }
                }
            }
            Command::Detach { id, keys } => {
                for key in keys {
                    self.lessor.detach(*id, key.as_bytes());
                }
            }
            Command::KeepAlive(id) => {
                let renewed = self.lessor.keep_alive(*id, self.now)?;
                let clear =
                    if renewed.needs_checkpoint_clear { ", clear the checkpoint" } else { "" };
                writeln!(output, "{id} renewed for {}s{clear}", renewed.ttl_secs)?;
            }
            Command::TimeToLive(id) => output = self.time_to_live(*id),
            Command::List => output = list(&self.lessor.leases()),
            Command::Promote { extend } => {
                self.lessor.promote(self.now, Duration::from_secs(*extend));
            }
            Command::Demote => self.lessor.demote(),
            Command::Wait(seconds) => self.now += Duration::from_secs_f64(*seconds),
            Command::Expired { limit } => {
                output = list(&self.lessor.take_expired(self.now, limit.unwrap_or(usize::MAX)));
            }
            Command::Due { limit } => {
                for due in self.lessor.due_checkpoints(self.now, limit.unwrap_or(usize::MAX)) {
                    writeln!(output, "{}: {}s remaining", due.id, due.remaining_ttl)?;
                }
            }
            Command::Checkpoint { id, remaining } => self.lessor.checkpoint(*id, *remaining),
            Command::Restart { min } => self.restart(min.unwrap_or(2)),
        }
        Ok(output)
    }
}

#[test]
fn scripts() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scripts/lease");
    let mut count = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        goldenscript::run(&mut Runner::new(), &path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        count += 1;
    }
    assert!(count >= 9, "only {count} scripts");
}
