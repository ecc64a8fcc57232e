//! Questions to one member. Which member answers is chosen by the endpoints of the client, so a client for this
//! purpose has exactly one.

use retcd_api::etcdserverpb::alarm_request::AlarmAction;
use retcd_api::etcdserverpb::downgrade_request::DowngradeAction;
use retcd_api::etcdserverpb::maintenance_client::MaintenanceClient;
use retcd_api::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, DefragmentRequest, DefragmentResponse,
    DowngradeRequest, DowngradeResponse, HashKvRequest, HashKvResponse, MoveLeaderRequest,
    MoveLeaderResponse, SnapshotRequest, SnapshotResponse, StatusRequest, StatusResponse,
};
use tokio::time::{Instant, timeout_at};
use tonic::Streaming;

use crate::channel::Channel;
use crate::client::Retry;
use crate::error::Failure;
use crate::{Client, Error};

impl Client {
    /// How the member is.
    ///
    /// ```no_run
    /// # async fn example(client: retcd_client::Client) -> Result<(), retcd_client::Error> {
    /// let status = client.status().await?;
    /// println!("{} with {} bytes", status.version, status.db_size);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn status(&self) -> Result<StatusResponse, Error> {
        self.unary(Retry::Repeatable, "/etcdserverpb.Maintenance/Status", &StatusRequest {}).await
    }

    /// The hash of all keys up to `revision`, 0 for the newest.
    ///
    /// ```no_run
    /// # async fn example(client: retcd_client::Client) -> Result<(), retcd_client::Error> {
    /// println!("{:08x}", client.hash_kv(0).await?.hash);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn hash_kv(&self, revision: i64) -> Result<HashKvResponse, Error> {
        self.unary(
            Retry::Repeatable,
            "/etcdserverpb.Maintenance/HashKV",
            &HashKvRequest { revision },
        )
        .await
    }

    /// The active alarms of all members.
    ///
    /// ```no_run
    /// # async fn example(client: retcd_client::Client) -> Result<(), retcd_client::Error> {
    /// for alarm in client.alarm_list().await?.alarms {
    ///     client.alarm_disarm(alarm).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn alarm_list(&self) -> Result<AlarmResponse, Error> {
        let request = AlarmRequest { action: AlarmAction::Get.into(), ..Default::default() };
        self.unary(Retry::Repeatable, "/etcdserverpb.Maintenance/Alarm", &request).await
    }

    /// Ends one alarm, as [`Self::alarm_list`] reported it.
    ///
    /// ```no_run
    /// # async fn example(client: retcd_client::Client) -> Result<(), retcd_client::Error> {
    /// use retcd_api::etcdserverpb::{AlarmMember, AlarmType};
    ///
    /// let alarm = AlarmType::Nospace.into();
    /// client.alarm_disarm(AlarmMember { member_id: 0x8e9e_05c5_2164_694d, alarm }).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn alarm_disarm(&self, alarm: AlarmMember) -> Result<AlarmResponse, Error> {
        let request = AlarmRequest {
            action: AlarmAction::Deactivate.into(),
            member_id: alarm.member_id,
            alarm: alarm.alarm,
        };
        self.unary(Retry::Once, "/etcdserverpb.Maintenance/Alarm", &request).await
    }

    /// Gives free pages of the member's database file back to the file system. The member does nothing else meanwhile.
    ///
    /// ```no_run
    /// # async fn example(client: retcd_client::Client) -> Result<(), retcd_client::Error> {
    /// client.defragment().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn defragment(&self) -> Result<DefragmentResponse, Error> {
        self.unary(Retry::Once, "/etcdserverpb.Maintenance/Defragment", &DefragmentRequest {}).await
    }

    /// Makes another member the leader. Only the leader itself carries this out.
    ///
    /// ```no_run
    /// # async fn example(client: retcd_client::Client) -> Result<(), retcd_client::Error> {
    /// client.move_leader(0x8e9e_05c5_2164_694d).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn move_leader(&self, target_id: u64) -> Result<MoveLeaderResponse, Error> {
        self.unary(
            Retry::Once,
            "/etcdserverpb.Maintenance/MoveLeader",
            &MoveLeaderRequest { target_id },
        )
        .await
    }

    /// Checks, starts or cancels a downgrade of the cluster to `version`.
    ///
    /// ```no_run
    /// # async fn example(client: retcd_client::Client) -> Result<(), retcd_client::Error> {
    /// use retcd_api::etcdserverpb::downgrade_request::DowngradeAction;
    ///
    /// client.downgrade(DowngradeAction::Validate, "3.6.0").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn downgrade(
        &self,
        action: DowngradeAction,
        version: &str,
    ) -> Result<DowngradeResponse, Error> {
        let request = DowngradeRequest { action: action.into(), version: version.to_owned() };
        self.unary(Retry::Once, "/etcdserverpb.Maintenance/Downgrade", &request).await
    }

    /// Begins to receive the member's whole database, as it is at this moment. The timeout of the client is one for
    /// all of it.
    ///
    /// ```no_run
    /// # async fn example(client: retcd_client::Client) -> Result<(), retcd_client::Error> {
    /// let mut snapshot = client.snapshot().await?;
    /// let mut bytes = 0;
    /// while let Some(piece) = snapshot.next().await? {
    ///     bytes += piece.blob.len();
    /// }
    /// println!("{bytes} bytes");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn snapshot(&self) -> Result<Snapshot, Error> {
        let deadline = self.timeout.map(|timeout| Instant::now() + timeout);
        let replies = self
            .streaming(Retry::Once, SnapshotRequest {}, |channel, request| async move {
                self.maintenance(channel).snapshot(request).await
            })
            .await?;
        Ok(Snapshot { replies, deadline })
    }

    fn maintenance(&self, channel: Channel) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(channel).max_decoding_message_size(self.response_bytes_max)
    }
}

/// A database on its way here.
#[derive(Debug)]
pub struct Snapshot {
    replies: Streaming<SnapshotResponse>,
    deadline: Option<Instant>,
}

impl Snapshot {
    /// The next piece; `None` after the last one. The last 32 bytes are a SHA-256 of all before them.
    pub async fn next(&mut self) -> Result<Option<SnapshotResponse>, Error> {
        let next = self.replies.message();
        let piece = match self.deadline {
            Some(deadline) => timeout_at(deadline, next)
                .await
                .map_err(|_| Error::DeadlineExceeded { last_attempt: None })?,
            None => next.await,
        };
        piece.map_err(|status| Failure::from(status).into())
    }
}
