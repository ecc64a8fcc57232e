//! Questions to one member. Which member answers is chosen by the endpoints of the client, so a client for this
//! purpose has exactly one.

use retcd_api::etcdserverpb::alarm_request::AlarmAction;
use retcd_api::etcdserverpb::maintenance_client::MaintenanceClient;
use retcd_api::etcdserverpb::{
    AlarmRequest, AlarmResponse, HashKvRequest, HashKvResponse, StatusRequest, StatusResponse,
};
use tonic::transport::Channel;

use crate::client::Retry;
use crate::{Client, Error};

impl Client {
    /// How the member is.
    pub async fn status(&self) -> Result<StatusResponse, Error> {
        self.call(Retry::Repeatable, StatusRequest {}, |channel, request| async move {
            self.maintenance(channel).status(request).await
        })
        .await
    }

    /// The hash of all keys up to `revision`, 0 for the newest.
    pub async fn hash_kv(&self, revision: i64) -> Result<HashKvResponse, Error> {
        self.call(Retry::Repeatable, HashKvRequest { revision }, |channel, request| async move {
            self.maintenance(channel).hash_kv(request).await
        })
        .await
    }

    /// The active alarms of all members.
    pub async fn alarm_list(&self) -> Result<AlarmResponse, Error> {
        let request = AlarmRequest { action: AlarmAction::Get.into(), ..Default::default() };
        self.call(Retry::Repeatable, request, |channel, request| async move {
            self.maintenance(channel).alarm(request).await
        })
        .await
    }

    fn maintenance(&self, channel: Channel) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(channel).max_decoding_message_size(self.response_bytes_max)
    }
}
