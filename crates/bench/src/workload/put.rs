//! One key and value per request.

use bytes::Bytes;
use retcd_api::etcdserverpb::PutRequest;

use crate::client::{CallError, Channel, Method};
use crate::engine::{Load, Operation, Workload};
use crate::keys::{self, KeyStream};

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Put {}

pub(crate) struct Writer {
    keys: KeyStream,
    value: Bytes,
}

impl Writer {
    pub(crate) fn new(client: usize, load: &Load) -> Self {
        Writer { keys: load.key_stream(client), value: keys::value(load.value_size) }
    }

    pub(crate) fn request(&mut self) -> PutRequest {
        PutRequest { key: self.keys.next_key(), value: self.value.clone(), ..PutRequest::default() }
    }
}

impl Workload for Put {
    const NAME: &'static str = "put";
    const UNIT: &'static str = "put";
    type Operation = Writer;

    fn operation(&self, client: usize, load: &Load) -> Writer {
        Writer::new(client, load)
    }
}

impl Operation for Writer {
    async fn once(&mut self, channel: &mut Channel) -> Result<u64, CallError> {
        let request = self.request();
        channel.call(Method::Put, &request).await?;
        Ok(1)
    }
}
