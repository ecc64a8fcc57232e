//! One key per request; a key that is not there costs no revision, as in every etcd.

use retcd_api::etcdserverpb::DeleteRangeRequest;

use crate::client::{CallError, Channel, Method};
use crate::engine::{Load, Operation, Workload};
use crate::keys::KeyStream;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Delete {}

pub(crate) struct Deleter(KeyStream);

impl Workload for Delete {
    const NAME: &'static str = "delete";
    const UNIT: &'static str = "delete";
    type Operation = Deleter;

    fn operation(&self, client: usize, load: &Load) -> Deleter {
        Deleter(load.key_stream(client))
    }
}

impl Operation for Deleter {
    async fn once(&mut self, channel: &mut Channel) -> Result<u64, CallError> {
        let request =
            DeleteRangeRequest { key: self.0.next_key(), ..DeleteRangeRequest::default() };
        channel.call(Method::DeleteRange, &request).await?;
        Ok(1)
    }
}
