//! How long a member with data takes to be of use again.

use std::path::PathBuf;

use anyhow::Result;

use crate::process::{Home, Launch, Memory, Server, StartTimes, memory};

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Restart {
    /// The server, as `name=command`; {dir}, {client} and {peer} stand for its data directory and ports
    #[arg(long)]
    pub(crate) server: Launch,
    /// How often to restart
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: usize,
    /// Where the data directory is made
    #[arg(long, default_value = ".")]
    pub(crate) dir: PathBuf,
}

/// One restart, and what the server held in memory right after it.
pub(crate) struct Restarted {
    pub(crate) times: StartTimes,
    pub(crate) memory: Memory,
}

/// Starts a server that was stopped in good order, measures, and stops it again.
pub(crate) fn once(launch: &Launch, home: &Home) -> Result<Restarted> {
    let (server, times) = Server::start(launch, home)?;
    let memory = memory(server.pid())?;
    server.stop()?;
    Ok(Restarted { times, memory })
}
