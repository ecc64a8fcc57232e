//! The messages of OTLP's trace service, as far as this server fills them in.
//!
//! Field numbers are those of `opentelemetry/proto/collector/trace/v1/trace_service.proto` and what it includes,
//! version 1; they never change.

use prost::{Message, Oneof};

use super::Ended;
use super::attributes::{Attribute, Value};
use crate::config::DistributedTracing;

/// Whether a span is a call from outside or a part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SpanKind {
    Internal = 1,
    Server = 2,
}

const STATUS_ERROR: i32 = 2;

#[derive(Clone, PartialEq, Message)]
pub(super) struct ExportTraceServiceRequest {
    #[prost(message, repeated, tag = "1")]
    pub(super) resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    pub(super) resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    pub(super) scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Resource {
    #[prost(message, repeated, tag = "1")]
    pub(super) attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    pub(super) scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    pub(super) spans: Vec<Span>,
}

/// Who made the spans.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Scope {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) version: String,
}

#[expect(clippy::struct_field_names, reason = "the names are OTLP's")]
#[derive(Clone, PartialEq, Message)]
pub(super) struct Span {
    /// 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub(super) trace_id: Vec<u8>,
    /// 8 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub(super) span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    pub(super) name: String,
    #[prost(int32, tag = "6")]
    pub(super) kind: i32,
    #[prost(fixed64, tag = "7")]
    pub(super) start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    pub(super) end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    pub(super) attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    pub(super) status: Option<Status>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Status {
    #[prost(string, tag = "2")]
    pub(super) message: String,
    #[prost(int32, tag = "3")]
    pub(super) code: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct KeyValue {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(message, optional, tag = "2")]
    pub(super) value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct AnyValue {
    #[prost(oneof = "Any", tags = "1, 2, 3")]
    pub(super) value: Option<Any>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Any {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Bool(bool),
    #[prost(int64, tag = "3")]
    Number(i64),
}

/// The request that carries these spans.
pub(super) fn export_request(
    settings: &DistributedTracing,
    spans: &[Ended],
) -> ExportTraceServiceRequest {
    let mut attributes = vec![text("service.name", &settings.service_name)];
    attributes.extend(settings.instance_id.as_ref().map(|id| text("service.instance.id", id)));
    let scope = Scope { name: "retcd".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
    let spans = spans.iter().map(Span::from).collect();
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource { attributes }),
            scope_spans: vec![ScopeSpans { scope: Some(scope), spans }],
        }],
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(Any::Text(value.to_owned())) };
    KeyValue { key: key.to_owned(), value: Some(value) }
}

impl From<&Attribute> for KeyValue {
    fn from(attribute: &Attribute) -> Self {
        let value = match &attribute.value {
            Value::Text(text) => Any::Text(text.clone()),
            Value::Number(number) => Any::Number(*number),
            Value::Bool(value) => Any::Bool(*value),
        };
        KeyValue { key: attribute.name.to_owned(), value: Some(AnyValue { value: Some(value) }) }
    }
}

impl From<&Ended> for Span {
    fn from(ended: &Ended) -> Self {
        let parent = ended.parent.map(|parent| parent.to_be_bytes().to_vec());
        let status = |message: &String| Status { message: message.clone(), code: STATUS_ERROR };
        Span {
            trace_id: ended.trace.to_be_bytes().to_vec(),
            span_id: ended.id.to_be_bytes().to_vec(),
            parent_span_id: parent.unwrap_or_default(),
            name: ended.name.to_owned(),
            kind: ended.kind as i32,
            start_time_unix_nano: ended.start,
            end_time_unix_nano: ended.end,
            attributes: ended.attributes.iter().map(KeyValue::from).collect(),
            status: ended.error.as_ref().map(status),
        }
    }
}
