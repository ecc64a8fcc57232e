//! What other members ask of this one besides Raft, answered by the same functions that serve clients.

use std::sync::Arc;
use std::time::Duration;

use retcd_api::error::RpcError;
use retcd_api::etcdserverpb as pb;
use retcd_state_machine::auth::Action;
use retcd_state_machine::cluster::Member;
use retcd_state_machine::lease::KeepAliveError;
use retcd_state_machine::mvcc::HashKv;

use super::{Services, cluster, guard, lease};
use crate::grpc::Credentials;
use crate::peer::{Later, LeaseError, PeerRequests, Versions};

/// How long a renewal waits for the grant, or for the revoke of a lease past its time.
const LEASE_PATIENCE: Duration = Duration::from_secs(1);
const LEASE_POLL: Duration = Duration::from_millis(10);

/// The services as other members see them.
pub(crate) struct ForPeers {
    pub(crate) services: Arc<Services>,
}

impl PeerRequests for ForPeers {
    fn members(&self) -> Vec<Member> {
        self.services.reader.members()
    }

    fn versions(&self) -> Versions {
        let cluster = self.services.reader.cluster_version();
        Versions { storage: cluster.clone(), cluster }
    }

    fn promote(&self, id: u64, token: Option<String>) -> Later<Result<Vec<Member>, RpcError>> {
        let services = self.services.clone();
        Box::pin(async move {
            if !services.node.is_leader() {
                return Err(RpcError::NotLeader);
            }
            let credentials = token.map_or(Credentials::Nothing, Credentials::Token);
            guard::permit_with(&services, &credentials, Action::Administer).await?;
            cluster::promote(&services, id).await
        })
    }

    fn renew_lease(&self, id: i64) -> Later<Result<i64, LeaseError>> {
        let services = self.services.clone();
        Box::pin(async move { renew(&services, id).await })
    }

    fn lease_time_to_live(
        &self,
        id: i64,
        keys: bool,
    ) -> Later<Result<pb::LeaseTimeToLiveResponse, LeaseError>> {
        let services = self.services.clone();
        Box::pin(async move {
            if !services.node.is_leader() {
                return Err(LeaseError::NotPrimary);
            }
            services.node.read_barrier().await.map_err(|_| LeaseError::ApplyTimeout)?;
            let (answer, _) = lease::look_up(&services, id, keys);
            if answer.ttl < 0 { Err(LeaseError::NotFound) } else { Ok(answer) }
        })
    }

    fn hash_kv(&self, revision: i64) -> Later<Result<HashKv, RpcError>> {
        let services = self.services.clone();
        Box::pin(async move { services.node.hash_kv(revision).await })
    }

    fn downgrade_enabled(&self) -> Later<Result<bool, RpcError>> {
        let services = self.services.clone();
        Box::pin(async move {
            services.node.read_barrier().await?;
            Ok(services.reader.downgrade().is_enabled)
        })
    }
}

/// Renews a lease as its leader. One that is past its time is on its way out.
async fn renew(services: &Services, id: i64) -> Result<i64, LeaseError> {
    let give_up = services.node.now() + LEASE_PATIENCE;
    services.node.read_barrier().await.map_err(|_| LeaseError::ApplyTimeout)?;
    loop {
        match lease::renew(services, id).await {
            Ok(ttl) => return Ok(ttl),
            Err(KeepAliveError::NotPrimary) => return Err(LeaseError::NotPrimary),
            Err(KeepAliveError::NotFound(_)) => return Err(LeaseError::NotFound),
            Err(KeepAliveError::Expired(_)) if services.node.now() >= give_up => {
                return Err(LeaseError::NotFound);
            }
            Err(KeepAliveError::Expired(_)) => tokio::time::sleep(LEASE_POLL).await,
        }
    }
}
