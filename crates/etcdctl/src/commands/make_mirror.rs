//! `make-mirror`: copies keys to another cluster, and then every change to them.
//!
//! The copy is made at one revision, and changes are followed from the next one on, so nothing is lost between. Writes
//! of one transaction arrive in one transaction, unless there are more than `--max-txn-ops`. Leases are not mirrored.

use std::collections::VecDeque;
use std::time::Duration;

use retcd_api::error::RpcError;
use retcd_api::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, WatchCreateRequest, WatchResponse,
};
use retcd_api::mvccpb::event::EventType;
use retcd_api::mvccpb::{Event, KeyValue};
use retcd_client::{Client, Error, Txn, cancellation, prefix_range};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::failure;
use crate::print::write_out;
use crate::progress::{Progress, Unit};
use crate::session::{Credentials, Security, Session};
use retcd_command_line::{Action, Command, Flag, Flags, Invocation};
use retcd_command_line::{Exit, Failure};

pub(super) const COMMAND: Command = Command {
    operands: "[options] <destination>",
    short: "Makes a mirror at the destination etcd cluster",
    long: "Makes a mirror at the destination etcd cluster.\n\n\
           Copies all keys and then every change, until it is ended. Prints the number of mirrored keys every 30 \
           seconds. Leases are not mirrored.",
    flags: &[
        Flag::text("prefix", "", "prefix of the keys to mirror"),
        Flag::int("rev", "revision to begin with, without copying all keys first"),
        Flag::int_of(
            "max-txn-ops",
            "128",
            "most operations of a transaction while following changes",
        ),
        Flag::text("dest-prefix", "", "prefix that replaces --prefix in the destination"),
        Flag::bool("no-dest-prefix", "remove --prefix from keys in the destination"),
        Flag::text("dest-cert", "", "file with the certificate to show to the destination"),
        Flag::text("dest-key", "", "file with the key of that certificate"),
        Flag::text("dest-cacert", "", "file with the authorities that may certify the destination"),
        Flag::on("dest-insecure-transport", "talk to the destination without TLS"),
        Flag::text(
            "dest-user",
            "",
            "name[:password] for the destination (asks for a missing password)",
        ),
        Flag::text(
            "dest-password",
            "",
            "password for the destination (then --dest-user is the name)",
        ),
    ],
    ..Command::new("make-mirror", "utility", Action::Run(run))
};

/// Keys per request while copying.
const PAGE: i64 = 1_000;
/// Writes to the destination at the same time while copying. The order of different keys does not matter.
const WRITES_MAX: usize = 32;
/// How often the number of keys is printed.
const REPORT: Duration = Duration::from_secs(30);

fn run(invocation: &Invocation) -> Result<(), Failure> {
    let [destination] = invocation.args.as_slice() else {
        return Err(Failure::bad_args("make-mirror takes one destination argument"));
    };
    let flags = &invocation.flags;
    let names = Names::read(flags)?;
    let operations_max = match usize::try_from(flags.int("max-txn-ops")) {
        Ok(max) if max > 0 => max,
        Ok(_) | Err(_) => return Err(Failure::bad_args("--max-txn-ops must be at least 1")),
    };
    let session = Session::open(invocation)?;
    let security = Security {
        cert: flags.text("dest-cert").to_owned(),
        key: flags.text("dest-key").to_owned(),
        authorities: flags.text("dest-cacert").to_owned(),
        is_insecure: flags.bool("dest-insecure-transport"),
        skips_verification: false,
        server_name: String::new(),
    };
    let credentials = Credentials::read(
        flags.text("dest-user"),
        flags.text("dest-password"),
        "Destination Password: ",
    )?;
    let destination = String::from_utf8_lossy(destination).into_owned();
    let mirror = Mirror {
        source: session.endless_client(),
        destination: session.client_elsewhere(destination, &security, credentials.as_ref())?,
        names,
        operations_max,
        total: Total::new(),
    };
    let failed = session.block_on(mirror.run(flags.int("rev")));
    failed.map(|never| match never {})
}

/// There is no good end.
enum Never {}

/// What keys are called on both sides.
struct Names {
    prefix: Vec<u8>,
    replacement: Vec<u8>,
}

impl Names {
    fn read(flags: &Flags) -> Result<Self, Failure> {
        let (prefix, replacement) = (flags.text("prefix"), flags.text("dest-prefix"));
        let replacement = match (flags.bool("no-dest-prefix"), replacement) {
            (true, "") => "",
            (true, _) => {
                return Err(Failure::bad_args(
                    "`--dest-prefix` and `--no-dest-prefix` cannot be set at the same time, choose one",
                ));
            }
            (false, "") => prefix,
            (false, replacement) => replacement,
        };
        Ok(Names { prefix: prefix.into(), replacement: replacement.into() })
    }

    fn mirrored(&self, key: &[u8]) -> Vec<u8> {
        let rest = key.strip_prefix(self.prefix.as_slice()).unwrap_or(key);
        [self.replacement.as_slice(), rest].concat()
    }
}

struct Mirror {
    source: Client,
    destination: Client,
    names: Names,
    operations_max: usize,
    total: Total,
}

impl Mirror {
    async fn run(mut self, revision: i64) -> Result<Never, Failure> {
        let refused = |error: Error| failure::request(&error);
        let copied_at = if revision > 1 { revision - 1 } else { self.copy().await? };
        let (key, range_end) = prefix_range(self.names.prefix.clone());
        let mut watcher = self.source.watcher();
        watcher
            .create(WatchCreateRequest {
                key: key.into(),
                range_end: range_end.into(),
                start_revision: copied_at + 1,
                ..Default::default()
            })
            .await;
        loop {
            let reply = tokio::select! {
                reply = watcher.next() => reply.map_err(refused)?,
                () = self.total.due() => {
                    self.total.report()?;
                    continue;
                }
            };
            self.follow(reply).await?;
        }
    }

    /// Copies all keys; returns the revision at which they were read.
    async fn copy(&mut self) -> Result<i64, Failure> {
        let refused = |error: Error| failure::request(&error);
        let (mut key, range_end) = prefix_range(self.names.prefix.clone());
        let (mut revision, mut writes) = (0, JoinSet::new());
        loop {
            let request = RangeRequest {
                key: key.into(),
                range_end: range_end.clone().into(),
                limit: PAGE,
                revision,
                ..Default::default()
            };
            let page = self.source.range(request).await.map_err(refused)?;
            if revision == 0 {
                revision = page.header.map_or(0, |header| header.revision);
            }
            let next = page.kvs.last().map(|last| [last.key.as_ref(), b"\0"].concat());
            for kv in page.kvs {
                if writes.len() == WRITES_MAX {
                    self.finish_one(&mut writes).await?;
                }
                let (client, put) = (self.destination.clone(), self.put(kv));
                writes.spawn(async move { client.put(put).await.map(|_| ()) });
            }
            match next.filter(|_| page.more) {
                Some(next) => key = next,
                None => break,
            }
        }
        while !writes.is_empty() {
            self.finish_one(&mut writes).await?;
        }
        Ok(revision)
    }

    async fn finish_one(&mut self, writes: &mut JoinSet<Result<(), Error>>) -> Result<(), Failure> {
        let Some(written) = writes.join_next().await else {
            return Ok(());
        };
        let written = written.map_err(|error| Failure::new(Exit::Error, error.to_string()))?;
        written.map_err(|error| failure::request(&error))?;
        self.total.add(1)
    }

    /// Repeats what happened, transaction by transaction.
    async fn follow(&mut self, reply: WatchResponse) -> Result<(), Failure> {
        if reply.compact_revision != 0 {
            return Err(failure::request(&Error::Rpc(RpcError::Compacted)));
        }
        if let Some(reason) = cancellation(&reply) {
            return Err(failure::request(&reason));
        }
        let mut events = VecDeque::from(reply.events);
        while !events.is_empty() {
            let count = transaction(events.make_contiguous(), self.operations_max);
            let txn = events.drain(..count).fold(Txn::new(), |txn, event| self.repeat(txn, event));
            let written = self.destination.txn(txn.into_request()).await;
            written.map_err(|error| failure::request(&error))?;
            self.total.add(count as u64)?;
        }
        Ok(())
    }

    fn repeat(&self, txn: Txn, event: Event) -> Txn {
        let kind = event.r#type();
        let kv = event.kv.unwrap_or_default();
        match kind {
            EventType::Put => txn.put(self.put(kv)),
            EventType::Delete => txn.delete_range(DeleteRangeRequest {
                key: self.names.mirrored(&kv.key).into(),
                ..Default::default()
            }),
        }
    }

    fn put(&self, kv: KeyValue) -> PutRequest {
        let key = self.names.mirrored(&kv.key).into();
        PutRequest { key, value: kv.value, ..Default::default() }
    }
}

/// How many of the events, from the first on, belong into one transaction.
fn transaction(events: &[Event], max: usize) -> usize {
    let revision = |event: &Event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
    let first = events.first().map_or(0, revision);
    events.iter().take(max).take_while(|event| revision(event) == first).count()
}

/// The number of mirrored keys, printed now and then.
struct Total {
    count: u64,
    next_report: Instant,
    progress: Progress,
}

impl Total {
    fn new() -> Self {
        let progress = Progress::new("mirrored", Unit::Of("keys"), 0);
        Total { count: 0, next_report: Instant::now() + REPORT, progress }
    }

    fn add(&mut self, count: u64) -> Result<(), Failure> {
        self.count += count;
        self.progress.set(self.count);
        if Instant::now() >= self.next_report { self.report() } else { Ok(()) }
    }

    async fn due(&self) {
        tokio::time::sleep_until(self.next_report).await;
    }

    fn report(&mut self) -> Result<(), Failure> {
        self.next_report = Instant::now() + REPORT;
        self.progress.hide();
        write_out(format!("{}\n", self.count).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_replaced_at_the_start_only() {
        let mirrored = |prefix: &str, replacement: &str, key: &str| {
            let names = Names { prefix: prefix.into(), replacement: replacement.into() };
            String::from_utf8(names.mirrored(key.as_bytes())).unwrap()
        };
        assert_eq!(mirrored("a/", "b/", "a/a/x"), "b/a/x");
        assert_eq!(mirrored("a/", "", "a/x"), "x");
        assert_eq!(mirrored("", "b/", "x"), "b/x");
    }

    #[test]
    fn events_of_one_revision_stay_together() {
        let event = |mod_revision| Event {
            kv: Some(KeyValue { mod_revision, ..Default::default() }),
            ..Default::default()
        };
        let events = [event(5), event(5), event(5), event(6)];
        assert_eq!(transaction(&events, 128), 3);
        assert_eq!(transaction(&events, 2), 2);
        assert_eq!(transaction(&events[3..], 128), 1);
    }
}
