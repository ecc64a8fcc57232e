//! `elect`: campaigns for being the leader of a name, or watches who is.

use retcd_api::etcdserverpb::range_request::{SortOrder, SortTarget};
use retcd_api::etcdserverpb::{RangeRequest, RangeResponse, WatchCreateRequest};
use retcd_api::mvccpb::{KeyValue, event::EventType};
use retcd_client::{Client, Error, cancellation, concurrency, prefix_end};

use crate::failure;
use crate::interrupts::Interrupts;
use crate::line_up::{Place, revision};
use crate::print::{Printer, Reply};
use crate::session::Session;
use retcd_command_line::{Action, Command, Flag, Invocation};
use retcd_command_line::{Exit, Failure};

/// Seconds after which a leader that is gone is not the leader any more.
const TTL: i64 = 60;

pub(super) const COMMAND: Command = Command {
    operands: "<election-name> [proposal]",
    short: "Observes and participates in leader election",
    flags: &[Flag::bool("listen", "show the leaders, without campaigning").short('l')],
    ..Command::new("elect", "concurrency", Action::Run(run))
};

fn run(invocation: &Invocation) -> Result<(), Failure> {
    let listens = invocation.flags.bool("listen");
    match invocation.args.as_slice() {
        [name] if listens => {
            let session = Session::open(invocation)?;
            session.block_on(listen(&session, name))
        }
        [_] => Err(Failure::bad_args("no proposal argument but -l not set")),
        [_, _] if listens => Err(Failure::bad_args("proposal given but -l is set")),
        [name, proposal] => {
            let session = Session::open(invocation)?;
            session.block_on(campaign(&session, name, proposal))
        }
        _ => Err(Failure::bad_args(
            "elect takes one election name argument and an optional proposal argument",
        )),
    }
}

async fn campaign(session: &Session, name: &[u8], proposal: &[u8]) -> Result<(), Failure> {
    let client = session.endless_client();
    let mut interrupts = Interrupts::listen()?;
    let lease = client.lease_grant(TTL, 0).await.map_err(|error| failure::request(&error))?.id;
    let kept = concurrency::Session::with_lease(&client, lease);
    let place = Place::take(&client, name, proposal, lease)
        .await
        .map_err(|error| failure::request(&error))?;
    let elected = tokio::select! {
        elected = until_elected(&client, &place) => elected,
        () = kept.done() => Err(expired()),
        () = interrupts.next() => Err(Failure::new(Exit::Error, "context canceled")),
    };
    let result = match elected.and_then(|own| session.print(&Reply::Range(&own))) {
        Ok(()) => tokio::select! {
            () = interrupts.next() => Ok(()),
            () = kept.done() => Err(expired()),
        },
        Err(failure) => Err(failure),
    };
    let resigned = async {
        let client = session.renewed_client().await?;
        place.leave(&client, lease).await
    };
    // What went wrong first is what counts.
    result.and(resigned.await.map_err(|error| failure::request(&error)))
}

async fn until_elected(client: &Client, place: &Place) -> Result<RangeResponse, Failure> {
    place.until_first(client).await.map_err(|error| failure::request(&error))?;
    let own = place.read(client).await.map_err(|error| failure::request(&error))?;
    own.ok_or_else(expired)
}

fn expired() -> Failure {
    Failure::new(Exit::Error, "elect: session expired")
}

async fn listen(session: &Session, name: &[u8]) -> Result<(), Failure> {
    let mut interrupts = Interrupts::listen()?;
    let client = session.endless_client();
    tokio::select! {
        failure = observe(&client, session.printer, name) => Err(failure),
        () = interrupts.next() => Ok(()),
    }
}

/// Prints each leader, until that fails.
async fn observe(client: &Client, printer: Printer, name: &[u8]) -> Failure {
    let prefix = [name, b"/"].concat();
    loop {
        let reign = async {
            let reply = first(client, &prefix).await.map_err(|_| lost())?;
            follow(client, printer, &prefix, reply).await
        };
        if let Err(failure) = reign.await {
            return failure;
        }
    }
}

fn lost() -> Failure {
    Failure::new(Exit::Error, "elect: observer lost")
}

/// The oldest key of the line.
async fn first(client: &Client, prefix: &[u8]) -> Result<RangeResponse, Error> {
    let request = RangeRequest {
        key: prefix.to_vec().into(),
        range_end: prefix_end(prefix).into(),
        limit: 1,
        sort_order: SortOrder::Ascend.into(),
        sort_target: SortTarget::Create.into(),
        ..Default::default()
    };
    client.range(request).await
}

/// Prints the leader that `reply` shows, or else the next one, and what it proclaims until it is gone.
async fn follow(
    client: &Client,
    printer: Printer,
    prefix: &[u8],
    mut reply: RangeResponse,
) -> Result<(), Failure> {
    let mut seen_at = revision(reply.header.as_ref());
    let leader = if let Some(kv) = reply.kvs.first() {
        kv.clone()
    } else {
        let kv = next_candidate(client, prefix, seen_at + 1).await?;
        seen_at = kv.mod_revision;
        kv
    };
    // The first line shows the key alone, the later ones keep what the range said about numbers.
    let mut header = reply.header;
    if let Some(header) = &mut header {
        header.revision = seen_at;
    }
    let shown = RangeResponse { header, kvs: vec![leader.clone()], ..Default::default() };
    printer.print(&Reply::Range(&shown))?;

    let mut watcher = client.watcher();
    let key = leader.key.clone();
    let request = WatchCreateRequest { key, start_revision: seen_at + 1, ..Default::default() };
    watcher.create(request).await;
    loop {
        let news = watcher.next().await.map_err(|_| lost())?;
        if cancellation(&news).is_some() {
            // A gap in the history: whoever leads now is looked up.
            return if news.compact_revision == 0 { Err(lost()) } else { Ok(()) };
        }
        for event in news.events {
            if event.r#type() == EventType::Delete {
                return Ok(());
            }
            reply.header = news.header;
            reply.kvs = event.kv.into_iter().collect();
            printer.print(&Reply::Range(&reply))?;
        }
    }
}

/// Waits for a key in an empty line.
async fn next_candidate(
    client: &Client,
    prefix: &[u8],
    start_revision: i64,
) -> Result<KeyValue, Failure> {
    let mut watcher = client.watcher();
    let request = WatchCreateRequest {
        key: prefix.to_vec().into(),
        range_end: prefix_end(prefix).into(),
        start_revision,
        ..Default::default()
    };
    watcher.create(request).await;
    loop {
        let news = watcher.next().await.map_err(|_| lost())?;
        if cancellation(&news).is_some() {
            return Err(lost());
        }
        let mut puts = news.events.into_iter().filter(|event| event.r#type() == EventType::Put);
        if let Some(kv) = puts.next().and_then(|event| event.kv) {
            return Ok(kv);
        }
    }
}
