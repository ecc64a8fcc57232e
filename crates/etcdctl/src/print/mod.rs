//! Output formats: what each reply looks like.
//!
//! A format is a function from [`Reply`] to bytes, one file each. A format that does not know a reply refuses; the
//! program then ends with exit code 4, after the request has been done, as etcdctl does.

mod fields;
mod json;
mod protobuf;
mod simple;
mod table;

use std::io::Write;
use std::time::Duration;

use retcd_api::etcdserverpb::{
    AlarmResponse, AuthRoleGetResponse, AuthRoleListResponse, AuthStatusResponse,
    AuthUserGetResponse, AuthUserListResponse, DeleteRangeResponse, DowngradeResponse,
    HashKvResponse, LeaseGrantResponse, LeaseKeepAliveResponse, LeaseLeasesResponse,
    LeaseRevokeResponse, LeaseTimeToLiveResponse, MemberAddResponse, MemberListResponse,
    PutResponse, RangeResponse, ResponseHeader, StatusResponse, TxnResponse, WatchResponse,
};

use crate::input;
use retcd_command_line::go::quote::quote;
use retcd_command_line::{Exit, Failure};

pub(crate) use retcd_command_line::units::size;
pub(crate) use simple::range;

/// The value of `--write-out`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Plain lines. `values_only` leaves the keys out.
    Simple {
        values_only: bool,
    },
    Fields,
    Json,
    Protobuf,
    Table,
}

impl Format {
    pub(crate) fn from_name(name: &str) -> Result<Self, Failure> {
        match name {
            "simple" => Ok(Format::Simple { values_only: false }),
            "fields" => Ok(Format::Fields),
            "json" => Ok(Format::Json),
            "protobuf" => Ok(Format::Protobuf),
            "table" => Ok(Format::Table),
            _ => Err(Failure::new(Exit::BadFeature, "unsupported output format")),
        }
    }
}

/// What a command wants to show.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reply<'a> {
    Put(&'a PutResponse),
    Range(&'a RangeResponse),
    DeleteRange(&'a DeleteRangeResponse),
    Txn(&'a TxnResponse),
    Watch(&'a WatchResponse),
    LeaseGrant(&'a LeaseGrantResponse),
    LeaseRevoke(i64, &'a LeaseRevokeResponse),
    LeaseKeepAlive(&'a LeaseKeepAliveResponse),
    LeaseTimeToLive(&'a LeaseTimeToLiveResponse, WithKeys),
    LeaseLeases(&'a LeaseLeasesResponse),
    MemberList(&'a MemberListResponse),
    MemberAdd(&'a MemberAddResponse),
    MemberChange(&'a MemberChange),
    MoveLeader(&'a Done),
    Downgrade(&'static str, &'a DowngradeResponse),
    Alarm(&'a AlarmResponse),
    /// Of users and roles.
    Done(&'a Done),
    /// With the name of the role.
    RoleGet(&'a str, &'a AuthRoleGetResponse),
    RoleList(&'a AuthRoleListResponse),
    /// With the name of the user.
    UserGet(&'a str, &'a AuthUserGetResponse),
    UserList(&'a AuthUserListResponse),
    AuthStatus(&'a AuthStatusResponse),
    EndpointHealth(&'a [Health]),
    EndpointStatus(&'a [Of<StatusResponse>]),
    EndpointHashKv(&'a [Of<HashKvResponse>]),
}

/// Whether the keys of a lease were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WithKeys(pub(crate) bool);

/// What happened to a member, and who is left.
#[derive(Debug)]
pub(crate) struct MemberChange {
    pub(crate) id: u64,
    /// As in `Member ID removed from cluster ID`.
    pub(crate) done: &'static str,
    /// The replies to all changes have the shape of a list.
    pub(crate) reply: MemberListResponse,
}

/// A reply that says nothing but that it is done.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) header: Option<ResponseHeader>,
    /// What the simple format says. Not always UTF-8, because it may name a key.
    pub(crate) sentence: Vec<u8>,
}

/// A reply and the endpoint that it is from.
#[derive(Debug)]
pub(crate) struct Of<T> {
    pub(crate) endpoint: String,
    pub(crate) reply: T,
}

/// The health of one endpoint.
#[derive(Debug)]
pub(crate) struct Health {
    pub(crate) endpoint: String,
    pub(crate) took: Duration,
    /// Why the endpoint is not healthy.
    pub(crate) error: Option<String>,
}

/// How to show replies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Printer {
    pub(crate) format: Format,
    /// Bytes, and in some formats ids, as hexadecimal digits.
    pub(crate) hex: bool,
}

impl Printer {
    /// Refuses every format but the simple one, for output that has only one form.
    pub(crate) fn simple_only(self) -> Result<(), Failure> {
        match self.format {
            Format::Simple { .. } => Ok(()),
            Format::Fields => Err(unsupported("fields")),
            Format::Json => Err(unsupported("json")),
            Format::Protobuf => Err(unsupported("protobuf")),
            Format::Table => Err(unsupported("table")),
        }
    }

    /// Writes a reply to stdout; `simple` writes about unhealthy endpoints to stderr.
    pub(crate) fn print(self, reply: &Reply<'_>) -> Result<(), Failure> {
        let Output { out, err } = self.render(reply)?;
        write_out(&out)?;
        // Nobody can be told that stderr is closed.
        let _ = std::io::stderr().write_all(&err);
        Ok(())
    }

    fn render(self, reply: &Reply<'_>) -> Result<Output, Failure> {
        match self.format {
            Format::Simple { values_only } => Ok(simple::render(reply, self.hex, values_only)),
            Format::Fields => fields::render(reply, self.hex),
            Format::Json => Ok(json::render(reply, self.hex)),
            Format::Protobuf => protobuf::render(reply),
            Format::Table => table::render(reply),
        }
    }
}

/// Writes to stdout at once, so that readers of a pipe see each reply when it comes.
pub(crate) fn write_out(bytes: &[u8]) -> Result<(), Failure> {
    input::print_above(bytes).map_err(|error| retcd_command_line::write_failure(&error))
}

/// A key, or a part of one, in the midst of a line.
pub(crate) fn shown(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        Ok(_) | Err(_) => quote(key),
    }
}

fn unsupported(format: &str) -> Failure {
    Failure::new(Exit::BadFeature, format!("{format} not supported as output format"))
}

/// What a reply looks like.
#[derive(Debug, Default, PartialEq, Eq)]
struct Output {
    out: Vec<u8>,
    err: Vec<u8>,
}

impl Output {
    /// Adds a line to stdout.
    fn line(&mut self, line: impl AsRef<[u8]>) {
        self.out.extend_from_slice(line.as_ref());
        self.out.push(b'\n');
    }
}
