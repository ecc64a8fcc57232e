//! Leases: granting them, and keeping them alive over streams.

use anyhow::{Result, ensure};
use prost::Message as _;
use retcd_api::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseRevokeRequest,
};

use super::unexpected;
use crate::client::{CallError, Channel, Method, Stream};
use crate::engine::{Load, Operation, Workload};

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct LeaseGrant {
    /// Time to live of each lease, in seconds: longer than the run, so that none expires within it
    #[arg(long, default_value_t = 3_600)]
    ttl: i64,
    /// Revoke each lease at once; one operation is then a grant and a revoke
    #[arg(long)]
    revoke: bool,
}

pub(crate) struct Tenant {
    ttl: i64,
    revoke: bool,
}

impl Workload for LeaseGrant {
    const NAME: &'static str = "lease-grant";
    const UNIT: &'static str = "lease";
    type Operation = Tenant;

    fn check(&self, _: &Load) -> Result<()> {
        ensure!(self.ttl > 0, "--ttl must be positive");
        Ok(())
    }

    fn operation(&self, _: usize, _: &Load) -> Tenant {
        Tenant { ttl: self.ttl, revoke: self.revoke }
    }
}

impl Operation for Tenant {
    async fn once(&mut self, channel: &mut Channel) -> Result<u64, CallError> {
        let id = grant(channel, self.ttl).await?;
        if self.revoke {
            channel.call(Method::LeaseRevoke, &LeaseRevokeRequest { id }).await?;
        }
        Ok(1)
    }
}

async fn grant(channel: &mut Channel, ttl: i64) -> Result<i64, CallError> {
    let request = LeaseGrantRequest { ttl, id: 0 };
    let lease: LeaseGrantResponse = channel.ask(Method::LeaseGrant, &request).await?;
    if lease.id == 0 { Err(unexpected("a lease without an id")) } else { Ok(lease.id) }
}

/// Every client keeps one lease alive, over a stream of its own.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct LeaseKeepAlive {
    /// Time to live of each lease, in seconds
    #[arg(long, default_value_t = 3_600)]
    ttl: i64,
}

pub(crate) struct Keeper {
    ttl: i64,
    id: i64,
    stream: Option<Stream>,
}

impl Workload for LeaseKeepAlive {
    const NAME: &'static str = "lease-keep-alive";
    const UNIT: &'static str = "keep-alive";
    type Operation = Keeper;

    fn check(&self, _: &Load) -> Result<()> {
        ensure!(self.ttl > 0, "--ttl must be positive");
        Ok(())
    }

    fn operation(&self, _: usize, _: &Load) -> Keeper {
        Keeper { ttl: self.ttl, id: 0, stream: None }
    }
}

impl Operation for Keeper {
    async fn prepare(&mut self, channel: &mut Channel) -> Result<(), CallError> {
        self.id = grant(channel, self.ttl).await?;
        self.stream = Some(channel.stream(Method::LeaseKeepAlive).await?);
        Ok(())
    }

    async fn once(&mut self, _: &mut Channel) -> Result<u64, CallError> {
        let stream = self.stream.as_mut().expect("a prepared client has a stream");
        stream.send(&LeaseKeepAliveRequest { id: self.id })?;
        let answer = LeaseKeepAliveResponse::decode(stream.next().await?)?;
        if answer.ttl == 0 { Err(unexpected("the lease has expired")) } else { Ok(1) }
    }
}
