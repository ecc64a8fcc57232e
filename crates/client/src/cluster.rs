//! Membership.

use retcd_api::etcdserverpb::{
    MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MemberUpdateRequest, MemberUpdateResponse,
};

use crate::client::Retry;
use crate::{Client, Error};

impl Client {
    /// Lists the members: as agreed by the cluster, or as this member happens to know them.
    ///
    /// ```no_run
    /// # async fn example(client: retcd_client::Client) -> Result<(), retcd_client::Error> {
    /// for member in client.member_list(true).await?.members {
    ///     println!("{:x} {}", member.id, member.name);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn member_list(&self, linearizable: bool) -> Result<MemberListResponse, Error> {
        let request = MemberListRequest { linearizable };
        self.unary(Retry::Repeatable, "/etcdserverpb.Cluster/MemberList", &request).await
    }

    /// Makes room for a member that other members will find at `peer_urls`. It counts for the quorum from now on,
    /// unless it is a learner.
    ///
    /// ```no_run
    /// # async fn example(client: retcd_client::Client) -> Result<(), retcd_client::Error> {
    /// let added = client.member_add(vec!["http://10.0.0.8:2380".into()], true).await?;
    /// println!("{:x}", added.member.unwrap_or_default().id);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn member_add(
        &self,
        peer_urls: Vec<String>,
        is_learner: bool,
    ) -> Result<MemberAddResponse, Error> {
        let request = MemberAddRequest { peer_ur_ls: peer_urls, is_learner };
        self.unary(Retry::Once, "/etcdserverpb.Cluster/MemberAdd", &request).await
    }

    /// Removes a member for good; its id never comes back.
    ///
    /// ```no_run
    /// # async fn example(client: retcd_client::Client) -> Result<(), retcd_client::Error> {
    /// client.member_remove(0x8e9e_05c5_2164_694d).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn member_remove(&self, id: u64) -> Result<MemberRemoveResponse, Error> {
        self.unary(Retry::Once, "/etcdserverpb.Cluster/MemberRemove", &MemberRemoveRequest { id })
            .await
    }

    /// Tells the other members where a member is to be found.
    ///
    /// ```no_run
    /// # async fn example(client: retcd_client::Client) -> Result<(), retcd_client::Error> {
    /// client.member_update(0x8e9e_05c5_2164_694d, vec!["http://10.0.0.9:2380".into()]).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn member_update(
        &self,
        id: u64,
        peer_urls: Vec<String>,
    ) -> Result<MemberUpdateResponse, Error> {
        let request = MemberUpdateRequest { id, peer_ur_ls: peer_urls };
        self.unary(Retry::Once, "/etcdserverpb.Cluster/MemberUpdate", &request).await
    }

    /// Makes a learner a voter.
    ///
    /// ```no_run
    /// # async fn example(client: retcd_client::Client) -> Result<(), retcd_client::Error> {
    /// client.member_promote(0x8e9e_05c5_2164_694d).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn member_promote(&self, id: u64) -> Result<MemberPromoteResponse, Error> {
        self.unary(Retry::Once, "/etcdserverpb.Cluster/MemberPromote", &MemberPromoteRequest { id })
            .await
    }
}
