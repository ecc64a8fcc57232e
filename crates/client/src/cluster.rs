//! Membership.

use retcd_api::etcdserverpb::cluster_client::ClusterClient;
use retcd_api::etcdserverpb::{MemberListRequest, MemberListResponse};

use crate::client::Retry;
use crate::{Client, Error};

impl Client {
    /// Lists the members: as agreed by the cluster, or as this member happens to know them.
    pub async fn member_list(&self, linearizable: bool) -> Result<MemberListResponse, Error> {
        self.call(
            Retry::Repeatable,
            MemberListRequest { linearizable },
            |channel, request| async move {
                let mut client =
                    ClusterClient::new(channel).max_decoding_message_size(self.response_bytes_max);
                client.member_list(request).await
            },
        )
        .await
    }
}
