//! `endpoint`: asks each endpoint about itself.

use std::time::Instant;

use retcd_api::error::RpcError;
use retcd_api::etcdserverpb::{AlarmResponse, AlarmType, RangeRequest};
use retcd_client::{Client, Error};
use tokio::task::JoinSet;

use crate::failure::{self, last_attempt};
use crate::log;
use crate::print::{Health, Of, Reply};
use crate::session::Session;
use retcd_command_line::{Action, Command, Flag, Invocation};
use retcd_command_line::{Exit, Failure};

pub(super) const COMMAND: Command = Command {
    operands: "<subcommand>",
    short: "Endpoint related commands. Use `etcdctl endpoint --help` to see subcommands",
    long: "Endpoint related commands",
    inherited_flags: &[CLUSTER],
    subcommands: &[HEALTH, STATUS, HASH_KV],
    ..Command::new("endpoint", "cluster", Action::Group)
};

pub(super) const CLUSTER: Flag = Flag::bool("cluster", "ask every endpoint of the member list");

const HEALTH: Command = Command {
    short: "Checks that the endpoints answer linearizable reads and have no alarms",
    ..Command::new("health", "", Action::Run(health))
};

const STATUS: Command = Command {
    short: "Prints the status of the endpoints",
    long: "Prints the status of the endpoints.\n\nThe simple format has one line per endpoint: endpoint, ID, version, \
           storage version, db size, in use, percentage not in use, quota, is leader, is learner, raft term, raft \
           index, raft applied index, errors, downgrade target version, downgrade enabled.",
    ..Command::new("status", "", Action::Run(status))
};

const HASH_KV: Command = Command {
    short: "Prints the hash of the endpoints' key-value history",
    flags: &[Flag::int("rev", "newest revision to hash (0 means the latest)")],
    ..Command::new("hashkv", "", Action::Run(hash_kv))
};

/// The endpoints to ask: the given ones, or with `--cluster` those that the members announce.
pub(super) fn endpoints(session: &Session, is_cluster: bool) -> Result<Vec<String>, Failure> {
    if !is_cluster {
        return Ok(session.endpoints().to_vec());
    }
    let reply = session.block_on(session.client().member_list(true)).map_err(|error| {
        failure::request(&error).in_words(|error| {
            format!("failed to fetch endpoints from etcd cluster member list: {error}")
        })
    })?;
    Ok(reply.members.into_iter().flat_map(|member| member.client_ur_ls).collect())
}

fn health(invocation: &Invocation) -> Result<(), Failure> {
    let session = Session::open(invocation)?;
    let endpoints = endpoints(&session, session.flags.bool(CLUSTER.name))?;
    let all = session.block_on(async {
        let mut checks = JoinSet::new();
        for endpoint in endpoints {
            let client = session.client_of(&endpoint);
            checks.spawn(check(endpoint, client));
        }
        // In the order in which they finish.
        checks.join_all().await
    });
    session.print(&Reply::EndpointHealth(&all))?;
    if all.iter().any(|health| health.error.is_some()) {
        return Err(Failure::new(Exit::Error, "unhealthy cluster"));
    }
    Ok(())
}

async fn check(endpoint: String, client: Result<Client, Error>) -> Health {
    let start = Instant::now();
    let client = match client {
        Ok(client) => client,
        Err(error) => {
            return Health { endpoint, took: start.elapsed(), error: Some(error.to_string()) };
        }
    };
    // Any key will do: what counts is that a quorum answers.
    let read = client.range(RangeRequest { key: "health".into(), ..Default::default() }).await;
    let took = start.elapsed();
    let error = match read {
        // A refusal has been through the quorum as well.
        Ok(_) | Err(Error::Rpc(RpcError::PermissionDenied)) => match client.alarm_list().await {
            Ok(alarms) => describe(&alarms),
            Err(_) => Some("Unable to fetch the alarm list".to_owned()),
        },
        Err(error) => {
            last_attempt(&error).into_iter().for_each(log::retry);
            Some(error.to_string())
        }
    };
    Health { endpoint, took, error }
}

fn describe(reply: &AlarmResponse) -> Option<String> {
    let names = reply.alarms.iter().map(|member| match AlarmType::try_from(member.alarm) {
        Ok(AlarmType::Nospace) => "NOSPACE ",
        Ok(AlarmType::Corrupt) => "CORRUPT ",
        Ok(AlarmType::None) | Err(_) => "UNKNOWN ",
    });
    let names: String = names.collect();
    (!names.is_empty()).then(|| format!("Active Alarm(s): {names}"))
}

fn status(invocation: &Invocation) -> Result<(), Failure> {
    let session = Session::open(invocation)?;
    let (all, failure) = ask_each(&session, "status", async |client| client.status().await)?;
    session.print(&Reply::EndpointStatus(&all))?;
    // Each failure has been reported.
    failure.map_or(Ok(()), |_| Err(Failure::silent(Exit::Error)))
}

fn hash_kv(invocation: &Invocation) -> Result<(), Failure> {
    let revision = invocation.flags.int("rev");
    let session = Session::open(invocation)?;
    let ask = async |client: Client| client.hash_kv(revision).await;
    let (all, failure) = ask_each(&session, "hash", ask)?;
    session.print(&Reply::EndpointHashKv(&all))?;
    failure.map_or(Ok(()), |error| Err(Failure::new(Exit::Error, error.to_string())))
}

/// Asks one endpoint after the other; returns the answers and the last failure.
fn ask_each<T>(
    session: &Session,
    what: &str,
    ask: impl AsyncFn(Client) -> Result<T, Error>,
) -> Result<(Vec<Of<T>>, Option<Error>), Failure> {
    let (mut answers, mut last_failure) = (Vec::new(), None);
    for endpoint in endpoints(session, session.flags.bool(CLUSTER.name))? {
        let client =
            session.client_of(&endpoint).map_err(|error| Failure::bad_args(error.to_string()))?;
        match session.block_on(ask(client)) {
            Ok(reply) => answers.push(Of { endpoint, reply }),
            Err(error) => {
                last_attempt(&error).into_iter().for_each(log::retry);
                eprintln!("Failed to get the {what} of endpoint {endpoint} ({error})");
                last_failure = Some(error);
            }
        }
    }
    Ok((answers, last_failure))
}
