//! Counters per gRPC method. All methods show from the start, with zeros, as in etcd: an alert on a rate
//! must not miss the first error.

use std::time::Duration;

use super::registry::{Counter, Family, Histogram, Metric, label_text};
use crate::services::Rpc;

/// Names of the status codes, by number.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];
const UNKNOWN: usize = 2;

/// Seconds, the gRPC library's choice.
const HANDLING_BOUNDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

const LABELS: [&str; 3] = ["grpc_type", "grpc_service", "grpc_method"];
const LABELS_WITH_CODE: [&str; 4] = ["grpc_type", "grpc_service", "grpc_method", "grpc_code"];

/// The counters of all methods, in the order of the table of methods, which is that of the variants.
#[derive(Debug)]
pub struct Grpc {
    methods: Vec<Method>,
}

/// The counters of one method.
#[derive(Debug)]
pub struct Method {
    labels: [&'static str; 3],
    started: Counter,
    received: Counter,
    sent: Counter,
    handled: [Counter; CODES.len()],
    handling: Option<Histogram>,
}

impl Grpc {
    pub(super) fn new(extensive: bool) -> Self {
        let method = |rpc: &Rpc| Method {
            labels: [rpc.kind().label(), rpc.service(), rpc.method()],
            started: Counter::default(),
            received: Counter::default(),
            sent: Counter::default(),
            handled: Default::default(),
            handling: extensive.then(|| Histogram::new(&HANDLING_BOUNDS)),
        };
        Self { methods: Rpc::ALL.iter().map(method).collect() }
    }

    pub(crate) fn method(&self, rpc: Rpc) -> &Method {
        &self.methods[rpc as usize]
    }

    pub(super) fn rows(&self) -> [(&'static str, &'static str, Rows<'_>); 5] {
        let rows = |of| Rows { methods: &self.methods, of };
        [
            ("grpc_server_started_total", "RPCs begun.", rows(Of::Started)),
            ("grpc_server_handled_total", "RPCs done, by status code.", rows(Of::Handled)),
            ("grpc_server_msg_received_total", "Messages in.", rows(Of::Received)),
            ("grpc_server_msg_sent_total", "Messages out.", rows(Of::Sent)),
            ("grpc_server_handling_seconds", "RPC time.", rows(Of::Handling)),
        ]
    }
}

impl Method {
    pub fn start(&self) {
        self.started.increment();
    }

    /// Counts a message from the client.
    pub fn received(&self) {
        self.received.increment();
    }

    /// Counts a message to the client.
    pub fn sent(&self) {
        self.sent.increment();
    }

    /// `code` is the number of the gRPC status; numbers that do not exist count as unknown.
    pub fn finish(&self, code: usize, took: Duration) {
        self.handled.get(code).unwrap_or(&self.handled[UNKNOWN]).increment();
        if let Some(handling) = &self.handling {
            handling.observe_duration(took);
        }
    }
}

/// One family over all methods.
pub(super) struct Rows<'a> {
    methods: &'a [Method],
    of: Of,
}

#[derive(Clone, Copy)]
enum Of {
    Started,
    Handled,
    Received,
    Sent,
    Handling,
}

impl Family for Rows<'_> {
    fn type_name(&self) -> &'static str {
        match self.of {
            Of::Started | Of::Handled | Of::Received | Of::Sent => Counter::TYPE,
            Of::Handling => Histogram::TYPE,
        }
    }

    #[cfg(test)]
    fn labels(&self) -> &[&'static str] {
        match self.of {
            Of::Handled => &LABELS_WITH_CODE,
            Of::Started | Of::Received | Of::Sent | Of::Handling => &LABELS,
        }
    }

    #[cfg(test)]
    fn bounds(&self) -> &[f64] {
        match self.of {
            Of::Handling => &HANDLING_BOUNDS,
            Of::Started | Of::Handled | Of::Received | Of::Sent => &[],
        }
    }

    fn write_samples(&self, text: &mut String, name: &str) {
        for method in self.methods {
            let labels = label_text(&LABELS, &method.labels);
            match self.of {
                Of::Started => method.started.write(text, name, &labels),
                Of::Received => method.received.write(text, name, &labels),
                Of::Sent => method.sent.write(text, name, &labels),
                Of::Handled => {
                    let [shape, service, rpc] = method.labels;
                    for (code, counter) in CODES.iter().zip(&method.handled) {
                        let values = [shape, service, rpc, *code];
                        counter.write(text, name, &label_text(&LABELS_WITH_CODE, &values));
                    }
                }
                Of::Handling => {
                    if let Some(handling) = &method.handling {
                        handling.write(text, name, &labels);
                    }
                }
            }
        }
    }
}
